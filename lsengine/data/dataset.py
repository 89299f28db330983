"""The fixed data: whole splits as tensors, loaded once, the same samples every time.

There is no loader: a split is one tensor of raw inputs and one of labels, small enough to
stay on the device.  `normalized` turns the raw inputs into what the network sees.

Shapes: N samples, C channels, H rows, W columns, F features, K values to predict.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lsengine.errors import UsageError

SPLITS = ("train", "test")
_LARGEST_LABEL = 1_000_000  # beyond this a label is surely something else


@dataclass(frozen=True, slots=True)
class Split:
    """All samples of one split.

    Attributes:
        x: Inputs as stored: uint8 images (N, C, H, W), or float32 (N, ...) taken as is.
        y: Labels, int64 (N,), or values to predict, float32 (N, K).
    """

    x: Tensor
    y: Tensor


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The splits a job asks for.

    Attributes:
        splits: By name, ``train`` before ``test``.
        mean, std: Of each channel on the scale of [0, 1], float64 (C,) or (1,); None for none.
        classes: Number of classes; None if the data are no classification.
    """

    splits: dict[str, Split]
    mean: Tensor | None
    std: Tensor | None
    classes: int | None

    @property
    def channels(self) -> int:
        """Channels of images, else the size of the first axis of a sample."""
        return self._any.x.shape[1]

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of images; None if the inputs are not images."""
        shape = self._any.x.shape
        return (shape[2], shape[3]) if len(shape) == 4 else None

    @property
    def outputs(self) -> int:
        """Outputs a network needs: the classes, or the values to predict."""
        return self._any.y.shape[1] if self.classes is None else self.classes

    @property
    def _any(self) -> Split:
        return next(iter(self.splits.values()))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 (hex) of names, types, shapes and little-endian bytes of all splits."""
        digest = hashlib.sha256()
        for name in sorted(self.splits):
            for tensor in (self.splits[name].x, self.splits[name].y):
                array = tensor.numpy()
                array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
                digest.update(f"{name} {array.dtype.name} {[*array.shape]}\n".encode())
                digest.update(array.data)
        return digest.hexdigest()


def normalized(dataset: Dataset, split: str, dtype: torch.dtype) -> Tensor:
    """Return the inputs of a split as the network sees them, (N, ...) in ``dtype``."""
    return standardized(dataset.splits[split].x, dataset, dtype)


def standardized(x: Tensor, dataset: Dataset, dtype: torch.dtype) -> Tensor:
    """Scale bytes to [0, 1], then subtract the data set's mean and divide by its std.

    The raw inputs (N, ...) are on any device and not modified.  Computed in float64 if that is the
    dtype of the result, else in float32.
    """
    working = torch.float64 if dtype == torch.float64 else torch.float32
    out = x.to(working, copy=True)
    if x.dtype == torch.uint8:
        out.div_(255)
    if dataset.mean is not None and dataset.std is not None:
        shape = (-1, *(1,) * (x.ndim - 2))
        out.sub_(dataset.mean.to(working).to(x.device).reshape(shape))
        out.div_(dataset.std.to(working).to(x.device).reshape(shape))
    return out.to(dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawData:
    """Unchecked splits and what is known about them.

    Attributes:
        splits: Inputs and labels by name; arrays or tensors.
        classes: Number of classes, where the source says it.
        mean, std: Of each channel on the scale of [0, 1]; the usual normalisation.
    """

    splits: dict[str, tuple[Any, Any]]
    classes: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


def draw_subset(split: Split, samples: int, seed: int, name: str) -> Split:
    """Return a random part of a split, with the classes in the same shares."""
    if samples >= len(split.y):
        return split
    digest = hashlib.sha256(f"subset {seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    chosen = stratified(split.y, samples, generator)
    return Split(split.x[chosen].contiguous(), split.y[chosen].contiguous())


def stratified(y: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Return sorted indices of a draw that has the classes in the proportions of all.

    Shares are rounded down and what is left goes to the largest remainders.  Values to
    predict have no classes: the draw is then uniform.
    """
    if y.is_floating_point():
        return torch.randperm(len(y), generator=generator)[:samples].sort().values
    labels, counts = y.unique(return_counts=True)
    shares = (counts * samples) // len(y)
    remainders = (counts * samples) % len(y)
    left = samples - int(shares.sum())
    shares[remainders.argsort(descending=True, stable=True)[:left]] += 1
    chosen = []
    for label, share in zip(labels, shares.tolist(), strict=True):
        members = (y == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator)
        chosen.append(members[order[:share]])
    return torch.cat(chosen).sort().values


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
        found = f"{len(bad)} of {len(x)} inputs have NaN or infinite values"
        raise UsageError(f"{where}: {found}, the first at index {bad[0]}; clean them first")
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
    for what, a, b in (("inputs", train.x, test.x), ("labels", train.y, test.y)):
        if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
            raise UsageError(
                f"{where}: the splits differ: train {what} are {_type(a)} {[*a.shape[1:]]} per "
                f"sample, test {what} {_type(b)} {[*b.shape[1:]]}"
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
