"""One kill trial: start a run, kill ranks at a random moment, look at the file, resume."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsengine import store
from lsengine.engine import Options, evaluate
from lsengine.store import damage
from lsengine.surface import DONE, MISSING, Surface
from tests.support.jobs import values, write_job
from tests.support.launchers import BIN, launcher_environment
from tests.support.surfaces import edited

RANKS = 3
_LIMIT_S = 150  # for a run's start, and for its end; a busy machine takes a minute to start one
VICTIMS = ("worker", "coordinator", "all", "worker, ULFM")


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


@dataclass(frozen=True, slots=True)
class Killed:
    """How a killed run was found.

    Attributes:
        who: One of `VICTIMS`.
        victims: Ranks that were alive when they were killed.
        done: Cells that the file marks done after the kill; under ULFM, right before it.
        cells: Cells of the surface.
        lag_s: Seconds from the newest of them to the kill; None if there is none.
    """

    who: str
    victims: int
    done: int
    cells: int
    lag_s: float | None

    @property
    def is_in_the_middle(self) -> bool:
        """Whether ranks died with some of the work done and some not."""
        return self.victims > 0 and 0 < self.done < self.cells


def trial(
    job: Path,
    who: str,
    moment: float,
    reference: dict[str, bytes],
    resume: Callable[[Path], int] | None = None,
    *,
    cells: int = 0,
    chunk: int | None = 2,
) -> Killed:
    """Kill a run of ``job`` and check everything that must hold afterwards.

    Args:
        job: A job whose run takes about a second after its file has appeared.
        who: One of `VICTIMS`; ``all`` are the launcher, too.  Under ULFM the others go on: the
            run itself has to end with 0 and with all cells.
        moment: Seconds after the file has appeared; negative: after the launch.
        reference: Bytes of the value datasets of an undisturbed run.
        resume: Evaluates a job to its end and returns the exit code; default alone, here.
        cells: Wait first until so many cells are done.
        chunk: Cells of a chunk, or None to go by time, with several reports in each.
    """
    surface = job.with_suffix(".h5")
    more = () if chunk is None else ("--chunk", str(chunk))
    victims, before, when = _kill_a_run(job, surface, who, moment, cells, more)
    count = np.frombuffer(reference["status"], np.uint8).size
    killed = Killed(who, victims, int(before.sum()), count, None)
    if who == "worker, ULFM":
        assert values(surface) == reference, "the others have not taken the cells over"
        sound(surface)
        return killed
    poisoned = None
    if surface.exists():
        found = sound(surface)  # opens
        is_done = found.status.ravel() == DONE
        assert not before.size or is_done[before].all(), "a cell that was done no longer is"
        expected = np.frombuffer(reference["train_loss"])
        loss = found.quantities["train_loss"].ravel()
        np.testing.assert_array_equal(loss[is_done], expected[is_done])  # no wrong cell
        assert set(np.unique(found.status)) <= {MISSING, DONE}
        if is_done.any():
            newest = found.provenance["finished"].ravel()[is_done].max()
            killed = replace(killed, done=int(is_done.sum()), lag_s=when - float(newest))
        others = np.flatnonzero(is_done & ~_is_centre(found))  # a resume refuses another centre
        if others.size:
            poisoned = int(others[0])
            _write_loss(surface, poisoned, -123.0)
    assert (resume or _alone)(job) == 0
    if poisoned is not None:  # a resume recomputes no finished cell
        assert store.read(surface).quantities["train_loss"].ravel()[poisoned] == -123.0
        _write_loss(surface, poisoned, np.frombuffer(reference["train_loss"])[poisoned])
    assert values(surface) == reference
    sound(surface)
    return killed


def sound(surface: Path) -> Surface:
    """Return a surface, all of which fits its digest and its checksums."""
    verdict = damage.verify(surface)
    assert verdict.has_digest, verdict
    assert verdict.has_checksums, verdict
    assert not verdict.is_damaged, verdict
    return store.read(surface)


def _is_centre(surface: Surface) -> NDArray[np.bool_]:
    axes = np.meshgrid(*surface.axes.values(), indexing="ij")
    return np.all([axis == 0 for axis in axes], axis=0).ravel()


def _alone(job: Path) -> int:
    return evaluate([job], Options(progress="none"), world=None)


def _kill_a_run(
    job: Path, surface: Path, who: str, moment: float, cells: int, more: Sequence[str]
) -> tuple[int, NDArray[np.bool_], float]:
    """Return how many victims were alive, which cells were done before, and when it was.

    What the run says goes into ``run.log`` beside the job.
    """
    ulfm = ["--with-ft", "ulfm"] if who == "worker, ULFM" else []
    command = [str(BIN / "mpirun"), *ulfm, "-n", str(RANKS), str(BIN / "lsengine"), "eval"]
    with job.with_name("run.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, str(job), "--progress", "none", *more],
            env=launcher_environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + _LIMIT_S
        while moment >= 0 and _done(surface) < cells and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(abs(moment))
        ranks = rank_processes(process.pid)
        victims = {"coordinator": ranks[:1], "all": ranks}.get(who, ranks[1:2])
        before = store.read(surface).done.ravel() if surface.exists() else np.zeros(0, np.bool_)
        alive = [_kill(victim) for victim in victims]
        when = time.time()
        if who == "all":
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait(_LIMIT_S)
        assert not ulfm or code == 0, job.with_name("run.log").read_text(errors="replace")
    finally:
        for survivor in rank_processes(process.pid):
            _kill(survivor)
        process.kill()
        process.wait()
    return sum(alive), before, when


def _done(surface: Path) -> int:
    """Return how many cells are done; -1 while there is no file."""
    return store.read(surface).counts()["done"] if surface.exists() else -1


def _kill(process: int) -> bool:
    """Kill a process; False if it had ended by itself."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _write_loss(surface: Path, cell: int, value: float) -> None:
    with edited(surface) as file:
        loss = file["train_loss"]
        loss[np.unravel_index(cell, loss.shape)] = value


