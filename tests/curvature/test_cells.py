"""Curvature as a quantity of cells: of which parameters, in which precision, from which start."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lsengine
from lsengine import data, store
from lsengine import job as jobs
from lsengine.cli import main
from lsengine.curvature import LanczosOptions, extreme_eigenvalues
from lsengine.curvature.cells import NAMES
from lsengine.engine import Options, evaluate, prepare
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.geometry.directions import draw, normalized
from lsengine.job.schema import DataSpec
from lsengine.models import resnet
from lsengine.objective import EvaluationSettings, Objective
from lsengine.report import status
from lsengine.surface.grid import Cell, make_grid
from lsengine.surface.parts import Selection
from tests.support.hessians import Case, cross_entropy
from tests.support.jobs import values, write_job

MAP = {
    "quantities": ["loss", "curvature"],
    "model": {"arch": "testnets:mlp", "args": {"width": 5}, "checkpoint": "centre.pt"},
    "precision": "float64",
    "grid": {"alpha": [-1, 1, 5], "beta": [-1, 1, 5]},
}


@functools.cache
def digits(samples):
    """Return so many of the bundled digits, without a test split."""
    spec = DataSpec(dataset="digits", subset=samples, splits=["train"])
    return data.load(spec, root=None, job_folder=Path(), seed=0)


def mlp():
    """Return a small smooth network for the digits."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = nn.Linear(64, 3), nn.Linear(3, 10)
        return nn.Sequential(nn.Flatten(), first, nn.Tanh(), second).eval()


def made(model, *, precision="float64", samples=40, loss=cross_entropy, batch=16, **settings):
    """Return an objective with curvature, along random directions of all weights."""
    weights = {n: p.detach() for n, p in model.named_parameters() if p.ndim > 1}
    directions = {
        axis: normalized(draw(weights, seed=1, axis=i), weights, "filter")
        for i, axis in enumerate(("alpha", "beta"))
    }
    given = {"curvature": LanczosOptions(), **settings}
    settings = EvaluationSettings(
        device=torch.device("cpu"),
        precision=precision,
        batch_size=batch,
        fuses=False,
        **given,
    )
    return Objective(model, digits(samples), loss, directions, settings)


def _ends(model, names):
    """Return both ends of the spectrum of a dense block at the network's weights."""
    split = digits(40).splits["train"]
    inputs = data.normalized(digits(40), "train", torch.float64)
    dense = Case(model, inputs, split.y).dense(names)
    return torch.linalg.eigvalsh(dense)[[0, -1]].tolist()


@pytest.mark.parametrize(
    ("settings", "names", "trained"),
    [
        ({}, ["3.weight", "3.bias"], ["3.weight", "3.bias"]),
        ({"curvature_of_moved": True}, ["3.weight"], ["3.weight", "3.bias"]),
        ({"curvature_of": Selection(("1.*", "3.*"), ("bias",))}, ["3.weight"], ["3.weight"]),
    ],
)
def test_frozen_layers_are_not_in_the_hessian(settings, names, trained):
    """It is the block of what a training would change, or of what of that moves or is chosen."""
    model = mlp()
    model[1].requires_grad_(False)
    objective = made(model, **settings)
    found = objective.evaluate(Cell(0.4, -0.3))
    low, high = _ends(objective.model, names)
    whole = _ends(objective.model, None)
    assert found["eigenvalue_max"] == pytest.approx(high, rel=1e-2)
    assert found["eigenvalue_min"] == pytest.approx(low, rel=1e-2, abs=1e-4 * high)
    assert whole[1] > 1.1 * high
    assert objective.hessian(Cell(0.0)).names == trained


def test_a_network_without_a_trainable_parameter_is_refused():
    """Before any product, with the way out; losses alone are still there."""
    frozen = mlp().requires_grad_(False)
    with pytest.raises(UsageError, match=r"the network has none; leave some requires_grad"):
        made(frozen)
    assert made(frozen, curvature=None).evaluate(Cell(0.0))["train_loss"] > 0
    only_biases = mlp()
    for layer in (only_biases[1], only_biases[3]):
        layer.weight.requires_grad_(False)
    assert made(only_biases).evaluate(Cell(0.0))["converged"]
    for layer in (only_biases[1], only_biases[3]):  # an objective has frozen all of them
        layer.bias.requires_grad_(True)
    with pytest.raises(UsageError, match=r"none of those that move is one.*parameters: all"):
        made(only_biases, curvature_of_moved=True)


