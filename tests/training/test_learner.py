"""What a learner computes, and the jobs that it cannot learn from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lsengine import data, job, models, store
from lsengine.engine import Options, connect
from lsengine.errors import UsageError
from lsengine.models import checkpoint
from lsengine.training import recipe
from tests.training.conftest import (
    MODULE,
    RESNET,
    assert_same_training,
    folder,
    run,
)


def test_history_agrees_with_the_checkpoints(make_job):
    """Losses, errors and norms are those of the checkpoint's network, computed naively."""
    loaded = make_job(model=RESNET)
    run(loaded)
    found = store.read_history(folder(loaded) / "history.h5")
    digits = data.load(loaded.document.data, root=None, job_folder=Path(), seed=0)
    for epoch in (0, 2, 4):
        saved = checkpoint.load(folder(loaded) / f"epoch_00{epoch}.pt")
        network = models.build(
            loaded.document.model, channels=1, classes=10, size=(8, 8), job_folder=Path()
        )
        checkpoint.fit(network, saved, key="x")
        network.double().eval().requires_grad_(False)
        for split in ("train", "test"):
            x, y = data.normalized(digits, split, torch.float64), digits.splits[split].y
            with torch.no_grad():
                logits = network(x)
            loss = float(torch.nn.functional.cross_entropy(logits, y))
            error = float((logits.argmax(1) != y).double().mean())
            assert found.columns[f"{split}_loss"][epoch] == pytest.approx(loss, rel=1e-5)
            assert found.columns[f"{split}_error"][epoch] == pytest.approx(error)
            assert saved.numbers[f"{split}_loss"] == found.columns[f"{split}_loss"][epoch]
        assert saved.epoch == epoch
        parameters = dict(network.named_parameters())
        assert list(found.parameters) == list(parameters)
        norms = [float(p.norm()) for p in parameters.values()]
        np.testing.assert_allclose(found.layer_norms[epoch], norms, rtol=1e-12)
        assert found.columns["weight_norm"][epoch] == pytest.approx(math.hypot(*norms))
    rates = found.columns["learning_rate"]
    assert math.isnan(rates[0])
    np.testing.assert_allclose(rates[1:], [0.05, 0.05, 0.005, 0.0005])


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam", "lr": 0.01},
        {"batch_size": 5000, "lr": 0.5, "epochs": 12},
        {"crop": 1, "flip": True, "model": RESNET},
        {"weight_decay": 0.0, "momentum": 0.0},
        {"label_noise": 0.1, "batch_size": 199},
    ],
    ids=str,
)
def test_every_recipe_learns_and_repeats_itself(make_job, settings):
    """Two trainings of one seed are equal bit for bit; the loss falls."""
    one, other = make_job(name="a", **settings), make_job(name="b", **settings)
    run(one), run(other)
    assert_same_training(one, other)
    losses = store.read_history(folder(one) / "history.h5").columns["train_loss"]
    assert losses[-1] < losses[0]


def test_another_seed_is_another_training(make_job):
    """Already the initial parameters differ."""
    one, other = make_job(name="a"), make_job(name="b", seed=1)
    run(one), run(other)
    a, b = (checkpoint.load(folder(j) / "epoch_000.pt") for j in (one, other))
    assert not torch.equal(a.state["linear.weight"], b.state["linear.weight"])


