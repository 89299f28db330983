"""Ranks that a process starts on its own machine, to evaluate the surfaces of one call.

Where MPI is, a launcher starts ranks that share one surface.  Elsewhere each process evaluates a
shard, and the shards are merged.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from lsengine import cores, devices, store
from lsengine import log as logs
from lsengine.api import running, team
from lsengine.api.running import Task
from lsengine.api.surface import Surface
from lsengine.api.tasks import JobFiles
from lsengine.api.team import Process
from lsengine.engine import Options
from lsengine.engine import evaluate as evaluate_files
from lsengine.errors import CellsFailed, EnvironmentUnfit, LsengineError, Stopped, UsageError
from lsengine.job import Job
from lsengine.ranks import StopRequest, World, launched_size
from lsengine.store.shards import merge
from lsengine.surface import MISSING

log = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.1
_COUNT_EVERY = 5  # looks
_PROCESS_BYTES, _COPIES = 2**30, 5  # of torch and data; of the weights with two directions


def surfaces(task: Task, options: Options, *, workers: int | str, shows: bool) -> list[Surface]:
    """Evaluate a task's surfaces as `running.surfaces` does, by several processes.

    ``workers`` is their number, or ``auto``: as many as there are cores or cards for them.

    Raises:
        UsageError: If the number is none, this is a rank of a launch already, or the network, the
            data or the loss cannot be sent.
        EnvironmentUnfit: If workers die.
        LsengineError: What `running.surfaces` raises.
    """
    is_number = isinstance(workers, int) and not isinstance(workers, bool) and workers >= 1
    if not is_number and workers != "auto":
        raise UsageError(f"workers: expected an integer of at least 1 or auto, got {workers!r}")
    if workers == 1:
        return running.surfaces(task, options, shows=shows)
    if launched_size() > 1:
        raise UsageError("workers: these are ranks of a launch already; leave workers out")
    with ExitStack() as stack:
        stack.enter_context(logs.callers(speaks=shows))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lsengine-")))
        sent = task.portable(folder)
        jobs = sent.jobs(folder)  # what is wrong with it is said before anything is started
        count = workers if isinstance(workers, int) else _fitting(jobs)
        if count == 1 or all(_is_complete(job.output, options) for job in jobs):
            return running.surfaces(task, options, shows=shows)  # who only looks needs nobody
        _Team(folder, options, count, shows=shows).evaluate(sent)
        return [running.read(path, task) for path in sent.outputs()]


def evaluate(task: JobFiles, options: Options, *, workers: int | str) -> int:
    """Evaluate the surfaces of job files by several processes, for the command line.

    What they say is shown.

    Returns:
        The exit code of a run without an error.

    Raises:
        LsengineError: As `surfaces`.
    """
    logs.configure(rank=0)
    jobs = task.jobs(Path())
    count = workers if isinstance(workers, int) else _fitting(jobs)
    if count == 1 or all(_is_complete(job.output, options) for job in jobs):
        return evaluate_files(task.paths, options, world=None, only=task.only, changes=task.changes)
    with tempfile.TemporaryDirectory(prefix="lsengine-") as folder:
        _Team(Path(folder), options, count, shows=True, is_command=True).evaluate(task)
    return 0


def _fitting(jobs: Sequence[Job]) -> int:
    """Return how many processes have a card each, or else a core, and memory for their network."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    kinds = {job.document.device for job in jobs}
    if kinds <= {"auto", "cuda"} and (
        cards := len(devices.instances(visible)) or devices.visible_count("cuda")
    ):
        return cards
    largest = max(job.checkpoint.stat().st_size for job in jobs)
    each = _PROCESS_BYTES + _COPIES * largest
    return max(1, min(cores.count(), devices.free_host_bytes() // each))


def _is_complete(path: Path, options: Options) -> bool:
    try:
        return path.exists() and not options.pending(store.read_status(path)).any()
    except LsengineError:
        return True  # and what is wrong with it is said at once


class _Team:
    """Processes that evaluate one task.

    ``shows`` is whether progress and warnings are shown; of a command all that rank 0 says is.
    """

    def __init__(
        self, folder: Path, options: Options, workers: int, *, shows: bool, is_command: bool = False
    ) -> None:
        self._folder, self._workers, self._shows = folder, workers, shows
        self._is_command, self._style = is_command, options.progress if shows else "none"
        self._options = replace(options, progress="none")

    def evaluate(self, task: Task) -> None:
        """Have the task evaluated by ranks of MPI, or where it is not there by shards.

        Raises:
            LsengineError: What rank 0 raises, or the first process that failed.
        """
        command = team.launcher()
        if command is None or not self.ranks(command, task):
            self.shards(task)

    def ranks(self, launcher: list[str], task: Task) -> bool:
        """Have ranks of MPI evaluate the task; False if they do not find each other.

        Raises:
            LsengineError: What rank 0 raises.
        """
        options = self._options
        if self._is_command:  # rank 0 shows how far it is
            options, self._style = replace(options, progress=self._style), "none"
        self._write(task, options, "")
        with self._started([*launcher, "-n", str(self._workers)], [""]) as started:
            stop = self._wait(started, [[path] for path in task.outputs()])
        if not (self._folder / "begun").exists() and not stop:
            log.warning("%s starts no ranks that meet; going on with processes", launcher[0])
            return False
        _raise_first(self._outcomes(started), stop)
        return True

    def shards(self, task: Task) -> None:
        """Have each process evaluate a shard, and merge them.

        Raises:
            LsengineError: What the first of them raises that failed.
        """
        count, outputs = self._workers, task.outputs()
        parts = range(1, count + 1)
        files = {o: [o.with_suffix(f".shard-{k}.h5") for k in parts] for o in outputs}
        for output in outputs:  # of a call that was ended, by as many workers or others
            _merge(output, _left_shards(output))
            for part in files[output] if output.exists() else ():
                shutil.copyfile(output, part)
        for k in parts:
            self._write(task, replace(self._options, shard=(k, count)), f"-{k}")
        with self._started([], [f"-{k}" for k in parts]) as started:
            stop = self._wait(started, list(files.values()))
        errors = self._outcomes(started)
        texts = [_merge(output, of_output) for output, of_output in files.items()]
        failed = [error for error in errors if isinstance(error, CellsFailed)]
        _raise_first([error for error in errors if not isinstance(error, CellsFailed)], stop)
        if failed:
            error = CellsFailed(*filter(None, texts))
            if self._is_command:
                raise error
            error.surfaces = tuple(running.read(output, task) for output in outputs)
            raise running.reworded(error)

    def _write(self, task: Task, options: Options, name: str) -> None:
        given = {"task": task, "options": options, "shows": self._shows}
        team.write(self._folder, name, _evaluate, **given, is_command=self._is_command)

    @contextlib.contextmanager
    def _started(self, launcher: list[str], names: Sequence[str]) -> Iterator[list[Process]]:
        """Start a process for each name, and end what still runs when the context is left."""
        started: list[Process] = []
        environment = team.environment(self._workers)
        with team.ended(started):
            with (self._folder / "said.txt").open("ab") as said:
                for name in names:
                    output = None if self._is_command and name == names[0] else said
                    started.append(team.start(self._folder, name, environment, launcher, output))
            yield started

    def _wait(self, started: list[Process], files: list[list[Path]]) -> str | None:
        """Wait for the end of all, and show how far they are; return a signal that came."""
        count = _Count(files[0], self._style if len(files) == 1 else "none")
        with StopRequest() as stop:
            looks, end = 0, None
            while any(one.process.poll() is None for one in started):
                time.sleep(_LOOK_EVERY_S)
                looks += 1
                if looks % _COUNT_EVERY == 0:
                    count.show()
                has_failed = any(one.outcome.exists() and _is_bad(one) for one in started)
                if end is None and (stop or has_failed):
                    end = time.monotonic() + team.PARTING_S
                    for one in started:
                        one.stop()
                if end is not None and time.monotonic() > end:
                    break
            count.show()
            count.close()
            return stop.signal

    def _outcomes(self, started: list[Process]) -> list[Exception]:
        """Return what the processes have raised, and pass on what they have said."""
        said = (self._folder / "said.txt").read_text(errors="replace").splitlines()
        if self._shows:
            for line in dict.fromkeys(said):
                if line.startswith("lsengine: "):
                    print(line, file=sys.stderr)
        errors: list[Exception] = []
        for one in started:
            if not one.outcome.exists():
                tail = "\n  ".join(said[-20:])
                code = one.process.returncode
                text = f"workers: a worker has ended without a word, exit code {code}; it said:"
                errors.append(EnvironmentUnfit(f"{text}\n  {tail}"))
            elif (error := one.error()) is not None:
                errors.append(error)
        return errors


def _evaluate(world: World, *, task: Task, options: Options, shows: bool, is_command: bool) -> None:
    """Do what one process of a team is there for."""
    if is_command:
        assert isinstance(task, JobFiles)
        evaluate_files(task.paths, options, world=world, only=task.only, changes=task.changes)
    else:
        running.surfaces(task, options, shows=shows)


class _Count:
    """How many cells of one surface are finished, in any of the files that hold parts of it."""

    def __init__(self, files: Sequence[Path], style: str) -> None:
        self._files, self._style = files, style
        self._bar: logs.Progress | None = None
        self._finished = 0

    def show(self) -> None:
        """Look, and show it."""
        if self._style == "none":
            return
        try:
            files = [path for path in self._files if path.exists()]
            status = [store.read_status(path, checked=False) for path in files]
        except LsengineError:
            return  # just being laid out
        if len({len(s) for s in status}) != 1:
            return
        finished = int(np.any([s != MISSING for s in status], axis=0).sum())
        if self._bar is None:
            total = len(status[0])
            self._bar = logs.Progress("cells", total=total, done=finished, style=self._style)
        else:
            self._bar.advance(finished - self._finished)
        self._finished = finished

    def close(self) -> None:
        """Finish the bar."""
        if self._bar is not None:
            self._bar.close()


def _is_bad(one: Process) -> bool:
    """Whether a process has ended in a way that makes the others' work useless."""
    return not isinstance(one.error(), CellsFailed | None)


def _raise_first(errors: Sequence[Exception], stop: str | None) -> None:
    """Raise the first error; for SIGINT what Python raises for it.

    Those that were stopped because another one failed come last.
    """
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
        if stop == "SIGINT" and isinstance(error, Stopped | EnvironmentUnfit):
            raise KeyboardInterrupt(str(error))
        raise error
    if stop is not None:
        raise Stopped(f"stopped by {stop}")


def _left_shards(output: Path) -> list[Path]:
    """Return the shards of a surface that are there, and no file of another one's."""
    found = output.parent.glob(f"{glob.escape(output.stem)}.shard-*.h5")
    number = re.compile(re.escape(output.stem) + r"\.shard-[0-9]+\.h5")
    return sorted(path for path in found if number.fullmatch(path.name))


def _merge(output: Path, shards: Sequence[Path]) -> str:
    """Merge the shards that are there into a surface, and remove them; return how far it is."""
    existing = [path for path in shards if path.exists()]
    if not existing:
        return ""
    text = merge(existing, output).text
    for path in existing:
        path.unlink()
    return text
