"""Several networks trained at once on this machine, each by a process of its own.

A process trains one network, and the next one gets a new process: so what one leaves in memory,
and how it dies, is nothing to the others.
"""

from __future__ import annotations

import logging
import signal
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lsengine import cores, devices
from lsengine import log as logs
from lsengine.api import team
from lsengine.api.tasks import JobFiles
from lsengine.api.team import Process
from lsengine.errors import LsengineError, Stopped
from lsengine.job import Job
from lsengine.ranks import StopRequest, World
from lsengine.training import command, training
from lsengine.training.command import Manner, Queue

log = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.1
_PROCESS_BYTES = 2 * 2**30  # of torch, CIFAR-10 and the activations of a mini-batch


def train(task: JobFiles, *, workers: int | str, progress: str) -> int:
    """Train the networks of job files, as many at once as there are ``workers``.

    ``workers`` is a number, or ``auto``: one for each card, or else one for each core that has
    memory for it.

    Returns:
        The exit code: the largest of any training.

    Raises:
        LsengineError: If a job is wrong, or what a single training raises.
        Stopped: If a signal asked for it.
    """
    logs.configure(rank=0)
    jobs = task.jobs(Path())
    most = workers if isinstance(workers, int) else _fitting(jobs)
    places = min(most, len(jobs))
    threads = cores.own_share(places)  # however many are left: the same bits when it goes on
    if sum(not training.is_finished(job) for job in jobs) <= 1 or places == 1:
        return command.train_alone(jobs, progress, threads)  # who only looks needs nobody
    of_each = threads.count, threads.why
    log.info("networks=%d workers=%d threads=%d (%s)", len(jobs), places, *of_each)
    with tempfile.TemporaryDirectory(prefix="lsengine-") as folder:
        return _Trainers(Path(folder), places, command.in_lines(progress)).train(Queue(jobs))


def _fitting(jobs: Sequence[Job]) -> int:
    """Return how many processes have a card each, or else a core and memory."""
    kinds = {job.document.device for job in jobs}
    if kinds <= {"auto", "cuda"} and (cards := devices.visible_count("cuda")):
        return cards
    return max(1, min(cores.count(), devices.free_host_bytes() // _PROCESS_BYTES))


class _Trainers:
    """Places on this machine, at each of which a process trains a network."""

    def __init__(self, folder: Path, places: int, progress: str) -> None:
        self._folder, self._progress = folder, progress
        self._environment = team.environment(places)
        self._free = list(range(places))
        self._running: dict[int, tuple[int, Process]] = {}  # by number of a network

    def train(self, queue: Queue) -> int:
        """Train all networks, and return the exit code."""
        end: float | None = None
        with ExitStack() as stack:
            stop = stack.enter_context(StopRequest())
            stack.callback(self._end)
            while True:
                self._note_ended(queue, has_stopped=end is not None)
                if end is None and stop:
                    end = time.monotonic() + team.PARTING_S
                    queue.close()
                    for _, one in self._running.values():
                        one.stop()
                while self._free and (number := queue.take()) is not None:
                    if training.is_finished(queue.jobs[number]):
                        with logs.about(queue.jobs[number].document.name):
                            log.info("finished earlier, nothing to do")
                        queue.report(number, None)
                    else:
                        self._begin(number, queue.jobs[number])
                if not self._running or (end is not None and time.monotonic() > end):
                    break
                time.sleep(_LOOK_EVERY_S)
        self._note_ended(queue, has_stopped=end is not None)
        code = queue.conclude()
        if stop:
            raise Stopped(f"stopped by {stop.signal}; the same command goes on")
        return code

    def _begin(self, number: int, job: Job) -> None:
        place = self._free.pop(0)
        name = f"-{number}-{time.monotonic_ns()}"  # it may be begun twice
        given = {"job": job, "place": place, "progress": self._progress}
        team.write(self._folder, name, _train_one, **given)
        self._running[number] = place, team.start(self._folder, name, self._environment)

    def _note_ended(self, queue: Queue, *, has_stopped: bool) -> None:
        """Report the trainings whose processes have ended, and free their places."""
        for number, (place, one) in list(self._running.items()):
            if one.process.poll() is not None:
                del self._running[number]
                self._free.append(place)
                queue.report(number, _error_of(one, has_stopped=has_stopped))

    def _end(self) -> None:
        with team.ended([one for _, one in self._running.values()]):
            pass


def _error_of(one: Process, *, has_stopped: bool) -> LsengineError | None:
    """Return how a training has ended whose process has."""
    if one.outcome.exists():
        error = one.error()
        assert error is None or isinstance(error, LsengineError)
        return error
    code = one.process.returncode
    if has_stopped:
        return Stopped("stopped before the end; the same command goes on with it")
    if code < 0:
        name = signal.Signals(-code).name
        why = ", as the system does where memory is short" if name == "SIGKILL" else ""
        return Stopped(f"its process was ended by {name}{why}; the same command goes on with it")
    return LsengineError(f"its process has ended with exit code {code}; what it said is above")


def _train_one(world: World, *, job: Job, place: int, progress: str) -> None:
    """Train one network; what a process is there for."""
    assert world.size == 1
    logs.configure(rank=place, speaks=True)
    Manner(progress, place, cores.own_share()).train(job)
