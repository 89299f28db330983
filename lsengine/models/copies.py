"""Copies of networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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


def original_number(
    model: nn.Module, made: nn.Module, use: Callable[[nn.Module], Any], *, buffers: bool = True
) -> str:
    """Return the name of a number of a network that its copy computes with; empty if none is seen.

    ``use`` does with the copy what is done with a network.  A function keeps its layers when the
    network that it belongs to is copied.  Without ``buffers`` only parameters are looked for.
    """
    watch = _Watch(model, buffers)
    try:
        with torch.enable_grad(), watch:
            use(made)
    except Exception:  # and what failed is told by whoever needs the outputs
        return watch.found
    return watch.found


class _Watch(TorchDispatchMode):
    """Looks for a network's numbers among the arguments of every operation."""

    def __init__(self, model: nn.Module, buffers: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        named = [*model.named_parameters(), *(model.named_buffers() if buffers else ())]
        self._names = {t.data_ptr(): name for name, t in named if t.numel()}
        self.found = ""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operation loads torch's compiler, which takes two seconds

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and not self.found:
                self.found = self._names.get(leaf.data_ptr(), "")
        return func(*args, **(kwargs or {}))


def _computed_by_hooks(model: nn.Module) -> list[Tensor]:
    owners = [(m, hook) for m in model.modules() for hook in m._forward_pre_hooks.values()]
    values = [
        vars(module).get(getattr(hook, "name", getattr(hook, "_tensor_name", "")))
        for module, hook in owners
        if type(hook).__module__.startswith("torch.nn.utils.")
    ]
    return [value for value in values if isinstance(value, Tensor)]
