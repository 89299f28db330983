"""Surfaces of networks of Hugging Face, against loops over samples and tokens in float64."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import yaml

import lsengine
from lsengine import store
from lsengine.cli import main
from lsengine.external import hugging_face
from tests.support import pretrained as tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
LONGEST = 8
MODEL = "transformers:AutoModelForCausalLM"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Networks, an adapter, and padded sequences with labels."""
    root = tmp_path_factory.mktemp("networks")
    for kind in ("gpt2", "llama", "bert"):
        tiny.folder(root / kind, kind)
    tiny.adapter(root / "lora", tiny.network("gpt2"))
    rng, arrays, own, classes = np.random.default_rng(0), {}, {}, {}
    for split, count in (("train", 9), ("test", 5)):
        lengths = rng.integers(2, LONGEST + 1, count)
        ids = rng.integers(1, tiny.VOCABULARY, (count, LONGEST + 1))
        mask = (np.arange(LONGEST) < lengths[:, None]).astype(np.int64)
        labels = np.where(mask == 1, ids[:, 1:], -100)
        labels[0, 0] = -100  # a token that does not count, which is no padding
        inputs = {"input_ids": np.where(mask == 1, ids[:, :-1], 0), "attention_mask": mask}
        arrays |= {f"{k}_{split}": v for k, v in inputs.items()} | {f"labels_{split}": labels}
        own |= {f"{k}_{split}": v for k, v in inputs.items()}
        own[f"labels_{split}"] = np.insert(labels[:, :-1], 0, -100, axis=1)  # not shifted yet
        classes |= {f"{k}_{split}": v for k, v in inputs.items()}
        classes[f"labels_{split}"] = rng.integers(0, 3, count)
    np.savez(root / "tokens.npz", **arrays)
    np.savez(root / "own.npz", **own)
    np.savez(root / "classes.npz", **classes)
    return root


def _surface(folder, name, model, command="eval", **changes):
    """Run a job by the command line, and return its surface."""
    document = {
        "model": model,
        "data": {"dataset": "arrays", "root": "tokens.npz"},
        "directions": {"alpha": {"kind": "random"}},
        "grid": {"alpha": [-1, 1, 3]},
        "batch_size": 4,
        "threads": 1,
        "device": "cpu",
        "output": f"{name}.h5",
    } | changes
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document))
    assert main([command, str(path), "--progress", "none"]) == 0
    return store.read(folder / f"{name}.h5")


def _moved(folder, name, network, alpha):
    """Return a network in float64, moved along the direction of a surface."""
    network = network.double()
    along = store.read_directions(folder / f"{name}.h5")["alpha"]
    with torch.no_grad():
        for key, tensor in network.named_parameters():
            if key in along:
                tensor.add_(alpha * torch.from_numpy(np.asarray(along[key])).reshape(tensor.shape))
    return network


@torch.no_grad()
def _per_token(network, arrays, split):
    """Return mean loss and accuracy, token by token; no padding is ever seen."""
    losses, shares = [], []
    for ids, mask, labels in zip(
        *(arrays[f"{key}_{split}"] for key in ("input_ids", "attention_mask", "labels")),
        strict=True,
    ):
        right = []
        for place in range(int(mask.sum())):
            seen = torch.from_numpy(ids[: place + 1])[None]
            scores = network(input_ids=seen).logits[0, -1].tolist()
            if labels[place] < 0:
                continue
            losses.append(math.log(sum(map(math.exp, scores))) - scores[labels[place]])
            right.append(scores.index(max(scores)) == labels[place])
        shares.append(sum(right) / len(right))
    return math.fsum(losses) / len(losses), shares


def _check(surface, folder, name, make, tolerance=2e-6):
    arrays = np.load(folder / "tokens.npz")
    for at, alpha in enumerate(surface.alpha):
        network = _moved(folder, name, make(), float(alpha))
        for split in ("train", "test"):
            loss, _ = _per_token(network, arrays, split)
            assert surface.quantities[f"{split}_loss"][at] == pytest.approx(loss, rel=tolerance)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_language_model_is_right_token_by_token(folder, kind):
    """Padding, and labels that do not count, change nothing; keys and values may be grouped."""
    surface = _surface(folder, kind, {"arch": MODEL, "path": kind})
    _check(surface, folder, kind, lambda: tiny.network(kind))
    assert surface.quantities["train_loss"].std() > 0.01


