"""The command line: parse, call one function, map errors to exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from lsengine.cli.parser import build_parser
from lsengine.errors import LsengineError, Stopped
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
from lsengine.wording import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an uncaught exception ends all ranks."""
    end_at_once()
    code = _run(arguments)
    with suppress(BrokenPipeError):
        print(hint_for(code), end="", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()  # what nobody reads any more is dropped without a complaint
        except BrokenPipeError:  # Python would flush again when it ends, and fail with code 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    exit_without_finalize(code)
    leave_last(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        with ended_by_sigterm():
            parsed = build_parser().parse_args(arguments)
            return own_exit_code(int(parsed.run(parsed)))
    except LsengineError as error:
        print(printable(str(error)), file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, BrokenPipeError) as ended:
        # Results are printed after the work, by `commands.tell`, which no broken pipe disturbs:
        # one that gets here has ended the work before it was done.
        let_rank_0_speak()
        how = f"stopped by {ended}" if isinstance(ended, Interrupted) else "interrupted"
        with suppress(BrokenPipeError):
            print(f"{how}; the same command goes on", file=sys.stderr)
        abort_other_ranks(Stopped.exit_code)
        return Stopped.exit_code
    except Exception as error:
        abort_all(error)
        return 1
