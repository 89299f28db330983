"""Run the real command in forks of one warm process, and judge what each of them did.

A case is a folder with something damaged or made to harm, and commands.  A fork of the warm
process makes the folders; forks of that fork run the commands, with limits of time and memory.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.world import SECRET, World

CODES = {0, 2, 3, 4, 5, 75}  # 1 is a bug, and a signal is one, too
MOST_BYTES = 2**30
_LIMIT_BYTES = 5 * 2**30  # what asks for more is refused; what takes more than the other is found
CPU_S, WALL_S = 10, 90
_CASES_OF_A_FORK = 50
_LONGEST_TEXT = 40_000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Check = Callable[["Ended"], str]


@dataclass
class Ended:
    """How a command ended: exit code or minus the signal, what it printed, what it took."""

    code: int
    text: str
    cpu_s: float
    bytes: int


@dataclass
class Command:
    """One command of a case; ``check`` says what is wrong with its end, if anything.

    ``struck`` are a signal that it gets, and after how many seconds.
    """

    arguments: Sequence[object]
    check: Check = lambda ended: ""
    environment: dict[str, str] = field(default_factory=dict)
    refused_without_change: Sequence[Path] = ()
    struck: tuple[int, float] | None = None


def call(*arguments: object) -> int:
    """Run a command in this process, as its entry point does."""
    from lsengine.cli.entry import main

    try:
        return main([str(a) for a in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def run(command: Command, world: World, folder: Path) -> tuple[Ended, str]:
    """Run a command in a fork; return how it ended, and what is wrong with that, if anything."""
    sentinels = world.sentinels()
    before = {path: path.read_bytes() for path in command.refused_without_change if _is_plain(path)}
    ended = _forked(command, folder)
    return ended, _first(
        _general(ended, command.struck),
        "" if world.sentinels() == sentinels else "another file was written",
        _leaks(ended, folder),
        _changed(ended, before),
        command.check(ended) if ended.code in CODES else "",
    )


def _is_plain(path: Path) -> bool:
    return not path.is_symlink() and path.is_file()


def _first(*problems: str) -> str:
    return next((problem for problem in problems if problem), "")


def _general(ended: Ended, struck: tuple[int, float] | None) -> str:
    if struck and ended.code in (-struck[0], 130, 143):
        return ""
    if ended.code == -signal.SIGXCPU or ended.code == -signal.SIGKILL:
        return f"hung, or took {ended.cpu_s:.0f} s"
    if ended.code < 0:
        return f"ended by {signal.Signals(-ended.code).name}"
    if "Traceback (most recent call last)" in ended.text:
        return "traceback"
    if ended.code not in CODES:
        return f"exit code {ended.code}"
    if ended.bytes > MOST_BYTES:
        return f"took {ended.bytes / 2**20:.0f} MiB"
    if ended.cpu_s > CPU_S / 2:
        return f"took {ended.cpu_s:.1f} s"
    if found := _CONTROL.search(ended.text):
        return f"control character {found[0]!r} reaches the terminal"
    if len(ended.text) > _LONGEST_TEXT:
        return f"{len(ended.text)} characters of messages"
    return ""


def _leaks(ended: Ended, folder: Path) -> str:
    secret = SECRET.decode() * 2
    if secret in ended.text:
        return "another file's bytes are printed"
    for path in folder.glob("out*"):
        if path.is_file() and not path.is_symlink() and SECRET * 2 in path.read_bytes():
            return f"another file's bytes are in {path.name}"
    return ""


def _changed(ended: Ended, before: dict[Path, bytes]) -> str:
    if ended.code in (0, 5, 75):
        return ""
    changed = [path.name for path, was in before.items() if path.read_bytes() != was]
    return f"refused, but changed {changed[0]}" if changed else ""


def _forked(command: Command, folder: Path) -> Ended:
    printed = folder / ".printed"
    printed.unlink(missing_ok=True)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:  # it has less than its parent: pages of files come when they are used
        os.write(theirs, str(_rss()).encode())
        os.close(theirs)
        os.close(ours)
        _become(command, folder, printed)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        memory = int(pipe.read())
    status, usage = _wait(child, command.struck)
    text = printed.read_bytes().decode(errors="backslashreplace")
    printed.unlink()
    peak = usage.ru_maxrss * 1024 - memory
    return Ended(
        os.waitstatus_to_exitcode(status), text, usage.ru_utime + usage.ru_stime, max(0, peak)
    )


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _wait(child: int, struck: tuple[int, float] | None) -> tuple[int, resource.struct_rusage]:
    descriptor = os.pidfd_open(child)
    try:
        if struck and not select.select([descriptor], [], [], struck[1])[0]:
            os.kill(child, struck[0])
        if not select.select([descriptor], [], [], WALL_S)[0]:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(descriptor)
    _, status, usage = os.wait4(child, 0)
    return status, usage


def _become(command: Command, folder: Path, printed: Path) -> None:
    """Run the command and end this process: whatever happens, it does not return."""
    code = 70
    try:
        output = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, stream in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, stream)
        os.chdir(folder)
        limit(_LIMIT_BYTES)
        os.environ.update(command.environment)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(os.fdopen(n, "wb", closefd=False), "utf-8", "backslashreplace")
            for n in (1, 2)
        )
        code = call(*command.arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def limit(more_bytes: int) -> None:
    """Let this process take `CPU_S` more of a processor's time, and so much more memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + more_bytes
    for limited, value in (
        (resource.RLIMIT_AS, most),
        (resource.RLIMIT_CPU, int(time.process_time()) + CPU_S),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 2**28),
    ):
        resource.setrlimit(limited, (value, resource.getrlimit(limited)[1]))


