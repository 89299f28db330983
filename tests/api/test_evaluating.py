"""Surfaces, trajectories and spectra from Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lsengine
from lsengine.errors import CellsFailed, JobError, SurfaceError, UsageError
from tests.support.jobs import write_job
from tests.support.memory import between, naive_loss, network, samples

MODEL, OTHER, THIRD, DATA = network(1), network(2), network(3), samples()
CURVE = {"alpha": [-0.5, 1.5, 5]}
QUIET = {"progress": False, "threads": 1, "device": "cpu"}


def test_a_plane_through_three_networks_is_that_of_a_naive_loop():
    """Of both splits, at every cell."""
    test = samples(11, seed=9)
    surface = lsengine.evaluate(
        MODEL, {"train": DATA, "test": test}, toward=(OTHER, THIRD), grid=3, **QUIET
    )
    assert list(surface.quantities) == sorted(surface.quantities)
    for b, beta in enumerate(surface.beta):
        for a, alpha in enumerate(surface.alpha):
            state = between(MODEL, alpha, OTHER, beta, THIRD)
            for split, data in (("train", DATA), ("test", test)):
                expected = naive_loss(MODEL, state, data)
                assert surface.quantities[f"{split}_loss"][b, a] == pytest.approx(expected, 1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        "cross_entropy",
        F.cross_entropy,
        nn.CrossEntropyLoss(label_smoothing=0.3),
        lambda output, target: (output.sum(-1) - target) ** 2,
    ],
    ids=["name", "torch", "module", "own"],
)
def test_any_loss_is_taken(loss):
    """A name, a function of torch's, a module, one's own; along a line to another network."""
    surface = lsengine.evaluate(MODEL, DATA, loss=loss, toward=OTHER, grid=CURVE, **QUIET)
    own = F.cross_entropy if isinstance(loss, str) else loss
    for alpha, found in zip(surface.alpha, surface.quantities["train_loss"], strict=True):
        expected = naive_loss(MODEL, between(MODEL, alpha, OTHER), DATA, own)
        assert found == pytest.approx(expected, 1e-5)
    assert np.isfinite(surface.quantities["train_loss_se"]).all()


def test_a_loader_gives_the_same_samples_every_time(tmp_path):
    """Shuffled and in batches; the random numbers of the caller do not matter."""
    loader = DataLoader(TensorDataset(*DATA), batch_size=8, shuffle=True)
    call = {"toward": OTHER, "grid": CURVE, "output": tmp_path / "x.h5", **QUIET}
    first = lsengine.evaluate(MODEL, {"test": loader}, **call)
    torch.manual_seed(99)
    again = lsengine.evaluate(MODEL, loader, split="test", **call)  # is the same, or is refused
    assert first.quantities["test_loss"].tolist() == again.quantities["test_loss"].tolist()
    whole = lsengine.evaluate(MODEL, DATA, **{**call, "output": None})
    np.testing.assert_allclose(
        first.quantities["test_loss"], whole.quantities["train_loss"], rtol=1e-6
    )


def test_only_what_is_asked_for_moves():
    """One layer, by its pattern."""
    surface = lsengine.evaluate(MODEL, DATA, toward=OTHER, only=["0.*"], grid=CURVE, **QUIET)
    other = network(1)
    other[0].load_state_dict(OTHER[0].state_dict())
    for alpha, found in zip(surface.alpha, surface.quantities["train_loss"], strict=True):
        expected = naive_loss(MODEL, between(MODEL, alpha, other), DATA)
        assert found == pytest.approx(expected, 1e-5)


class Masked(nn.Module):
    """Takes two inputs by their names."""

    def __init__(self):
        super().__init__()
        self.net = network(1)

    def forward(self, ids, mask):
        """Return the outputs."""
        return self.net(ids * mask)


def _judged(net, batch):
    output = net(batch["ids"], batch["mask"])
    wrong = (output.argmax(1) != batch["labels"]).double()
    return {"loss": F.cross_entropy(output, batch["labels"], reduction="none"), "wrong": wrong}


@pytest.mark.parametrize("judge", [{}, {"objective": _judged}], ids=["loss", "objective"])
def test_batches_by_name_are_taken(judge):
    """Inputs as keywords and labels for a loss, or all of it for an objective with metrics."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(37, 6, generator=generator) > 0.3
    batches = [
        {"ids": DATA[0][i : i + 10], "mask": mask[i : i + 10], "labels": DATA[1][i : i + 10]}
        for i in range(0, 37, 10)
    ]
    other = Masked()
    other.net.load_state_dict(OTHER.state_dict())
    surface = lsengine.evaluate(Masked(), batches, toward=other, grid=CURVE, **judge, **QUIET)
    for alpha, found in zip(surface.alpha, surface.quantities["train_loss"], strict=True):
        masked = DATA[0] * mask, DATA[1]
        assert found == pytest.approx(naive_loss(MODEL, between(MODEL, alpha, OTHER), masked), 1e-5)
    assert ("train_wrong_se" in surface.quantities) == bool(judge)


