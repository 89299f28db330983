"""Forward passes: how a network's outputs are computed, and with which numbers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["fused", "eager"]


class ForwardPass:
    """A network's forward pass in a precision; by itself, that of the network as it stands.

    It may have copies of the network's numbers.  Then these are those of the last `sync`.

    Attributes:
        kind: ``fused`` if layers are fused, ``eager`` if the network's own code runs.
    """

    kind: Kind = "eager"

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        output: Tensor = self._model(inputs)
        return output

    def sync(self) -> None:
        """Copy all numbers from the network, where there are copies."""

    def fold_scales(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Return what folding multiplies each filter of some weights by, (F,) each, by name.

        None where nothing is folded, or where a weight has not one layer of its own.
        """
        return None

    def bind_views(self, weights: Mapping[str, Tensor], views: Mapping[str, Tensor]) -> None:
        """From now on compute with the views in the place of weights that `fold_scales` takes."""
        raise NotImplementedError


class _InDtype(ForwardPass):
    """The pass of a copy of the network in another precision."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__(copy.deepcopy(model).to(dtype))
        copies, originals = (
            dict(m.named_parameters()) | dict(m.named_buffers()) for m in (self._model, model)
        )
        self._pairs = [(copies[name], original) for name, original in originals.items()]

    def sync(self) -> None:
        for target, source in self._pairs:
            target.copy_(source)


def in_dtype(model: nn.Module, dtype: torch.dtype) -> ForwardPass:
    """Return the network's own forward pass in a precision, from a copy if it has another."""
    same = all(p.dtype == dtype for p in model.parameters())
    return ForwardPass(model) if same else _InDtype(model, dtype)
