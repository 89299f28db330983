"""Values in batch scripts: each stays one word of bash, or one value of an `#SBATCH` line.

A character that ends a line would make a command of what follows it, so none is let through.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from lsengine.errors import UsageError
from lsengine.wording import control_character


def line(text: str) -> str:
    """Return text that is, or is in, one line of a script, as it is.

    Raises:
        UsageError: If it has a control character.
    """
    if bad := control_character(text):
        raise UsageError(
            f"submit: {text!a} has the character {bad!a}, which no line of a batch "
            "script can hold; expected text without control characters: rename the file or "
            "folder, or change the value"
        )
    return text


def quote(word: str) -> str:
    """Return a word as bash reads it; raises as `line`."""
    return shlex.quote(line(word))


def join(words: Iterable[str]) -> str:
    """Return words as bash reads them, with blanks between; raises as `line`."""
    return " ".join(map(quote, words))


def option(name: str, value: str) -> str:
    """Return an option as sbatch reads it in a script; raises as `line`.

    To sbatch a backslash takes the meaning from what follows, between quotes, too; elsewhere
    ``#`` begins a comment.
    """
    if not re.search(r"""[\s&|#"'\\]""", line(value)):
        return f"--{name}={value}"
    escaped = re.sub(r'(["\\])', r"\\\1", value)
    return f'--{name}="{escaped}"'
