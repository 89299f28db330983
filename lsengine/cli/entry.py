"""The command line: parse, call one function, map errors to exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from lsengine.cli.parser import build_parser
from lsengine.errors import EnvironmentUnfit, LsengineError, Stopped
from lsengine.ranks import (
    Interrupted,
    abort_all,
    abort_other_ranks,
    end_at_once,
    ended_by_sigterm,
    exit_without_finalize,
    hint_for,
    leave_last,
    let_rank_0_speak,
    own_exit_code,
)
from lsengine.wording import indented


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an uncaught exception ends all ranks."""
    _open_what_is_closed()
    end_at_once()
    try:
        code = _run(arguments)
    except SystemExit as ended:  # of the parser: it has said all that there is to say
        lost = _flushed(0)
        ended.code = ended.code or lost
        raise
    _complain(hint_for(code), end="")
    code = _flushed(code)
    exit_without_finalize(code)
    leave_last(code)
    return code


def _open_what_is_closed() -> None:
    """Open standard streams that the caller has closed, to nowhere.

    Else the next file that is opened would have their number, and messages would go into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115


def _flushed(code: int) -> int:
    """Flush what is printed, and return the exit code: 3 instead of 0 if a result is lost."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()  # what nobody reads any more is dropped without a complaint
        except OSError as error:  # Python would flush again when it ends, and fail with code 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            is_lost = stream is sys.stdout and not isinstance(error, BrokenPipeError)
            if is_lost and code == 0:
                code = EnvironmentUnfit.exit_code
                _complain(f"standard output cannot be written: {error.strerror}")
    return code


def _complain(text: str, end: str = "\n") -> None:
    """Print a message, if there is anything to print it to; the exit code says enough."""
    with suppress(OSError):
        print(indented(text), end=end, file=sys.stderr)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        with ended_by_sigterm():
            parsed = build_parser().parse_args(arguments)
            return own_exit_code(int(parsed.run(parsed)))
    except LsengineError as error:
        for text in error.args:
            _complain(str(text))
        return error.exit_code
    except (KeyboardInterrupt, BrokenPipeError) as ended:
        # Results are printed after the work, by `commands.tell`, which no broken pipe disturbs:
        # one that gets here has ended the work before it was done.
        let_rank_0_speak()
        how = f"stopped by {ended}" if isinstance(ended, Interrupted) else "interrupted"
        _complain(f"{how}; the same command goes on")
        abort_other_ranks(Stopped.exit_code)
        return Stopped.exit_code
    except Exception as error:
        abort_all(error)
        return 1
