"""Several trainings in one launch: whoever is done takes the next network that nobody has begun.

Rank 0 hands networks out, also between the mini-batches of its own.  It sends each rank ``JOB``,
all jobs; ``WORK``, the number of one; ``STOP``, the exit code, last.  The others send ``READY``
when they have trained one, and ``BYE`` when they stop: its number, and the error or None.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lsengine import log as logs
from lsengine.cores import Threads, own_share
from lsengine.errors import LsengineError, Stopped, SurfaceError
from lsengine.job import Job, load_all
from lsengine.ranks import Message, StopRequest, Tag, World
from lsengine.store import lock
from lsengine.wording import listed

log = logging.getLogger(__name__)
_SERVE_EVERY_S = 0.05


def run_all(
    paths: Sequence[str | Path],
    *,
    world: World,
    only: str = "*",
    changes: Sequence[str] = (),
    progress: str = "auto",
) -> int:
    """Train the networks of all jobs; under a launcher each rank trains one at a time.

    **Collective** at start; the ranks then meet only to agree on an exit code.

    Args:
        paths: Job files, each possibly several jobs.
        world: The ranks, from `lsengine.ranks.join`.
        only: Pattern of the names of the wanted jobs.
        changes: ``KEY=VALUE`` that replace values of the files.
        progress: See `lsengine.training.training.run`; several ranks show lines.

    Returns:
        The exit code all ranks agree on: the largest of any.

    Raises:
        LsengineError: Alone; under a launcher errors are logged and become the code.
    """
    logs.configure(rank=world.rank, speaks=True)

    def find() -> list[Job]:
        return [j for p in paths for j in load_all(p, command="train", only=only, changes=changes)]

    if world.size == 1:
        return train_alone(find(), progress, own_share())
    # Also for ranks that have nothing to train, or nothing more: a signal must not end them.
    with StopRequest() as stop:
        slot, local_rank_and_size = world.local_rank_and_size()
        manner = Manner(in_lines(progress), slot, own_share(local_rank_and_size))
        if world.rank > 0:
            return _follow(world, manner, stop)
        return _lead(find, world, manner, stop)


def in_lines(progress: str) -> str:
    """Return how progress is shown where several networks are trained at once."""
    return "none" if progress == "none" else "lines"


@dataclass(frozen=True, slots=True)
class Manner:
    """How a process trains: how it shows progress, its place on the host, its threads."""

    progress: str
    slot: int
    threads: Threads

    def train(self, job: Job, tick: Callable[[], None] = lambda: None) -> None:
        """Train one of several networks; raises as `lsengine.training.training.run`."""
        from lsengine.training import training  # imports torch

        with logs.about(job.document.name):
            threads = self.threads.count
            training.run(job, progress=self.progress, slot=self.slot, threads=threads, tick=tick)

    def tried(self, job: Job, tick: Callable[[], None] = lambda: None) -> LsengineError | None:
        """Train one of several networks, and return what it raises."""
        try:
            self.train(job, tick)
        except LsengineError as error:
            return error.with_traceback(None)
        return None


class Queue:
    """Networks to train, in their order, each of which is given out once.

    One that another run trains just now comes last, and not a third time.  Errors are logged as
    they come; none keeps other networks from their training.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self._left, self._last = deque(range(len(jobs))), deque[int]()
        self._again: set[int] = set()
        self._is_closed = False
        self._errors: dict[int, LsengineError | None] = {}  # of those that have been tried

    def take(self) -> int | None:
        """Return the number of the next network; None if there is none now."""
        while self._left:
            number = self._left.popleft()
            if not _is_locked(self.jobs[number]):
                return number
            self._postpone(number)
        if not self._last:
            return None
        number = self._last.popleft()
        self._again.add(number)
        return number

    def _postpone(self, number: int) -> None:
        with logs.about(self.jobs[number].document.name):
            log.info("another run trains it just now; it is looked at again when others are done")
        self._last.append(number)

    def report(self, number: int, error: LsengineError | None) -> None:
        """Take note of how the training of a network ended."""
        is_new = number not in self._again and not self._is_closed
        if is_new and isinstance(error, SurfaceError) and _is_locked(self.jobs[number]):
            self._postpone(number)  # it was begun at the same moment
            return
        self._errors[number] = error
        if error is not None:
            with logs.about(self.jobs[number].document.name):
                log.error("%s", error)

    def close(self) -> None:
        """Give nothing more out."""
        self._is_closed = True
        self._left.clear()
        self._last.clear()

    def conclude(self) -> int:
        """Say which networks are not trained, if there are any, and return the exit code."""
        untried = Stopped("not begun")
        errors = [self._errors.get(number, untried) for number in range(len(self.jobs))]
        failed = [job.document.name for job, e in zip(self.jobs, errors, strict=True) if e]
        if failed and len(errors) > 1:
            done, all_there_are = len(errors) - len(failed), len(errors)
            log.error("%d of %d networks are trained; not %s", done, all_there_are, listed(failed))
        return max((error.exit_code for error in errors if error), default=0)


