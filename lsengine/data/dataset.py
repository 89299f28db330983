"""The fixed data: whole splits as tensors, loaded once, the same samples every time.

There is no loader: a split is raw inputs and labels, in memory or in a file that is mapped into
it.  Each is one tensor or a nesting of tensors (`lsengine.data.nesting`).  `normalized` turns the
raw inputs into what the network sees.

Shapes: N samples, C channels, H rows, W columns, F features, K values to predict.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from lsengine.data import nesting
from lsengine.data.nesting import Nested

SPLITS = ("train", "test")
NO_LABEL = -100  # what torch's losses leave out
TargetKind = Literal["classes", "labels", "positions", "values", "nested", "none"]


@dataclass(frozen=True, slots=True)
class Split:
    """All samples of one split.

    Attributes:
        x: Inputs as stored: uint8 images (N, C, H, W), or int64, float32, float64, complex64 or
            complex128 (N, ...), taken as they are.  Or a nesting of the latter and of bool.
        y: Labels, int64 (N, ...), `NO_LABEL` where there is none; or values to predict, of any of
            the other types but bytes.  They keep the shape in which they were given.  Or a nesting
            of these and of bool.  None only where an objective does without.
        is_mapped: Whether inputs are in a file that is mapped into memory, which cannot be
            written to.
    """

    x: Nested
    y: Nested | None
    is_mapped: bool = False

    def __len__(self) -> int:
        """Return the number of samples."""
        return nesting.count(self.x)

    def part(self, which: slice | Tensor) -> Split:
        """Return some of the samples: a slice of them, or those of indices."""
        x, y = (
            None if n is None else nesting.mapped(lambda t: t[which].contiguous(), n)
            for n in (self.x, self.y)
        )
        assert x is not None
        return Split(x, y)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The splits a job asks for.

    Attributes:
        splits: By name, ``train`` before ``test``.
        mean, std: Of each channel on the scale of [0, 1], float64 (C,) or (1,); None for none.
        classes: Number of classes, or of labels per sample; None if the data are no
            classification.
        target_kind: ``classes``: one integer per sample, (N,) or (N, 1).  ``labels``: several
            answers of 0 or 1, (N, K).  ``positions``: a class at every position of a sample,
            (N, H, W) or (N, T).  ``values``: numbers to predict, (N, ...).  ``nested``: several
            tensors.  ``none``: there are none.
        vocabulary: The characters that tokens stand for, in their order; None if they do not.
        own_loss: Of which loss of its logits the network's own is the mean, where that is asked
            for and known (`lsengine.objective.reported.Kind`).
    """

    splits: dict[str, Split]
    mean: Tensor | None
    std: Tensor | None
    classes: int | None
    target_kind: TargetKind = "classes"
    vocabulary: str | None = None
    own_loss: str | None = None

    @property
    def channels(self) -> int:
        """Channels of images, else the size of the first axis of a sample; of the first inputs."""
        shape = self._first.shape
        return shape[1] if len(shape) > 1 else 1

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of images; None if the inputs are not images."""
        shape = self._first.shape
        return (shape[2], shape[3]) if len(shape) == 4 else None

    @property
    def outputs(self) -> int:
        """Outputs a network needs: the classes, or the values to predict, at least one."""
        if self.classes is not None:
            return self.classes
        y = self._any.y
        return 1 if y is None else sum(t[0].numel() for _, t in nesting.leaves(y))

    @cached_property
    def lacks_labels(self) -> bool:
        """Whether some labels are `NO_LABEL`: they count neither in the loss nor as answers."""
        labels = (split.y for split in self.splits.values() if self.classes is not None)
        return any(isinstance(y, Tensor) and bool((y == NO_LABEL).any()) for y in labels)

    @property
    def _any(self) -> Split:
        return next(iter(self.splits.values()))

    @property
    def _first(self) -> Tensor:
        return next(tensor for _, tensor in nesting.leaves(self._any.x))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 (hex) of names, types, shapes and little-endian bytes of all splits.

        One tensor of values to predict counts as (N, K), whatever its shape.  Tensors of a nesting
        count in the order of their places in it.  The vocabulary comes first, if there is one: the
        same tokens may be of another text.
        """
        digest = hashlib.sha256()
        if self.vocabulary is not None:
            digest.update(f"vocabulary {len(self.vocabulary)} {self.vocabulary}\n".encode())
        for name in sorted(self.splits):
            split = self.splits[name]
            for place, tensor in [*_placed("x", split.x), *_placed("y", split.y)]:
                array = tensor.numpy()
                little = array.dtype.newbyteorder("<")
                array = np.ascontiguousarray(array.astype(little, copy=False))
                digest.update(f"{name}{place} {array.dtype.name} {[*array.shape]}\n".encode())
                digest.update(array.data)
        return digest.hexdigest()


