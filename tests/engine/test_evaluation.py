"""The engine's decisions, without ranks."""

from __future__ import annotations

import functools
import itertools
import math
import shutil
import time

import h5py
import numpy as np
import pytest
import torch

from lsengine import engine, store
from lsengine import job as jobs
from lsengine.engine import Options, evaluate
from lsengine.engine.messages import Hello, WorkerInfo
from lsengine.engine.protocol.placement import Placement, assign
from lsengine.errors import EnvironmentUnfit, SurfaceError, UsageError
from lsengine.objective import device_state
from lsengine.report import status
from lsengine.store import lock
from tests.support.jobs import values, write_job


def _hellos(*workers):
    return {
        rank: Hello(host, rank, frozenset(cores), visible)
        for rank, (host, cores, visible) in enumerate(workers, 1)
    }


def _slots(hellos):
    slots = {}
    for rank in hellos:
        slots[rank] = assign(rank, hellos, slots)[0]
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
    assert [assign(rank, hellos, {})[1] for rank in hellos] == expected


def test_a_late_worker_finds_a_free_device():
    """Whoever comes late, with a lower rank or a higher one, gets a number nobody has."""
    hellos = _hellos(*[("a", range(4), None)] * 3)
    second = assign(2, {2: hellos[2]}, {})[0]
    first = assign(1, hellos, {2: second})[0]
    third = assign(3, hellos, {2: second, 1: first})[0]
    assert sorted((first, second, third)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("wanted", "workers", "devices", "expected"),
    [
        ("auto", [("a", range(8), "0,1")], ("cuda", 2, "0,1"), 1),  # one of two cards is idle
        ("auto", [("a", range(8), "0,1")] * 2, ("cuda", 2, "0,1"), None),
        ("evaluates", [("a", range(8), "0,1")] * 2, ("cuda", 2, "0,1"), 2),
        ("waits", [("a", range(8), "0,1")], ("cuda", 2, "0,1"), None),
        ("auto", [("a", range(8), "1"), ("a", range(8), "2")], ("cuda", 1, "0"), 0),  # its own
        ("auto", [("b", range(8), "0")], ("cuda", 1, "0"), 0),  # alone on its host
        ("evaluates", [("b", range(8), "0")], ("cpu", 1, None), None),  # no card here
        ("auto", [("a", [1], None), ("a", [2], None)], ("cpu", 1, None), 2),  # core 0 is idle
        ("auto", [("a", range(2), None)] * 2, ("cpu", 1, None), None),  # two threads, two cores
    ],
)
def test_rank_0_takes_part_where_it_would_leave_a_device_idle(
    tmp_path, wanted, workers, devices, expected
):
    """Cards given or shared, cores bound or not; what the job says comes first."""
    job = jobs.load(write_job(tmp_path, launch={"coordinator": wanted}), command="eval")
    places = _places(job, *workers)
    hello = Hello("a", 0, frozenset({0, *workers[0][1]}), devices[2])
    here = places.assign_here(hello, devices, job)
    assert (here.slot if here else None) == expected


def _places(job, *workers):
    """Return the places of workers that have loaded everything."""
    places = Placement()
    places.hellos.update(_hellos(*workers))
    for rank, hello in places.hellos.items():
        places.assign(rank, job)
        kind, card = ("cuda card", f"card {rank}") if hello.visible else ("cpu", "")
        places.loaded(rank, WorkerInfo(hello.host, kind, card, 1, "2", (1,), "float32"))
    return places


def test_a_late_worker_does_not_get_rank_0s_card(tmp_path):
    """Of three cards the worker has the first, rank 0 the second, and who comes late the third."""
    job = jobs.load(write_job(tmp_path), command="eval")
    places = _places(job, ("a", range(8), "0,1,2"))
    here = places.assign_here(
        Hello("a", 0, frozenset(range(8)), "0,1,2"), ("cuda", 3, "0,1,2"), job
    )
    places.hellos[2] = Hello("a", 2, frozenset(range(8)), "0,1,2")
    assert (here.slot, places.assign(2, job).slot) == (1, 2)


def test_a_card_shared_with_rank_0_is_warned_of(tmp_path, caplog):
    """Two names of one card are told by its identity, whoever of the two is rank 0."""
    job = jobs.load(write_job(tmp_path), command="eval")
    places = _places(job, ("a", range(8), "0"))
    places.loaded(0, WorkerInfo("a", "cuda card", "card 0", 1, "2", (1,), "float32"))
    assert "share" not in caplog.text
    places.loaded(2, WorkerInfo("a", "cuda card", "card 0", 1, "2", (1,), "float32"))
    assert "ranks 0 and 2 share one card (cuda card on a)" in caplog.text