class Graph(nn.Module):
    """Adds the neighbours up, twice."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x, adjacent):
        """Return the outputs of all nodes (N, nodes, 3)."""
        return self.last(adjacent @ self.first(adjacent @ x).tanh())


def test_a_graph_is_one_sample():
    """The loss is the mean over the nodes that have a label, by a loop over them."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 2, generator=generator), torch.arange(9) % 3
    adjacent = (torch.rand(9, 9, generator=generator) < 0.4).float()
    labels = {"train": torch.where(torch.arange(9) < 6, y, -100)}
    labels["test"] = torch.where(torch.arange(9) < 6, -100, y)
    graph = {"x": x[None], "adjacent": adjacent[None]}
    data = {split: {**graph, "labels": labels[split][None]} for split in labels}
    model, other = Graph(0), Graph(1)
    surface = lsengine.evaluate(model, data, toward=other, grid=CURVE, **QUIET)
    near = [[k for k in range(9) if adjacent[n, k]] for n in range(9)]
    for cell, alpha in enumerate(surface.alpha):
        w = {name: value.numpy() for name, value in between(model, alpha, other).items()}
        rows = x.double().numpy()
        for layer, squash in (("first", np.tanh), ("last", lambda row: row)):
            sums = [sum((rows[k] for k in of), np.zeros(rows.shape[1])) for of in near]
            rows = np.array([squash(w[f"{layer}.weight"] @ s + w[f"{layer}.bias"]) for s in sums])
        losses = [np.log(np.exp(row).sum()) - row[k] for row, k in zip(rows, y, strict=True)]
        for split, nodes in (("train", slice(6)), ("test", slice(6, 9))):
            found = surface.quantities[f"{split}_loss"][cell]
            assert found == pytest.approx(np.mean(losses[nodes]), rel=1e-5)


def test_a_trajectory_has_the_losses_of_its_checkpoints():
    """Networks and state dicts, in the order of time, in a plane that fits them."""
    checkpoints = [network(5), network(6).state_dict(), network(7), MODEL]
    surface = lsengine.trajectory(checkpoints, MODEL, DATA, grid=2, **QUIET)
    columns = surface.trajectory.columns
    assert columns["epoch"].tolist() == [0, 1, 2, 3]
    for found, one in zip(columns["train_loss"], checkpoints, strict=True):
        state = one if isinstance(one, dict) else one.state_dict()
        assert found == pytest.approx(naive_loss(MODEL, state, DATA), 1e-5)
    assert columns["alpha"][-1] == pytest.approx(0)
    assert columns["beta"][-1] == pytest.approx(0)


def test_a_spectrum_is_that_of_the_hessian():
    """Of a small network, whose Hessian torch can write out."""
    model, (x, y) = nn.Linear(6, 3), DATA

    def loss(weight, bias):
        return F.cross_entropy(F.linear(x.double(), weight, bias), y)

    parameters = tuple(p.detach().double() for p in model.parameters())
    blocks = torch.autograd.functional.hessian(loss, parameters)
    whole = torch.cat(
        [
            torch.cat([b.reshape(p.numel(), -1) for b in row], 1)
            for p, row in zip(parameters, blocks, strict=False)
        ]
    )
    expected = torch.linalg.eigvalsh(whole)
    found = lsengine.spectrum(
        model, DATA, vectors=2, trace=0, density=0, curvature={"tolerance": 1e-4}, **QUIET
    )
    np.testing.assert_allclose(found.eigenvalues, expected.flip(0)[:2], rtol=1e-3)
    assert found.vectors["weight"].shape == (2, 3, 6)
    for chosen in ({"only": ["weight"]}, {"ignore": ["bias"]}):
        part = lsengine.spectrum(
            model, DATA, **chosen, vectors=1, trace=0, density=0,
            curvature={"tolerance": 1e-4}, **QUIET,
        )  # fmt: skip
        block = torch.linalg.eigvalsh(whole[:18, :18])
        assert part.eigenvalues[0] == pytest.approx(float(block[-1]), rel=1e-3)


def test_a_finer_surface_takes_over_the_cells_of_a_coarse_one(tmp_path):
    """As a run from scratch has them, byte by byte; only the others are evaluated."""
    call = {"toward": OTHER, **QUIET}
    coarse = lsengine.evaluate(MODEL, DATA, grid=CURVE, output=tmp_path / "a.h5", **call)
    start, stop, points = CURVE["alpha"]
    fine = {"alpha": [start, stop, 2 * points - 1]}
    whole = lsengine.evaluate(MODEL, DATA, grid=fine, **call)
    more = {"output": tmp_path / "b.h5", "extend": tmp_path / "a.h5"}
    found = lsengine.evaluate(MODEL, DATA, grid=fine, **more, **call)
    assert found.quantities["train_loss"].tobytes() == whole.quantities["train_loss"].tobytes()
    taken = found.provenance["finished"][::2]
    assert (taken == coarse.provenance["finished"]).all()


