"""Files that appear whole or not at all, folders, and digests."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import stat
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lsengine.errors import EnvironmentUnfit, UsageError

log = logging.getLogger(__name__)
MOST_JSON = 2**24
MOST_TOML = 2**14  # a key of many dots takes the square of its length
_POLL_S = 0.5
_MOST_NAME_BYTES, _MOST_PATH_BYTES = 255, 4095
_SPECIAL = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a link",
}


class Unwritable(EnvironmentUnfit):
    """A file or folder cannot be made or written."""


def is_regular(path: Path, where: str = "", expected: str = "a file") -> bool:
    """Return whether a regular file is there, or a link to one; False if nothing is.

    Whatever opens a path that others name asks this first: a FIFO would keep it waiting for ever,
    and a device has no end.  ``where``, such as a job's key, begins messages and
    ``expected`` ends them.

    Raises:
        UsageError: If a folder, a FIFO, a device or a socket is there, or the system refuses to
            look: a name too long, a folder that is locked, a circle of links.
    """
    head = f"{where}: {path}" if where else f"{path}:"
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:  # a name with a NUL character is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{head} cannot be looked at: {reason}") from None
    if not stat.S_ISREG(mode):
        kind = _SPECIAL.get(stat.S_IFMT(mode), "special")
        raise UsageError(f"{head} is {kind}; expected {expected}")
    return True


def is_folder(path: Path) -> bool:
    """Return whether a folder is there, or a link to one; False where the system does not look.

    It refuses names too long, folders in a locked one, and circles of links: what is asked next,
    `is_regular`, says so.
    """
    return os.path.isdir(path)  # noqa: PTH112  Path.is_dir raises


def special(path: Path) -> str:
    """Return what lies under a name, such as ``a link``; nothing for a regular file or no file.

    Links are not followed.
    """
    try:
        mode = path.lstat().st_mode
    except (OSError, ValueError):
        return ""
    return "" if stat.S_ISREG(mode) else _SPECIAL.get(stat.S_IFMT(mode), "special")


def has_gone(path: Path) -> bool:
    """Return whether nothing is there for sure; a file system that does not answer is no proof."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False


def misfit(path: Path) -> str:
    """Return why no file can be made under a name, as far as that can be told from it, or nothing.

    What is written beside a file until it is whole has a longer name.
    """
    whole = path.absolute()
    try:
        sizes = [len(os.fsencode(part)) for part in whole.parts]
    except UnicodeEncodeError:
        sizes = []
    if not sizes or "\0" in str(path):
        return f"no file can have the name {path.name!a}"
    longer = len(_part(Path("x")).name) - 1 + len(os.fsencode(path.suffix))
    if sizes[-1] > _MOST_NAME_BYTES - longer:
        return f"a name of {sizes[-1]} bytes; expected at most {_MOST_NAME_BYTES - longer}"
    if max(sizes) > _MOST_NAME_BYTES:
        return f"the name of a folder has {max(sizes)} bytes; expected at most {_MOST_NAME_BYTES}"
    if sum(sizes) + len(sizes) + longer > _MOST_PATH_BYTES:
        return f"the path has more than {_MOST_PATH_BYTES - longer} bytes; choose another folder"
    return ""


def check_target(path: Path, where: str = "") -> None:
    """See that a file may be made under a name, before anything is done for it.

    A link is replaced, and not what it points to.  ``where`` begins messages.

    Raises:
        UsageError: If the name is too long, or something is there that is no file.
    """
    if problem := misfit(path):
        raise UsageError(f"{where or path}: {problem}")
    expected = "the name of a file"
    is_regular(path, where, expected)
    if path.is_symlink() and path.readlink().is_relative_to("/proc"):  # such as /dev/stdout
        raise UsageError(f"{where or path}: is a device; expected {expected}")


