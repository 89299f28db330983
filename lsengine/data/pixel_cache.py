"""Images decoded once: a file in the user's cache folder holds their pixels, with a digest.

Decoding is most of the time before the first cell where images are many.  The file is named for
the folder of the images.  It holds what they are called, how large they are and when they were
written, and a digest of its pixels, and is made anew whenever anything differs.  It may be
deleted at any time.

The name of the rules by which files are decoded, and the size to which they are brought, are part
of what must not differ.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine import files
from lsengine.errors import EnvironmentUnfit

log = logging.getLogger(__name__)
_RULES = "decoded by the rules of 2026-11"  # another text where files give other pixels
_FEWEST = 256  # images: below, decoding takes no longer than reading


@dataclass(frozen=True, slots=True)
class Decoded:
    """The pixels of every split (N, H, W, C), and what is to be said of them in every run."""

    splits: dict[str, NDArray[Any]]
    notes: list[str] = field(default_factory=list)


def pixels(
    root: Path, images: Mapping[str, Sequence[Path]], how: str, decode: Callable[[], Decoded]
) -> Decoded:
    """Return the images of every split, decoded now or before.

    The image files of every split, in order, are in the folder ``root``.  ``how`` is what else
    decides their pixels.
    """
    if sum(map(len, images.values())) < _FEWEST:
        return decode()
    try:
        path = cache_file(root)
        key = _key(root, images, how)
    except (RuntimeError, OSError):  # this user has no home, or an image cannot be read
        return decode()
    if (decoded := _read(path, key, images)) is None:
        decoded = decode()
        _write(path, key, decoded)
    return decoded


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
    return Path(folder) / f"decoded-{root.name}-{digest}.npz"


def _key(root: Path, images: Mapping[str, Sequence[Path]], how: str) -> str:
    digest = hashlib.sha256(f"{_RULES}, {how}\n".encode())
    for split, paths in images.items():
        for path in paths:
            state = path.stat()
            line = f"{split} {path.relative_to(root)} {state.st_size} {state.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _digest(decoded: Decoded) -> str:
    digest = hashlib.sha256("\n".join([*decoded.notes, ""]).encode(errors="surrogateescape"))
    for split, x_NHWC in decoded.splits.items():
        digest.update(f"{split} {x_NHWC.dtype.str} {[*x_NHWC.shape]}\n".encode())
        digest.update(np.ascontiguousarray(x_NHWC).data)
    return digest.hexdigest()


def _read(path: Path, key: str, splits: Mapping[str, Sequence[Path]]) -> Decoded | None:
    """Return what the file holds, or None if it is absent, damaged, or of other images."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if str(archive["key"]) != key:
                return None
            notes = archive["notes"].tobytes().decode(errors="surrogateescape").splitlines()
            cached = Decoded({split: archive[split] for split in splits}, notes)
            expected = str(archive["digest"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read (%s); decoding the images again", path, error)
        return None
    if _digest(cached) != expected:
        log.warning("%s is damaged; decoding the images again", path)
        return None
    return cached


def _write(path: Path, key: str, decoded: Decoded) -> None:
    """Keep decoded images; where that is not possible they are decoded every time."""
    try:
        files.make_folder(path.parent)
        with files.whole(path) as part:
            text = "\n".join(decoded.notes).encode(errors="surrogateescape")
            notes = np.frombuffer(text, np.uint8)
            facts: dict[str, Any] = {"key": key, "digest": _digest(decoded), "notes": notes}
            np.savez(part, allow_pickle=False, **facts, **decoded.splits)
    except EnvironmentUnfit as error:
        log.info("decoded images are not kept: %s", error)