def test_no_file_is_made_where_nothing_trainable_moves(make_job, tmp_path, capsys):
    """Exit 2 before the surface is laid out; the same job without the wish is fine."""
    (tmp_path / "frozen.py").write_text(
        "import testnets\n"
        "def mlp(width):\n"
        "    model = testnets.mlp(width)\n"
        "    for layer in (model[0], model[3]):\n"
        "        layer.weight.requires_grad_(False)\n"
        "    return model\n"
    )
    model = {**MAP["model"], "arch": "frozen:mlp"}
    make_job("trained", model=MAP["model"])  # writes the checkpoint
    job = make_job(**{**MAP, "model": model, "curvature": {"parameters": "moved"}})
    assert main(["eval", str(job), "--progress", "none"]) == 2
    assert "none of those that move is one" in capsys.readouterr().err
    assert not job.with_suffix(".h5").exists()
    job = make_job(**{**MAP, "model": model, "grid": {"alpha": [0, 0, 1], "beta": [0, 0, 1]}})
    assert main(["eval", str(job), "--progress", "none"]) == 0


ONCE = """
import torch
from torch import nn
from torch.autograd.function import once_differentiable


class Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad * (1 - ctx.saved_tensors[0] ** 2)


class Once(nn.Module):
    def __init__(self, stop):
        super().__init__()
        self.a, self.b, self.stop = nn.Linear(6, 5), nn.Linear(5, 3), stop

    def forward(self, x):
        h = Tanh.apply(self.a(x))
        return self.b(h.detach() if self.stop else h)


def once(stop=False):
    return Once(stop)
"""


def _plain_ends(loaded, direction, alpha):
    """Return both ends of the spectrum by differences of float64 gradients."""
    model, split = copy.deepcopy(loaded.model).double(), loaded.dataset.splits["train"]
    weights = [p for _, p in model.named_parameters()]
    for name, p in model.named_parameters():
        if name in direction:
            p.data += alpha * torch.from_numpy(direction[name]).double()
    centre = nn.utils.parameters_to_vector(weights).detach()

    def gradient(at):
        nn.utils.vector_to_parameters(at, weights)
        loss = nn.functional.cross_entropy(model(split.x.double()), split.y)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])

    rows = [
        gradient(centre + h) - gradient(centre - h) for h in 1e-6 * torch.eye(len(centre)).double()
    ]
    matrix = torch.stack(rows) / 2e-6
    return torch.linalg.eigvalsh((matrix + matrix.T) / 2)[[0, -1]].tolist()


def test_operations_with_one_derivative_have_the_eigenvalues_of_plain_gradients(make_job, tmp_path):
    """At every cell, and the file says how; a detach is refused before there is a file."""
    (tmp_path / "onenets.py").write_text(ONCE)
    names = {
        "model": {"arch": "onenets:once", "checkpoint": "once.pt"},
        "grid": {"alpha": [-0.5, 0.5, 3]},
    }
    namespace = {"__name__": "onenets"}
    exec(compile(ONCE, "onenets.py", "exec"), namespace)
    torch.save(namespace["once"]().state_dict(), tmp_path / "once.pt")
    options = {"tolerance": 1e-4, "max_products": 200, "basis": 53}
    wanted = {"quantities": ["loss", "curvature"], "curvature": options}
    path = make_job("one", directions={"alpha": {"kind": "random", "seed": 1}}, **names, **wanted)
    assert main(["eval", str(path), "--progress", "none"]) == 0
    surface = lsengine.open(path.with_suffix(".h5"))
    assert surface.attributes["products_by"] == "differences, float64"
    loaded = prepare.load(jobs.load(path, command="eval"))
    direction = store.read_directions(path.with_suffix(".h5"))["alpha"]
    for alpha, low, high in zip(
        surface.alpha, *(surface.quantities[f"eigenvalue_{n}"] for n in ("min", "max")), strict=True
    ):
        assert [low, high] == pytest.approx(_plain_ends(loaded, direction, alpha), rel=1e-3)
    names["model"] = {**names["model"], "args": {"stop": True}}
    path = make_job("stop", directions={"alpha": {"kind": "random", "seed": 1}}, **names, **wanted)
    assert main(["eval", str(path), "--progress", "none"]) == 2
    assert not path.with_suffix(".h5").exists()