def test_the_networks_own_loss_is_the_same(folder):
    """`loss: output`, whose labels are not shifted yet, as transformers takes them."""
    data = {"dataset": "arrays", "root": "own.npz"}
    model = {"arch": MODEL, "path": "gpt2"}
    surface = _surface(folder, "own", model, data=data, loss="output")
    arrays = dict(np.load(folder / "own.npz"))
    for split in ("train", "test"):
        shifted = np.roll(arrays[f"labels_{split}"], -1, axis=1)
        shifted[:, -1] = -100
        arrays[f"labels_{split}"] = shifted
    for at, alpha in enumerate(surface.alpha):
        network = _moved(folder, "own", tiny.network("gpt2"), float(alpha))
        loss, _ = _per_token(network, arrays, "train")
        assert surface.quantities["train_loss"][at] == pytest.approx(loss, rel=2e-6)


def test_a_classifier_of_sequences_is_right(folder):
    """Loss and accuracy of a network in the manner of BERT, sample by sample without padding."""
    arch = "transformers:AutoModelForSequenceClassification"
    data = {"dataset": "arrays", "root": "classes.npz"}
    surface = _surface(folder, "bert", {"arch": arch, "path": "bert"}, data=data)
    arrays = np.load(folder / "classes.npz")
    for at, alpha in enumerate(surface.alpha):
        network = _moved(folder, "bert", tiny.network("bert"), float(alpha))
        losses, hits = [], []
        for ids, mask, label in zip(
            *(arrays[f"{key}_test"] for key in ("input_ids", "attention_mask", "labels")),
            strict=True,
        ):
            with torch.no_grad():
                seen = torch.from_numpy(ids[: mask.sum()])[None]
                scores = network(input_ids=seen).logits[0].tolist()
            losses.append(math.log(sum(map(math.exp, scores))) - scores[label])
            hits.append(scores.index(max(scores)) == label)
        found = surface.quantities
        assert found["test_loss"][at] == pytest.approx(math.fsum(losses) / len(losses), rel=2e-6)
        assert found["test_accuracy"][at] == pytest.approx(sum(hits) / len(hits))


@pytest.mark.parametrize("choice", [{"only": ["*.lora_*"], "ignore": []}, {"ignore": ["frozen"]}])
def test_an_adapter_moves_alone(folder, choice):
    """By its names, or because all else is frozen; its values are those of the loop."""
    model = {"arch": MODEL, "path": "gpt2", "adapter": "lora"}
    alpha = {"kind": "random", "normalize": "layer"} | choice
    name = f"adapted_{next(iter(choice))}"
    surface = _surface(folder, name, model, directions={"alpha": alpha})
    along = store.read_directions(folder / f"{name}.h5")["alpha"]
    moving = [key for key, numbers in along.items() if np.any(numbers)]
    assert len(moving) == 4
    assert all(".lora_" in key for key in moving)
    _check(surface, folder, name, lambda: tiny.built(folder / "gpt2", adapter="lora"))


def test_an_adapter_of_another_run_is_where_a_direction_leads(folder):
    """`toward` a folder of peft: at 1 the loss is that of the base with the other adapter."""
    other = tiny.adapter(folder / "lora2", tiny.network("gpt2"), seed=2).double()
    model = {"arch": MODEL, "path": "gpt2", "adapter": "lora"}
    alpha = {"kind": "toward", "checkpoint": "lora2"}
    grid = {"alpha": [0, 1, 2]}
    surface = _surface(folder, "toward", model, directions={"alpha": alpha}, grid=grid)
    loss, _ = _per_token(other, np.load(folder / "tokens.npz"), "train")
    assert surface.quantities["train_loss"][1] == pytest.approx(loss, rel=2e-6)


