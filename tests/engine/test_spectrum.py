"""The spectrum of the Hessian at the centre, against dense Hessians, and its file."""

from __future__ import annotations

import os
import signal

import h5py
import numpy as np
import pytest
import torch
import xarray
from torch.func import functional_call, hessian

from lsengine import job as jobs
from lsengine import store
from lsengine.cli import main
from lsengine.devices import threads
from lsengine.engine import prepare, spectrum
from lsengine.engine.prepare import hessian_directions
from lsengine.errors import JobError, Stopped, UsageError
from lsengine.ranks import Message, StopRequest, Tag, World
from tests.support.jobs import write_job

NETWORK = {
    "model": {"arch": "testnets:mlp", "args": {"width": 5}, "checkpoint": "centre.pt"},
    "curvature": {"tolerance": 1e-4, "max_products": 300, "basis": 40},
    "precision": "float64",
    "directions": None,
    "grid": None,
}


@pytest.fixture
def job(tmp_path):
    """Write a job without directions or grid, which a spectrum does not need."""
    return write_job(tmp_path, **NETWORK)


def _dense(job):
    """Return the parameters' names and the dense Hessian at the centre."""
    loaded = prepare.load(jobs.load(job, command="spectrum"))
    model, split = loaded.model.double().requires_grad_(False), loaded.dataset.splits["train"]
    centre = dict(model.named_parameters())
    sizes = [p.numel() for p in centre.values()]

    def loss(flat):
        pieces = zip(centre.items(), flat.split(sizes), strict=True)
        output = functional_call(
            model, {n: piece.view(p.shape) for (n, p), piece in pieces}, (split.x.double(),)
        )
        return torch.nn.functional.cross_entropy(output, split.y)

    return list(centre), hessian(loss)(torch.cat([p.flatten() for p in centre.values()])).numpy()


def test_moved_parameters_of_a_job_without_directions_are_all(tmp_path):
    """A spectrum needs no directions, whatever the job's maps count."""
    network = {**NETWORK, "curvature": {**NETWORK["curvature"], "parameters": "moved"}}
    job = write_job(tmp_path, **network, quantities=["loss", "curvature"])
    loaded = prepare.load(jobs.load(job, command="spectrum"))
    prepare.check(jobs.load(job, command="spectrum"), loaded)


def test_spectrum_is_that_of_the_dense_hessian(job, capsys):
    """Eigenpairs to the tolerance; trace and density within their own errors."""
    assert main(["spectrum", str(job), "--vectors", "3", "--trace", "200"]) == 0
    found = store.read_spectrum(job.with_name("job-spectrum.h5"))
    names, dense = _dense(job)
    values, vectors = np.linalg.eigh(dense)
    order = np.argsort(-np.abs(values))[:3]
    np.testing.assert_allclose(found.eigenvalues, values[order], rtol=1e-4)
    flat = np.concatenate([found.vectors[n].reshape(3, -1) for n in names], axis=1)
    overlap = np.abs((flat * vectors.T[order]).sum(1))
    np.testing.assert_allclose(overlap, 1, atol=1e-4)
    assert (flat[np.arange(3), np.abs(flat).argmax(1)] > 0).all()
    value, error = found.trace
    assert abs(value - np.trace(dense)) < 4 * error
    assert found.weights.sum() == pytest.approx(1)
    assert found.nodes.min() == pytest.approx(values.min(), rel=1e-3)
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=1e-3)
    assert found.attributes["parameters"] == len(dense)
    printed = capsys.readouterr().out
    assert f"{found.eigenvalues[2]:.6g}" in printed
    assert f"trace {value:.6g}" in printed
    assert printed.splitlines()[-1] == str(job.with_name("job-spectrum.h5"))