def test_memory_that_ends_in_a_product_names_the_basis():
    """Batches are halved down to one sample first, and losses are not affected."""

    def hungry(output, target):
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("made to fail: out of memory")
        return cross_entropy(output, target)

    objective = made(mlp(), loss=hungry)
    with pytest.raises(EnvironmentUnfit, match=r"curvature.basis: .* GiB.*a smaller basis"):
        objective.evaluate(Cell(0.1, 0.2))
    assert objective.batch_size == 1
    assert objective.losses(Cell(0.1, 0.2))["train_loss"] > 0


@pytest.mark.parametrize(
    ("precision", "tf32_products"), [("tf32", False), ("float32", True), ("tf32", True)]
)
def test_losses_and_products_have_a_precision_each(precision, tf32_products):
    """The flags of the backend are those of each while it computes, and then what they were."""
    seen, broken = [], False

    def flags():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    def recording(output, target):
        seen.append((torch.is_grad_enabled(), *flags()))
        if broken and torch.is_grad_enabled():
            raise KeyboardInterrupt
        return cross_entropy(output, target)

    before = flags()
    objective = made(mlp(), precision=precision, loss=recording, tf32_products=tf32_products)
    seen.clear()  # of the check of products, which takes plain gradients in full
    objective.evaluate(Cell(0.2, 0.1))
    objective.hessian(Cell(0.1))(torch.ones(objective.hessian(Cell(0.1)).size))
    of_losses, of_products = (precision == "tf32",) * 2, (tf32_products,) * 2
    assert set(seen) == {(False, *of_losses), (True, *of_products)}
    assert flags() == before
    broken = True
    with pytest.raises(KeyboardInterrupt):
        objective.evaluate(Cell(0.2, 0.1))
    assert flags() == before


def _objective_of(job):
    """Return the objective of a finished surface, along the directions that it holds."""
    loaded = prepare.load(jobs.load(job, command="eval"))
    directions = {
        axis: {name: torch.from_numpy(d) for name, d in stored.items()}
        for axis, stored in store.read_directions(job.with_suffix(".h5")).items()
    }
    settings = EvaluationSettings(
        device=torch.device("cpu"),
        precision="float64",
        batch_size=16,
        fuses=False,
        curvature=LanczosOptions(),
    )
    return Objective(loaded.model, loaded.dataset, cross_entropy, directions, settings)


def test_fine_cells_of_a_map_start_from_the_vectors_of_their_coarse_cell(tmp_path, capsys):
    """To the last bit, and not cold, which the engine would take more products for."""
    model = {"arch": "testnets:mlp", "args": {"width": 40}, "checkpoint": "centre.pt"}
    job = write_job(tmp_path, **{**MAP, "model": model})
    assert evaluate([job], Options(progress="none"), world=None) == 0
    assert "curvature: basis=32 vectors=" in capsys.readouterr().err
    found = store.read(job.with_suffix(".h5")).quantities
    objective, grid = _objective_of(job), make_grid([-1, 1, 5], [-1, 1, 5])
    middle = grid.cell(12)
    assert set(grid.warm_start_cells().tolist()) == {12}
    coarse = extreme_eigenvalues(objective.hessian(middle), LanczosOptions())
    cold = {}
    for index in range(grid.size):
        cell = grid.cell(index)
        cold[index] = objective.evaluate(cell, known={"train_loss": 0.0})
        if index % 5 == 1:
            near = [coarse.vectors[0], coarse.vectors[1]]
            warm = extreme_eigenvalues(objective.hessian(cell), LanczosOptions(), near)
            assert found["eigenvalue_min"].flat[index] == warm.values[0]
            assert found["eigenvalue_max_residual"].flat[index] == warm.residuals[1]
            assert found["products"].flat[index] == warm.products
            assert warm.values[0] != cold[index]["eigenvalue_min"]
    assert all(found[name].flat[12] == cold[12][name] for name in NAMES)
    assert found["products"].sum() < sum(c["products"] for c in cold.values())


