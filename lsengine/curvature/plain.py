"""Losses and gradients of a few samples by the plainest path, to check products with.

The network's own forward pass, its parameters displaced in place, and ``backward``.  Nothing is
shared with the modules that compute products.

Shape suffix: P numbers of all chosen parameters, a complex one as its real and imaginary part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from lsengine.data.nesting import mapped


class PlainLoss:
    """The mean loss of a few samples as a function of a network's parameters.

    It leaves the parameters where it looked last; whoever uses it puts them back.

    Args:
        model: In evaluation mode.
        parameters: Those that move.
        inputs, targets: The samples.
        call: What gives outputs of network and inputs.
        loss: Returns losses, their mean, or losses and weights.
        context: What every forward and backward pass runs in.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[Tensor],
        inputs: Any,
        targets: Any,
        loss: Callable[[Any, Any], Any],
        call: Callable[[nn.Module, Any], Any],
        context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        self._model, self._parameters, self._loss = model, list(parameters), loss
        self._inputs, self._targets, self._call, self._context = inputs, targets, call, context
        self.centre_P = self._flat([p.detach() for p in self._parameters])

    @property
    def lengths(self) -> list[int]:
        """How many numbers each parameter has."""
        return [p.numel() * (2 if p.is_complex() else 1) for p in self._parameters]

    def value(self, at_P: Tensor) -> float:
        """Return the mean loss."""
        self.put(at_P)
        with self._buffers_kept(), self._context():
            return float(self._mean().detach())

    def gradient(self, at_P: Tensor) -> Tensor:
        """Return the gradient (P,); zero where autograd knows of no dependence."""
        with self.recorded(at_P) as mean:
            if mean.requires_grad:
                mean.backward()
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
            return self._flat([g.detach() for g in grads])

    @contextlib.contextmanager
    def recorded(self, at_P: Tensor) -> Iterator[Tensor]:
        """Give the mean loss as autograd has recorded it, and no gradient yet."""
        self.put(at_P)
        kept = [(p, p.requires_grad, p._backward_hooks) for p in self._parameters]
        try:
            for p in self._parameters:
                p._backward_hooks = None  # which may change gradients
                p.requires_grad_(True)
            with self._buffers_kept(), self._context():
                mean = self._mean()
                for p in self._parameters:
                    p.grad = None  # of derivatives that the forward pass took
                yield mean
        finally:
            for p, wanted, hooks in kept:
                p.requires_grad_(wanted)
                p._backward_hooks = hooks
            for p in self._model.parameters():
                p.grad = None

    @contextlib.contextmanager
    def _buffers_kept(self) -> Iterator[None]:
        """Put buffers back that a forward pass replaces or writes, when all is done."""
        kept = [(m, n, b, b.detach().clone()) for m, n, b in self._buffers()]
        try:
            yield
        finally:
            for module, name, buffer, values in kept:
                if not isinstance(module, torch.jit.ScriptModule):
                    module._buffers[name] = buffer
                if buffer.grad_fn is not None:  # parameters have been written into it
                    buffer.detach_()
                buffer.data.copy_(values)

    def _buffers(self) -> Iterator[tuple[nn.Module, str, Tensor]]:
        for module in self._model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                yield module, name, buffer

    def _mean(self) -> Tensor:
        output = self._call(self._model, mapped(lambda t: t.detach().clone(), self._inputs))
        if isinstance(output, Tensor) and isinstance(self._targets, Tensor):
            output = output.to(self._targets.device)
            output = output.to(torch.complex128 if output.is_complex() else torch.float64)
        losses = self._loss(output, self._targets)
        if isinstance(losses, tuple | list):
            values, weights = losses
            losses = torch.sum(values * weights) / torch.sum(weights)
        return losses.mean()  # type: ignore[no-any-return]

    def put(self, at_P: Tensor) -> None:
        """Give the parameters other numbers."""
        pieces = at_P.split(self.lengths)
        for p, piece in zip(self._parameters, pieces, strict=True):
            if p.is_complex():
                pairs = piece.view(*p.shape, 2)
                p.data.copy_(torch.complex(pairs[..., 0], pairs[..., 1]))
            else:
                p.data.copy_(piece.view(p.shape))

    @staticmethod
    def _flat(tensors: Sequence[Tensor]) -> Tensor:
        wide = torch.float32 if tensors[0].device.type == "mps" else torch.float64
        rows = [torch.stack([t.real, t.imag], -1) if t.is_complex() else t for t in tensors]
        return torch.cat([row.reshape(-1).to(wide) for row in rows])
