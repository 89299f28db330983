"""Confine a process for good: it writes in one folder only, and its children cannot undo that.

Linux's Landlock, which needs no privileges: https://docs.kernel.org/userspace-api/landlock.html.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the numbers of these system calls on all processors
_NO_NEW_PRIVILEGES = 38
_READING = 0b1101  # execute, read a file, read a folder
_ACCESSES = {1: 13, 2: 14, 3: 15}  # bits that a version knows; later ones add no kind of writing


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64),)


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("folder", ctypes.c_int32))


def _call(number: int, *arguments: object) -> int:
    result = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def version() -> int:
    """Return which Landlock this kernel has; 0 if none."""
    try:
        return _call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    except OSError:
        return 0


def confine(folder: Path) -> None:
    """Let this process write beneath ``folder`` and to /dev/null only, from now on.

    Raises:
        OSError: If the kernel cannot.
    """
    everything = (1 << _ACCESSES.get(version(), 15)) - 1
    files = _Ruleset(everything)
    ruleset = _call(
        _CREATE, ctypes.byref(files), ctypes.c_size_t(ctypes.sizeof(files)), ctypes.c_uint32(0)
    )
    of_a_file = 0b110 | (everything & 1 << 14)
    _allow(ruleset, Path("/"), _READING)
    _allow(ruleset, Path("/dev/null"), of_a_file)
    _allow(ruleset, folder, everything)
    ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    _call(_RESTRICT, ruleset, ctypes.c_uint32(0))
    os.close(ruleset)


def _allow(ruleset: int, path: Path, access: int) -> None:
    opened = os.open(path, os.O_PATH)
    rule = _Beneath(access, opened)
    try:
        _call(_ADD, ruleset, ctypes.c_int(1), ctypes.byref(rule), ctypes.c_uint32(0))
    finally:
        os.close(opened)
