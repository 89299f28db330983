"""Fast precisions through the whole engine: their error is measured and in the file."""

from __future__ import annotations

import math
import time

import h5py
import numpy as np
import pytest
import torch

from lsengine import devices, models, store
from lsengine.cli import main
from lsengine.engine import Options, evaluate
from lsengine.engine.prepare import precision
from lsengine.job.schema import ModelSpec
from lsengine.surface.grid import make_grid
from tests.support.jobs import values

GRID = {"alpha": [-1, 1, 5], "beta": [-1, 1, 3]}


@pytest.fixture
def digits_job(make_job, tmp_path):
    """Return a function that makes a job of a small network of the zoo on a few digits."""
    torch.manual_seed(0)
    network = models.build(
        ModelSpec(arch="resnet20", args={"width": 4}),
        channels=1,
        classes=10,
        size=(8, 8),
        job_folder=tmp_path,
    )
    torch.save(network.state_dict(), tmp_path / "resnet20.pt")

    def make(name, **changes):
        defaults = {
            "model": {"arch": "resnet20", "args": {"width": 4}, "checkpoint": "resnet20.pt"},
            "data": {"dataset": "digits", "subset": 60},
            "grid": GRID,
            "batch_size": 32,
        }
        return make_job(name, **(defaults | changes))

    return make


def _read(job):
    return store.read(job.with_suffix(".h5"))


def _precision_error(path):
    with h5py.File(path) as file:
        return file["precision_error"][...]


@pytest.mark.parametrize("writing", ["parallel", "gather"])
def test_bfloat16_is_compared_with_float32_at_three_cells(pool, digits_job, writing):
    """The cell nearest the centre, the first and the last: exactly what the two surfaces hold."""
    if writing == "parallel" and not store.has_mpi():
        pytest.skip("this environment's h5py has no MPI")
    fast = digits_job("fast", precision="bfloat16", writing=writing)
    exact = digits_job("exact", precision="float32")
    assert pool.evaluate(fast, 3) == {"code": 0, "message": ""}
    assert pool.evaluate(exact, 2)["code"] == 0
    found, reference = _read(fast), _read(exact)
    rows = _precision_error(fast.with_suffix(".h5"))
    np.testing.assert_array_equal(rows[:, :2], [[0, 0], [-1, -1], [1, 1]])
    for row, cell in zip(rows, [(1, 2), (0, 0), (2, 4)], strict=True):
        assert row[3] == found.quantities["train_loss"][cell]
        assert row[2] == pytest.approx(reference.quantities["train_loss"][cell], rel=1e-5)
    np.testing.assert_allclose(
        found.quantities["train_loss"], reference.quantities["train_loss"], rtol=0.03
    )
    assert found.attributes["precision"] == "bfloat16"
    assert np.isnan(_precision_error(exact.with_suffix(".h5"))).all()


def test_fast_cells_are_as_pure_as_others(pool, digits_job):
    """The same bytes for one rank and for three."""
    jobs = [digits_job(f"ranks{n}", precision="bfloat16") for n in (1, 3)]
    for job, ranks in zip(jobs, (1, 3), strict=True):
        assert pool.evaluate(job, ranks)["code"] == 0
    assert values(jobs[0].with_suffix(".h5")) == values(jobs[1].with_suffix(".h5"))