def test_folders_of_a_trainer_are_a_trajectory(folder):
    """In the order of their steps; each has the loss of its own weights."""
    networks = {}
    for step in (2, 4, 10):
        path = folder / "run" / f"checkpoint-{step}"
        networks[step] = tiny.folder(path, "gpt2", seed=step)
        (path / "trainer_state.json").write_text(
            json.dumps({"epoch": step / 2, "global_step": step})
        )
        (path / "optimizer.pt").write_bytes(b"not read")
    principal = {"kind": "principal", "checkpoints": "run/checkpoint-*"}
    model = {"arch": MODEL, "path": "run/checkpoint-10"}
    surface = _surface(
        folder,
        "steps",
        model,
        command="trajectory",
        directions={"alpha": principal, "beta": principal},
        grid={"alpha": ["auto", 2], "beta": ["auto", 2]},
    )
    columns = surface.trajectory.columns
    arrays = np.load(folder / "tokens.npz")
    losses = [_per_token(n.double(), arrays, "train")[0] for n in networks.values()]
    assert columns["train_loss"] == pytest.approx(losses, rel=2e-6)
    assert columns["alpha"][-1] == columns["beta"][-1] == 0


def test_training_begins_with_the_folders_weights(folder):
    """The first checkpoint has them; another folder at the same path is another training."""
    tiny.folder(folder / "start", "gpt2", seed=5)
    document = {
        "model": {"arch": MODEL, "path": "start"},
        "data": {"dataset": "arrays", "root": "ids.npz"},
        "train": {"output": "fine", "epochs": 1, "batch_size": 8, "optimizer": "adamw"},
        "device": "cpu",
    }
    tokens = np.load(folder / "tokens.npz")
    ids = {split: tokens[f"input_ids_{split}"] for split in ("train", "test")}
    arrays = {f"x_{split}": i[:, :-1] for split, i in ids.items()}
    np.savez(folder / "ids.npz", **arrays, **{f"y_{s}": i[:, 1:] for s, i in ids.items()})
    path = folder / "fine.yaml"
    path.write_text(yaml.safe_dump(document))
    assert main(["train", str(path), "--progress", "none"]) == 0
    first = torch.load(folder / "fine" / "epoch_000.pt")["state_dict"]
    start = tiny.network("gpt2", seed=5).state_dict()
    assert all(first[name].equal(tensor) for name, tensor in start.items())
    tiny.folder(folder / "start", "gpt2", seed=6)
    assert main(["train", str(path), "--progress", "none"]) == 2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_curvature_is_that_of_all_second_derivatives(folder, attention):
    """The ends of the spectrum, by either way of attention."""
    model = {"arch": MODEL, "path": "gpt2", "args": {"attn_implementation": attention}}
    names = ["transformer.h.0.ln_1.weight", "transformer.h.1.ln_1.bias"]  # before attention
    changes = {
        "quantities": ["loss", "curvature"],
        "curvature": {"only": names, "tolerance": 1e-4},
        "grid": {"alpha": [0, 0.5, 2]},
        "data": {"dataset": "arrays", "root": "tokens.npz", "splits": ["train"]},
    }
    surface = _surface(folder, f"sharp_{attention}", model, **changes)
    network = _moved(folder, f"sharp_{attention}", tiny.network("gpt2"), 0.5)
    network.set_attn_implementation("eager")
    arrays = np.load(folder / "tokens.npz")
    keys = ("input_ids", "attention_mask", "labels")
    ids, mask, labels = (torch.from_numpy(arrays[f"{key}_train"]) for key in keys)
    weights = [dict(network.named_parameters())[name] for name in names]
    scores = network(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
    counted = labels >= 0
    loss = -scores[counted].gather(1, labels[counted][:, None]).mean()
    gradient = torch.cat(torch.autograd.grad(loss, weights, create_graph=True))
    rows = [torch.cat(torch.autograd.grad(g, weights, retain_graph=True)) for g in gradient]
    values = torch.linalg.eigvalsh(torch.stack(rows))
    assert surface.quantities["eigenvalue_max"][1] == pytest.approx(float(values[-1]), rel=1e-3)
    assert surface.quantities["eigenvalue_min"][1] == pytest.approx(float(values[0]), rel=1e-3)


@pytest.mark.parametrize("has_adapter", [False, True])
def test_a_network_in_memory_gives_its_own_loss(folder, has_adapter):
    """A batch with labels, and no loss that is named: the network's own; also with an adapter."""
    network = tiny.network("gpt2")
    if has_adapter:
        network = tiny.adapter(folder / "memory", network)
    arrays = np.load(folder / "own.npz")
    keys = ("input_ids", "attention_mask", "labels")
    batch = {key: torch.from_numpy(arrays[f"{key}_train"]) for key in keys}
    ends = {"alpha": [0, 1, 2]}
    keys = {"grid": ends, "threads": 1, "ignore": ["frozen", "bias", "norm"]}
    surface = lsengine.evaluate(network, batch, **keys, progress=False)
    assert surface.quantities["train_loss"][0] != surface.quantities["train_loss"][1]
    with torch.no_grad():
        loss = float(network.double()(**batch).loss)
    assert surface.quantities["train_loss"][0] == pytest.approx(loss, rel=2e-6)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"arch": MODEL}, "model.path: required"),
        ({"arch": "mlp", "path": "gpt2"}, "model.path: arch mlp takes none"),
        ({"arch": MODEL, "path": "gpt3"}, "no such folder"),
        ({"arch": MODEL, "path": "."}, "has no config.json"),
        ({"arch": "mlp", "adapter": "lora"}, "model.adapter: needs model.path"),
        ({"arch": MODEL, "path": "gpt2", "adapter": "gpt2"}, "has no adapter_config.json"),
    ],
)
def test_folders_that_are_none_are_refused_before_all_else(folder, capfd, model, says):
    """With the key, by every command."""
    document = {"model": model, "data": {"dataset": "arrays", "root": "tokens.npz"}}
    document |= {"directions": {"alpha": {"kind": "random"}}, "grid": {"alpha": [0, 1, 2]}}
    path = folder / "bad.yaml"
    path.write_text(yaml.safe_dump(document))
    assert main(["eval", str(path)]) == 2
    assert says in capfd.readouterr().err


