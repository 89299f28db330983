"""Files that appear whole or not at all, and their digests."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from lsengine.errors import UsageError


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file (hex).

    Raises:
        UsageError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def replace(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all, also when the machine stops.

    Raises:
        UsageError: If it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