def test_sgd_takes_the_steps_of_the_formula(tmp_path, make_job):
    """One full batch a step, against Nesterov momentum with weight decay written out."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 1))
    np.savez(tmp_path / "a.npz", x_train=x.astype("f4"), y_train=y.astype("f4"))
    dataset = {"dataset": "arrays", "root": "a.npz", "splits": ["train"]}
    content = {
        "model": {"arch": "mlp", "args": {"hidden": []}},
        "data": dataset,
        "loss": "mse",
        "train": {"output": "o", "epochs": 3, "save_every": 1, "batch_size": 9, "lr": 0.1}
        | {"weight_decay": 0.01, "milestones": [2]},
    }
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(content))
    loaded = job.load(tmp_path / "m.yaml", command="train")
    run(loaded)
    states = [checkpoint.load(tmp_path / f"o/epoch_00{e}.pt").state for e in range(4)]
    w = states[0]["linear.weight"].numpy().astype(float)
    b = states[0]["linear.bias"].numpy().astype(float)
    momenta = [np.zeros_like(w), np.zeros_like(b)]
    x, y = x.astype("f4").astype(float), y.astype("f4").astype(float)
    for epoch, rate in ((1, 0.1), (2, 0.1), (3, 0.01)):
        residual = 2 * (x @ w.T + b - y) / len(x)
        gradients = [residual.T @ x + 0.01 * w, residual.sum(0) + 0.01 * b]
        momenta = [0.9 * m + g for m, g in zip(momenta, gradients, strict=True)]
        steps = [g + 0.9 * m for m, g in zip(momenta, gradients, strict=True)]
        w, b = w - rate * steps[0], b - rate * steps[1]
        np.testing.assert_allclose(states[epoch]["linear.weight"], w, rtol=1e-5)
        np.testing.assert_allclose(states[epoch]["linear.bias"], b, rtol=1e-5)
    assert "train_error" not in store.read_history(tmp_path / "o/history.h5").columns


@pytest.mark.parametrize("clip_norm", [None, 0.2])
def test_adamw_takes_torchs_steps_on_tokens(tmp_path, clip_norm):
    """Warm-up, cosine, clipping and decay against a plain loop; losses and errors by token."""
    (tmp_path / "t.txt").write_text("to be or not to be, that is the question" * 9)
    model = {"arch": "gpt", "args": {"width": 8, "depth": 1, "heads": 2}}
    settings = {"epochs": 2, "save_every": 1, "batch_size": 7, "optimizer": "adamw", "lr": 0.05}
    settings |= {"schedule": "cosine", "warmup": 0.5, "clip_norm": clip_norm, "weight_decay": 0.4}
    content = {
        "model": model,
        "data": {"dataset": "text", "root": "t.txt", "args": {"context": 12, "test_fraction": 0.2}},
        "train": {"output": "o", **settings},
    }
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(content))
    loaded = job.load(tmp_path / "m.yaml", command="train")
    run(loaded)
    text = data.load(loaded.document.data, root=tmp_path / "t.txt", job_folder=tmp_path, seed=0)
    network = models.build(
        loaded.document.model, channels=12, classes=text.classes, size=None, job_folder=tmp_path
    )
    checkpoint.fit(network, checkpoint.load(tmp_path / "o/epoch_000.pt"), key="x")
    decays = [p for n, p in network.named_parameters() if p.ndim > 1 and "embedding" not in n]
    rest = [p for p in network.parameters() if not any(p is q for q in decays)]
    groups = [{"params": decays, "weight_decay": 0.4}, {"params": rest, "weight_decay": 0.0}]
    optimizer, done = torch.optim.AdamW(groups), 0
    x, y = text.splits["train"].x, text.splits["train"].y
    for epoch in (1, 2):
        batches = recipe.batches(len(y), 7, recipe.generator_of(0, f"epoch {epoch}"))
        warm, all_steps = 0.5 * len(batches), 2 * len(batches)
        for chosen in batches:
            angle = math.pi * max(0, done - warm) / (all_steps - warm)
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * min(1, (done + 1) / warm) * (1 + math.cos(angle)) / 2
            optimizer.zero_grad()
            by_token = network(x[chosen]).flatten(0, 1)
            torch.nn.functional.cross_entropy(by_token, y[chosen].flatten()).backward()
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
            optimizer.step()
            done += 1
        saved = checkpoint.load(tmp_path / f"o/epoch_00{epoch}.pt")
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(saved.state[name], parameter.detach(), rtol=1e-4, atol=1e-5)
    for split, of_split in text.splits.items():
        with torch.no_grad():
            by_token = network(of_split.x).double().flatten(0, 1)
        labels = of_split.y.flatten()
        loss = torch.nn.functional.cross_entropy(by_token, labels).item()
        error = (by_token.argmax(1) != labels).double().mean().item()
        assert saved.numbers[f"{split}_loss"] == pytest.approx(loss, rel=1e-4)
        assert saved.numbers[f"{split}_error"] == pytest.approx(error, abs=2 / len(labels))


def test_a_users_network_may_depend_on_the_memorys_order(tmp_path, make_job):
    """Networks that call `view` after a convolution are trained too."""
    (tmp_path / "trainee.py").write_text(MODULE)
    run(make_job(model={"arch": "trainee:Viewing"}, epochs=1))


def test_augmentation_and_label_noise_need_fitting_data(tmp_path, make_job):
    """Crop and flip need images, wrong labels need classes."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)).astype("f4"), rng.normal(size=(8, 1)).astype("f4")
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y)
    dataset = {"dataset": "arrays", "root": "a.npz", "splits": ["train"]}
    for settings, key in (({"crop": 1}, "crop"), ({"flip": True}, "flip")):
        with pytest.raises(UsageError, match=f"train.{key}: needs images"):
            run(make_job(dataset=dataset, **settings))
    with pytest.raises(UsageError, match=r"train.label_noise: needs labels"):
        run(make_job(dataset=dataset, label_noise=0.5))
    with pytest.raises(UsageError, match="loss: cross_entropy refuses"):
        run(make_job(dataset=dataset, model={"arch": "mlp", "args": {"classes": 2}}))