def test_a_tokenizer_that_does_not_fit_is_refused(folder, capfd):
    """A token beyond the network's embedding, wherever in the data, is named with both numbers."""
    arrays = dict(np.load(folder / "tokens.npz"))
    arrays["input_ids_test"][-1, 0] = tiny.VOCABULARY + 6
    np.savez(folder / "beyond.npz", **arrays)
    document = {
        "model": {"arch": MODEL, "path": "gpt2"},
        "data": {"dataset": "arrays", "root": "beyond.npz"},
        "directions": {"alpha": {"kind": "random"}},
        "grid": {"alpha": [0, 1, 2]},
    }
    path = folder / "bad.yaml"
    path.write_text(yaml.safe_dump(document))
    assert main(["eval", str(path)]) == 2
    error = capfd.readouterr().err
    assert "data: input_ids has the token 30 in test" in error
    assert "vocabulary of 24" in error


def test_labels_that_are_not_shifted_are_refused(folder, capfd):
    """For a loss of outputs and labels, which would ask for the token that is already seen."""
    arrays = dict(np.load(folder / "tokens.npz"))
    for split in ("train", "test"):
        kept = arrays[f"attention_mask_{split}"] == 1
        arrays[f"labels_{split}"] = np.where(kept, arrays[f"input_ids_{split}"], -100)
    np.savez(folder / "same.npz", **arrays)
    data = {"dataset": "arrays", "root": "same.npz"}
    document = {"model": {"arch": MODEL, "path": "gpt2"}, "data": data}
    document |= {"directions": {"alpha": {"kind": "random"}}, "grid": {"alpha": [0, 1, 2]}}
    path = folder / "bad.yaml"
    path.write_text(yaml.safe_dump(document))
    assert main(["eval", str(path)]) == 2
    assert "labels are the tokens themselves" in capfd.readouterr().err


def test_a_tokenizer_of_a_folder_is_read(folder):
    """As transformers reads it, with the special tokens that its settings ask for."""
    tokenizers = pytest.importorskip("tokenizers")
    library = hugging_face.transformers("a test")
    words = {"<pad>": 0, "<s>": 1, "?": 2, "a": 3, "b": 4}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    whole = library.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="?")
    whole.save_pretrained(folder / "tokenizer")
    (folder / "text.txt").write_text("a b a\nb\nb b a b\na b\n")
    from lsengine import data
    from lsengine.job.schema import DataSpec

    args = {"tokenizer": "tokenizer", "documents": "line", "test_fraction": 0.5}
    spec = DataSpec(dataset="text", root="text.txt", args=args)
    dataset = data.load(spec, root=folder / "text.txt", job_folder=folder, seed=0)
    assert dataset.splits["train"].x["input_ids"].tolist() == [[3, 4, 0]]
    assert dataset.splits["test"].y.tolist() == [[4, 3, 4], [4, -100, -100]]
