"""What each key of a job means: for editors, by `lsengine schema`, and for the reference in docs.

Texts are Markdown.  They are no part of the schema's classes, because reading a job needs none.
"""

from __future__ import annotations

_MOVES = {
    "normalize": "how the direction is scaled to the weights: `filter`, `layer`, `weight`, `none`, "
    "`head`, or units by role",
    "only": "patterns of names, and roles: nothing but these parameters moves",
    "ignore": "patterns of names, and roles (`bias`, `norm`, `one_axis`, `frozen`): these stay",
}

DESCRIPTIONS: dict[str, dict[str, str]] = {
    "Document": {
        "name": "for captions and default outputs; without it the file's name",
        "model": "the network and its checkpoint",
        "data": "the data on which every cell is evaluated",
        "loss": "`cross_entropy`, `nll`, `bce_with_logits`, `mse`, `l1`, `huber`, `output` (the "
        "network's own), one of them with options, or `module:function`, called with output and "
        "target",
        "objective": "in the place of `loss`: `module:function`, called with network and batch, "
        "which may return metrics as well",
        "directions": "one direction makes a curve, two make a plane",
        "grid": "the coordinates of the cells",
        "trajectory": "a training run that is projected on the directions",
        "repeats": "independent random directions of a curve",
        "seed": "of the subset, of recalibration, and of the vectors that the search for "
        "eigenvalues starts from; directions have seeds of their own",
        "quantities": "what every cell gets; `accuracy` only for integer labels",
        "expect": "what is known of the centre, such as `{train_loss: 0.0123}`: something "
        "else is refused",
        "curvature": "effort for eigenvalues",
        "batch_norm": "what running statistics do away from the centre: a policy, or a section",
        "precision": "of the forward pass; `tf32` on CUDA alone; `auto` takes the fastest within "
        "`precision_tolerance`",
        "precision_tolerance": "the relative error of a loss that `precision: auto` may have",
        "batch_size": "settled once, then taken from the file. Where memory runs out the batch is "
        "halved until it fits; the cells record it (`batch`). `auto` is computed from the sample's "
        "shape: 128 images of 32x32, 512 of 8x8 on a CPU",
        "cells_per_pass": "`auto`: several cells of a small perceptron at once. It belongs to the "
        "fingerprint",
        "compile": "whether `torch.compile` compiles the network. This takes seconds to minutes at "
        "the start and may pay for large networks and grids. Last bits differ. The file records it "
        "(`forward`), and a run that goes on in the other way warns",
        "threads": "CPU threads per worker. `auto`: as many as the work keeps busy, at most a fair "
        "share of the cores that the worker may use, and what `OMP_NUM_THREADS` says. More than "
        "256 are refused, but up to four per core of the machine",
        "device": "where cells are evaluated",
        "writing": "`parallel`: every worker writes; `gather`: rank 0 writes",
        "output": "the surface file; without it `surfaces/NAME.h5`",
        "train": "a training recipe, for `lsengine train`",
        "curve": "a curve to another minimum, for `lsengine connect`",
        "launch": "what a cluster is asked for, and how ranks behave",
        "extends": "a job file whose keys this one overrides",
        "matrix": "`key: [values]`: one job per combination",
    },
    "ModelSpec": {
        "arch": "a name of `lsengine models`, `torchvision:NAME`, `transformers:CLASS` with "
        "`path`, or `module:factory`. The factory is called as `factory(**args)`. The module is "
        "looked up on PYTHONPATH, then beside the job",
        "args": "arguments of the factory. Built-in networks take channels and classes from the "
        "data. They also take `width` (residual networks), `growth` (DenseNet) or `hidden` (MLP)",
        "checkpoint": "the centre: a file or folder with the network's parameters. No code in it "
        "is run",
        "checkpoint_key": "which of several state dicts in a file is meant: its dotted path, such "
        "as `ema` or `state_dict.ema_model`",
        "strip_prefix": "what names of the file begin with, and the network's do not, such as "
        "`model.`; other names of the same dict are left out",
        "path": "for `transformers:CLASS`: a folder with `config.json` and weights",
        "adapter": "a folder that peft wrote for the network of `path`: LoRA and others",
    },
    "DataSpec": {
        "dataset": "`digits` (bundled), `cifar10`, `cifar100`, `mnist`, `fashion_mnist`, "
        "`image_folder`, `arrays`, `text`, or `module:factory`",
        "args": "arguments of `module:factory`; `classes`, `inputs`, `targets`, `no_label` and "
        "`pad` of `arrays`; `classes` and `channels` of `image_folder`; those of `text`",
        "root": "the folder; CIFAR and MNIST are downloaded into it if they are not there, and may "
        "be an `.npz` file instead. `fashion_mnist` needs none where Debian's package is. For "
        "`arrays` the file, for `text` the text file",
        "splits": "which splits every cell is evaluated on",
        "subset": "at most so many samples of each split, in the proportions of the classes; the "
        "same samples for every cell. Without it all",
        "normalize": "mean and deviation on the scale [0, 1], not for integers; without it the "
        "data set's own",
        "resize": "`[H, W]`: rows and columns to which `image_folder` brings every image",
    },
    "NormalizeSpec": {"mean": "of each channel", "std": "of each channel"},
    "LossSpec": {
        "name": "one of the built-in losses, or `module:function`",
        "label_smoothing": "of `cross_entropy`",
        "weight": "a number for each class",
        "ignore_index": "a label that counts neither in the loss nor as an answer, besides -100",
        "delta": "of `huber`; without it 1",
        "pos_weight": "of `bce_with_logits`: what an answer of 1 counts",
        "class_axis": "where classes are, if the shapes of outputs and labels fit both",
    },
    "DirectionsSpec": {
        "alpha": "along the first axis; one of the kinds below",
        "beta": "along the second axis",
        "stored": "`false` keeps random directions out of the file; workers draw them again",
    },
    "RandomDirection": {
        "kind": "Gaussian numbers",
        **_MOVES,
        "seed": "of the numbers; equal seeds on both axes still give a plane",
        "orthogonal": "for beta only: orthogonal to alpha, unit by unit",
    },
    "TowardDirection": {
        "kind": "the difference to another checkpoint, which lies at 1. It is taken as it is, "
        "unless the job gives `normalize`, `only` or `ignore`",
        "checkpoint": "the other checkpoint",
        **_MOVES,
    },
    "FileDirection": {
        "kind": "from a surface file, or from a direction file of tomgoldstein/loss-landscape",
        "path": "the file",
        "which": "which of its directions",
        **_MOVES,
    },
    "HessianDirection": {
        "kind": "an eigenvector of the Hessian of the mean training loss at the centre, of unit "
        "length",
        "rank": "counts by falling modulus of the eigenvalue, whatever its sign",
        **_MOVES,
    },
    "PrincipalDirection": {
        "kind": "a principal component of a run's checkpoints, the first as alpha, the second as "
        "beta. They are unit vectors of the weights, not normalised; running statistics follow as "
        "`batch_norm` says. Both axes belong to one run",
        "checkpoints": "a pattern, such as `run/epoch_*.pt`",
        **_MOVES,
    },
    "CurveDirection": {
        "kind": "a curve made by `lsengine connect`. As alpha alone it is the way along the curve, "
        "from 0 to 1. On both axes it is the plane through the ends and one bend: alpha leads from "
        "the first end, which is the centre, to the other one; beta from that line to the bend. "
        "Both are unit vectors, at a right angle",
        "path": "its `curve.pt`",
        "shape": "as it was trained",
        "bend": "through which of its bends the plane goes",
        **_MOVES,
    },
    "UnitsSpec": {
        "attention": "of queries, keys, values and the output's projection",
        "embedding": "of tables of embeddings",
        "lora": "of the pairs of an adapter",
        "other": "of all else",
        "heads": "the number of heads, where the network does not say it",
    },
    "GridSpec": {
        "alpha": "`[start, stop, points]`; or `[auto, points]`: the range of the trajectory, or of "
        "a trained curve in its plane, plus a margin",
        "beta": "the same",
    },
    "TrajectorySpec": {
        "checkpoints": "a pattern, such as `run/epoch_*.pt`",
        "margin": "of an axis `[auto, points]`: so many times the extent, on both sides",
    },
    "BatchNormSpec": {
        "policy": "`frozen`: those of the centre; `interpolated`: moved along; `recalibrated`: "
        "computed anew at every cell",
        "samples": "training images of a recalibration",
        "batch_size": "of a recalibration",
    },
    "CurvatureSpec": {
        "tolerance": "a residual is at most this share of its own eigenvalue's modulus",
        "max_products": "a cell stops after so many Hessian-vector products",
        "parameters": "`all` trainable ones, or those that the directions move",
        "only": "patterns and roles: which of these",
        "ignore": "patterns and roles: which of these not",
        "basis": "number of vectors kept. Fewer save memory and cost products",
        "precision": "of products. `float32` is that of the weights; `tf32` on CUDA alone",
    },
    "TrainSpec": {
        "output": "the folder with `epoch_NNN.pt` and `history.h5`",
        "epochs": "how many",
        "save_every": "a checkpoint after so many epochs",
        "save_epochs": "checkpoints after these epochs as well",
        "measure_every": "losses and errors after so many epochs, and before and after all",
        "optimizer": "torch's",
        "batch_size": "images of a step",
        "precision": "`bfloat16`: forward and backward passes multiply numbers of 16 bits. `auto`: "
        "where the processor or card has instructions for it",
        "lr": "learning rate; for Adam and AdamW 0.001 if it is not given",
        "momentum": "of SGD",
        "nesterov": "of SGD",
        "weight_decay": "for AdamW 0.01 if it is not given, of weights alone: not of biases, gains "
        "of normalisations and embedding layers",
        "milestones": "epochs at which the rate is multiplied by `gamma`; without it at one half, "
        "three quarters and eleven twelfths of the epochs",
        "gamma": "of milestones",
        "schedule": "`cosine`: from step to step down to 0 at the end, along half a cosine",
        "warmup": "so many epochs, `0.5` for instance, in which the rate rises from step to step "
        "in equal parts",
        "clip_norm": "longer gradients, of all parameters together, are scaled to this length",
        "crop": "augmentation: images are moved by up to so many pixels",
        "flip": "augmentation: images are mirrored",
        "noise": "augmentation: deviation of Gaussian noise",
        "label_noise": "so large a share of the training images gets another class, the same "
        "images in every epoch",
        "seed": "of weights, order, augmentation and dropout",
    },
    "CurveSpec": {
        "to": "the other minimum",
        "output": "the folder of the trained curve",
        "only": "patterns and roles: what is on the curve. All else is equal at both ends",
        "ignore": "patterns and roles: what is not on the curve",
        "kind": "`bezier`, of degree `bends` + 1, or `polygonal`",
        "bends": "control points between the ends",
        "epochs": "of the curve's training",
        "batch_size": "of the curve's training",
        "lr": "constant for half the epochs, then down to a hundredth",
        "momentum": "of SGD",
        "weight_decay": "of SGD",
        "seed": "of order and points",
        "points": "points of the curve that are evaluated",
        "plane": "`[points, points]`: also the plane through both ends and the first bend",
    },
    "LaunchSpec": {
        "nodes": "hosts",
        "ranks": "processes; without it one per GPU, else one per node",
        "gpus_per_node": "GPUs of each host",
        "gpu_type": "`a100` asks for that kind",
        "gpu_binding": "`task`: srun shows each rank one GPU",
        "cores_per_rank": "without it what the cluster gives",
        "memory": "`64G`, per node; without it what the cluster gives",
        "time": '`"04:00:00"`, `"2-00:00:00"` or minutes, in quotes; without it the partition\'s',
        "signal_s": "seconds before the limit in which ranks stop",
        "max_fruitless": "rounds in a row without a new cell before the job gives up",
        "partition": "as for sbatch",
        "account": "as for sbatch",
        "qos": "as for sbatch",
        "constraint": "as for sbatch",
        "sbatch": 'further options: `["--reservation=night"]`',
        "modules": "for `module load`",
        "environment": "variables to export; no secrets",
        "activate": "lines of shell after modules are loaded",
        "container": "an image in which ranks run",
        "launcher": "what starts the ranks; `none` for one rank",
        "launcher_options": 'further ones: `["--bind-to", "none"]`',
        "coordinator": "what rank 0 does besides; `auto`: it evaluates where a device would be "
        "idle",
        "hang_s": "a worker that finishes no mini-batch for so many seconds counts as hung",
    },
    "ContainerSpec": {
        "image": "a file, such as `lsengine.sif`, or a name",
        "runtime": "what runs it; `pyxis` with srun",
        "binds": "folders to be seen inside. The job's own are bound automatically",
    },
}