def _is_locked(job: Job) -> bool:
    assert job.document.train is not None
    return lock.owner(job.path(job.document.train.output) / "history.h5") is not None


def train_alone(jobs: Sequence[Job], progress: str, threads: Threads) -> int:
    """Train one network after the other in this process, and return the exit code.

    Raises:
        LsengineError: Of a single job.
        Stopped: If a signal asked for it.
    """
    if len(jobs) == 1:
        from lsengine.training import training

        training.run(jobs[0], progress=progress, threads=threads.count)
        return 0
    manner = Manner(progress, 0, threads)
    queue = Queue(jobs)
    while (number := queue.take()) is not None:
        error = manner.tried(jobs[number])
        if isinstance(error, Stopped):
            raise error
        queue.report(number, error)
    return queue.conclude()


def _lead(find: Callable[[], list[Job]], world: World, manner: Manner, stop: StopRequest) -> int:
    """Train on rank 0 and hand networks out to the others; return the code that all agree on."""
    try:
        with stop.at_once():
            jobs = find()
            from lsengine.training import training as training  # torch
        leader = _Leader(world, Queue(jobs), stop)
        code = leader.train(manner)
    except LsengineError as error:
        log.error("%s", error)  # noqa: TRY400  a user's error needs no traceback
        code = error.exit_code
    for rank in set(range(1, world.size)) - world.lost():
        world.send(code, to=rank, tag=Tag.STOP)
    world.flush()
    return code


class _Leader:
    """Rank 0, which trains and hands out."""

    def __init__(self, world: World, queue: Queue, stop: StopRequest) -> None:
        self._world, self._queue, self._stop = world, queue, stop
        self._given: dict[int, int] = {}  # by rank, the number of its network
        self._idle = deque(range(1, world.size))
        self._served_s = 0.0

    def train(self, manner: Manner) -> int:
        """Have all networks trained, and return the exit code."""
        jobs = self._queue.jobs
        log.info(
            "networks=%d ranks=%d threads=%d (%s)",
            *(len(jobs), self._world.size, manner.threads.count, manner.threads.why),
        )
        number = self._queue.take()
        self._bury()
        for rank in self._idle:
            self._world.send(jobs, to=rank, tag=Tag.JOB)
        self._hand_out()
        self._world.flush()
        while number is not None and not self._stop:
            error = manner.tried(jobs[number], self._serve)
            if isinstance(error, Stopped):
                self._stop.request("a signal")  # that the training has heard in its place
            self._queue.report(number, error)
            self._serve_now()
            number = None if self._stop else self._queue.take()
        while self._given.keys() - self._world.lost():
            self._handle(self._world.receive(Tag.READY, Tag.BYE, limit_s=1.0))
        self._bury()
        return self._queue.conclude()

    def _serve(self) -> None:
        """Hand networks out to who has asked; now and then, as a look costs time."""
        if time.monotonic() - self._served_s > _SERVE_EVERY_S:
            self._serve_now()

    def _serve_now(self) -> None:
        while (message := self._world.poll(Tag.READY, Tag.BYE)) is not None:
            self._handle(message)
        self._bury()
        self._served_s = time.monotonic()

    def _handle(self, message: Message | None) -> None:
        if message is None:
            return
        number, error = message.payload
        self._given.pop(message.source, None)
        if message.tag == Tag.READY:
            self._idle.append(message.source)
        self._queue.report(number, error)
        self._hand_out()

    def _hand_out(self) -> None:
        if self._stop:
            self._queue.close()
        while self._idle and (number := self._queue.take()) is not None:
            rank = self._idle.popleft()
            self._given[rank] = number
            self._world.send(number, to=rank, tag=Tag.WORK)

    def _bury(self) -> None:
        """Take note of what ranks had in hand that have died."""
        for rank in self._world.lost():
            if rank in self._idle:
                self._idle.remove(rank)
            if (number := self._given.pop(rank, None)) is not None:
                error = Stopped(
                    f"rank {rank}, which trained it, has died; the same command goes on"
                )
                self._queue.report(number, error)


def _follow(world: World, manner: Manner, stop: StopRequest) -> int:
    """Train what rank 0 hands out, and return the code that all agree on."""
    if (message := world.wait(Tag.JOB, Tag.STOP)).tag == Tag.JOB:
        jobs: Sequence[Job] = message.payload
        while (message := world.wait(Tag.WORK, Tag.STOP)).tag == Tag.WORK:
            number: int = message.payload
            error = Stopped(f"stopped by {stop.signal}") if stop else manner.tried(jobs[number])
            if isinstance(error, Stopped):
                world.send((number, error), to=0, tag=Tag.BYE)
                message = world.wait(Tag.STOP)
                break
            world.send((number, error), to=0, tag=Tag.READY)
    world.flush()
    code: int = message.payload
    return code