def test_products_stay_within_their_targets():
    """Of a small residual network: 32 on average from cold starts, 20 from a coarse cell's."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = resnet.cifar(8, channels=1, classes=10, width=3)
    inputs, targets = (
        data.normalized(digits(60), "train", torch.float32),
        digits(60).splits["train"].y,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    objective = made(model.eval(), precision="float32", samples=60, batch=60)
    coarse = [Cell(0.0, 0.0), Cell(0.32, -0.16), Cell(-0.64, 0.48)]
    fine = [Cell(c.alpha + 0.08, c.beta - 0.04) for c in coarse]
    cold = [objective.evaluate(c) for c in coarse]
    warm = [objective.evaluate(f, c) for f, c in zip(fine, coarse, strict=True)]
    assert all(metrics["converged"] for metrics in cold + warm)
    assert np.mean([metrics["products"] for metrics in cold]) <= 32
    assert np.mean([metrics["products"] for metrics in warm]) <= 20


def test_cells_that_did_not_converge_are_spoken_of(tmp_path, capsys):
    """At the end of a run, with the way out, and by status for people and for programs."""
    curvature = {"tolerance": 1e-6, "max_products": 8, "basis": 8}
    job = write_job(tmp_path, **MAP | {"curvature": curvature})
    assert evaluate([job], Options(progress="none"), world=None) == 0
    surface = job.with_suffix(".h5")
    count = int((store.read(surface).quantities["converged"] == 0).sum())
    assert 0 < count <= 25
    said = f"{count} of 25 cells did not converge; raise curvature.max_products or curvature.basis"
    assert said in capsys.readouterr().err
    assert status.summary(surface).unconverged == count
    assert main(["status", str(surface)]) == 0
    assert f"curvature  {count} of the done cells did not converge" in capsys.readouterr().out
    assert main(["status", str(surface), "--json"]) == 0
    assert f'"unconverged": {count}' in capsys.readouterr().out


def test_status_says_nothing_of_convergence_without_curvature(tmp_path, capsys):
    """A surface of losses has nothing that could have converged."""
    job = write_job(tmp_path, grid={"alpha": [-1, 1, 2], "beta": [0, 0, 1]})
    assert evaluate([job], Options(progress="none"), world=None) == 0
    assert status.summary(job.with_suffix(".h5")).unconverged is None
    assert main(["status", str(job.with_suffix(".h5"))]) == 0
    assert "converge" not in capsys.readouterr().out


def test_sums_are_repeated_where_products_are_of_the_hessian(tmp_path, monkeypatch):
    """Every job sets it for itself, so that what was evaluated before it does not matter."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    small = {"grid": {"alpha": [0, 1, 2], "beta": [0, 0, 1]}}
    hessian = {"alpha": {"kind": "hessian"}, "beta": {"kind": "random", "seed": 2}}
    for name, changes, wanted in (
        ("losses", {}, False),
        ("curved", MAP, True),
        ("others", {}, False),
        ("sharp", {"directions": hessian}, True),
    ):
        job = write_job(tmp_path, name, **{**changes, **small})
        assert evaluate([job], Options(progress="none"), world=None) == 0
        assert torch.backends.cudnn.deterministic is wanted


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_map_has_the_same_bytes_twice_on_a_card(tmp_path):
    """Products are summed in one order there, too."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = resnet.cifar(20, channels=1, classes=10, width=16)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "net.pt")
    made_of = {
        "model": {"arch": "resnet20", "checkpoint": "net.pt"},
        "data": {"dataset": "digits", "splits": ["train"], "subset": 200},
        "precision": "float32",
        "grid": {"alpha": [-1, 1, 5], "beta": [0, 0.5, 2]},
        "device": "cuda",
    }
    found = []
    for name in ("first", "second"):
        job = write_job(tmp_path, name, **{**MAP, **made_of})
        assert evaluate([job], Options(progress="none"), world=None) == 0
        found.append(values(job.with_suffix(".h5")))
    assert found[0] == found[1]