Prepare = Callable[[World, Path, int], list[Command]]


def cases(
    prepare: Prepare, world: World, numbers: Sequence[int], folder: Path
) -> Iterator[dict[str, object]]:
    """Make cases and run their commands; yield what became of each, by its ``number``.

    ``codes`` has the exit code of each command; ``problems`` what is wrong, with the command.
    One fork makes several cases, as to fork costs as much as to make one.
    """
    left, report = [*numbers], folder / "report"
    while left:
        some, left = left[:_CASES_OF_A_FORK], left[_CASES_OF_A_FORK:]
        report.write_text("")
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException), report.open("a", buffering=1) as lines:
                for number in some:
                    told = _case(prepare, world, number, folder / f"{number}")
                    print(json.dumps({"number": number, **told}), file=lines)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        told = [json.loads(line) for line in report.read_text().splitlines()]
        yield from told
        if rest := some[len(told) :]:
            yield {"number": rest[0], "unmade": f"ended by {status}"}
            left = rest[1:] + left


def _case(prepare: Prepare, world: World, number: int, folder: Path) -> dict[str, object]:
    folder.mkdir()
    try:
        limit(_LIMIT_BYTES)  # a change may ask too much of HDF5
        told = _made_and_run(prepare, world, number, folder)
    except BaseException:
        told = {"unmade": traceback.format_exc()[-800:]}
    if not told.get("problems"):
        remove(folder)
    return told


def _made_and_run(prepare: Prepare, world: World, number: int, folder: Path) -> dict[str, object]:
    codes: list[int] = []
    problems: list[list[str]] = []
    for command in prepare(world, folder, number):
        try:
            ended, problem = run(command, world, folder)
        except Exception as error:
            problems.append([_shown(command), f"cannot be judged: {error!r}", ""])
            continue
        codes.append(ended.code)
        if problem:
            problems.append([_shown(command), problem, ended.text[-1500:]])
    return {"codes": codes, "problems": problems}


def _shown(command: Command) -> str:
    words = [f"{k}={v}" for k, v in command.environment.items()]
    return " ".join([*words, *(str(a)[:300] for a in command.arguments)])


def remove(folder: Path) -> None:
    """Remove a case's folder, also where it has made parts of it unreadable."""

    def unlock(function: Callable[[str], object], path: str, _: object) -> None:
        with contextlib.suppress(OSError):
            Path(path).parent.chmod(0o700)  # a folder of ours; links are never followed
            function(path)

    shutil.rmtree(folder, onerror=unlock)