def test_a_centre_that_is_not_the_checkpoint_stops_the_run(make_job, monkeypatch):
    """If displacing were wrong by a little, the check at the centre would say so as a bug."""
    displace = device_state.Vectors.displace

    def wrong(self, cell, out):
        displace(self, cell, out)
        out.mul_(1.001)

    monkeypatch.setattr(device_state.Vectors, "displace", wrong)
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


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        ("remove", "is not there any more .*bring it back"),
        ("replace", "is another file than the one this run has written"),
        ("lose", "28 cells that were written are not in the file"),
    ],
)
def test_a_file_that_has_gone_is_not_called_done(make_job, monkeypatch, deed, message):
    """Removed, replaced, or without what was written: exit 3 and one message, no success."""
    job = make_job()
    surface = job.with_suffix(".h5")
    conclude = store.Writer.close

    def close(writer):
        conclude(writer)
        if deed == "replace":
            shutil.copy(surface, surface.with_suffix(".copy"))
            surface.with_suffix(".copy").rename(surface)
        elif deed == "remove":
            surface.unlink()
        else:
            with h5py.File(surface, "r+") as file:
                file["status"][...] = 0

    monkeypatch.setattr(store.Writer, "close", close)
    with pytest.raises(EnvironmentUnfit, match=message):
        evaluate([job], Options(progress="none"), world=None)


def test_a_clock_that_jumps_disturbs_nothing(make_job, monkeypatch, tmp_path):
    """Days forth and back at every look: same values, lock kept and renewed, a sensible rate."""
    assert evaluate([make_job("steady")], Options(progress="none"), world=None) == 0
    jumps = itertools.cycle([0.0, 86400.0, -86400.0, 3.0e6])
    now, beats = time.time, []
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    monkeypatch.setattr(engine, "held", functools.partial(lock.held, beat_s=0.01))
    write = store.Writer.write

    def look(writer, results):
        write(writer, results)
        beats.append(lock.owner(tmp_path / "jumps.h5"))

    monkeypatch.setattr(store.Writer, "write", look)
    options = Options(progress="lines", chunk=1)
    assert evaluate([make_job("jumps", output="jumps.h5")], options, world=None) == 0
    assert all(beat is not None for beat in beats)
    assert beats[-1]["heartbeat"] > 0
    assert values(tmp_path / "jumps.h5") == values(tmp_path / "steady.h5")
    rate = status.summary(tmp_path / "jumps.h5")["rate_per_s"]
    assert rate is None or 0 < rate < math.inf


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


def test_the_rate_is_that_of_the_latest_run(make_job):
    """A pause of a day between two runs does not count as work."""
    job = make_job()
    assert evaluate([job], Options(progress="none"), world=None) == 0
    with h5py.File(job.with_suffix(".h5"), "r+") as file:
        cells = np.arange(28.0)
        file["finished"][...] = (cells / 4 + 86400 * (cells >= 20)).reshape(4, 7)
    assert status.summary(job.with_suffix(".h5"))["rate_per_s"] == pytest.approx(4)


def test_a_network_of_chance_is_no_bug(make_job):
    """Dropout that evaluation mode leaves on is the user's to switch off, and said so."""
    job = make_job(model={"arch": "testnets:Chance", "checkpoint": "centre.pt"})
    with pytest.raises(UsageError, match="two evaluations of the same weights differ"):
        evaluate([job], Options(progress="none"), world=None)


def test_an_undefined_checkpoint_is_warned_of(make_job, tmp_path, capsys):
    """A parameter that is NaN is named; the surface is what it is, and no check has passed."""
    job = make_job(directions={"alpha": {"kind": "random"}}, grid={"alpha": [0, 1, 2]})
    content = torch.load(tmp_path / "centre.pt")
    content["state_dict"]["0.weight"][0, 0] = float("nan")
    torch.save(content, tmp_path / "centre.pt")
    assert evaluate([job], Options(progress="none"), world=None) == 0
    text = capsys.readouterr().err
    assert "model.checkpoint: 0.weight holds NaN" in text
    assert "check passed" not in text


def test_a_pattern_that_ignores_nothing_is_warned_of(make_job, capsys):
    """A typing mistake in `ignore` would change the picture without a word."""
    directions = {"alpha": {"kind": "random", "ignore": ["layer9.*", "bias"]}}
    job = make_job(directions=directions, grid={"alpha": [0, 1, 2]})
    assert evaluate([job], Options(progress="none"), world=None) == 0
    assert "directions.alpha.ignore: layer9.* fits no parameter" in capsys.readouterr().err


def test_another_grid_is_told_of_extend(make_job):
    """Where only the grid differs the refusal names the way to keep what is there."""
    assert evaluate([make_job()], Options(progress="none"), world=None) == 0
    finer = make_job(grid={"alpha": [-1, 1, 13], "beta": [-0.5, 1, 4]})
    with pytest.raises(SurfaceError, match=r"grid\.alpha is .*--extend"):
        evaluate([finer], Options(progress="none"), world=None)


def test_another_checkpoint_is_named_in_words(make_job, tmp_path):
    """The refusal speaks of contents, not of digests."""
    job = make_job()
    assert evaluate([job], Options(progress="none"), world=None) == 0
    content = torch.load(tmp_path / "centre.pt")
    content["state_dict"]["0.weight"] += 1
    torch.save(content, tmp_path / "centre.pt")
    with pytest.raises(SurfaceError, match="the content of checkpoint is not what it was"):
        evaluate([job], Options(progress="none"), world=None)
