"""What goes through a network of a data set: inputs, or whole batches where there is an objective.

Shape suffix: N samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lsengine.data import Dataset, Split, standardized
from lsengine.data.nesting import Nested, leaves, mapped
from lsengine.errors import EnvironmentUnfit


@dataclass(frozen=True, slots=True)
class Batches:
    """How samples become what a network, or an objective, is called with.

    Attributes:
        dataset: Its mean and std count.
        pairs: Whether that is the pair (x, y), and not x.
    """

    dataset: Dataset
    pairs: bool

    @classmethod
    def of(cls, dataset: Dataset, *, whole: bool) -> Batches:
        """Return what goes through: with ``whole`` the pair where there is a y, else x."""
        has_y = any(split.y is not None for split in dataset.splits.values())
        return cls(dataset, whole and has_y)

    def on(self, device: torch.device) -> Batches:
        """Return the same with its numbers on a device, and without samples."""
        mean, std = (
            m if m is None else m.to(device) for m in (self.dataset.mean, self.dataset.std)
        )
        return replace(self, dataset=replace(self.dataset, splits={}, mean=mean, std=std))

    def raw(self, split: Split) -> Nested:
        """Return the samples of a split as they were stored."""
        return (split.x, split.y) if self.pairs and split.y is not None else split.x

    def ready(self, raw: Nested, dtype: torch.dtype) -> Nested:
        """Return new tensors as they are read: real and complex numbers in a precision."""
        if not self.pairs or not isinstance(raw, tuple):
            return standardized(raw, self.dataset, dtype)
        x, y = raw
        as_it_is = replace(self.dataset, splits={}, mean=None, std=None)
        return standardized(x, self.dataset, dtype), standardized(y, as_it_is, dtype)

    def first(self, split: str, count: int, dtype: torch.dtype) -> Nested:
        """Return the first samples of a split as they are read."""
        return self.ready(self.raw(self.dataset.splits[split].part(slice(count))), dtype)


def all_bytes(nested: Nested) -> int:
    """Return the bytes of all tensors."""
    return sum(tensor.nbytes for _, tensor in leaves(nested))


def dtype_as_read(stored: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Return the type that a stored tensor has when it is read in a precision."""
    if stored.dtype in (torch.int64, torch.bool):
        return stored.dtype
    return dtype.to_complex() if stored.is_complex() else dtype


def first(nested: Nested, count: int) -> Nested:
    """Return the first samples."""
    return mapped(lambda tensor: tensor[:count], nested)


def no_smaller(batch_size: int, error: BaseException) -> EnvironmentUnfit:
    """Return the refusal to cut batches that an objective may depend on, where memory ran out."""
    reason = str(error).splitlines()[0]
    return EnvironmentUnfit(
        f"batch_size: there is no memory for a batch of {batch_size} samples ({reason}); an "
        "objective may depend on the whole batch, so it is not cut: give a smaller batch_size, or "
        "leave it out if no value depends on it"
    )
