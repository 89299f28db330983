"""The engine's decisions, without ranks."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from jobs import write_job
from lsengine import objective, store
from lsengine.engine import Options, evaluate
from lsengine.engine.coordinator import place
from lsengine.engine.messages import Hello


def _hellos(*workers):
    return {
        rank: Hello(host, frozenset(cores), visible)
        for rank, (host, cores, visible) in enumerate(workers, 1)
    }


def _slots(hellos):
    slots = {}
    for rank in hellos:
        slots[rank] = place(rank, hellos, slots)[0]
    return list(slots.values())


def test_workers_of_a_host_take_its_devices_in_turn():
    """Four workers that see the same four devices get numbers 0 to 3, on every host anew."""
    hellos = _hellos(*[(host, range(8), "0,1,2,3") for host in ("a", "a", "b", "a", "b")])
    assert _slots(hellos) == [0, 1, 0, 2, 1]


def test_a_worker_given_a_device_of_its_own_takes_that_one():
    """With one visible device each, as by --gpus-per-task, every worker is number 0."""
    hellos = _hellos(*[("a", range(8), str(device)) for device in range(4)])
    assert _slots(hellos) == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        ([range(8), range(8)], [4, 4]),  # unbound: the host is shared
        ([[0], [1]], [1, 1]),  # bound to a core each
        ([range(4), range(4, 8)], [4, 4]),  # bound to halves
        ([range(2), range(2), range(2)], [1, 1, 1]),  # more workers than cores
    ],
)
def test_threads_are_a_fair_share_of_the_cores_a_worker_may_use(cores, expected):
    """Bound, unbound and oversubscribed workers each get their share, at least one."""
    hellos = _hellos(*[("a", c, None) for c in cores])
    assert [place(rank, hellos, {})[1] for rank in hellos] == expected


def test_a_late_worker_finds_a_free_device():
    """Whoever comes late, with a lower rank or a higher one, gets a number nobody has."""
    hellos = _hellos(*[("a", range(4), None)] * 3)
    second = place(2, {2: hellos[2]}, {})[0]
    first = place(1, hellos, {2: second})[0]
    third = place(3, hellos, {2: second, 1: first})[0]
    assert sorted((first, second, third)) == [0, 1, 2]


def test_a_centre_that_is_not_the_checkpoint_stops_the_run(make_job, monkeypatch):
    """If displacing were wrong by a little, the check at the centre would say so as a bug."""
    displace = objective._FlatParameters.displace

    def wrong(self, cell):
        displace(self, cell)
        self._moved_M.mul_(1.001)

    monkeypatch.setattr(objective._FlatParameters, "displace", wrong)
    job = make_job()
    with pytest.raises(
        RuntimeError, match=r"centre check: train_loss of the cell at 0 is .*own is"
    ):
        evaluate([job], Options(progress="none"), world=None)
    assert store.read(job.with_suffix(".h5")).counts()["done"] == 0


def test_a_resume_elsewhere_is_warned_of(make_job, capsys):
    """Another torch version, device kind or thread count: both are named, and the run goes on."""
    job = make_job()
    assert evaluate([job], Options(progress="none"), world=None) == 0
    with h5py.File(job.with_suffix(".h5"), "r+") as file:
        file["status"][0] = 0
        file.attrs["torch_version"] = "1.0"
        file.attrs["threads"] = 64
    assert evaluate([job], Options(progress="none"), world=None) == 0
    text = capsys.readouterr().err
    assert "torch_version is 2" in text
    assert "1.0 in the file" in text
    assert "threads is 1 here, 64 in the file" in text


def test_what_was_settled_is_taken_from_the_file(make_job):
    """A resume uses the file's batch size, whatever `auto` would give now."""
    job = make_job(batch_size="auto")
    assert evaluate([job], Options(progress="none"), world=None) == 0
    before = store.read(job.with_suffix(".h5"))
    assert before.attributes["batch_size"] == 512
    with h5py.File(job.with_suffix(".h5"), "r+") as file:
        file["status"][...] = 0
        file.attrs["batch_size"] = 13
    assert evaluate([job], Options(progress="none"), world=None) == 0
    after = store.read(job.with_suffix(".h5")).quantities["train_loss"]
    np.testing.assert_allclose(after, before.quantities["train_loss"], rtol=1e-6)


def test_the_file_says_where_it_comes_from(make_job):
    """Every root attribute of the format is there and not empty."""
    job = make_job()
    assert evaluate([job], Options(progress="none"), world=None) == 0
    attributes = store.read(job.with_suffix(".h5")).attributes
    expected = (
        *("format", "format_version", "lsengine_version", "job", "fingerprint"),
        *("cell_fingerprint", "created", "checkpoint_sha256", "data_sha256"),
        *("torch_version", "mpi_library", "writing", "precision", "batch_size", "threads"),
        *("device_kind", "direction_cosine"),
    )
    assert all(attributes.get(name) not in (None, "") for name in expected)


def test_several_jobs_in_one_launch(make_job, pool, tmp_path):
    """One launch evaluates all; a job with failed cells does not keep the next from it."""
    fragile = {"arch": "testnets:Fragile", "args": {"repaired": "no"}, "checkpoint": "centre.pt"}
    curve = {
        "directions": {"alpha": {"kind": "random", "ignore": []}},
        "grid": {"alpha": [-1, 1, 3]},
    }
    first = make_job("first", model=fragile, **curve)
    second = write_job(tmp_path / "elsewhere", "second", **curve)
    answer = pool.evaluate([first, second], 3)
    assert answer["code"] == 5
    assert "first.h5" in answer["message"]
    assert store.read(second.with_suffix(".h5")).counts()["done"] == 3
