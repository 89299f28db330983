"""Eigenvectors of the Hessian as directions, against dense Hessians."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch
from torch.func import functional_call, hessian

from lsengine import job as jobs
from lsengine import store
from lsengine.engine import Options, evaluate, prepare
from lsengine.engine.messages import WorkerInfo
from lsengine.engine.prepare import hessian_directions
from lsengine.errors import UsageError
from tests.support.jobs import values, write_job

STEP = 1e-5  # so small that no unit of the network is switched on or off
SHARP = {
    "model": {"arch": "testnets:mlp", "args": {"width": 5}, "checkpoint": "centre.pt"},
    "curvature": {"tolerance": 1e-4, "max_products": 300},
    "precision": "float64",
    "quantities": ["loss"],
    "grid": {"alpha": [-STEP, STEP, 3], "beta": [-STEP, STEP, 3]},
}
BOTH = {"alpha": {"kind": "hessian"}, "beta": {"kind": "hessian", "rank": 2}}


def _run(folder, name="job", **changes):
    job = write_job(folder, name, **{**SHARP, "directions": BOTH, **changes})
    assert evaluate([job], Options(progress="none"), world=None) == 0
    return job


def _dense(job, names=None):
    """Return names, eigenvalues by falling modulus and eigenvectors of the dense Hessian."""
    loaded = prepare.load(jobs.load(job, command="eval"))
    model, split = loaded.model.double(), loaded.dataset.splits["train"]
    model.requires_grad_(False)
    centre = dict(model.named_parameters())
    names = names or list(centre)
    sizes = [centre[n].numel() for n in names]

    def loss(flat):
        pieces = zip(names, flat.split(sizes), strict=True)
        own = {n: p.view(centre[n].shape) for n, p in pieces}
        output = functional_call(model, own, (split.x.double(),))
        return torch.nn.functional.cross_entropy(output, split.y)

    dense = hessian(loss)(torch.cat([centre[n].flatten() for n in names]))
    values, vectors = torch.linalg.eigh(dense)
    order = values.abs().argsort(descending=True)
    return names, values[order].numpy(), vectors.T[order].numpy()


def _flat(direction, names):
    return np.concatenate([direction[n].ravel() for n in names])


def test_directions_are_the_eigenvectors_of_the_dense_hessian(tmp_path):
    """Ranks 1 and 2 on the two axes, of unit length, orthogonal, the largest number positive."""
    job = _run(tmp_path)
    names, values, vectors = _dense(job)
    surface = store.read(job.with_suffix(".h5"))
    for axis, rank in (("alpha", 0), ("beta", 1)):
        found = _flat(store.read_directions(job.with_suffix(".h5"))[axis], names)
        sign = np.sign(vectors[rank][np.abs(vectors[rank]).argmax()])
        np.testing.assert_allclose(found, sign * vectors[rank], atol=1e-3)
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
        assert surface.attributes[f"{axis}_eigenvalue"] == pytest.approx(values[rank], rel=1e-6)
        assert surface.attributes[f"{axis}_eigenvalue_residual"] <= 1e-4 * abs(values[0])
    assert abs(surface.attributes["direction_cosine"]) < 1e-6


def test_second_differences_of_the_surface_are_the_eigenvalues(tmp_path):
    """Along each axis the loss curves as its eigenvalue says, and not across."""
    job = _run(tmp_path)
    _, values, _ = _dense(job)
    loss = store.read(job.with_suffix(".h5")).quantities["train_loss"]
    along = (loss[1, 0] - 2 * loss[1, 1] + loss[1, 2], loss[0, 1] - 2 * loss[1, 1] + loss[2, 1])
    np.testing.assert_allclose(np.array(along) / STEP**2, values[:2], rtol=1e-3)
    across = (loss[2, 2] - loss[2, 0] - loss[0, 2] + loss[0, 0]) / (2 * STEP) ** 2
    assert abs(across) < 1e-3 * abs(values[1])


def test_what_is_ignored_is_not_in_the_hessian(tmp_path):
    """With `ignore` the eigenvector is that of the block of the other parameters."""
    directions = {"alpha": {"kind": "hessian", "ignore": ["bias", "norm"]}}
    job = _run(tmp_path, directions=directions, grid={"alpha": [0, STEP, 2]})
    names, _, vectors = _dense(job, ["0.weight", "3.weight"])
    stored = store.read_directions(job.with_suffix(".h5"))["alpha"]
    assert set(stored) == set(names)
    assert abs(_flat(stored, names) @ vectors[0]) == pytest.approx(1, abs=1e-6)


def test_what_is_frozen_does_not_move_along_an_eigenvector(tmp_path):
    """The direction is of the block of trainable parameters that are not ignored."""
    directions = {"alpha": {"kind": "hessian", "ignore": ["bias", "norm"]}}
    job = write_job(tmp_path, **{**SHARP, "directions": directions, "grid": {"alpha": [0, 1, 2]}})
    names, _, vectors = _dense(job, ["3.weight"])
    job = jobs.load(job, command="eval")
    loaded = prepare.load(job)
    loaded.model[0].requires_grad_(False)
    facts = WorkerInfo(
        host="a",
        device_kind="cpu",
        threads=1,
        torch_version=str(torch.__version__),
        sample_shape=(6,),
        precision="float64",
        forward="eager",
    )
    found, _ = hessian_directions.hessian_directions(
        job, loaded, facts, batch_size=16, tick=lambda: None
    )
    vector = {name: tensor.numpy() for name, tensor in found["alpha"].items()}
    assert list(vector) == names
    assert abs(_flat(vector, names) @ vectors[0]) == pytest.approx(1, abs=1e-6)


def test_hessian_and_random_directions_go_together(tmp_path):
    """A plane may have one axis of each kind, and the random one is what it always was."""
    drawn = {"alpha": {"kind": "random"}, "beta": {"kind": "random", "seed": 2}}
    mixed = {"alpha": {"kind": "hessian"}, "beta": drawn["beta"]}
    jobs_ = [_run(tmp_path, "drawn", directions=drawn), _run(tmp_path, "mixed", directions=mixed)]
    one, other = (store.read_directions(job.with_suffix(".h5"))["beta"] for job in jobs_)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[n], other[n]) for n in one)


def test_ranks_and_options_are_part_of_the_identity(tmp_path):
    """Another rank or tolerance is another surface; the number of axes does not matter."""
    job = _run(tmp_path)
    for key, changes in {
        r"directions\.beta\.rank": {"directions": {**BOTH, "beta": {"kind": "hessian", "rank": 3}}},
        r"curvature\.tolerance": {"curvature": {**SHARP["curvature"], "tolerance": 1e-3}},
    }.items():
        with pytest.raises(Exception, match=key):
            _run(tmp_path, **changes)
    assert store.read(job.with_suffix(".h5")).done.all()


def test_directions_have_the_same_bytes_under_a_coordinator(pool, make_job):
    """Whether a process alone computes them, or rank 0 for its workers."""
    alone = make_job("alone", **SHARP, directions=BOTH)
    assert evaluate([alone], Options(progress="none"), world=None) == 0
    job = make_job(**SHARP, directions=BOTH)
    assert pool.evaluate(job, 3)["code"] == 0
    assert values(job.with_suffix(".h5")) == values(alone.with_suffix(".h5"))


def test_a_hessian_that_is_not_finite_is_refused(tmp_path):
    """The message says where to look."""
    job = write_job(tmp_path, **{**SHARP, "directions": BOTH})
    state = torch.load(tmp_path / "centre.pt")
    state["state_dict"]["3.weight"].fill_(float("nan"))
    torch.save(state, tmp_path / "centre.pt")
    with pytest.raises(UsageError, match="not finite"):
        evaluate([job], Options(progress="none"), world=None)


def test_products_are_reported_as_they_are_computed(monkeypatch, caplog):
    """With their number, the most that there may be, and the time that is left for these."""
    clock = itertools.count(1000.0, 6.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    matrix = torch.diag(torch.arange(4.0))

    class Plain:
        size, dtype, device = 4, matrix.dtype, matrix.device

        def __call__(self, vector):
            return matrix @ vector

    counted = hessian_directions.Counted(Plain(), "eigenvectors", 6)
    with caplog.at_level("INFO", logger="lsengine.log"):
        for _ in range(4):
            assert torch.equal(counted(torch.ones(4)), torch.arange(4.0))
    assert [record.getMessage().split(" rate")[0] for record in caplog.records] == [
        "products of eigenvectors=2/6",
        "products of eigenvectors=4/6",
    ]
