"""Maps of the Hessian's extreme eigenvalues through the whole engine."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch.func import functional_call, hessian

from lsengine import job as jobs
from lsengine import store
from lsengine.engine import prepare
from lsengine.surface.grid import make_grid
from tests.support.jobs import values, write_job
from tests.support.kills import trial
from tests.support.surfaces import edited

MAP = {
    "quantities": ["loss", "curvature"],
    "curvature": {"tolerance": 1e-3, "max_products": 100},
    "precision": "float64",
    "model": {"arch": "testnets:mlp", "args": {"width": 6}, "checkpoint": "centre.pt"},
    "grid": {"alpha": [-1, 1, 9], "beta": [-1, 1, 3]},  # three coarse cells
    "batch_size": 40,  # of 60 samples: two batches of unequal weight
}
EVERY_SECOND = {**MAP, "grid": {"alpha": [-1, 1, 5], "beta": [-1, 1, 3]}}  # two coarse cells
EVERY_FOURTH = {**MAP, "grid": {"alpha": [-1, 1, 3], "beta": [-1, 1, 3]}}
SLOW = {
    **MAP,
    "model": {"arch": "testnets:Slow", "args": {"seconds": 0.001}, "checkpoint": "centre.pt"},
    "curvature": {"tolerance": 5e-2, "max_products": 60},
    "grid": {"alpha": [-1, 1, 5], "beta": [0, 1, 3]},
}


@pytest.fixture(scope="module")
def reference(pool, tmp_path_factory):
    """The map, evaluated undisturbed by three ranks: its job, whose surface lies beside it."""
    job = write_job(tmp_path_factory.mktemp("map"), **MAP)
    assert pool.evaluate(job, 3)["code"] == 0
    return job


@pytest.fixture(scope="module")
def slow_values(pool, tmp_path_factory):
    """The bytes of a small map of a slow network, undisturbed."""
    job = write_job(tmp_path_factory.mktemp("slow"), **SLOW)
    assert pool.evaluate(job, 3)["code"] == 0
    return values(job.with_suffix(".h5"))


def _dense_spectra(job, names=None):
    """Return eigenvalues (B, A, P) of every cell, from dense Hessians by torch.func."""
    loaded = prepare.load(jobs.load(job, command="eval"))
    model, split = loaded.model.double(), loaded.dataset.splits["train"]
    directions = store.read_directions(job.with_suffix(".h5"))
    centre = {n: p.detach().clone() for n, p in model.named_parameters()}
    names = names or list(centre)
    spectra = []
    axes = jobs.load(job, command="eval").document.grid
    grid = make_grid(axes.alpha, axes.beta)
    for index in range(grid.size):
        cell = grid.cell(index)
        at = {n: t.clone() for n, t in centre.items()}
        for step, axis in ((cell.alpha, "alpha"), (cell.beta, "beta")):
            for n, d in directions[axis].items():
                at[n] += step * torch.from_numpy(d).double()
        sizes = [at[n].numel() for n in names]

        def loss(flat, at=at, sizes=sizes):
            pieces = flat.split(sizes)
            own = {n: p.view(at[n].shape) for n, p in zip(names, pieces, strict=True)}
            output = functional_call(model, {**at, **own}, (split.x.double(),))
            return torch.nn.functional.cross_entropy(output, split.y)

        flat = torch.cat([at[n].flatten() for n in names])
        spectra.append(torch.linalg.eigvalsh(hessian(loss)(flat)).numpy())
    return np.reshape(spectra, (*grid.shape, -1))


@pytest.fixture(scope="module")
def dense(reference):
    """Eigenvalues (B, A, P) of every cell of the map, from dense Hessians."""
    return _dense_spectra(reference)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
def test_eigenvalues_of_a_map_are_those_of_the_dense_hessians(
    pool, make_job, reference, dense, tolerance
):
    """Every cell, both ends, within the tolerance; negative smallest ones included."""
    job = reference
    if tolerance != MAP["curvature"]["tolerance"]:
        job = make_job(**{**EVERY_SECOND, "curvature": {"tolerance": tolerance}})
        assert pool.evaluate(job, 3)["code"] == 0
        dense = dense[:, ::2]
    found = store.read(job.with_suffix(".h5")).quantities
    for end, column in (("min", 0), ("max", -1)):
        error = np.abs(found[f"eigenvalue_{end}"] - dense[..., column])
        floor = 1e-4 * np.abs(dense).max(-1)
        allowed = np.maximum(tolerance * np.abs(dense[..., column]), floor)
        assert (error <= allowed + 1e-12).all(), (end, (error / allowed).max())
    assert (found["converged"] == 1).all()
    assert (found["eigenvalue_min"] < 0).any()


@pytest.mark.parametrize("ranks", [1, 5])
def test_a_map_has_the_same_bytes_for_any_ranks(pool, make_job, reference, ranks):
    """As with three; starting from the fixed coarse cell keeps cells pure."""
    job = make_job(**MAP)
    assert pool.evaluate(job, ranks)["code"] == 0
    assert values(job.with_suffix(".h5")) == values(reference.with_suffix(".h5"))


def test_a_map_resumed_in_the_middle_has_the_same_bytes(pool, make_job, reference):
    """Fine cells whose coarse cell was finished by an earlier run start from it all the same."""
    job = make_job(**MAP)
    shutil.copy(reference.with_suffix(".h5"), job.with_suffix(".h5"))
    before = values(job.with_suffix(".h5"))
    with edited(job.with_suffix(".h5")) as file:
        rng = np.random.default_rng(1)
        forgotten = rng.random(file["status"].shape) < 0.4
        for name in ("train_loss", "eigenvalue_min", "eigenvalue_max", "products"):
            content = file[name][...]
            content[forgotten] = np.nan
            file[name][...] = content
        file["status"][...] = np.where(forgotten, 0, 1).astype(np.uint8)
    assert pool.evaluate(job, 2)["code"] == 0
    assert values(job.with_suffix(".h5")) == before


@pytest.mark.parametrize("who", ["worker", "all"])
def test_a_map_killed_in_the_middle_resumes_to_the_same_bytes(pool, tmp_path, slow_values, who):
    """SIGKILL while eigenvalues are computed: finished cells stay, the rest comes out the same."""
    job = write_job(tmp_path, **SLOW)
    killed = trial(job, who, 0.0, slow_values, lambda path: pool.evaluate(path, 4)["code"], cells=2)
    assert killed.is_in_the_middle, killed


def test_only_moved_parameters_count_where_asked(pool, make_job):
    """With `parameters: moved` the Hessian is that of the weights the directions move."""
    curvature = {**MAP["curvature"], "parameters": "moved"}
    job = make_job(**{**EVERY_FOURTH, "curvature": curvature})
    assert pool.evaluate(job, 2)["code"] == 0
    found = store.read(job.with_suffix(".h5")).quantities["eigenvalue_max"]
    dense = _dense_spectra(job, ["0.weight", "3.weight"])
    np.testing.assert_allclose(found, dense[..., -1], rtol=2e-3)


def test_a_cell_that_does_not_converge_says_so(pool, make_job):
    """Too few products: the values are there, with honest residuals, and not converged."""
    curvature = {"tolerance": 1e-6, "max_products": 8, "basis": 8}
    job = make_job(**{**EVERY_FOURTH, "curvature": curvature})
    assert pool.evaluate(job, 2)["code"] == 0
    found = store.read(job.with_suffix(".h5")).quantities
    assert (found["converged"] == 0).any()
    odd = found["converged"] == 0
    residual = np.maximum(found["eigenvalue_min_residual"], found["eigenvalue_max_residual"])
    assert (residual[odd] > 0).all()
