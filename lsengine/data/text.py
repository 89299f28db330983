"""A text file as tokens: characters or bytes, cut into samples of one length.

Shapes: N samples, T tokens of a sample.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsengine.data.dataset import RawData
from lsengine.devices.memory import free_host_bytes
from lsengine.errors import UsageError
from lsengine.files import is_regular
from lsengine.wording import did_you_mean, short

ARGUMENTS = ("unit", "context", "stride", "test_fraction")
_UNITS = ("character", "byte")


@dataclass(frozen=True, slots=True)
class Cut:
    """How samples are cut from a text; lengths are in tokens.

    Attributes:
        context: Of a sample.
        stride: From the start of one to that of the next.
        test_fraction: Of the text, at its end.
    """

    context: int
    stride: int
    test_fraction: float


def text(file: Path, splits: Collection[str], args: Mapping[str, Any]) -> RawData:
    """Load a UTF-8 file as ``x``, int64 (N, T), and ``y``, each token's next one, (N, T).

    Characters are numbered by code point, those of the whole file; bytes are their own numbers, of
    256.  The last ``test_fraction`` of the text is the test split.  Samples begin every ``stride``
    tokens; what is left at the end of a split is dropped.

    Args:
        file: Absolute.
        splits: Those that are asked for; others may be too short.
        args: Those of ``data.args``: ``unit``, ``context``, ``stride``, ``test_fraction``.

    Raises:
        UsageError: If an argument is wrong, the file cannot be read, is empty or not UTF-8, or a
            split is shorter than a sample.
    """
    unit, cut = _unit(args), cut_of(args)
    content = read(file)
    tokens: NDArray[np.int64]
    vocabulary = None
    if unit == "byte":
        tokens, classes = np.frombuffer(content.encode(), np.uint8).astype(np.int64), 256
    else:
        codes, tokens = np.unique(_code_points(content), return_inverse=True)  # int64
        vocabulary, classes = "".join(map(chr, codes)), len(codes)
    pairs = samples(tokens, splits, cut, f"data.root: {file}", unit)
    return RawData(splits=pairs, classes=classes, vocabulary=vocabulary)


def samples(
    tokens: NDArray[np.int64], splits: Collection[str], cut: Cut, where: str, unit: str
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return samples and their targets by split, each (N, T), of a stream of tokens.

    Raises:
        UsageError: Beginning with ``where``, if a split that is asked for is shorter than a sample.
    """
    border = len(tokens) - int(cut.test_fraction * len(tokens))
    parts = {"train": tokens[:border], "test": tokens[border:]}
    whole = {name: part for name, part in parts.items() if len(part) > cut.context}
    for name in splits:
        if name not in whole:
            raise UsageError(
                f"{where}: the {name} split has {len(parts[name])} {unit}s, fewer than "
                f"the {cut.context + 1} of a sample and its targets; give a longer text, or "
                "another data.args.context or test_fraction, or ask for the other split only"
            )
    rows = [(len(part) - cut.context - 1) // cut.stride + 1 for part in whole.values()]
    check_room(rows, cut.context, where)
    found = {}
    for name, part in whole.items():
        windows = torch.from_numpy(part).unfold(0, cut.context + 1, cut.stride)
        found[name] = windows[:, :-1], windows[:, 1:]
    return found


def check_room(rows: Iterable[int], length: int, where: str) -> None:
    """Refuse samples and targets of a length that the memory has no room for.

    Raises:
        UsageError: Beginning with ``where``.
    """
    count = sum(rows)
    needed, free = 2 * 8 * count * length, free_host_bytes()
    if needed > free:
        raise UsageError(
            f"{where}: {count:,} samples of {length:,} tokens would take "
            f"{needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free; check "
            "data.args.context and stride"
        )


def _code_points(content: str) -> NDArray[Any]:
    return np.frombuffer(content.encode("utf-32-le"), "<u4")


def read(file: Path) -> str:
    """Return a text.

    Raises:
        UsageError: If it cannot be read, is empty or not UTF-8.
    """
    if not is_regular(file, "data.root"):
        raise UsageError(f"data.root: no such file: {file}; expected a text file")
    try:
        content = file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"data.root: {file} is not UTF-8: byte {error.start} is "
            f"0x{error.object[error.start]:02x}; convert it first, by iconv for instance"
        ) from None
    except OSError as error:
        raise UsageError(f"data.root: {file} cannot be read: {error.strerror}") from None
    if not content:
        raise UsageError(f"data.root: {file} is empty; expected a text")
    return content


def _unit(args: Mapping[str, Any]) -> str:
    unit = args.get("unit", _UNITS[0])
    if unit not in _UNITS:
        hint = did_you_mean(unit, _UNITS) if isinstance(unit, str) else ""
        allowed = f"allowed: {', '.join(_UNITS)}"
        raise UsageError(f"data.args.unit: got {short(unit)}; {allowed}{hint}")
    return str(unit)


def cut_of(args: Mapping[str, Any]) -> Cut:
    """Return how ``data.args`` cut a text.

    Raises:
        UsageError: If a number is none, or too small or large.
    """
    context, fraction = args.get("context", 64), args.get("test_fraction", 0.1)
    stride = args.get("stride", context)
    for name, value, least in (("context", context, 2), ("stride", stride, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            expected = f"expected an integer of at least {least}"
            raise UsageError(f"data.args.{name}: {expected}, got {short(value)}")
    is_number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
    if not is_number or not 0 <= fraction < 1:
        expected = "expected a number from 0 to below 1"
        raise UsageError(f"data.args.test_fraction: {expected}, got {short(fraction)}")
    return Cut(context, stride, float(fraction))
