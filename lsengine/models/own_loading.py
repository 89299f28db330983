"""Networks that take up state dicts in a way of their own: by hooks, overrides or extra state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lsengine.models.copies import duplicate

_EXTRA = "_extra_state"  # torch's name for what a module keeps besides tensors


def is_own(model: nn.Module) -> bool:
    """Whether something but torch's copying happens when the network loads a state dict."""
    return _is_overridden(model, "load_state_dict") or any(
        module._load_state_dict_pre_hooks
        or _is_overridden(module, "_load_from_state_dict")
        or _is_overridden(module, "set_extra_state")
        for module in model.modules()
    )


def _is_overridden(module: nn.Module, name: str) -> bool:
    """Whether a class outside torch has the method of this name."""
    owner = next(cls for cls in type(module).__mro__ if name in vars(cls))
    return owner.__module__.partition(".")[0] != "torch"


def taken_up(
    model: nn.Module, state: Mapping[str, Tensor], *, partly: bool
) -> dict[str, Tensor] | str:
    """Return what the network makes of a state dict, or why it refuses; it is not changed.

    If ``partly``, names may be missing.
    """
    try:
        twin = duplicate(model)
        with torch.no_grad():
            twin.load_state_dict(dict(state), strict=not partly)
        return {n: t for n, t in twin.state_dict().items() if isinstance(t, Tensor)}
    except Exception as error:  # whatever the network's own code raises
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def other_extra(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of extra state that a state dict has and the network has otherwise."""
    own = model.state_dict()
    names = [name for name in state if name.rpartition(".")[2] == _EXTRA]
    return [name for name in names if not torch.equal(own[name], state[name])]


def set_extra(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Give modules the tensors that they keep as extra state."""
    for name, module in model.named_modules():
        key = f"{name}.{_EXTRA}" if name else _EXTRA
        if key in state and _is_overridden(module, "set_extra_state"):
            module.set_extra_state(state[key])
