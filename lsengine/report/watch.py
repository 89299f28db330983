"""Following runs from another process: pictures and numbers that grow with their surfaces.

Only files are read, as any other reader may at any time.  What is watched need not be there
yet; watching ends when it is complete, or with Ctrl-C.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from lsengine import render
from lsengine.errors import NothingToDraw, Stopped, UsageError
from lsengine.files import is_regular
from lsengine.log import say, say_as_it_is
from lsengine.report import inputs, status
from lsengine.surface import Surface
from lsengine.surface.records import History
from lsengine.wording import printable

CALM_S = 5.0  # a page that loads itself anew more often cannot be read


def picture(paths: Sequence[str], kind: str, output: Path, *, every_s: float, **look: Any) -> int:
    """Draw a picture again whenever its files have grown, until they are complete.

    Cells that are not computed yet are drawn with their neighbours' values, and marked.  A page
    (kind ``html``) loads itself anew as long as it is watched.

    Files that do not exist yet are waited for, ``every_s`` seconds between two looks.  ``output``
    is replaced as a whole each time; ``look`` is as for `lsengine.render.figure`.

    Returns:
        The exit code: 0, or that of `Stopped` after Ctrl-C or a broken pipe.

    Raises:
        UsageError: If the picture cannot be drawn, however far the run is.
        SurfaceError: If a file is damaged.
        EnvironmentUnfit: If a library that it needs is not there.
    """
    render.check_output(output, kind)
    render.check_look(kind, **look)
    if kind not in ("history", "histogram", "curve", "curvature"):
        look["filled"] = True
    last, message = list[str](), ""

    def look_again() -> bool:
        nonlocal last, message
        absent = [path for path in paths if not is_regular(Path(path))]
        if absent:
            message = _said(f"waiting for {', '.join(absent)}", message)
            return False
        drawables = inputs.read(paths, kind)
        complete = all(map(_is_complete, drawables))
        progress = [_progress(drawable) for drawable in drawables]
        if progress == last:
            return complete
        last = progress  # before anything that Ctrl-C may interrupt
        histories = [drawable for drawable in drawables if isinstance(drawable, History)]
        try:  # whether cells suffice, their picture decides
            if complete or all(len(history.columns["epoch"]) > 1 for history in histories):
                live = {"reload_s": max(every_s, CALM_S)} if kind == "html" and not complete else {}
                render.write(drawables, output, kind=kind, **live, **look)
                say(f"{output}: {', '.join(progress)}")
                return complete
        except NothingToDraw:
            if complete:
                raise
        message = _said(f"waiting for the first cells of {', '.join(paths)}", message)
        return False

    try:
        return _until(look_again, every_s)
    except (KeyboardInterrupt, BrokenPipeError):  # somebody, or who read what is printed, has gone
        if kind == "html" and last:  # nobody will write the page again
            with suppress(NothingToDraw):  # nor is there one yet
                render.write(inputs.read(paths, kind), output, kind=kind, **look)
        return _interrupted()


def progress(path: str, only: str, *, every_s: float, as_json: bool) -> int:
    """Print how far surfaces are whenever that changes, until they are finished.

    On a terminal the lines are replaced, elsewhere printed anew.  JSON is one line each time.

    Returns:
        The exit code: 0, or that of `Stopped` after Ctrl-C; 0 when nobody reads any more.
    """
    last, lines = "", 0

    def look_again() -> bool:
        nonlocal last, lines
        if not is_regular(Path(path)):
            if inputs.is_job_file(path):
                raise UsageError(f"{path}: no such job file")
            text, finished = f"{path}: not started", False
        else:
            summaries = status.summaries(path, only)
            finished = all(summary.state == "finished" for summary in summaries)
            words = [json.dumps(s.as_dict()) if as_json else status.text(s) for s in summaries]
            text = "\n".join(words)
        if text != last:
            again = sys.stdout.isatty() and not as_json and lines
            say_as_it_is((f"\033[{lines}A\033[J" if again else "") + printable(text))
            last, lines = text, text.count("\n") + 1
        return finished

    try:
        return _until(look_again, every_s)
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        return 0


def _until(look_again: Callable[[], bool], every_s: float) -> int:
    with _control_c() as pause:
        while not look_again():
            pause(every_s)
    return 0


@contextmanager
def _control_c() -> Iterator[Callable[[float], None]]:
    """Let Ctrl-C end pauses, or the pause after what is being drawn; a second one ends anything.

    Python raises KeyboardInterrupt wherever it happens to be.  In a callback of the garbage
    collector, which libraries have many of, it is printed and lost, and watching goes on.
    """
    asked = pausing = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        again, asked = asked, True
        if pausing or again:
            raise KeyboardInterrupt

    def pause(seconds: float) -> None:
        nonlocal pausing
        pausing = True
        try:
            if asked:
                raise KeyboardInterrupt
            time.sleep(seconds)
        finally:
            pausing = False

    is_ours = (  # not that of a program around this one, nor nohup's
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if is_ours:
        signal.signal(signal.SIGINT, ask)
    try:
        yield pause
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupted() -> int:
    print("stopped watching; the same command goes on", file=sys.stderr)
    return Stopped.exit_code


def _said(message: str, last: str) -> str:
    """Print a message unless it is the last one again, and return it."""
    if message != last:
        say(message)
    return message


def _is_complete(drawable: inputs.Drawable) -> bool:
    if isinstance(drawable, Surface):
        return status.is_complete(drawable)
    return drawable.finished if isinstance(drawable, History) else True


def _progress(drawable: inputs.Drawable) -> str:
    if isinstance(drawable, Surface):
        counts = drawable.counts()
        failed = f", {counts['failed']:,} failed" if counts["failed"] else ""
        text = f"{counts['done']:,} of {drawable.status.size:,} cells{failed}"
        checkpoints = drawable.trajectory.counts() if drawable.trajectory else None
        if checkpoints:
            text += f", {checkpoints['done']:,} of {sum(checkpoints.values()):,} checkpoints"
        return text
    if isinstance(drawable, History):
        return f"epoch {drawable.columns['epoch'][-1]} of {drawable.attributes['epochs']}"
    return "complete"