def test_a_file_is_kept_and_gone_on_with(tmp_path, capfd):
    """The same again returns at once; another network, another loss, other data are refused."""
    path = tmp_path / "x.h5"
    call = {"grid": CURVE, "seed": 3, "output": path, **QUIET}
    first = lsengine.evaluate(MODEL, DATA, **call)
    before = path.stat()
    again = lsengine.evaluate(MODEL, DATA, **call)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert again.source == str(path)
    np.testing.assert_array_equal(first.quantities["train_loss"], again.quantities["train_loss"])
    with pytest.raises(SurfaceError, match="the content of checkpoint is not what it was"):
        lsengine.evaluate(OTHER, DATA, **call)
    with pytest.raises(SurfaceError, match="the content of data is not what it was"):
        lsengine.evaluate(MODEL, samples(36), **call)
    with pytest.raises(SurfaceError):
        lsengine.evaluate(MODEL, DATA, loss=lambda o, t: F.cross_entropy(o, t) + 1, **call)
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]
    assert capfd.readouterr() == ("", "")


def test_a_job_file_is_run(tmp_path):
    """The same surface as ever, as a value; its modules are forgotten, the search path is not."""
    import sys

    path, modules = list(sys.path), set(sys.modules)
    (surface,) = lsengine.run(write_job(tmp_path), progress=False)
    assert surface.counts()["done"] == 28
    assert surface.source == str(tmp_path / "job.h5")
    assert sys.path == path
    assert "testnets" not in set(sys.modules) - modules
    spectrum = lsengine.spectrum(
        tmp_path / "job.yaml", vectors=1, trace=2, density=0, output=tmp_path / "s.h5"
    )
    assert spectrum.eigenvalues.shape == (1,)
    assert (tmp_path / "s.h5").exists()
    with pytest.raises(UsageError, match="fits no parameter"):
        lsengine.spectrum(tmp_path / "job.yaml", only=["lora"], progress=False)
    with pytest.raises(JobError, match="presicion"):
        lsengine.spectrum(tmp_path / "job.yaml", presicion="float64", progress=False)
    with pytest.raises(UsageError, match="the job file has its own"):
        lsengine.spectrum(tmp_path / "job.yaml", DATA, progress=False)
    with pytest.raises(UsageError, match=r"seed: got set \"\{1\}\"; expected numbers"):
        lsengine.run(tmp_path / "job.yaml", changes={"seed": {1}}, progress=False)
    (finer,) = lsengine.run(
        tmp_path / "job.yaml",
        changes={"output": "finer.h5", "grid.alpha": [-1, 1, 13]},
        extend=tmp_path / "job.h5",
        progress=False,
    )
    assert (finer.provenance["finished"][:, ::2] == surface.provenance["finished"]).all()


class Fragile(nn.Module):
    """Raises where its first weight is above a limit."""

    def __init__(self):
        super().__init__()
        self.net = network(1)

    def forward(self, x):
        """Return the outputs."""
        if float(self.net[0].weight[0, 0].detach()) > float(OTHER[0].weight[0, 0]) + 5:
            raise RuntimeError("too far")
        return self.net(x)


def test_what_failed_is_raised_with_the_surface():
    """Nothing that was evaluated is lost."""
    far = Fragile()
    with torch.no_grad():
        far.net[0].weight[0, 0] += 20
    with pytest.raises(CellsFailed, match="retry_failed=True") as caught:
        lsengine.evaluate(Fragile(), DATA, toward=far, grid={"alpha": [-1, 1, 3]}, **QUIET)
    assert caught.value.surfaces[0].counts() == {"done": 2, "missing": 0, "failed": 1}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model": "net"}, UsageError, "model: expected a torch.nn.Module, got str"),
        ({"data": [1]}, UsageError, "data: train"),
        ({"split": "valid"}, UsageError, "split: got 'valid'; allowed: train, test"),
        ({"gird": 5}, JobError, 'evaluate: 1 problem.s.\n  gird: unknown key; did you mean "grid"'),
        ({"grid": {"alpha": [1, 5]}}, JobError, r"grid.alpha: expected \[start, stop, points\]"),
        ({"grid": [5, 5]}, UsageError, r"grid: got \[5, 5\]; expected a number of points"),
        ({"grid": 5.5}, UsageError, "grid: got 5.5; expected a number of points"),
        ({"toward": (1, 2, 3)}, UsageError, "toward: expected one or two checkpoints, got 3"),
        ({"toward": nn.Linear(2, 2)}, UsageError, "does not fit"),
        ({"directions": {}, "normalize": "layer"}, UsageError, "normalize: say it in directions"),
        ({"loss": 3}, UsageError, "loss: expected a name, or a function"),
        ({"model": nn.Linear(5, 3)}, UsageError, "^model: the network refuses data of shape"),
        (
            {"loss": "mse", "objective": _judged},
            UsageError,
            "loss: an objective is given, which has its own",
        ),
        ({"objective": 3}, UsageError, "objective: expected a function of network and batch"),
        ({"launch": {}}, UsageError, "evaluate: launch is no key of a job in memory"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_mistakes_are_named_by_argument(arguments, error, words):
    """With what was found and what is allowed."""
    call = {"model": MODEL, "data": DATA, "grid": 3, **QUIET, **arguments}
    with pytest.raises(error, match=words):
        lsengine.evaluate(**call)
