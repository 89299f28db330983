"""Networks that are trained at once, each by a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from lsengine import cores, devices
from lsengine import job as jobs
from lsengine.api import trainers
from lsengine.cli import main
from lsengine.store import lock
from tests.support.launchers import launcher_environment
from tests.support.trainings import study, until, weights


def _train(path, *more):
    return main(["train", str(path), "--workers", "2", *more])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The networks of three trainings, one after the other in one process."""
    path = study(tmp_path_factory.mktemp("alone"), "a", "b", "c")
    assert main(["train", str(path), "--quiet"]) == 0
    return weights(path)


@contextmanager
def _begun(path):
    """Start the command; end it if it has not ended when the context is left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lsengine", "train", str(path), "--workers", "2"],
        env=launcher_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()  # and those that it has started end by themselves


def _trainers_of(process):
    """Return the processes that train for a command, by the numbers of their networks."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == process.pid and b"lsengine.api.child" in words:
            found[int(words[-2].split(b"-")[1])] = int(folder.name)
    return found


def test_networks_are_the_same_as_alone_and_none_waits_for_another(tmp_path, alone, capfd):
    """The second waits for the last: who has trained the first does that meanwhile."""
    path = study(tmp_path / "x", "a", "slow", "c", awaited="out/c/epoch_002.pt")
    assert _train(path) == 0
    made = weights(path)
    made["b"] = made.pop("slow")
    assert made == alone
    said = capfd.readouterr().err
    for name in ("a", "slow", "c"):
        assert re.search(rf" net-{name}: epoch=2/2 train_loss=", said), said
    assert "networks=3 workers=2 threads=1" in said
    assert _train(path) == 0
    assert capfd.readouterr().err.count("finished earlier, nothing to do") == 3


def test_what_fails_keeps_no_other_from_its_training(tmp_path, capfd, alone):
    """A folder of another training, a network that raises, one that another run trains just now."""
    path = study(tmp_path / "x", "other", "broken", "c", "locked")
    out = path.parent / "out"
    (out / "other").mkdir(parents=True)
    (out / "other" / "epoch_001.pt").write_bytes(b"somebody else's")
    (out / "locked").mkdir()
    with lock.held(out / "locked" / "history.h5", lost=lambda: None):
        assert _train(path, "--progress", "none") == 4
    said = capfd.readouterr().err
    assert re.search(r"ERROR net-other: .*epoch_001.pt, but no history.h5", said), said
    assert "ArithmeticError: broken on purpose" in said
    assert "ERROR net-broken: its process has ended with exit code 1" in said
    order = [said.index(text) for text in ("net-locked: another run", "ERROR net-locked: ")]
    assert order == sorted(order)
    assert re.search(rf"ERROR net-locked: .*locked by process {os.getpid()} ", said), said
    assert "1 of 4 networks are trained; not net-other, net-broken, net-locked" in said
    assert weights(path) == {"c": alone["c"]}
    assert (out / "other" / "epoch_001.pt").read_bytes() == b"somebody else's"


def test_a_killed_process_is_the_end_of_its_network_alone(tmp_path, alone):
    """Its place is taken by the next; the same command goes on with it, to the same bits."""
    path = study(tmp_path / "x", "a", "slow", "c")
    with _begun(path) as process:
        until(lambda: weights(path).keys() == {"a", "c"} and 1 in _trainers_of(process))
        os.kill(_trainers_of(process)[1], signal.SIGKILL)
        said = process.communicate(timeout=100)[1]
    assert process.returncode == 75, said
    assert "ERROR net-slow: its process was ended by SIGKILL" in said
    assert "2 of 3 networks are trained; not net-slow" in said
    (path.parent / "go").touch()
    assert _train(path, "--quiet") == 0
    made = weights(path)
    assert made.pop("slow") == alone["b"]
    assert made == {name: alone[name] for name in "ac"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stop_is_one_for_all_processes(tmp_path, number):
    """Each ends between two batches, nothing is begun any more, and the same command goes on."""
    path = study(tmp_path / "x", "slow-a", "slow-b", "c", naps=True, epochs=1000)
    states = [path.parent / "out" / name / "resume.pt" for name in ("slow-a", "slow-b")]
    with _begun(path) as process:
        until(lambda: all(state.exists() for state in states))
        theirs = _trainers_of(process).values()
        os.kill(process.pid, number)
        said = process.communicate(timeout=100)[1]
    until(lambda: not any(Path(f"/proc/{one}").exists() for one in theirs))
    assert not list(path.parent.glob("out/*/*.lock"))
    assert not (path.parent / "out" / "c").exists()
    if number != signal.SIGKILL:  # of which it can say nothing
        assert process.returncode == 75, said
        assert said.count("stopped by SIGTERM in epoch") == 2, said
        assert "0 of 3 networks are trained" in said
        assert f"stopped by {number.name}; the same command goes on" in said


def test_only_what_is_to_be_trained_gets_a_process(tmp_path, monkeypatch, capfd):
    """Not one network alone, nor those that are trained."""
    path, begun = study(tmp_path / "x", "a", "b", "c", "d"), []
    monkeypatch.setattr(trainers._Trainers, "_begin", lambda _, number, job: begun.append(number))
    for name in "ab":
        assert _train(path, "--only", f"net-{name}") == 0
    assert _train(path, "--only", "net-[abc]") == 0  # in this process
    assert _train(path, "--only", "net-[ab]") == 0
    assert not begun
    for name in "cd":
        (path.parent / "out" / name / "epoch_002.pt").unlink(missing_ok=True)
    capfd.readouterr()
    assert _train(path) == 75  # nobody has trained them
    assert begun == [2, 3]
    assert capfd.readouterr().err.count("finished earlier, nothing to do") == 2


def test_a_rank_starts_no_processes(tmp_path, monkeypatch, capfd):
    """There are others already."""
    path = study(tmp_path / "x", "a", "b")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert _train(path) == 2
    assert "--workers: these are ranks of a launch already" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("device", "cards", "free_gib", "count"),
    [("auto", 0, 64, 6), ("cpu", 4, 64, 6), ("auto", 4, 64, 4), ("cpu", 0, 5, 2), ("cpu", 0, 0, 1)],
)
def test_auto_is_as_many_as_have_a_card_or_a_core_and_memory(
    tmp_path, monkeypatch, device, cards, free_gib, count
):
    """Two GiB for each on a host."""
    path = study(tmp_path / "x", "a")
    job = jobs.load(path, command="train", changes=[f"device={device}"])
    monkeypatch.setattr(cores, "count", lambda: 6)
    monkeypatch.setattr(devices, "visible_count", lambda kind: cards)
    monkeypatch.setattr(devices, "free_host_bytes", lambda: free_gib * 2**30 + 2**20)
    assert trainers._fitting([job]) == count
