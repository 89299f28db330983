"""Images decoded once: a file in the user's cache folder holds their pixels, with a digest.

Decoding is most of the time before the first cell where images are many.  The file is named for
the folder of the images.  It holds what they are called, how large they are and when they were
written, and a digest of its pixels, and is made anew whenever anything differs.  It may be
deleted at any time, but not be written to.  Of several processes one makes it, and the others wait.

Pixels that take much of the host's memory stay in the file, which is mapped into memory: the ranks
of a node then share one copy, and what the memory has no room for is read again.

The name of the rules by which files are decoded, and the size to which they are brought, are part
of what must not differ.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine import devices, files
from lsengine.data import pixel_stack
from lsengine.data.pixel_stack import PixelStack
from lsengine.errors import UsageError

log = logging.getLogger(__name__)
_SHARE = 8  # pixels up to this share of the memory that is free are read into it
_RULES = "decoded by the rules of 2026-11"  # another text where files give other pixels
FEWEST = 256  # images: below, decoding takes no longer than reading


Decode = Callable[[PixelStack], list[str]]
"""Puts the images of all splits on a stack, and returns what is to be said of them."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The pixels of every split (N, C, H, W), and what is to be said of them in every run."""

    splits: dict[str, NDArray[Any]]
    notes: list[str] = field(default_factory=list)


def pixels(root: Path, images: Mapping[str, Sequence[Path]], how: str, decode: Decode) -> Decoded:
    """Return the images of every split, decoded now or before.

    The image files of every split, in order, are in the folder ``root``.  ``how`` is what else
    decides their pixels.
    """
    if sum(map(len, images.values())) < FEWEST:
        return _decoded_in_memory(images, decode)
    try:
        path = cache_file(root)
        key = _key(root, images, how)
    except (RuntimeError, OSError):  # this user has no home, or an image cannot be read
        return _decoded_in_memory(images, decode)
    try:
        files.check_target(path)
    except UsageError as error:
        log.warning("decoded images are not kept: %s", error)
        return _decoded_in_memory(images, decode)
    if (found := _read(path, key, images)) is not None:
        return found
    try:
        files.make_folder(path.parent)
        waiting = f"another process that decodes the images of {root}"
        with files.locked(path.with_suffix(".lock"), waiting) as has_waited:
            found = _read(path, key, images) if has_waited else None
            if found is None:
                _write(path, key, decode)
                found = _read(path, key, images)
    except files.Unwritable as error:
        log.info("decoded images are not kept: %s", error)
    return found or _decoded_in_memory(images, decode)


def cache_file(root: Path) -> Path:
    """Return where the decoded images of a folder are kept.

    In ``$LSENGINE_CACHE``, else ``$XDG_CACHE_HOME/lsengine``, else ``~/.cache/lsengine``.

    Raises:
        RuntimeError: If there is no such variable and no home.
    """
    folder = os.environ.get("LSENGINE_CACHE")
    if not folder:
        folder = f"{os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'}/lsengine"
    root = root.resolve()
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    return Path(folder) / f"decoded-{root.name[:40]}-{digest}.npy"


def _key(root: Path, images: Mapping[str, Sequence[Path]], how: str) -> str:
    digest = hashlib.sha256(f"{_RULES}, {how}\n".encode())
    for split, paths in images.items():
        for path in paths:
            state = path.stat()
            line = f"{split} {path.relative_to(root)} {state.st_size} {state.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _digest(x_NCHW: NDArray[Any], notes: Sequence[str]) -> str:
    digest = hashlib.sha256("\n".join([*notes, ""]).encode(errors="surrogateescape"))
    digest.update(f"{x_NCHW.dtype.str} {[*x_NCHW.shape]}\n".encode())
    digest.update(np.ascontiguousarray(x_NCHW).data)
    return digest.hexdigest()


def _read(path: Path, key: str, images: Mapping[str, Sequence[Path]]) -> Decoded | None:
    """Return what the file holds, or None if it is absent, damaged, or of other images."""
    try:
        if not files.is_regular(path):
            return None
        facts = pixel_stack.facts(path)
        if facts["key"] != key:
            return None
        x_NCHW, notes = pixel_stack.mapped(path), list(facts["notes"])
        if x_NCHW.nbytes <= devices.free_host_bytes() // _SHARE:
            x_NCHW = np.array(x_NCHW)
        expected = facts["digest"]
        is_whole = len(x_NCHW) == sum(map(len, images.values()))
        is_known = is_whole and _digest(x_NCHW, notes) == expected
    except FileNotFoundError:
        return None
    except Exception as error:  # NumPy raises many kinds
        log.warning("%s cannot be read (%s); decoding the images again", path, error)
        return None
    if not is_known:
        log.warning("%s is damaged; decoding the images again", path)
        return None
    return _by_split(x_NCHW, images, notes)


def _write(path: Path, key: str, decode: Decode) -> None:
    """Decode images into the file."""
    files.remove_parts(path)  # nobody else is making it
    with files.whole(path) as part, part.open("w+b") as file:
        stack = PixelStack(file)
        notes = decode(stack)
        stack.finish()
        digest = _digest(pixel_stack.mapped(part), notes)
        stack.describe({"key": key, "digest": digest, "notes": notes})


def _decoded_in_memory(images: Mapping[str, Sequence[Path]], decode: Decode) -> Decoded:
    stack = PixelStack(BytesIO())
    notes = decode(stack)
    return _by_split(stack.in_memory(), images, notes)


def _by_split(
    x_NCHW: NDArray[Any], images: Mapping[str, Sequence[Path]], notes: list[str]
) -> Decoded:
    splits, start = {}, 0
    for split, paths in images.items():
        splits[split] = x_NCHW[start : start + len(paths)]
        start += len(paths)
    return Decoded(splits, notes)
