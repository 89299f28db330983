"""The learner: one network and its optimiser on resident data, epoch by epoch.

Knows no file.  An epoch takes its randomness from the recipe's seed and its own number, so
that network, optimiser and number are all of its state.

Shapes: N samples, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lsengine import data, models
from lsengine.data import nesting
from lsengine.data.nesting import Nested
from lsengine.devices import device_of, is_channels_last_safe, keep_freed_memory, tune_malloc
from lsengine.errors import UsageError
from lsengine.job.loss import LossSpec
from lsengine.job.schema import Document
from lsengine.objective import losses, reported, sixteen_bits
from lsengine.objective.batches import Batches, first
from lsengine.objective.classes import refuse_too_few
from lsengine.objective.criterion import Criterion, OwnObjective, own_objective
from lsengine.objective.device_state import all_in_precision
from lsengine.objective.forward import manner_of
from lsengine.objective.judging import Judge
from lsengine.objective.losses import loss_function
from lsengine.objective.outputs import logits_of, nested_output
from lsengine.objective.reported import ReportedLoss
from lsengine.training import autocast, recipe

_EVALUATION_BATCH = 512
_FEW = 8  # samples that show of which loss the network's own is
_CHANGES = ("crop", "flip", "noise", "label_noise")  # of the data, while training


class Learner:
    """Trains the network of a job from fresh parameters.

    Args:
        document: A job with a ``train`` section.
        dataset: Its data.
        job_folder: Where the user's modules are looked for.
        tick: Called before every mini-batch; may raise to stop.
        slot: See `lsengine.devices.device_of`.
        precision: What an earlier run of this training settled, if there was one.

    Attributes:
        model: The network, on its device.
        optimizer: Its optimiser.
        parameters: The trainable parameters by name.
        columns: Names of what `measure` returns.
        precision: Of products in training: ``float32``, which is that of the weights, or
            ``bfloat16``.

    Raises:
        UsageError: If network, data, loss and recipe do not go together.
    """

    def __init__(
        self,
        document: Document,
        dataset: data.Dataset,
        *,
        job_folder: Path,
        tick: Callable[[], None] = lambda: None,
        slot: int = 0,
        precision: str | None = None,
    ) -> None:
        assert document.train is not None
        self._recipe, self._dataset, self._tick = document.train, dataset, tick
        self.device = device_of(document.device, slot)
        if self.device.type == "cpu":
            tune_malloc()
        # MPS has no float64: what needs it is computed on the host.
        self._host = torch.device("cpu") if self.device.type == "mps" else self.device
        self._criterion = _criterion(document, dataset, job_folder)
        judges_batches = isinstance(self._criterion, OwnObjective)
        tells_answers = not judges_batches and document.loss_spec.name != "output"
        self._classes = dataset.classes if tells_answers else None
        has_classes = self._classes is not None
        self._judge = Judge(self._criterion, self._host, has_classes=has_classes)
        self._batches = Batches.of(dataset, whole=judges_batches).on(self.device)
        self._check_data()
        torch.manual_seed(recipe.seed_of(self._recipe.seed, "initial parameters"))
        self.model = models.build(
            document.model,
            channels=dataset.channels,
            classes=dataset.outputs,
            size=dataset.size,
            job_folder=job_folder,
        ).to(self.device)
        self._dtype = _dtype_of(self.model)
        self._format = self._memory_format(document)
        self._splits = {name: self._samples(name) for name in dataset.splits}
        if document.objective is None and document.loss_spec.name == "output":
            self._find_own_loss()
        self._check_network(document.loss_spec)
        named = self.model.named_parameters()
        self.parameters = {name: p for name, p in named if p.requires_grad}
        if not self.parameters:
            raise UsageError("model.arch: the network has no trainable parameters")
        self.precision = self._settled(precision)
        # In float32 the steps keep the bits that they have always had.
        fused = self.precision == "bfloat16" and self.device.type in ("cpu", "cuda")
        self.optimizer = recipe.optimizer_of(self._recipe, self.model, fused=fused)
        kinds = ("loss", "error") if has_classes else ("loss",)
        measured = (f"{split}_{kind}" for split in self._splits for kind in kinds)
        self.columns = (*measured, "learning_rate", "weight_norm")

    def _memory_format(self, document: Document) -> torch.memory_format:
        """Lay out filters, and return the layout that images are to have."""
        # Convolutions are faster with channels last, but a user's own network may depend on
        # the other order (``view`` does), and a narrow one may not survive it.
        last = self._dataset.size is not None and not document.model.is_own
        last = last and is_channels_last_safe(self.model, self.device)
        layout = torch.channels_last if last else torch.contiguous_format
        for parameter in self.model.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=layout)
        return layout

    def _check_data(self) -> None:
        settings, split = self._recipe, self._dataset.splits["train"]
        if len(split) < 2:
            raise UsageError("data.dataset: training needs two or more samples")
        asked = [key for key in _CHANGES if getattr(settings, key)]
        x, y = split.x, split.y
        if not asked:
            return
        if self._has_objective or not isinstance(x, Tensor) or not isinstance(y, Tensor):
            needs = "one array of inputs, one of targets, and a loss instead of an objective"
            raise UsageError(f"train.{asked[0]}: needs {needs}; leave it out")
        if self._dataset.size is None and (settings.crop or settings.flip):
            key = "crop" if settings.crop else "flip"
            shape = [*x.shape[1:]]
            raise UsageError(f"train.{key}: needs images; samples have shape {shape}")
        is_moved, at_pixels = settings.crop or settings.flip, y.shape[1:][-2:]
        if is_moved and len(at_pixels) == 2 and at_pixels == self._dataset.size:
            key = "crop" if settings.crop else "flip"
            raise UsageError(f"train.{key}: moves images, but not their targets at every pixel")
        if settings.noise and x.dtype == torch.int64:
            raise UsageError("train.noise: the inputs are integers, which cannot have noise")
        if settings.label_noise and (y.ndim > 1 or (self._dataset.classes or 0) < 2):
            raise UsageError(
                "train.label_noise: needs labels of two or more classes, (N,), got shape "
                f"{[*y.shape]}"
            )

    def _samples(self, name: str) -> tuple[Nested, ...]:
        """Return what goes through the network; of a loss the targets, too."""
        split, settings = self._dataset.splits[name], self._recipe
        raw, y = self._batches.raw(split), split.y
        if self._has_objective or y is None:
            return (self._placed(raw),)
        if name == "train" and settings.label_noise:
            assert self._classes is not None
            y = recipe.with_label_noise(
                data.lone(y), self._classes, settings.label_noise, settings.seed
            )
        return self._placed(raw), self._placed(y)

    def _placed(self, nested: Nested) -> Nested:
        return nesting.mapped(lambda tensor: tensor.to(self.device), nested)

    def _find_own_loss(self) -> None:
        """Find out of which loss of its logits the network's own is, to weigh batches rightly."""
        raw, targets = (first(part, _FEW) for part in self._splits["train"])
        inputs, y = self._inputs(raw), data.lone(targets)
        self.model.eval()
        kind = reported.kind_by_trial(
            self.model, lambda net: self._judge.widened(_called(net, inputs)), y
        )
        self._criterion = ReportedLoss(kind, lacks_labels=self._dataset.lacks_labels)
        self._judge = Judge(self._criterion, self._host, has_classes=False)

    def _check_network(self, loss: LossSpec) -> None:
        """Run two samples through network and loss, before anything is written."""
        raw, *targets = (first(part, 2) for part in self._splits["train"])
        inputs, y = self._inputs(raw), targets[0] if targets else None
        self.model.eval()
        if not self._has_objective:
            models.check_model_accepts(self.model, inputs, call=_called)
        try:
            self._manner = manner_of(self.model, inputs, self._judge.call)
            output = self._manner.call(self.model, inputs, self._judge.call)
        except UsageError:
            raise
        except Exception as error:
            key = "objective" if self._has_objective else "model.arch"
            raise UsageError(f"{key}: it refuses the data: {_said(error)}") from error
        try:
            # A loss of one's own may want one logit for two classes.
            if self._classes is not None and loss.has_class_outputs:
                refuse_too_few(logits_of(output), data.lone(y), self._classes, loss.class_axis)
            with torch.no_grad():
                self._judge.judged(output, inputs, y)
        except UsageError:
            raise
        except Exception as error:
            said = f"loss: {loss.name} refuses the network's output: {_said(error)}"
            raise UsageError(said) from error

    def _settled(self, earlier: str | None) -> str:
        if self._recipe.precision == "float32":
            return "float32"
        raw = first(self._splits["train"][0], 2)
        obstacle = sixteen_bits.unfit(self.model, self._dataset)
        if self._has_objective:
            obstacle = "an objective computes losses as well, which need float32"
        if self._dtype != torch.float32:
            obstacle = "the network has parameters in float64"

        def trial() -> None:
            with torch.no_grad():
                self._in_bfloat16(self._inputs(raw))

        return autocast.settle(self._recipe.precision, earlier, self.device, obstacle, trial)

    @property
    def _has_objective(self) -> bool:
        return self._judge.judges_batches

    def _inputs(self, raw: Nested) -> Nested:
        inputs = self._batches.ready(raw, self._dtype)
        if isinstance(inputs, Tensor) and inputs.ndim == 4:
            return inputs.contiguous(memory_format=self._format)
        return inputs

    def _mean_loss(self, inputs: Nested, targets: Nested | None) -> Tensor:
        """Return the loss of a batch, of which a gradient is taken."""
        is_short = self.precision == "bfloat16"
        output = self._in_bfloat16(inputs) if is_short else self._judge.call(self.model, inputs)
        if isinstance(self._criterion, OwnObjective):
            own = self._criterion
            return losses.mean(lambda result, _: own.loss(result), output, inputs)
        assert targets is not None
        return losses.mean(self._criterion, nested_output(output), targets)

    def _in_bfloat16(self, inputs: Nested) -> Nested:
        return autocast.called(self._judge.call, self.model, inputs, self.device)

    def train_epoch(self, epoch: int) -> float:
        """Go once through the training split; the first ``epoch`` is 1.

        Returns the mean loss of the mini-batches, each before its step.
        """
        settings = self._recipe
        generator = recipe.generator_of(settings.seed, f"epoch {epoch}")
        torch.manual_seed(recipe.seed_of(settings.seed, f"noise and dropout of epoch {epoch}"))
        raw, *targets = self._splits["train"]
        batches = recipe.batches(nesting.count(raw), settings.batch_size, generator)
        if settings.crop or settings.flip:
            images, crop = data.lone(raw), settings.crop
            raw = recipe.augmented(images, crop=crop, flip=settings.flip, generator=generator)
        self.model.train()
        losses_B = []
        for step, chosen in enumerate(batches):
            self._tick()
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.learning_rate(settings, epoch, step, len(batches))
            inputs = self._inputs(_chosen(raw, chosen.to(self.device)))
            y = _chosen(targets[0], chosen.to(self.device)) if targets else None
            if settings.noise:
                noisy = data.lone(inputs)
                noisy.add_(torch.randn_like(noisy), alpha=settings.noise)
            self.optimizer.zero_grad()
            loss = self._mean_loss(inputs, y)
            loss.backward()
            losses_B.append(loss.detach())
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_([*self.parameters.values()], settings.clip_norm)
            self.optimizer.step()
            if step == 0 and self.device.type == "cpu":
                keep_freed_memory()  # a step has shown how much is needed
        return float(torch.stack(losses_B).mean())

    def measure(self, epoch: int, *, losses: bool) -> tuple[dict[str, float], list[float]]:
        """Return `columns` by name, and the norm of each trainable parameter.

        ``epoch`` is the one that has just ended; 0 before training.  Without ``losses`` the
        columns are those that take no pass through the data.
        """
        splits = self._splits if losses else ()
        row = {k: v for name in splits for k, v in self._evaluate(name).items()}
        row["learning_rate"] = self.optimizer.param_groups[0]["lr"] if epoch else math.nan
        tensors = [p.detach().to(self._host).double() for p in self.parameters.values()]
        norms_P = torch.stack([t.norm() for t in tensors])
        row["weight_norm"] = float(norms_P.norm())
        return row, norms_P.tolist()

    def _evaluate(self, split: str) -> dict[str, float]:
        """Return loss and error of a whole split, as it is, in evaluation mode."""
        loss = torch.zeros((), dtype=torch.float64, device=self._host)
        wrong, counted, labels = torch.zeros_like(loss), 0.0, 0.0
        self.model.eval()
        parts = (nesting.split(part, _EVALUATION_BATCH) for part in self._splits[split])
        with torch.no_grad():
            for raw, *targets in zip(*parts, strict=True):
                self._tick()
                inputs, y = self._inputs(raw), self._wide(targets[0]) if targets else None
                output = self._manner.call(self.model, inputs, self._judge.call)
                of_batch, hits, _ = self._judge.judged(output, inputs, y)
                counted += of_batch.total_weight()
                loss += of_batch.mean() * of_batch.total_weight()
                if hits is not None:
                    target = data.lone(y)
                    share = losses.labelled(target) / target[0].numel()
                    labels += float(share.sum())
                    wrong += ((1 - hits) * share).sum()
        measured = {f"{split}_loss": float(loss) / counted}
        if self._classes is not None:
            measured[f"{split}_error"] = float(wrong) / labels
        return measured

    def _wide(self, targets: Nested) -> Nested:
        host = nesting.mapped(lambda t: t.to(self._host), targets)
        return all_in_precision(host, torch.float64)


def _criterion(document: Document, dataset: data.Dataset, job_folder: Path) -> Criterion:
    if document.objective is not None:
        return own_objective(document.objective, job_folder=job_folder)
    spec, lacks_labels = document.loss_spec, dataset.lacks_labels
    return loss_function(spec.name, spec.options, job_folder=job_folder, lacks_labels=lacks_labels)


def _chosen(nested: Nested, indices: Tensor) -> Nested:
    return nesting.mapped(lambda tensor: tensor[indices], nested)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _called(model: nn.Module, inputs: Any) -> Any:
    return manner_of(model, inputs).call(model, inputs)


def _dtype_of(model: nn.Module) -> torch.dtype:
    """Return the precision of inputs that a network wants, by that of its parameters."""
    dtypes = {p.dtype.to_real() for p in model.parameters()}
    if not dtypes.isdisjoint({torch.float16, torch.bfloat16}):
        raise UsageError(
            "model.arch: the network has parameters of 16 bits; trainings are in float32 or "
            "float64: let the factory make those"
        )
    return torch.float64 if torch.float64 in dtypes else torch.float32