@pytest.mark.parametrize(("tolerance", "expected"), [(0.5, "bfloat16"), (1e-9, "float32")])
def test_auto_takes_the_fastest_precision_that_is_good_enough(
    pool, digits_job, tolerance, expected
):
    """Settled once, before the file is laid out, and recorded; a resume takes it from there."""
    if "bfloat16" not in devices.fast_precisions(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16")
    job = digits_job("auto", precision="auto", precision_tolerance=tolerance)
    assert pool.evaluate(job, 3)["code"] == 0
    assert _read(job).attributes["precision"] == expected
    written = digits_job("written", precision=expected)
    assert pool.evaluate(written, 1)["code"] == 0
    assert values(job.with_suffix(".h5")) == values(written.with_suffix(".h5"))


@pytest.mark.parametrize(("tolerance", "expected"), [(0.5, "bfloat16"), (1e-9, "float32")])
def test_auto_goes_by_the_error_where_a_fast_precision_is_there(
    digits_job, monkeypatch, tolerance, expected
):
    """As above, on a processor that is taken to have bfloat16, whatever this one has."""
    monkeypatch.setattr(devices, "fast_precisions", lambda device: ("bfloat16",))
    job = digits_job("auto", precision="auto", precision_tolerance=tolerance)
    assert evaluate([job], Options(progress="none"), world=None) == 0
    assert _read(job).attributes["precision"] == expected


def test_bfloat16_without_instructions_for_it_is_warned_of(monkeypatch, caplog):
    """Slower than float32 on such a processor: the run says so, and what to take."""
    monkeypatch.setattr(devices, "fast_precisions", lambda device: ())
    precision.check("bfloat16", torch.device("cpu"))
    assert "bfloat16 is slower than float32" in caplog.text
    caplog.clear()
    precision.check("float32", torch.device("cpu"))
    assert not caplog.text


def test_curvature_is_never_below_float32(pool, digits_job):
    """Losses in bfloat16, eigenvalues as in a float32 run, to the tolerance."""
    changes = {
        "quantities": ["loss", "curvature"],
        "curvature": {"tolerance": 1e-2},
        "directions": {"alpha": {"kind": "random"}},
        "grid": {"alpha": [0, 0, 1]},
    }
    surfaces = []
    for name in ("bfloat16", "float32"):
        job = digits_job(name, precision=name, **changes)
        assert pool.evaluate(job, 2)["code"] == 0
        surfaces.append(_read(job).quantities["eigenvalue_max"])
    np.testing.assert_allclose(*surfaces, rtol=2e-2)


def test_a_precision_that_is_not_there_is_refused(digits_job, capsys):
    """TF32 on a CPU: exit 3, with what to use."""
    assert main(["eval", str(digits_job("tf32", precision="tf32"))]) == 3
    said = capsys.readouterr().err
    assert "precision: tf32 is not there on cpu; use float32 or auto" in said


def test_products_in_a_precision_that_is_not_there_are_refused(digits_job, capsys):
    """Before a file is made."""
    changes = {"quantities": ["loss", "curvature"], "curvature": {"precision": "tf32"}}
    job = digits_job("products", **changes)
    assert main(["eval", str(job)]) == 3
    said = capsys.readouterr().err
    assert "curvature.precision: tf32 is not there on cpu; leave it out" in said
    assert not job.with_suffix(".h5").exists()


def _axis(generator):
    points = int(generator.integers(1, 9))
    ends = sorted(generator.normal(size=2) * 10.0 ** generator.integers(-3, 3))
    return [float(ends[0]), float(ends[1] + (points > 1)), points]


@pytest.mark.parametrize("seed", range(60))
def test_the_nearest_cell_is_the_one_that_a_look_at_all_cells_finds(seed):
    """The first of several, in planes, along curves and with repeats; also where lengths round."""
    generator = np.random.default_rng(seed)
    alpha, beta = _axis(generator), _axis(generator)
    grids = [
        make_grid(alpha, beta),
        make_grid(alpha, repeats=3),
        make_grid(alpha),
        make_grid([-1, 1, 2 * alpha[2]], [5, 6, beta[2]]),
        make_grid([-1e-9, 1e-9, 2 * alpha[2]], [-beta[2], beta[2], 2]),
    ]
    for grid in grids:
        cells = [grid.cell(index) for index in range(grid.size)]
        expected = min(cells, key=lambda cell: math.hypot(cell.alpha, cell.beta))
        assert precision.nearest_to_centre(grid) == expected


@pytest.mark.parametrize("shape", [(10_000, 10_000), (20_000_000, 5)])
def test_of_a_hundred_million_cells_the_nearest_is_found_at_once(shape):
    """No list of all of them is made: that would take minutes and ten gigabytes."""
    grid = make_grid([-1, 1, shape[0]], [-1, 1, shape[1]])
    start = time.monotonic()
    cell = precision.nearest_to_centre(grid)
    assert time.monotonic() - start < 5
    assert abs(cell.alpha) <= 1 / (shape[0] - 1) * (1 + 1e-6)
    assert abs(cell.beta) <= 1 / (shape[1] - 1) * (1 + 1e-6)