def _placed(kind: str, nested: Nested | None) -> list[tuple[str, Tensor]]:
    """Return the tensors that a digest sees with their places; of one alone the place is empty."""
    if nested is None:
        return [(" no y", torch.zeros(0))]
    if isinstance(nested, Tensor):
        is_flat = kind == "y" and nested.dtype != torch.int64
        return [("", nested.reshape(len(nested), -1) if is_flat else nested)]
    placed = [(f" {kind}.{path}", tensor) for path, tensor in nesting.leaves(nested)]
    return sorted(placed, key=lambda pair: pair[0])


def normalized(dataset: Dataset, split: str, dtype: torch.dtype) -> Nested:
    """Return the inputs of a split as the network sees them, (N, ...) in ``dtype``."""
    return standardized(dataset.splits[split].x, dataset, dtype)


@overload
def standardized(x: Tensor, dataset: Dataset, dtype: torch.dtype) -> Tensor: ...
@overload
def standardized(x: Nested, dataset: Dataset, dtype: torch.dtype) -> Nested: ...
def standardized(x: Nested, dataset: Dataset, dtype: torch.dtype) -> Nested:
    """Scale bytes to [0, 1], then subtract the data set's mean and divide by its std.

    The raw inputs (N, ...) are on any device and not modified.  Computed in float64 if that is the
    dtype of the result, else in float32.  Integers other than bytes stay int64, truth values bool.
    Complex numbers are complex128 or complex64.  Tensors of a nesting are brought to ``dtype``,
    and that is all.
    """
    if not isinstance(x, Tensor):
        plain = replace(dataset, splits={}, mean=None, std=None)
        return nesting.mapped(lambda tensor: standardized(tensor, plain, dtype), x)
    if x.dtype in (torch.int64, torch.bool):
        return x.clone()
    working = torch.float64 if dtype == torch.float64 else torch.float32
    out = x.to(working.to_complex() if x.is_complex() else working, copy=True)
    if x.dtype == torch.uint8:
        out.div_(
            torch.full((), 255, dtype=working, device=x.device)
        )  # by a number, CUDA multiplies
    if dataset.mean is not None and dataset.std is not None:
        shape = (-1, *(1,) * (x.ndim - 2))
        out.sub_(dataset.mean.to(working).to(x.device).reshape(shape))
        out.div_(dataset.std.to(working).to(x.device).reshape(shape))
    return out if out.is_complex() else out.to(dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawData:
    """Unchecked splits and what is known about them.

    Attributes:
        splits: Inputs and labels by name; arrays or tensors.
        classes: Number of classes, where the source says it.
        no_label: The label that stands for none, where the source says it.
        mean, std: Of each channel on the scale of [0, 1]; the usual normalisation.
        vocabulary: As that of `Dataset`.
    """

    splits: dict[str, tuple[Any, Any]]
    classes: int | None = None
    no_label: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    vocabulary: str | None = None


def draw_subset(split: Split, samples: int, seed: int, name: str) -> Split:
    """Return a random part of a split, with the classes in the same shares."""
    if samples >= len(split):
        return split
    digest = hashlib.sha256(f"subset {seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    if isinstance(split.y, Tensor):
        return split.part(stratified(split.y, samples, generator))
    return split.part(_uniform(len(split), samples, generator))


def stratified(y: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Return sorted indices of a draw that has the classes in the proportions of all.

    Shares are rounded down and what is left goes to the largest remainders.  Without one class
    per sample the draw is uniform.
    """
    if y.dtype != torch.int64 or y[0].numel() != 1:
        return _uniform(len(y), samples, generator)
    y = y.flatten()
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


def _uniform(total: int, samples: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(total, generator=generator)[:samples].sort().values
