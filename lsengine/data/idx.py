"""Files in the format of MNIST, IDX: sizes, then bytes; gzipped or not.

The format: Yann LeCun's page on MNIST, "FILE FORMATS FOR THE MNIST DATABASE".
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lsengine.errors import UsageError
from lsengine.files import is_regular

SIDE = 28  # pixels of an image
_BYTES = 0x800  # the type in the head; the number of axes is added
_MOST = 2**17  # samples
_PREFIX = {"train": "train", "test": "t10k"}
_KINDS = ("images", 3), ("labels", 1)
FILES = [f"{prefix}-{kind}-idx{axes}-ubyte" for prefix in _PREFIX.values() for kind, axes in _KINDS]


def read(folders: Iterable[Path], split: str) -> tuple[Tensor, Tensor] | None:
    """Return images (N, 1, 28, 28) and labels (N,), both uint8, of the first folder with a split.

    None if no folder has both files of it.

    Raises:
        UsageError: If a file is damaged, or no file at all.
    """
    for folder in folders:
        images, labels = (_file(folder, _PREFIX[split], kind, axes) for kind, axes in _KINDS)
        if images is not None and labels is not None:
            return _array(images, 3).unsqueeze(1), _array(labels, 1)
    return None


def _file(folder: Path, prefix: str, kind: str, axes: int) -> Path | None:
    for sign, suffix in product("-.", ("", ".gz")):  # some copies have a point in their names
        path = folder / f"{prefix}-{kind}{sign}idx{axes}-ubyte{suffix}"
        if is_regular(path, "data.root"):
            return path
    return None


def _array(path: Path, axes: int) -> Tensor:
    try:
        return _content(path, axes)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, OSError) and error.strerror:
            raise UsageError(f"data.root: {path} cannot be read: {error.strerror}") from None
        raise UsageError(
            f"data.root: {path} is damaged: {error}; put the file there again"
        ) from None


def _content(path: Path, axes: int) -> Tensor:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        head = file.read(4 * (1 + axes))
        if len(head) < 4 * (1 + axes):
            raise ValueError("it ends in its head")
        kind, *shape = struct.unpack(f">{1 + axes}I", head)
        if kind != _BYTES + axes:
            raise ValueError(f"it begins with {kind:#x}; expected {_BYTES + axes:#x}")
        if not 0 < shape[0] <= _MOST or any(side != SIDE for side in shape[1:]):
            expected = f"images of {SIDE}x{SIDE}" if axes == 3 else "labels"
            raise ValueError(f"its shape is {shape}; expected up to {_MOST:,} {expected}")
        content = file.read(math.prod(shape) + 1)
    if len(content) != math.prod(shape):
        found = "more" if len(content) > math.prod(shape) else f"{len(content):,}"
        raise ValueError(f"it says that it has {math.prod(shape):,} bytes, and has {found}")
    return torch.from_numpy(np.frombuffer(bytearray(content), np.uint8).reshape(shape))
