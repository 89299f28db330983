"""Checks of a data set: types, shapes, labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lsengine.data.dataset import SPLITS, Split
from lsengine.errors import UsageError

_LARGEST_LABEL = 1_000_000  # beyond this a label is surely something else


def validated(where: str, x_raw: Any, y_raw: Any) -> Split:
    """Return inputs and labels as tensors of the right type, or refuse them."""
    x, y = _tensor(f"{where} inputs", x_raw), _tensor(f"{where} labels", y_raw)
    if x.ndim < 2 or y.ndim < 1:
        raise UsageError(
            f"{where}: inputs have shape {[*x.shape]}, labels {[*y.shape]}; expected "
            "(samples, ...) with at least two axes, and one label each"
        )
    if len(x) != len(y):
        raise UsageError(f"{where}: {len(x)} inputs, but {len(y)} labels")
    if x.numel() == 0:
        raise UsageError(f"{where}: is empty: inputs have shape {[*x.shape]}")
    return Split(_inputs(where, x), _labels(where, y))


def _tensor(where: str, raw: Any) -> Tensor:
    try:
        if isinstance(raw, Tensor):
            return raw.detach().cpu()
        array = np.asarray(raw)
        return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{where}: not an array of numbers: {error}") from None


def _inputs(where: str, x: Tensor) -> Tensor:
    if x.dtype == torch.uint8:
        if x.ndim != 4:
            raise UsageError(
                f"{where}: bytes are images (N, C, H, W), but the inputs have shape "
                f"{[*x.shape]}; reshape them, or store floats"
            )
        if x.shape[3] in (1, 3, 4) and x.shape[1] >= 8:  # more likely rows than channels
            raise UsageError(
                f"{where}: the inputs have shape {[*x.shape]}, channels last; expected "
                "(N, C, H, W): transpose them"
            )
        return x.contiguous()
    if not x.is_floating_point():
        raise UsageError(
            f"{where}: inputs are {_type(x)}; expected floats, or uint8 images (N, C, H, W)"
        )
    x = x.to(torch.float32).contiguous()
    if not bool(torch.isfinite(x).all()):
        bad = (~torch.isfinite(x.flatten(1)).all(1)).nonzero().flatten()
        raise UsageError(
            f"{where}: {len(bad)} of {len(x)} inputs have NaN or infinite values, the "
            f"first at index {int(bad[0])}; clean them first"
        )
    return x


def _labels(where: str, y: Tensor) -> Tensor:
    if y.is_floating_point():
        if not bool(torch.isfinite(y).all()):
            raise UsageError(f"{where}: labels have NaN or infinite values")
        return y.to(torch.float32).reshape(len(y), -1).contiguous()
    if y.is_complex() or y.ndim != 1:
        raise UsageError(
            f"{where}: labels are {_type(y)} of shape {[*y.shape]}; expected integers "
            "(N,), or floats (N, K) to predict"
        )
    return y.to(torch.int64).contiguous()


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def check_alike(splits: Mapping[str, Split], where: str) -> None:
    """Refuse splits whose samples or labels differ in shape or type."""
    if len(splits) < 2:
        return
    train, test = (splits[name] for name in SPLITS)
    if train.x.shape[1:] != test.x.shape[1:] or train.x.dtype != test.x.dtype:
        raise UsageError(
            f"{where}: the splits differ: train inputs are {_type(train.x)} "
            f"{[*train.x.shape[1:]]} per sample, test inputs {_type(test.x)} "
            f"{[*test.x.shape[1:]]}"
        )
    if train.y.dtype != test.y.dtype or train.y.shape[1:] != test.y.shape[1:]:
        raise UsageError(
            f"{where}: the splits differ: train labels are {_type(train.y)} "
            f"{[*train.y.shape]}, test labels {_type(test.y)} {[*test.y.shape]}"
        )


def count_classes(splits: Mapping[str, Split], declared: int | None, where: str) -> int | None:
    """Return the number of classes, from all splits of the source, asked for or not."""
    if next(iter(splits.values())).y.is_floating_point():
        return None
    allowed = declared if declared is not None else _LARGEST_LABEL
    for name, split in splits.items():
        smallest, largest = int(split.y.min()), int(split.y.max())
        if smallest < 0 or largest >= allowed:
            odd = smallest if smallest < 0 else largest
            raise UsageError(f"{where}: {name} has the label {odd}; expected 0 to {allowed - 1}")
    return declared or 1 + max(int(split.y.max()) for split in splits.values())
