"""A cell depends on the job alone: same bytes for any ranks, chunks, ways of writing."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine import job as jobs
from lsengine import store
from lsengine.training import training
from tests.support.jobs import values
from tests.support.kills import trial
from tests.support.surfaces import edited


@pytest.fixture
def reference(make_job):
    """The surface of the standard small job, evaluated by one process."""
    from lsengine.engine import Options, evaluate

    job = make_job("reference")
    assert evaluate([job], Options(progress="none"), world=None) == 0
    return values(job.with_suffix(".h5"))


@pytest.mark.parametrize("writing", ["parallel", "gather"])
@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_bytes_do_not_depend_on_ranks_or_way_of_writing(pool, make_job, reference, ranks, writing):
    """Every value dataset equals, byte for byte, that of one process alone."""
    if writing == "parallel" and not store.has_mpi():
        pytest.skip("this environment's h5py has no MPI")
    job = make_job(f"r{ranks}", writing=writing)
    assert pool.evaluate(job, ranks) == {"code": 0, "message": ""}
    assert values(job.with_suffix(".h5")) == reference


@pytest.mark.parametrize("chunk", [1, 3, 28])
def test_bytes_do_not_depend_on_the_chunk_size(pool, make_job, reference, chunk):
    """One cell at a time or all at once: the same surface."""
    job = make_job(f"c{chunk}")
    assert pool.evaluate(job, 3, chunk=chunk)["code"] == 0
    assert values(job.with_suffix(".h5")) == reference


@pytest.mark.parametrize("policy", ["recalibrated", "interpolated"])
def test_batch_norm_policies_are_pure_too(pool, make_job, policy):
    """Statistics recomputed or moved at each cell do not carry over to the next one."""
    surfaces = []
    for ranks in (1, 3):
        job = make_job(
            f"{policy}{ranks}", batch_norm=policy, grid={"alpha": [-1, 1, 5]},
            directions={"alpha": {"kind": "random", "ignore": []}},
        )  # fmt: skip
        assert pool.evaluate(job, ranks)["code"] == 0
        surfaces.append(values(job.with_suffix(".h5")))
    assert surfaces[0] == surfaces[1]


def test_a_decoder_of_text_is_pure_too(pool, make_job, tmp_path):
    """Characters, attention, losses by token: the same bytes of one rank, of three, and killed."""
    (tmp_path / "t.txt").write_text("to be or not to be, that is the question\n" * 20)
    model = {"arch": "gpt", "args": {"width": 8, "depth": 1, "heads": 2}}
    dataset = {"dataset": "text", "root": "t.txt", "args": {"context": 8, "test_fraction": 0.2}}
    train = {"output": "text", "epochs": 1, "optimizer": "adamw", "warmup": 0.5}
    training.run(jobs.load(make_job("t", model=model, data=dataset, train=train)), progress="none")
    one, three, killed = (
        make_job(
            name,
            model={**model, "checkpoint": "text/epoch_001.pt"},
            data=dataset,
            directions={"alpha": {"kind": "random"}},
            grid={"alpha": [-1, 1, 201]},
        )
        for name in ("one", "three", "killed")
    )
    for job, ranks in ((one, 1), (three, 3)):
        assert pool.evaluate(job, ranks) == {"code": 0, "message": ""}
    expected = values(one.with_suffix(".h5"))
    assert values(three.with_suffix(".h5")) == expected
    assert {"train_loss", "train_accuracy"} <= {name.rpartition("/")[2] for name in expected}
    assert trial(killed, "all", 0.0, expected, cells=4).is_in_the_middle


def test_repeats_are_independent_and_reproducible(pool, make_job):
    """Ten repeats differ pairwise; another rank count gives the same ten."""
    changes = {
        "directions": {"alpha": {"kind": "random"}},
        "grid": {"alpha": [-1, 1, 5]},
        "repeats": 10,
    }
    job = make_job("one", **changes)
    assert pool.evaluate(job, 1)["code"] == 0
    other = make_job("three", **changes)
    assert pool.evaluate(other, 3)["code"] == 0
    assert values(job.with_suffix(".h5")) == values(other.with_suffix(".h5"))
    loss = store.read(job.with_suffix(".h5")).quantities["train_loss"]
    assert loss.shape == (10, 5)
    assert len({row.tobytes() for row in loss}) == 10
    assert len(set(loss[:, 2])) == 1  # the centre is the same model in all of them


def test_more_workers_than_cells(pool, make_job):
    """Ranks without work do not disturb: a single cell on five ranks."""
    job = make_job(directions={"alpha": {"kind": "random"}}, grid={"alpha": [0, 0, 1]})
    assert pool.evaluate(job, 5)["code"] == 0
    assert store.read(job.with_suffix(".h5")).counts()["done"] == 1


def test_a_resume_computes_only_what_is_missing(pool, make_job, reference):
    """Half the cells are forgotten and one finished cell poisoned: the poison stays."""
    job = make_job("resume")
    assert pool.evaluate(job, 3)["code"] == 0
    with edited(job.with_suffix(".h5")) as file:
        file["status"][1:3] = 0
        file["train_loss"][1:3] = np.nan
        file["train_loss"][0, 0] = -123.0
    assert pool.evaluate(job, 5)["code"] == 0
    surface = store.read(job.with_suffix(".h5"))
    assert surface.quantities["train_loss"][0, 0] == -123.0
    expected = np.frombuffer(reference["train_loss"]).reshape(4, 7)
    np.testing.assert_array_equal(surface.quantities["train_loss"][1:], expected[1:])


def test_a_finished_surface_needs_nothing(pool, make_job):
    """A second run says so, exits 0 and leaves the file as it is, to the byte."""
    job = make_job()
    assert pool.evaluate(job, 3)["code"] == 0
    before = job.with_suffix(".h5").read_bytes()
    assert pool.evaluate(job, 3)["code"] == 0
    assert job.with_suffix(".h5").read_bytes() == before


def test_another_jobs_file_is_refused_with_the_first_difference(pool, make_job):
    """The same output with another seed is exit 4, and the file stays as it was."""
    job = make_job()
    assert pool.evaluate(job, 2)["code"] == 0
    before = job.with_suffix(".h5").read_bytes()
    directions = {"alpha": {"kind": "random", "seed": 1}, "beta": {"kind": "random", "seed": 9}}
    answer = pool.evaluate(make_job(directions=directions), 2)
    assert answer["code"] == 4
    assert "directions.beta.seed is 9 in the job, 2 in the file" in answer["message"]
    assert job.with_suffix(".h5").read_bytes() == before


@pytest.mark.parametrize("ranks", [1, 3])
def test_failed_cells_are_listed_and_retried_on_request(pool, make_job, tmp_path, ranks):
    """An exception in a cell costs that cell only; exit 5 lists it, a retry repairs it."""
    job = make_job(
        model={
            "arch": "testnets:Fragile",
            "args": {"repaired": str(tmp_path / "repaired")},
            "checkpoint": "centre.pt",
        },
        directions={"alpha": {"kind": "random", "ignore": []}},
        grid={"alpha": [-1, 1, 5]},
    )
    answer = pool.evaluate(job, ranks)
    counts = store.read(job.with_suffix(".h5")).counts()
    assert answer["code"] == 5
    assert "RuntimeError: too far" in answer["message"]
    assert counts["failed"] == 2
    assert counts["done"] == 3
    (tmp_path / "repaired").touch()
    assert pool.evaluate(job, ranks)["code"] == 5  # not tried again by itself
    assert pool.evaluate(job, ranks, retry_failed=True)["code"] == 0
    assert store.read(job.with_suffix(".h5")).counts()["done"] == 5


def test_infinite_and_undefined_losses_are_results(pool, make_job):
    """Overflowing cells are done, with inf or NaN as their value, and not retried."""
    job = make_job(
        model={"arch": "testnets:Explosive", "checkpoint": "centre.pt"},
        directions={"alpha": {"kind": "random"}},
        grid={"alpha": [-3, 3, 5]},
        precision="float32",
    )
    assert pool.evaluate(job, 2)["code"] == 0
    surface = store.read(job.with_suffix(".h5"))
    assert surface.counts()["done"] == 5
    assert not np.isfinite(surface.quantities["train_loss"]).all()


@pytest.mark.parametrize("quantities", [["loss", "accuracy"], ["loss", "curvature"]])
def test_out_of_memory_halves_the_batch_and_marks_the_cells(pool, make_job, quantities):
    """A real refusal of memory: smaller batches, the same values to tolerance, and a mark."""
    changes = {"quantities": quantities, "grid": {"alpha": [-1, 1, 3], "beta": [0, 1, 2]}}
    job = make_job(
        model={"arch": "testnets:Hungry", "args": {"most": 5}, "checkpoint": "centre.pt"}, **changes
    )
    assert pool.evaluate(job, 2) == {"code": 0, "message": ""}
    surface = store.read(job.with_suffix(".h5"))
    fed = make_job(
        "fed", model={"arch": "testnets:Hungry", "args": {"most": 64}, "checkpoint": "centre.pt"},
        **changes,
    )  # fmt: skip
    assert pool.evaluate(fed, 2)["code"] == 0
    expected = store.read(fed.with_suffix(".h5"))
    assert (surface.provenance["batch"] == 4).all()  # of 16, halved twice
    assert (expected.provenance["batch"] == 0).all()
    for name in surface.quantities:
        if name.endswith(("_loss", "_accuracy", "_min", "_max")):
            found, reference = surface.quantities[name], expected.quantities[name]
            np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_a_network_for_which_there_is_no_memory_at_all_is_refused(pool, make_job):
    """Even two samples are too many: one message before any work."""
    model = {"arch": "testnets:Hungry", "args": {"most": 0}, "checkpoint": "centre.pt"}
    job = make_job(model=model, directions={"alpha": {"kind": "random"}}, grid={"alpha": [1, 2, 2]})
    answer = pool.evaluate(job, 2)
    assert answer["code"] == 2, answer
    assert "memory" in answer["message"]
