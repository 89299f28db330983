"""One door to all convolutions of fused layers: which kernel each takes, on which device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lsengine.convolution import cudnn, onednn, steps, trials
from lsengine.convolution.choice import NEEDED, Choice, Geometry, choose

Convolve = Callable[..., Tensor]
_OF_FLOAT32 = {"float32": "tf32x3", "tf32": "tf32"}  # Triton's word for how it multiplies


class Convolution(NamedTuple):
    """How one convolution of a network is computed.

    Attributes:
        kernel: ``onednn``, ``triton``, ``cudnn`` or ``steps``.
        convolve: Takes input (N, C, H, W), weight, bias, what to add (or None), whether to
            rectify, stride, padding, dilation and groups.  With ``into_other`` the result may take
            the place of what is added.
    """

    kernel: str
    convolve: Convolve


def convolutions(
    geometries: Sequence[Geometry], device: torch.device, precision: str
) -> list[Convolution]:
    """Return how each convolution of a network is computed on a device.

    Args:
        geometries: Of all convolutions of the network, since they share one layout.
        device: Where they run.
        precision: ``float32``, ``tf32``, ``bfloat16`` or ``float16``.
    """
    if device.type == "cuda":
        return [_on_cuda(choice, precision) for choice in _choices(geometries, device, precision)]
    if device.type == "cpu" and onednn.is_fit(_dtype(precision)):
        return [Convolution("onednn", onednn.convolve)] * len(geometries)
    return [Convolution("steps", steps.convolve)] * len(geometries)


def is_row_major(geometries: Sequence[Geometry], device: torch.device, precision: str) -> bool:
    """Whether a network's images are to be row-major on a CUDA device, and else channels-last."""
    at_best = choose(geometries, precision, capability=NEEDED)
    if all(choice.row_major for choice in at_best):  # whatever the device
        return True
    return any(choice.row_major for choice in _choices(geometries, device, precision))


def _choices(geometries: Sequence[Geometry], device: torch.device, precision: str) -> list[Choice]:
    """Return the choices among what runs here; what is not wanted is not tried."""
    untried: dict[str, Callable[[], bool]] = {
        "triton": lambda: trials.has_triton(device),
        "cudnn": lambda: trials.has_cudnn(device, _dtype(precision)),
    }
    fit = set(untried)
    while True:
        capability = torch.cuda.get_device_capability(device)
        choices = choose(geometries, precision, capability=capability, fit=fit)
        wanted = {choice.kernel for choice in choices} & untried.keys()
        if not wanted:
            return choices
        fit -= {kernel for kernel in sorted(wanted) if not untried.pop(kernel)()}


def _dtype(precision: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, "float32" if precision == "tf32" else precision)
    return dtype


def _on_cuda(choice: Choice, precision: str) -> Convolution:
    if choice.kernel == "triton":
        return Convolution("triton", _by_triton(choice, precision))
    return Convolution(choice.kernel, {"cudnn": cudnn, "steps": steps}[choice.kernel].convolve)


def _by_triton(choice: Choice, precision: str) -> Convolve:
    from lsengine.convolution import kernels  # it imports Triton, which not everybody has

    launch: dict[str, Any] = {
        "precision": _OF_FLOAT32.get(precision, "tf32"),  # without effect on 16 bits
        "block": choice.block,
        "warps": choice.warps,
        "stages": choice.stages,
    }

    def convolve(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        other: Tensor | None,
        relu: bool,
        *geometry: Any,
        into_other: bool = False,
    ) -> Tensor:
        numbers = (x, weight, bias, other, relu)
        if other is not None and not steps.adds_alike(x, weight, other, *geometry):
            return steps.convolve(*numbers, *geometry)
        return kernels.convolve(*numbers, stride=geometry[0][0], into_other=into_other, **launch)

    return convolve
