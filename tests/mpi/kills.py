"""One kill trial: start a run, kill ranks at a random moment, look at the file, resume."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
from launchers import BIN, launcher_environment

from jobs import values
from lsengine import store
from lsengine.engine import Options, evaluate
from lsengine.surface import DONE, MISSING

RANKS = 3


def rank_processes(launcher: int) -> list[int]:
    """Return the process numbers of all ranks below a launcher, rank 0 first."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            arguments = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        ranks = [v for v in variables if v.startswith(b"OMPI_COMM_WORLD_RANK=")]
        if ranks and b"lsengine" in arguments and _is_below(int(folder.name), launcher):
            found[int(ranks[0].partition(b"=")[2])] = int(folder.name)
    return [found[rank] for rank in sorted(found)]


def _is_below(process: int, ancestor: int) -> bool:
    while process > 1:
        if process == ancestor:
            return True
        try:
            stat = Path(f"/proc/{process}/stat").read_text()
        except OSError:
            return False
        process = int(stat.rpartition(")")[2].split()[1])
    return False


def trial(job: Path, who: str, moment: float, reference: dict[str, bytes]) -> int:
    """Kill a run of ``job`` and check everything that must hold afterwards.

    Args:
        job: A job whose run takes about a second after its file has appeared.
        who: ``worker``, ``coordinator`` or ``all`` (the launcher too).
        moment: Seconds after the file has appeared; negative: after the launch.
        reference: Bytes of the value datasets of an undisturbed run.

    Returns:
        The number of cells that were done when the run was killed.
    """
    surface = job.with_suffix(".h5")
    done = _killed_run(job, surface, who, moment)
    poisoned = None
    if surface.exists():
        found = store.read(surface)  # opens
        is_done = found.status.ravel() == DONE
        expected = np.frombuffer(reference["train_loss"])
        loss = found.quantities["train_loss"].ravel()
        np.testing.assert_array_equal(loss[is_done], expected[is_done])  # no wrong cell
        assert set(np.unique(found.status)) <= {MISSING, DONE}
        done = int(is_done.sum())
        if done:
            poisoned = int(np.flatnonzero(is_done)[0])
            _write_loss(surface, poisoned, -123.0)
    assert evaluate([job], Options(progress="none"), world=None) == 0
    if poisoned is not None:  # a resume recomputes no finished cell
        assert store.read(surface).quantities["train_loss"].ravel()[poisoned] == -123.0
        _write_loss(surface, poisoned, np.frombuffer(reference["train_loss"])[poisoned])
    assert values(surface) == reference
    return done


def _killed_run(job: Path, surface: Path, who: str, moment: float) -> int:
    command = [str(BIN / "mpirun"), "-n", str(RANKS), str(BIN / "lsengine"), "eval", str(job)]
    process = subprocess.Popen(
        [*command, "--progress", "none", "--chunk", "2"],
        env=launcher_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 60
        while moment >= 0 and not surface.exists() and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(abs(moment))
        ranks = rank_processes(process.pid)
        victims = {"worker": ranks[1:2], "coordinator": ranks[:1], "all": ranks}[who]
        for victim in victims:
            _kill(victim)
        if who == "all":
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    finally:
        for survivor in rank_processes(process.pid):
            _kill(survivor)
        process.kill()
        process.wait()
    return 0


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return  # it had ended by itself


def _write_loss(surface: Path, cell: int, value: float) -> None:
    with h5py.File(surface, "r+") as file:
        loss = file["train_loss"]
        loss[np.unravel_index(cell, loss.shape)] = value


def random_trials(folder: Path, count: int, seed: int) -> list[int]:
    """Run ``count`` trials over both ways of writing, all victims and random moments."""
    from jobs import write_job

    rng = random.Random(seed)
    model = {"arch": "testnets:Slow", "args": {"seconds": 0.001}, "checkpoint": "centre.pt"}
    grid = {"alpha": [-1, 1, 13], "beta": [-1, 1, 9]}
    undisturbed = write_job(folder / "reference", model=model, grid=grid)
    assert evaluate([undisturbed], Options(progress="none"), world=None) == 0
    reference = values(undisturbed.with_suffix(".h5"))
    done = []
    for number in range(count):
        writing = ("parallel", "gather")[number % 2] if store.has_mpi() else "gather"
        who = ("worker", "coordinator", "all")[number // 2 % 3]
        moment = rng.uniform(0, 0.8) if number % 5 else -rng.uniform(1, 3)
        job = write_job(folder / str(number), model=model, grid=grid, writing=writing)
        done.append(trial(job, who, moment, reference))
        shutil.rmtree(folder / str(number))
    return done