def test_noise_and_augmentation_do_not_part_inputs_from_targets(tmp_path, make_job):
    """Targets at every pixel are not moved with the image, tokens have no noise."""
    images, pixels = np.zeros((8, 1, 8, 8), "u1"), np.arange(512).reshape(8, 8, 8) % 3
    tokens, answers = np.arange(24).reshape(8, 3), np.eye(8, 4, dtype=int)
    dataset = {"dataset": "arrays", "root": "a.npz", "splits": ["train"]}
    for x, y, settings, said in (
        (images, pixels, {"crop": 1}, r"train\.crop: moves images, but not their targets"),
        (images, pixels, {"flip": True}, r"train\.flip: moves images, but not their targets"),
        (tokens, answers, {"noise": 0.1}, r"train\.noise: the inputs are integers"),
        (images, answers, {"label_noise": 0.1}, r"train\.label_noise: .* got shape \[8, 4\]"),
        (images, answers[:, :1], {"label_noise": 0.1}, r"train\.label_noise: .* \[8, 1\]"),
    ):
        np.savez(tmp_path / "a.npz", x_train=x, y_train=y)
        with pytest.raises(UsageError, match=said):
            run(make_job(dataset=dataset, **settings))


OWN = """
import torch
from torch import nn
from torch.nn import functional as F


class Slope(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 1)

    def forward(self, x):
        x = x.clone().requires_grad_(True)
        return torch.autograd.grad(self.a(x).square().sum(), x, create_graph=True)[0][:, :1]


def make(wide=False): return Slope().double() if wide else Slope()


def loss(o, t): return F.binary_cross_entropy_with_logits(o[:, 0], t.to(o.dtype), reduction="none")
"""


@pytest.mark.parametrize("wide", [False, True])
def test_one_logit_and_a_derivative_are_learned(tmp_path, wide):
    """Labels 0 and 1 for one logit, from a network that differentiates, also one in float64."""
    (tmp_path / "slope.py").write_text(OWN)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)).astype(np.float32), rng.integers(0, 2, 40)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y)
    content = {
        "model": {"arch": "slope:make", "args": {"wide": wide}},
        "data": {"dataset": "arrays", "root": "d.npz", "splits": ["train"]},
        "loss": "slope:loss",
        "threads": 1,
        "device": "cpu",
        "train": {"output": "run", "epochs": 2, "save_every": 1},
    }
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
    loaded = job.load(tmp_path / "a.yaml", command="train")
    run(loaded)
    found = store.read_history(folder(loaded) / "history.h5")
    a = torch.load(folder(loaded) / "epoch_002.pt")
    state = a.get("state_dict", a)
    w, b = state["a.weight"].double(), state["a.bias"].double()
    logit = 2 * (torch.from_numpy(x).double() @ w[0] + b) * w[0, 0]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logit, torch.from_numpy(y).double()
    )
    assert found.columns["train_loss"][2] == pytest.approx(float(expected), rel=1e-5)
    error = ((logit > 0).long() != torch.from_numpy(y)).double().mean()
    assert found.columns["train_error"][2] == pytest.approx(float(error))


