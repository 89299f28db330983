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

    Args:
        model: The network, in evaluation mode.

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

    def sync_weights(self) -> None:
        """Copy the weights of convolutions and linear layers alone.

        It is enough where nothing else in the network has changed since the last `sync`.
        """
        self.sync()

    def fold_scales(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Return what folding multiplies each filter of some weights by, (F,) each, by name.

        None where nothing is folded, or where a weight has not one layer of its own.
        """
        return None

    def bind_views(self, weights: Mapping[str, Tensor], views: Mapping[str, Tensor]) -> None:
        """From now on compute with the numbers in ``views`` in the place of folded weights.

        Args:
            weights: For which `fold_scales` is not None.
            views: Tensors of the same names and shapes.
        """
        raise NotImplementedError


class _InDtype(ForwardPass):
    """The pass of a copy of the network in another precision."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__(copy.deepcopy(model).to(dtype))
        copies, sources = _tensors(self._model), _tensors(model)
        self._pairs = [(copies[name], source) for name, source in sources.items()]

    def sync(self) -> None:
        for target, source in self._pairs:
            target.copy_(source)


def in_dtype(model: nn.Module, dtype: torch.dtype) -> ForwardPass:
    """Return the network's own forward pass in a precision, from a copy if it has another."""
    if all(p.dtype == dtype for p in model.parameters()):
        return ForwardPass(model)
    return _InDtype(model, dtype)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())
