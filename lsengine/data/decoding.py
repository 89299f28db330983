"""Image files decoded by processes of their own, as many as there are cores for this one.

They are new interpreters that talk through pipes.  A fork of a process that uses MPI or a card is
not safe, and those of `multiprocessing` import the main module again, which may be a user's
script.  They end when their pipe is closed, however this process ends.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lsengine import cores
from lsengine.data.image_file import Pixels, decode
from lsengine.errors import EnvironmentUnfit

Image = tuple[Pixels, list[str]]
_CHUNK = 16  # files
_FEWEST_BYTES = 2**25  # of files: decoding fewer takes no longer than starting processes
# Without the package's own __init__, which imports torch: a second for every process.
_CODE = """
import sys, types
package = types.ModuleType("lsengine.data")
package.__path__ = [sys.argv[1]]
sys.modules["lsengine.data"] = package
from lsengine.data import decoding
decoding.serve()
"""


def decoded(
    files: Sequence[Path], resize: Sequence[int] | None, processes: int | None = None
) -> Generator[Image, None, None]:
    """Yield what `decode` makes of each file, in order.

    By default there are as many processes as this one may use cores, and none beside it for few
    bytes.  Only a few files are decoded ahead.

    Raises:
        UsageError: As `decode`.
        EnvironmentUnfit: As `decode`, or if a process is killed.
    """
    if processes is None:
        processes = cores.count() if _bytes(files) >= _FEWEST_BYTES else 1
    if processes < 2:
        yield from (decode(file, resize) for file in files)
    else:
        yield from _in_processes(files, resize, processes)


def serve() -> None:
    """Decode what comes through standard input, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    answers = sys.stdout.buffer
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            files, resize = pickle.load(sys.stdin.buffer)
            try:
                answer: Any = [decode(file, resize) for file in files]
            except Exception as error:
                answer = error
            pickle.dump(answer, answers, protocol=5)
            answers.flush()


def _in_processes(
    files: Sequence[Path], resize: Sequence[int] | None, processes: int
) -> Iterator[Image]:
    chunks = (files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK))
    workers = [_Worker() for _ in range(min(processes, -(-len(files) // _CHUNK)))]
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def work(chunk: Sequence[Path]) -> list[Image]:
        worker = idle.get()
        try:
            return worker.decode(chunk, resize)
        finally:
            idle.put(worker)

    coming: deque[Future[list[Image]]] = deque()
    with ThreadPoolExecutor(len(workers)) as pool:
        try:
            begun = (pool.submit(work, chunk) for chunk in chunks)
            coming.extend(itertools.islice(begun, 2 * len(workers)))
            while coming:
                images = coming.popleft().result()
                coming.extend(itertools.islice(begun, 1))
                yield from images
        finally:
            for future in coming:
                future.cancel()
            for worker in workers:
                worker.end()


class _Worker:
    """A process that decodes."""

    def __init__(self) -> None:
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE, str(Path(__file__).parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **one, "PYTHONPATH": path},
        )

    def decode(self, files: Sequence[Path], resize: Sequence[int] | None) -> list[Image]:
        """Return what it makes of some files, or raise what it raises."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump((list(files), resize), self._process.stdin)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            code = self._process.wait()
            raise EnvironmentUnfit(
                f"data.root: a process that decodes images has ended with {code}; was there too "
                "little memory?"
            ) from error
        if isinstance(answer, Exception):
            raise answer
        images: list[Image] = answer
        return images

    def end(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()


def _bytes(files: Sequence[Path]) -> int:
    try:
        return sum(file.stat().st_size for file in files)
    except OSError:  # whoever decodes it says so
        return 0