def test_the_spectrum_is_of_trainable_parameters(job):
    """Products are those of their block of the dense Hessian; without any there is no spectrum."""
    names, dense = _dense(job)
    loaded_job = jobs.load(job, command="spectrum")
    loaded = prepare.load(loaded_job)
    sizes = dict(loaded.model.named_parameters())
    loaded.model[0].requires_grad_(False)
    cpu = torch.device("cpu")
    hessian = hessian_directions.hessian_at_centre(loaded_job, loaded, cpu, batch_size=16)
    assert hessian.names == [n for n in names if not n.startswith("0.")]
    inside = np.repeat([n in hessian.names for n in names], [sizes[n].numel() for n in names])
    v = torch.randn(hessian.size, dtype=torch.float64)
    block = dense[np.ix_(inside, inside)]
    np.testing.assert_allclose(hessian(v).numpy(), block @ v.numpy(), rtol=1e-8, atol=1e-10)
    loaded.model.requires_grad_(False)
    with pytest.raises(UsageError, match="the network has none"):
        hessian_directions.hessian_at_centre(loaded_job, loaded, cpu, batch_size=16)


def test_the_spectrum_of_some_parameters_is_of_their_block(tmp_path, capsys):
    """The section curvature chooses; eigenvalues are those of the dense block."""
    curvature = {**NETWORK["curvature"], "only": ["*.weight", "1.*"], "ignore": ["norm", "0.*"]}
    job = write_job(tmp_path, **{**NETWORK, "curvature": curvature})
    arguments = ["--vectors", "2", "--trace", "0", "--density", "0"]
    assert main(["spectrum", str(job), *arguments]) == 0
    found = store.read_spectrum(job.with_name("job-spectrum.h5"))
    names, dense = _dense(job)
    sizes = dict(prepare.load(jobs.load(job, command="spectrum")).model.named_parameters())
    chosen = list(found.vectors)
    inside = np.repeat([n in chosen for n in names], [sizes[n].numel() for n in names])
    values = np.linalg.eigvalsh(dense[np.ix_(inside, inside)])
    order = np.argsort(-np.abs(values))[:2]
    np.testing.assert_allclose(found.eigenvalues, values[order], rtol=1e-4)
    assert all(n.endswith("weight") and not n.startswith("0.") for n in chosen)


def test_the_same_command_gives_the_same_bytes(job, tmp_path):
    """Probes and starts are seeded; another seed gives others."""
    other = write_job(tmp_path, "seeded", **NETWORK, seed=1)
    made = {}
    for path, name in ((job, "a.h5"), (job, "b.h5"), (other, "c.h5")):
        arguments = ["--output", str(tmp_path / name), "--trace", "2", "--density", "1"]
        arguments += ["--vectors", "2"]
        assert main(["spectrum", str(path), *arguments]) == 0
        made[name] = store.read_spectrum(tmp_path / name)
    assert made["a.h5"].trace == made["b.h5"].trace != made["c.h5"].trace
    np.testing.assert_array_equal(made["a.h5"].density, made["b.h5"].density)
    for name, vectors in made["a.h5"].vectors.items():
        np.testing.assert_array_equal(vectors, made["b.h5"].vectors[name])


def test_xarray_opens_the_file_with_named_axes(job):
    """Every dataset has a scale on each axis, the vectors among them."""
    assert main(["spectrum", str(job), "--vectors", "2", "--trace", "2", "--density", "1"]) == 0
    path = job.with_name("job-spectrum.h5")
    with xarray.open_dataset(path, engine="h5netcdf") as root:
        assert root["eigenvalue"].dims == ("rank",)
        assert root["rank"].values.tolist() == [1, 2]
        assert root["density"].dims == ("at",)
        assert root["node_value"].dims == root["node_weight"].dims == ("node",)
        assert root["trace"].dims == ()
        assert root.attrs["format"] == "lsengine-spectrum"
    with xarray.open_dataset(path, engine="h5netcdf", group="vectors") as vectors:
        assert vectors["0.weight"].dims == ("rank", "n5_0", "n6_0")
    with h5py.File(path) as file:
        named = [d for d in (*file.values(), *file["vectors"].values()) if hasattr(d, "dims")]
        assert all(len(dim) for d in named if not d.is_scale for dim in d.dims)