def check_folder(folder: Path, where: str) -> None:
    """See that a folder holds files and folders alone, before a library opens what is in it.

    Raises:
        UsageError: As `is_regular`.
    """
    for path in folder.iterdir():
        if not is_folder(path):
            is_regular(path, where)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        UsageError: As `is_regular`.
        OSError: If it cannot be read.
        ValueError: If it is no JSON, larger than `MOST_JSON`, or nested too deeply.
    """
    if is_regular(path) and path.stat().st_size > MOST_JSON:
        raise ValueError(f"it has more than {MOST_JSON:,} bytes")
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file holds.

    Raises:
        UsageError: As `is_regular`.
        OSError: If it cannot be read.
        ValueError: If it is no TOML, larger than `MOST_TOML`, or nested too deeply.
    """
    is_regular(path)
    with path.open("rb") as file:
        content = file.read(MOST_TOML + 1)
    if len(content) > MOST_TOML:
        raise ValueError(f"it has more than {MOST_TOML:,} bytes")
    try:
        return tomllib.loads(content.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file (hex).

    Raises:
        UsageError: If it cannot be read.
    """
    try:
        is_regular(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


@contextmanager
def whole(
    path: Path, advice: str = "", failures: tuple[type[Exception], ...] = (OSError,)
) -> Iterator[Path]:
    """Give a name beside ``path``; the file that is written there takes its place.

    The file reaches the disk before it gets its name, and the name before the context ends.
    So a reader, a crash or a full disk sees the old file or the whole new one.

    ``advice`` says what to do if it cannot be written; ``failures`` are what the writing library
    raises when a disk refuses.

    Raises:
        UsageError: As `check_target`.
        Unwritable: If it cannot be written; nothing is left behind.
    """
    check_target(path)
    part = _part(path, uuid.uuid4().hex[:8])
    try:
        yield part
        _sync(part)
        part.replace(path)
        _sync(path.parent)
    except failures as error:
        reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
        end = f"; {advice}" if advice else ""
        raise Unwritable(f"{path}: cannot be written: {reason}{end}") from error
    finally:
        with suppress(OSError):  # whatever kept it from being made
            part.unlink()


def write(path: Path, content: bytes | memoryview | str, advice: str = "") -> None:
    """Write a file whole or not at all; see `whole`.

    Texts are in UTF-8; what is none, such as parts of odd file names, is escaped.
    """
    if isinstance(content, str):
        content = content.encode(errors="backslashreplace")
    with whole(path, advice) as part:
        part.write_bytes(content)


def remove_parts(path: Path) -> None:
    """Remove what killed processes have left of a file that nobody is making now."""
    escaped = Path(glob.escape(path.name))
    for part in path.parent.glob(_part(escaped, "[0-9a-f]" * 8).name):
        with suppress(OSError):  # a folder of somebody's, or no permission: whoever writes is told
            part.unlink()


def make_folder(folder: Path, key: str = "") -> None:
    """Make a folder and those above it, unless they are there; messages begin with a job's key.

    Raises:
        Unwritable: If that cannot be.
    """
    try:
        for above in reversed(folder.parents):  # `parents=True` goes too deep for thousands
            if not above.exists():
                above.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        where = f"{key}: {folder}" if key else f"{folder}:"
        raise Unwritable(f"{where} cannot be made: {error.strerror or error}") from error


@contextmanager
def locked(path: Path, waiting: str) -> Iterator[bool]:
    """Let one process at a time into the context, and tell it whether it has waited for another.

    The lock dies with its process; the file stays.  ``waiting`` is for the log: for whom.  Where
    files cannot be locked all are let in, with a warning.
    """
    import filelock  # not needed by most commands

    lock, has_waited = filelock.FileLock(path), False
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            has_waited = True
            log.info("waiting for %s", waiting)
            lock.acquire(poll_interval=_POLL_S)
    except OSError as error:
        log.warning("%s cannot be locked (%s); going on without", path, error)
    try:
        yield has_waited
    finally:
        lock.release()


def _part(path: Path, mark: str = "x" * 8) -> Path:
    """Return the name of a file until it is whole."""
    return path.with_name(f".{path.name}.{mark}.part{path.suffix}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
