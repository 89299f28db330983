"""Sequences of different lengths: how they are padded, and whether a mask fits them.

Shapes: N samples, T positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lsengine.data.dataset import NO_LABEL
from lsengine.data.nesting import Nested
from lsengine.errors import UsageError

_OF_ALL = ("mask", "attention_mask", "padding_mask")  # masks of the one array of integers


def is_mask(name: str) -> bool:
    """Whether an array of this name says what counts."""
    return name == "mask" or name.endswith("_mask")


def fill(name: str, dtype: torch.dtype, pad: float, *, is_target: bool, where: str) -> float:
    """Return what an array is padded with: 0 for masks, `NO_LABEL` for labels, else ``pad``.

    Raises:
        UsageError: If nothing could leave the padded places out, or the type cannot hold ``pad``.
    """
    if is_mask(name) or dtype == torch.bool:
        return 0
    is_real = dtype.is_floating_point or dtype.is_complex
    if is_target:
        if is_real or dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64):
            raise UsageError(
                f"{where}: {name} has targets of different lengths and type "
                f"{str(dtype).removeprefix('torch.')}; only signed integers can be padded, with "
                f"{NO_LABEL} for no label; pad them yourself"
            )
        return NO_LABEL
    if not is_real and pad != int(pad):
        raise UsageError(f"{where}: {name} has integers, which cannot be padded with {pad}")
    return pad if is_real else int(pad)


def check_masks(where: str, nested: Nested) -> None:
    """Refuse a mask (N, T) of another length than what it is the mask of, where that is known.

    A mask of one name belongs to the only array of integers (N, T) that is none, and ``ids_mask``
    to ``ids``.

    Raises:
        UsageError: With both shapes.
    """
    if not isinstance(nested, dict):
        return
    flat = {name: t for name, t in nested.items() if isinstance(t, Tensor) and t.ndim >= 2}
    sequences = [name for name, t in flat.items() if not is_mask(name) and _is_sequence(t)]
    for name, mask in flat.items():
        of = name.removesuffix("_mask")
        if name in _OF_ALL and len(sequences) == 1:
            of = sequences[0]
        if not is_mask(name) or mask.ndim != 2 or of not in flat:  # a mask may be of floats
            continue
        if flat[of].shape[1] != mask.shape[1]:
            raise UsageError(
                f"{where}: {name} has shape {[*mask.shape]}, {of} {[*flat[of].shape]}; a mask has "
                "as many positions as what it is for"
            )


def _is_sequence(tensor: Tensor) -> bool:
    return tensor.ndim == 2 and tensor.dtype in (torch.int64, torch.bool)