def test_parts_may_be_left_out(job):
    """A 0 leaves a part out of the work, the table and the file."""
    code, text = spectrum.run(job, spectrum.Sizes(vectors=1, trace=0, density=0), world=None)
    found = store.read_spectrum(job.with_name("job-spectrum.h5"))
    assert code == 0
    assert "trace" not in text
    assert found.trace is None
    assert found.density.size == found.nodes.size == 0
    assert len(found.eigenvalues) == 1
    spectrum.run(job, spectrum.Sizes(vectors=0, trace=2, density=0), world=None)
    assert store.read_spectrum(job.with_name("job-spectrum.h5")).vectors == {}


def test_nothing_but_a_spectrum_is_replaced(job, tmp_path):
    """A slip of --output does not cost a surface or a checkpoint, nor an hour of products."""
    for name in ("centre.pt", "data.npz"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(UsageError, match="is no spectrum"):
            spectrum.run(job, spectrum.Sizes(), world=None, output=tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


def test_a_stop_leaves_no_file(job, monkeypatch):
    """Between two mini-batches, with the exit code that asks for another try."""
    monkeypatch.setattr(StopRequest, "__bool__", lambda self: True)
    with pytest.raises(Stopped, match="nothing is kept"):
        spectrum.run(job, spectrum.Sizes(), world=None)
    assert not job.with_name("job-spectrum.h5").exists()


class _World:
    """Rank 0 of three that are never there."""

    rank, size = 0, 3

    def __init__(self):
        self.sent = []

    def send(self, payload, *, to, tag):
        self.sent.append((payload, to, tag))

    def flush(self):
        self.sent.append("flushed")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"arch": "testnets:mlp"}}, 'model.checkpoint: required by "lsengine spectrum"'),
        ({"data": {"dataset": "arrays", "root": "data.npz", "splits": ["test"]}}, "add train"),
        ({"model": {**NETWORK["model"], "checkpoint": "no.pt"}}, "no such file"),
        ({"curvature": {"basis": 8}}, "5 eigenvectors"),
    ],
)
def test_what_cannot_be_is_said_and_all_ranks_leave_with_one_code(tmp_path, changes, message):
    """Rank 0 says why and tells the others its exit code before it raises."""
    job, world = write_job(tmp_path, **{**NETWORK, **changes}), _World()
    sizes = spectrum.Sizes(trace=0, density=0)
    with pytest.raises((UsageError, JobError), match=message):
        spectrum.run(job, sizes, world=world)
    assert world.sent == [(2, 1, Tag.STOP), (2, 2, Tag.STOP), "flushed"]


def test_under_a_launcher_rank_0_does_it_and_all_leave_together(job, pool):
    """It has the table, and the code is 0."""
    answer = pool.evaluate(job, 2, command="spectrum")
    assert answer["code"] == 0
    assert answer["message"].count("trace") == 1
    assert store.read_spectrum(job.with_name("job-spectrum.h5")).attributes["converged"] == 1


class _Waiting(World):
    """Rank 1 of two, which is told a code."""

    def __init__(self):
        super().__init__(None, None, "none")
        self.rank, self.size = 1, 2

    def wait(self, *tags):
        """Return what rank 0 would send."""
        return Message(0, tags[0], 4)


def test_other_ranks_print_nothing_and_leave_with_the_code_of_rank_0(job):
    """They read no job and load no data."""
    assert spectrum.run("nowhere.yaml", spectrum.Sizes(), world=_Waiting()) == (4, "")


def test_signals_are_the_callers_again_afterwards(job):
    """In a Python session Ctrl-C does after a spectrum what it did before, failed or not."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    spectrum.run(job, spectrum.Sizes(vectors=0, trace=1, density=0), world=World.alone())
    with pytest.raises(JobError):
        spectrum.run("nowhere.yaml", spectrum.Sizes(), world=World.alone())
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_system_without_affinities_counts_its_cores(job, monkeypatch):
    """On macOS Python cannot say which cores a process may use."""
    path = write_job(job.parent, "threads", **NETWORK, threads="auto")
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(threads, "_PER_THREAD", 1)
    before = torch.get_num_threads()
    spectrum.run(path, spectrum.Sizes(vectors=0, trace=1, density=0), world=World.alone())
    torch.set_num_threads(before)
    found = store.read_spectrum(path.with_name("threads-spectrum.h5"))
    assert found.attributes["threads"] == 2
