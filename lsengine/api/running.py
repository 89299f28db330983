"""The evaluation of tasks by this process, alone or as one of the ranks of a launch."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from lsengine import store
from lsengine.api.process import as_found
from lsengine.api.surface import Surface
from lsengine.api.tasks import InMemory, JobFiles
from lsengine.engine import Options, evaluate_found
from lsengine.engine import spectrum as engine_spectrum
from lsengine.errors import CellsFailed, EnvironmentUnfit, JobError, LsengineError, Stopped
from lsengine.external import user_code
from lsengine.job import Job
from lsengine.ranks import StopRequest, World, abort_all, meet
from lsengine.surface.records import Spectrum

T = TypeVar("T")
Task = InMemory | JobFiles
_OUTCOME = 64  # tag of the message in which rank 0 tells how it ended
_WORDS = (  # of the command line, and what a caller in Python calls the same
    (r"\bmodel\.(arch|checkpoint): ", "model: "),
    (r"\bdata\.(dataset|splits|root): (memory:data: )?", "data: "),
    (r"memory:(model|data|loss|objective)\b", r"\1"),
    (r"directions\.(?:alpha|beta)\.checkpoint: \S+/toward-(?:alpha|beta)\.pt", "toward: it"),
    (r"; the factory's arguments give other shapes; check model\.args", ""),
    (r"; check model\.args, or use", "; give the network as many, or use"),
    (r"without --extend", "without extend"),
    (r"--extend ", "extend="),
    (r"the same command", "the same call"),
    (r"--retry-failed", "retry_failed=True"),
)


def surfaces(task: Task, options: Options, *, shows: bool) -> list[Surface]:
    """Evaluate what is missing of a task's surfaces, and return them on all ranks.

    ``shows`` is whether progress and warnings are shown.

    Raises:
        CellsFailed: If cells failed; its ``surfaces`` are what is returned without it.
        KeyboardInterrupt: If SIGINT came; what is written is written.
        LsengineError: Any other of `lsengine.errors`.
    """

    def evaluated(world: World, stack: ExitStack) -> list[Surface]:
        found: list[Job] = []

        def find(stop: StopRequest) -> list[Job]:
            folder = stack.enter_context(_folder(task, world))
            with stop.at_once():
                found.extend(replace(job, shard=options.shard) for job in task.jobs(folder))
            return found

        try:
            evaluate_found(find, options, world=world)
        except Stopped as error:
            if task.is_kept:
                raise
            raise Stopped(
                f"{str(error).partition(':')[0]}; without output nothing is kept"
            ) from None
        except CellsFailed as error:
            error.surfaces = tuple(read(job.output, task) for job in found)
            raise
        return [read(job.output, task) for job in found]

    return on_all_ranks(task, evaluated, shows=shows)


def spectrum(
    task: Task, sizes: engine_spectrum.Sizes, output: Path | None, *, shows: bool
) -> Spectrum:
    """Compute the spectrum of a task's one job, and return it on all ranks.

    Raises:
        LsengineError: Any of `lsengine.errors`.
    """

    def measured(world: World, stack: ExitStack) -> Spectrum | None:
        folder = stack.enter_context(_folder(task, world)) if world.rank == 0 else Path()
        path = output or folder / "spectrum.h5"
        found = engine_spectrum.run_found(
            lambda: task.jobs(folder)[0], sizes, world=world, output=path
        )
        return found.spectrum

    found = on_all_ranks(task, measured, shows=shows)
    assert found is not None
    return found


def read(path: Path, task: Task) -> Surface:
    """Return a surface of a task; one that is in no file that stays has its name as source."""
    surface = Surface.of(store.read(path))
    return surface if task.is_kept else replace(surface, source=surface.name)


def on_all_ranks(task: Task, work: Callable[[World, ExitStack], T], *, shows: bool) -> T:
    """Do a piece of work that every rank takes part in; what rank 0 returns or raises, all do.

    The stack that it gets is left when all is done.
    """
    world = meet()
    shows = shows and world.rank == 0
    try:
        with as_found(speaks=shows), user_code.provided(task.objects), ExitStack() as stack:
            return _agreed(world, lambda: work(world, stack))
    except Stopped as error:
        if "SIGINT" in str(error):
            raise KeyboardInterrupt(str(error)) from None
        raise
    except Exception as error:
        if world.size > 1 and not isinstance(error, LsengineError):
            abort_all(error)  # a bug: the others would wait for good
        raise


def _agreed(world: World, work: Callable[[], T]) -> T:
    if world.rank > 0:
        work()
        result: T
        result, error = world.wait(_OUTCOME).payload
        if error is not None:
            raise error
        return result
    outcome: tuple[T | None, LsengineError | None]
    try:
        outcome = work(), None
    except LsengineError as error:
        outcome = None, reworded(error)
    for rank in range(1, world.size):
        world.send(outcome, to=rank, tag=_OUTCOME)
    world.flush()
    if outcome[1] is not None:
        raise outcome[1].with_traceback(None)  # its message says it all, and a cause stays
    return outcome[0]


def reworded(error: LsengineError) -> LsengineError:
    """Return an error in the words of a caller in Python."""
    if isinstance(error, JobError):
        return error
    texts = list(map(str, error.args))
    for pattern, words in _WORDS:
        texts = [re.sub(pattern, words, text) for text in texts]
    error.args = tuple(texts)
    return error


@contextmanager
def _folder(task: Task, world: World) -> Iterator[Path]:
    """Make a folder for checkpoints that all ranks can read, and remove it."""
    parent = None
    if world.size > 1 and isinstance(task, InMemory):  # other hosts may share no other place
        output = task.content["output"]
        parent = task.started_in / (Path(output).parent if isinstance(output, str) else "")
    try:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".lsengine-", dir=parent)
    except OSError as error:
        where = parent or tempfile.gettempdir()
        raise EnvironmentUnfit(
            f"{where}: no folder can be made for the checkpoints: {error.strerror or error}"
        ) from error
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
