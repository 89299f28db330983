"""What a network is for a while: in float64, with parameters to differentiate by, undisturbed.

All of it is put back, to the bit.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lsengine import devices


def wide(tensor: Tensor) -> Tensor:
    """Return numbers in float64 or complex128; integers as they are."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


@contextlib.contextmanager
def in_float64(model: nn.Module) -> Iterator[None]:
    """Give a network its own numbers in float64, as copies in row-major order.

    Parameters and buffers stay the objects they are, so that whoever else holds one sees it.
    """
    kept = [(tensor, tensor.data) for tensor in (*model.parameters(), *model.buffers())]
    try:
        for tensor, data in kept:
            tensor.data = devices.row_major(wide(data))
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data


@contextlib.contextmanager
def as_leaves(model: nn.Module, parameters: Sequence[Tensor], row_major: bool) -> Iterator[None]:
    """Let autograd differentiate by parameters, without hooks that may change their gradients.

    With ``row_major`` all parameters are copied into that order.
    """
    chosen = {id(p) for p in parameters}
    everything: list[Tensor] = [*model.parameters()]
    kept = [(p, p.requires_grad, p.data, p.grad) for p in everything]
    hooks = [(p, p._backward_hooks) for p in parameters]
    try:
        for p, *_ in kept:
            if row_major:
                p.data = devices.row_major(p.data)
            if id(p) in chosen:
                p.requires_grad_(True)
            p.grad = None
        for p, _ in hooks:
            p._backward_hooks = None
        yield
    finally:
        for p, wanted, data, grad in kept:
            p.grad = None
            p.data = data
            p.requires_grad_(wanted)
            p.grad = grad
        for p, given in hooks:
            p._backward_hooks = given


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Let a forward pass write into copies of a network's buffers."""
    copies: dict[int, Tensor] = {}
    originals: list[tuple[nn.Module, dict[str, Tensor | None]]] = []
    values: list[tuple[Tensor, Tensor]] = []  # of compiled modules, whose buffers stay
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            values += [(b, b.clone()) for b in module.buffers(recurse=False)]
        elif module._buffers:
            originals.append((module, dict(module._buffers)))
    try:
        for module, buffers in originals:
            for name, buffer in buffers.items():
                if buffer is not None:
                    module._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
        yield
    finally:
        for module, buffers in originals:
            module._buffers.clear()
            module._buffers.update(buffers)
        for buffer, value in values:
            buffer.data.copy_(value)


@contextlib.contextmanager
def differentiating(
    *, plain_kernels: bool = False, inner_graphs: bool = False, tf32: bool = False
) -> Iterator[None]:
    """Set torch up for derivatives of any order, of whatever has them.

    ``plain_kernels`` leaves out cuDNN and oneDNN, some of whose operations have one derivative
    only.  ``inner_graphs`` keeps the graphs of derivatives that a forward pass takes itself.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        # the only kernel of attention with second derivatives
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(devices.tf32(tf32))
        stack.enter_context(_without_checkpointing())
        if plain_kernels:
            cudnn: Any = torch.backends.cudnn
            stack.enter_context(cudnn.flags(enabled=False, allow_tf32=False))
            stack.enter_context(_without_onednn())
        if inner_graphs:
            stack.enter_context(_keeping_graphs())
        yield


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    """Switch oneDNN off by itself: torch's own context also warns of a switch for TF32."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


@contextlib.contextmanager
def _replaced(module: ModuleType | type, names: dict[str, Any]) -> Iterator[None]:
    kept = {name: getattr(module, name) for name in names}
    try:
        for name, value in names.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in kept.items():
            setattr(module, name, value)


class _Called:
    """Stands for the autograd function of reentrant checkpointing: it calls, and keeps all."""

    @staticmethod
    def apply(function: Callable[..., Any], _: bool, *args: Any) -> Any:
        return function(*args)


def _once(*_: Any, **__: Any) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _without_checkpointing() -> Iterator[None]:
    """Switch activation checkpointing off: it saves memory, and has first derivatives only."""
    module = sys.modules.get("torch.utils.checkpoint")
    if module is None:  # nobody uses it
        yield
        return
    names = {"CheckpointFunction": _Called, "_checkpoint_without_reentrant_generator": _once}
    with _replaced(module, {n: v for n, v in names.items() if hasattr(module, n)}):
        yield


@contextlib.contextmanager
def _keeping_graphs() -> Iterator[None]:
    functional = torch.autograd.functional
    names = ("vjp", "jvp", "jacobian", "hessian", "vhp", "hvp")
    kept = {name: _with_graph(getattr(functional, name)) for name in names}
    with (
        _replaced(functional, kept),
        _replaced(torch.autograd, {"grad": _with_graph(torch.autograd.grad)}),
    ):
        yield


def _with_graph(derivative: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(derivative)

    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.arguments["create_graph"] = True
        bound.arguments.pop("retain_graph", None)
        return derivative(*bound.args, **bound.kwargs)

    return call