def test_networks_of_16_bits_are_refused(tmp_path, make_job):
    """By name, not by what a layer says of its inputs."""
    (tmp_path / "halved.py").write_text(
        "from torch import nn\n\n\n"
        "def make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).half()\n"
    )
    with pytest.raises(UsageError, match="parameters of 16 bits"):
        run(make_job(model={"arch": "halved:make"}))


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_a_network_without_gradients_is_refused(tmp_path, make_job, mode):
    """The message says what to take out."""
    (tmp_path / "graceless.py").write_text(
        "import torch\n\n\n"
        "class Network(torch.nn.Linear):\n"
        f"    @torch.{mode}()\n"
        "    def forward(self, x): return super().forward(x.flatten(1))\n\n\n"
        "def make(): return Network(64, 10)\n"
    )
    with pytest.raises(UsageError, match=r"loss has no gradient.*take no_grad.*out of forward"):
        run(make_job(model={"arch": "graceless:make"}))


SEVERAL = """
import torch
from torch import nn
from torch.nn import functional as F
class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)
    def forward(self, x):
        return self.linear(x)
class Two(One):
    def forward(self, a, b):
        return {"logits": self.linear(torch.cat([a, b], 1)), "hidden": a}
def by_batch(network, batch):
    x, y = batch
    losses = F.cross_entropy(network(x), y, reduction="none")
    return {"loss": losses, "confidence": network(x).softmax(1).max(1).values}
class Curve(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    def forward(self, t):
        return 1 + t * self.layers(t)
class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.last = nn.Embedding(5, 4), nn.Linear(4, 5)
    def forward(self, ids, labels=None):
        logits = self.last(self.tokens(ids).cumsum(1).tanh())
        if labels is None:
            return {"logits": logits}
        rows, after = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return {"loss": F.cross_entropy(rows, after), "logits": logits}
def decay(network, batch):
    t = batch["t"].requires_grad_()
    u = network(t)
    (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
    return (slope + u).square().flatten()
"""


