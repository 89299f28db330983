"""Images decoded once: a file beside them holds their pixels as arrays, with a digest.

Decoding is most of the time before the first cell where images are many.  The file is found by
what its images are called, how large they are and when they were written; it is checked by the
digest of its pixels, and made anew whenever anything differs.  It may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)
Pixels = dict[str, NDArray[np.uint8]]
NAME = ".lsengine-decoded.npz"
_FEWEST = 256  # files: below, decoding takes no longer than reading


def pixels(root: Path, files: Mapping[str, Sequence[Path]], decode: Callable[[], Pixels]) -> Pixels:
    """Return the images of every split, (N, H, W, C) uint8, decoded now or before.

    Args:
        root: Where the file of decoded images is.
        files: Image files of every split, in order.
        decode: Decodes them.
    """
    if sum(map(len, files.values())) < _FEWEST:
        return decode()
    path, key = root / NAME, _key(root, files)
    found = _read(path, key, files)
    if found is None:
        found = decode()
        _write(path, key, found)
    return found


def _key(root: Path, files: Mapping[str, Sequence[Path]]) -> str:
    digest = hashlib.sha256()
    for split, paths in files.items():
        for path in paths:
            state = path.stat()
            line = f"{split} {path.relative_to(root)} {state.st_size} {state.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _digest(found: Pixels) -> str:
    digest = hashlib.sha256()
    for split, x_NHWC in found.items():
        digest.update(f"{split} {[*x_NHWC.shape]}\n".encode())
        digest.update(np.ascontiguousarray(x_NHWC).data)
    return digest.hexdigest()


def _read(path: Path, key: str, files: Mapping[str, Sequence[Path]]) -> Pixels | None:
    """Return what the file holds, or None if it is not there, of other images, or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            found: Pixels = {split: stored[split] for split in files}
            expected = str(stored["digest"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read (%s); decoding the images again", path, error)
        return None
    if _digest(found) != expected:
        log.warning("%s is damaged; decoding the images again", path)
        return None
    return found


def _write(path: Path, key: str, found: Pixels) -> None:
    """Keep decoded images, whole or not at all; where that is not possible, nothing is lost."""
    part = None
    try:
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f"{NAME}.")
        with os.fdopen(handle, "wb") as file:
            words = {"key": np.array(key), "digest": np.array(_digest(found))}
            np.savez(file, allow_pickle=False, **words, **found)
        Path(part).chmod(0o644)
        Path(part).replace(path)
    except OSError as error:
        log.info("decoded images are not kept beside the files: %s", error)
        if part is not None:
            with contextlib.suppress(OSError):
                Path(part).unlink()
