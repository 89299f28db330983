"""The command line: parse, call one function, map errors to exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lsengine.cli import commands
from lsengine.cli.parser import build_parser
from lsengine.errors import LsengineError, Stopped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an uncaught exception ends all ranks."""
    code = _run(arguments)
    if ranks := sys.modules.get("lsengine.ranks"):
        ranks.exit_without_finalize(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    parsed = build_parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except LsengineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        from lsengine.ranks import abort_other_ranks

        print("interrupted; the same command goes on", file=sys.stderr)
        abort_other_ranks(Stopped.exit_code)
        return Stopped.exit_code
    except BrokenPipeError as error:
        done_later = (commands.train, commands.evaluate)
        if parsed.run in done_later:  # what was asked for has not been done
            return _abort(error)
        sys.stderr.close()  # the reader of our output has gone; nobody is left to tell
        return 0
    except Exception as error:
        return _abort(error)


def _abort(error: BaseException) -> int:
    from lsengine.ranks import abort_all

    abort_all(error)
    return 1