def _job_of_several(folder, name, *, arch, arrays, **keys):
    np.savez(folder / f"{name}.npz", **arrays)
    (folder / "several.py").write_text(SEVERAL)
    content = {
        "model": {"arch": f"several:{arch}"},
        "data": {"dataset": "arrays", "root": f"{name}.npz", "splits": ["train"]},
        "threads": 1,
        "train": {"output": name, "epochs": 3, "batch_size": 8, "weight_decay": 0.0},
        **keys,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return job.load(folder / f"{name}.yaml", command="train")


def test_several_inputs_and_objectives_train_as_one_input_and_a_loss(tmp_path):
    """Inputs by name end with the bits of their concatenation; an objective near them."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 5)).astype("f4"), rng.integers(0, 3, 30)
    alone = {"x_train": x, "y_train": y}
    apart = {"a_train": x[:, :2], "b_train": x[:, 2:], "y_train": y}
    one = _job_of_several(tmp_path, "one", arch="One", arrays=alone)
    two = _job_of_several(tmp_path, "two", arch="Two", arrays=apart)
    own = _job_of_several(tmp_path, "own", arch="One", arrays=alone, objective="several:by_batch")
    for loaded in (one, two, own):
        run(loaded)
    assert_same_training(one, two)
    a, b = (checkpoint.load(folder(j) / "epoch_003.pt") for j in (one, own))
    for name, tensor in a.state.items():
        torch.testing.assert_close(b.state[name], tensor, rtol=1e-4, atol=1e-6)
    assert b.numbers["train_loss"] == pytest.approx(a.numbers["train_loss"], rel=1e-5)
    assert "train_error" not in b.numbers


def test_an_objective_that_differentiates_is_learned(tmp_path):
    """The residual of u' = -u without targets; u(1) comes near 1 / e."""
    t = np.linspace(0, 1, 40, dtype="f4")[:, None]
    train = {"output": "pinn", "epochs": 20, "batch_size": 4, "optimizer": "adam", "lr": 0.02}
    loaded = _job_of_several(
        tmp_path, "pinn", arch="Curve", arrays={"t_train": t}, objective="several:decay",
        train={**train, "schedule": "cosine", "weight_decay": 0.0},
    )  # fmt: skip
    run(loaded)
    losses = store.read_history(folder(loaded) / "history.h5").columns["train_loss"]
    assert losses[-1] < 0.01 < 0.5 < losses[0]
    network = models.build(
        loaded.document.model, channels=1, classes=1, size=None, job_folder=tmp_path
    )
    checkpoint.fit(network, checkpoint.load(folder(loaded) / "epoch_020.pt"), key="x")
    assert network(torch.ones(1, 1)).item() == pytest.approx(math.exp(-1), abs=0.04)


def test_changes_of_the_data_need_a_loss_of_one_input(tmp_path):
    """Noise and crops are refused with an objective, and with several inputs."""
    rng = np.random.default_rng(0)
    arrays = {"a_train": rng.normal(size=(9, 2)), "b_train": rng.normal(size=(9, 3))}
    train = {"output": "two", "epochs": 1, "noise": 0.1}
    loaded = _job_of_several(
        tmp_path, "two", arch="Two", arrays={**arrays, "y_train": np.arange(9) % 3}, train=train
    )
    with pytest.raises(UsageError, match=r"train.noise: needs one array of inputs.*leave it out"):
        run(loaded)


def test_curves_are_trained_with_several_inputs_and_by_objectives(tmp_path):
    """The bends are those of one input and a loss: the same bits by name, near an objective."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 5)).astype("f4"), rng.integers(0, 3, 24)
    alone = {"x_train": x, "y_train": y}
    apart = {"a_train": x[:, :2], "b_train": x[:, 2:], "y_train": y}
    bends = {}
    for name, arch, arrays, keys in (
        ("one", "One", alone, {}),
        ("two", "Two", apart, {}),
        ("own", "One", alone, {"objective": "several:by_batch"}),
    ):
        run(_job_of_several(tmp_path, name, arch=arch, arrays=arrays))
        loaded = _job_of_several(
            tmp_path, f"{name}-curve", arch=arch, arrays=arrays, **keys,
            model={"arch": f"several:{arch}", "checkpoint": f"{name}/epoch_000.pt"},
            curve={"to": f"{name}/epoch_003.pt", "output": f"{name}-bent", "epochs": 2},
        )  # fmt: skip
        assert connect.run(loaded.source, Options(progress="none"), world=None)[0] == 0
        bends[name] = torch.load(tmp_path / f"{name}-bent" / "curve.pt")["controls"][1]
    for name, tensor in bends["one"].items():
        assert torch.equal(bends["two"][name], tensor)
        torch.testing.assert_close(bends["own"][name], tensor, rtol=1e-4, atol=1e-6)


def test_the_loss_of_the_network_is_that_of_all_tokens(tmp_path):
    """The history has the mean over the split as the network has it, whatever the batches."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 5, (600, 6))
    labels = np.where(np.arange(6) < rng.integers(2, 7, (600, 1)), ids, -100)
    arrays = {"ids_train": ids, "labels_train": labels}
    loaded = _job_of_several(tmp_path, "own", arch="Causal", arrays=arrays, loss="output")
    run(loaded)
    epochs = [checkpoint.load(folder(loaded) / f"epoch_{n:03}.pt") for n in (0, 3)]
    names: dict = {}
    exec(SEVERAL, names)
    model = names["Causal"]().double()
    for epoch in epochs:
        model.load_state_dict(epoch.state)
        loss = model(torch.from_numpy(ids), torch.from_numpy(labels))["loss"].item()
        assert epoch.numbers["train_loss"] == pytest.approx(loss, rel=1e-6)
    assert epochs[1].numbers["train_loss"] < epochs[0].numbers["train_loss"]
