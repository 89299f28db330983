"""What in a network has no derivative, or a wrong one, in words."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from lsengine import devices
from lsengine.curvature.check import Place
from lsengine.wording import listed

_MOST = 200  # parameters that are looked at


def of_gradient(place: Place, names: list[str]) -> str:
    """Return a message that says by which parameters a gradient is not the loss's derivative."""
    wrong: list[str] = []
    given, true, start = 0.0, 0.0, 0
    for name, length in zip(names[:_MOST], place.plain.lengths, strict=False):
        piece_P = torch.zeros_like(place.direction_P)
        piece_P[start : start + length] = place.direction_P[start : start + length]
        start += length
        along = Place(place.plain, place.at_P, piece_P, place.is_exact)
        if along.gradient_is_right(place.gradient) is False:
            if not wrong:
                given, true = float(place.gradient @ piece_P), along.slope()
            wrong.append(name)
    by = listed(wrong, most=3) or "its parameters"
    numbers = f" (along a direction {given:.3g}, by differences {true:.3g})" if wrong else ""
    return (
        "curvature: the gradient that autograd gives is not the derivative of the training loss "
        f"by {by}{numbers}, so neither is its derivative the Hessian; a detach(), no_grad() or "
        "inference_mode() in forward, a straight-through estimator, or a backward that is not "
        f"the derivative comes after them{functions_of(place)}; leave out curvature and "
        "directions of kind hessian, or take it out of model.arch"
    )


def functions_of(place: Place) -> str:
    """Return a clause that names the autograd functions of a user's network, if there are any."""
    try:
        with place.plain.recorded(place.at_P) as mean:
            found = _own_functions(mean)
    except Exception as error:
        if devices.is_out_of_memory(error):
            raise
        return ""
    return f"; autograd functions in the network: {listed(found)}" if found else ""


def _own_functions(loss: Tensor) -> list[str]:
    """Return the Python autograd functions in the graph of a loss, the last first."""
    found: dict[str, None] = {}
    seen, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        function = getattr(node, "_forward_cls", None)
        if function is not None:
            with contextlib.suppress(AttributeError):
                found[f"{function.__module__}.{function.__qualname__}"] = None
        left += [after for after, _ in node.next_functions]
    return list(found)