def random_trials(
    folder: Path, count: int, seed: int, resumes: Sequence[Callable[[Path], int]] = ()
) -> list[Killed]:
    """Run ``count`` trials on cells of a few milliseconds; see `endless_trials`."""
    return [*itertools.islice(endless_trials(folder, seed, 0.001, resumes), count)]


def endless_trials(
    folder: Path, seed: int, batch_s: float, resumes: Sequence[Callable[[Path], int]] = ()
) -> Iterator[Killed]:
    """Run trials over both ways of writing, all victims and random moments, one per turn.

    Args:
        folder: Made; emptied of a trial that went well.
        seed: Of the moments.
        batch_s: Pause in each of a cell's six batches; a run has 117 cells.
        resumes: Ways to resume, in turn; default alone.
    """
    rng = random.Random(seed)
    model = {"arch": "testnets:Slow", "args": {"seconds": batch_s}, "checkpoint": "centre.pt"}
    grid = {"alpha": [-1, 1, 13], "beta": [-1, 1, 9]}
    undisturbed = write_job(folder / "reference", model=model, grid=grid)
    assert _alone(undisturbed) == 0
    reference = values(undisturbed.with_suffix(".h5"))
    length_s = 6 * batch_s * 117 / (RANKS - 1)
    for number in itertools.count():
        writing = ("parallel", "gather")[number % 2] if store.has_mpi() else "gather"
        who = VICTIMS[number // 2 % len(VICTIMS)]
        moment = rng.uniform(0, max(0.8, length_s))
        if number % 5 == 0 and who != "worker, ULFM":  # there, ranks have to have met
            moment = -rng.uniform(1, 3)
        job = write_job(folder / str(number), model=model, grid=grid, writing=writing)
        resume = resumes[number % len(resumes)] if resumes else None
        chunk = None if number % 3 == 0 else 2
        yield trial(job, who, moment, reference, resume, chunk=chunk)
        shutil.rmtree(folder / str(number))
