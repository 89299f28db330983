"""Copies of networks."""

from __future__ import annotations

import copy

from torch import Tensor, nn


def duplicate(model: nn.Module) -> nn.Module:
    """Return a copy of a network with numbers of its own.

    Unlike ``copy.deepcopy``, which refuses a weight that hooks of torch compute before every
    forward pass: the older weight and spectral normalisation, and pruning.
    """
    memo = {id(tensor): tensor.detach().clone() for tensor in _computed_by_hooks(model)}
    made = copy.deepcopy(model, memo)
    for original, parameter in zip(model.parameters(), made.parameters(), strict=True):
        if not parameter.is_leaf:  # of TorchScript: a copy that gradients would be led through
            parameter.detach_().requires_grad_(original.requires_grad)
    return made


def _computed_by_hooks(model: nn.Module) -> list[Tensor]:
    owners = [(m, hook) for m in model.modules() for hook in m._forward_pre_hooks.values()]
    values = [
        vars(module).get(getattr(hook, "name", getattr(hook, "_tensor_name", "")))
        for module, hook in owners
        if type(hook).__module__.startswith("torch.nn.utils.")
    ]
    return [value for value in values if isinstance(value, Tensor)]
