"""Images one after the other in a file, which is made without ever holding all of them in memory.

The file is one array (N, C, H, W) in NumPy's format (numpy.lib.format, version 1.0), and facts of
its own behind it: JSON, and its length in 8 bytes.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lsengine.data.image_file import Pixels

_HEADER = 4096  # bytes, a page, for the array to be aligned when it is mapped
_LENGTH = struct.Struct("<Q")


class PixelStack:
    """Writes images of one size into a file that can be read, too.

    All are stored in the widest type and with the most channels of any: when a wider one comes,
    those before it are written anew.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._count = file, 0
        self._dtype, self._shape = np.dtype(np.uint8), (1, 0, 0)

    def append(self, pixels: Pixels) -> None:
        """Add an image (H, W) or (H, W, 3)."""
        channels = 3 if pixels.ndim == 3 else 1
        if not self._count:
            self._file.write(bytes(_HEADER))  # its place
            self._dtype, self._shape = pixels.dtype, (channels, *pixels.shape[:2])
        dtype = _wider(self._dtype, pixels.dtype)
        if dtype != self._dtype or channels > self._shape[0]:
            self._widen(dtype, max(channels, self._shape[0]))
        image_HWC = pixels.reshape(*pixels.shape[:2], channels)
        self._file.write(self._stored(image_HWC.transpose(2, 0, 1)))
        self._count += 1

    def finish(self) -> None:
        """Write what kind of array the images are; after that the file can be mapped."""
        shape = (self._count, *self._shape)
        described = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", _HEADER - 10)
        self._file.seek(0)
        self._file.write(magic + f"{described!r}".encode().ljust(_HEADER - 11) + b"\n")
        self._file.flush()

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Write what is known of the images behind them."""
        tail = json.dumps(facts).encode()
        self._file.seek(0, 2)
        self._file.write(tail + _LENGTH.pack(len(tail)))
        self._file.flush()

    def in_memory(self) -> NDArray[Any]:
        """Return the images (N, C, H, W) of a file that is in memory, without copying them."""
        assert isinstance(self._file, BytesIO)
        flat = np.frombuffer(self._file.getbuffer(), np.uint8)
        size = self._count * self._bytes()
        pixels = flat[_HEADER : _HEADER + size].view(self._dtype)
        return pixels.reshape(self._count, *self._shape)

    def _bytes(self) -> int:
        return int(np.prod(self._shape)) * self._dtype.itemsize

    def _stored(self, image_CHW: Pixels) -> bytes:
        typed = _as_type(image_CHW, self._dtype)
        return np.ascontiguousarray(np.broadcast_to(typed, self._shape)).tobytes()

    def _widen(self, dtype: np.dtype[Any], channels: int) -> None:
        """Store the images so far in another way, the last one first, which has room behind it."""
        before, shape, size = self._dtype, self._shape, self._bytes()
        self._dtype, self._shape = dtype, (channels, *shape[1:])
        for number in reversed(range(self._count)):
            self._file.seek(_HEADER + number * size)
            image = np.frombuffer(self._file.read(size), before).reshape(shape)
            self._file.seek(_HEADER + number * self._bytes())
            self._file.write(self._stored(image))
        self._file.seek(_HEADER + self._count * self._bytes())


def facts(path: Path) -> dict[str, Any]:
    """Return the facts behind the array of a file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If there are none.
    """
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - _LENGTH.size))
        tail = file.read()
        length = _LENGTH.unpack(tail)[0] if len(tail) == _LENGTH.size else end
        if not 0 < length < end:
            raise ValueError("it is cut")
        file.seek(end - _LENGTH.size - length)
        found = json.loads(file.read(length))
    if not isinstance(found, dict):
        raise ValueError("it is of another kind")  # noqa: TRY004
    return found


def mapped(path: Path) -> NDArray[Any]:
    """Return the array of a file, mapped into memory: what is not used takes no memory.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no such file.
    """
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _wider(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    return max(a, b, key=[np.dtype(t) for t in (np.uint8, np.uint16, np.float32)].index)


def _as_type(pixels: Pixels, dtype: np.dtype[Any]) -> Pixels:
    """Return an image in a type at least as wide; 255 of 8 bits is 65535 of 16, and 1.0."""
    if pixels.dtype == dtype:
        return pixels
    if dtype == np.uint16:
        return pixels.astype(np.uint16) * 257
    return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
