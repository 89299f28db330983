"""A text file as tokens: characters or bytes, cut into samples of one length.

Shapes: N samples, T tokens of a sample.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lsengine.data.dataset import RawData
from lsengine.errors import UsageError
from lsengine.wording import did_you_mean, short

ARGUMENTS = ("unit", "context", "stride", "test_fraction")
_UNITS = ("character", "byte")


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
    unit, context, stride, fraction = _checked(args)
    content = _read(file)
    tokens: NDArray[np.int64]
    vocabulary = None
    if unit == "byte":
        tokens, classes = np.frombuffer(content.encode(), np.uint8).astype(np.int64), 256
    else:
        codes, tokens = np.unique(_code_points(content), return_inverse=True)  # int64
        vocabulary, classes = "".join(map(chr, codes)), len(codes)
    border = len(tokens) - int(fraction * len(tokens))
    parts = {"train": tokens[:border], "test": tokens[border:]}
    whole = {name: part for name, part in parts.items() if len(part) > context}
    for name in splits:
        if name not in whole:
            raise UsageError(
                f"data.root: {file}: the {name} split has {len(parts[name])} {unit}s, fewer than "
                f"the {context + 1} of a sample and its targets; give a longer text, or another "
                "data.args.context or test_fraction, or ask for the other split only"
            )
    pairs = {name: _samples(part, context, stride) for name, part in whole.items()}
    return RawData(splits=pairs, classes=classes, vocabulary=vocabulary)


def _samples(tokens: NDArray[np.int64], context: int, stride: int) -> tuple[Any, Any]:
    windows = torch.from_numpy(tokens).unfold(0, context + 1, stride)
    return windows[:, :-1], windows[:, 1:]


def _code_points(content: str) -> NDArray[Any]:
    return np.frombuffer(content.encode("utf-32-le"), "<u4")


def _read(file: Path) -> str:
    try:
        content = file.read_bytes().decode()
    except FileNotFoundError:
        raise UsageError(f"data.root: no such file: {file}; expected a text file") from None
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


def _checked(args: Mapping[str, Any]) -> tuple[str, int, int, float]:
    unit, context = args.get("unit", "character"), args.get("context", 64)
    stride, fraction = args.get("stride", context), args.get("test_fraction", 0.1)
    if unit not in _UNITS:
        hint = did_you_mean(unit, _UNITS) if isinstance(unit, str) else ""
        allowed = f"allowed: {', '.join(_UNITS)}"
        raise UsageError(f"data.args.unit: got {short(unit)}; {allowed}{hint}")
    for name, value, least in (("context", context, 2), ("stride", stride, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            expected = f"expected an integer of at least {least}"
            raise UsageError(f"data.args.{name}: {expected}, got {short(value)}")
    is_number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
    if not is_number or not 0 <= fraction < 1:
        expected = "expected a number from 0 to below 1"
        raise UsageError(f"data.args.test_fraction: {expected}, got {short(fraction)}")
    return unit, context, stride, float(fraction)
