"""How many threads suit the size of a network's work on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lsengine.cores import Threads

_PER_THREAD = 2**25  # multiply-adds of a layer: 1 to 2 ms; threads meet at its end in 10 to 100 us
_FACTORS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}  # which argument is the first factor


def threads_for(
    model: nn.Module, call: Callable[[], int], *, batch_size: int, share: Threads
) -> Threads:
    """Return as many threads as have enough to do in a layer, at most the share.

    Counted, not timed, so that it is the same in every run: last bits may depend on the number of
    threads.  What counts is what a batch takes in a layer, on average: at least a multiply-add for
    every weight and sample.

    Args:
        model: The network.
        call: Sends a few samples through a copy of it, and returns how many.  It is called where
            the weights alone do not tell that the work is large.
        batch_size: Of the evaluation.
        share: The most.

    Raises:
        Exception: What ``call`` raises.
    """
    if share.count == 1:
        return share
    weights = [p.numel() for p in model.parameters() if p.ndim > 1]
    layers = max(1, len(weights))
    wanted = sum(weights) * batch_size // layers // _PER_THREAD
    if wanted < share.count:
        with torch.random.fork_rng(devices=[]), _Counter() as counter:
            samples = call()
        wanted = counter.found * batch_size // samples // layers // _PER_THREAD
    if wanted >= share.count:
        return share
    why = "a network this small is faster so" if wanted < 2 else "as its layers are large"
    return Threads(max(1, wanted), why)


class _Counter(TorchDispatchMode):
    """Counts multiply-adds of products, convolutions and attention."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do an operation of torch, and count it."""
        outputs, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if name in _FACTORS:
            self.found += outputs.numel() * int(args[_FACTORS[name]].shape[-1])
        elif name == "convolution":
            weight, is_transposed = args[1], args[6]
            larger = args[0] if is_transposed else outputs
            self.found += larger.numel() * math.prod(weight.shape[1:])
        elif name.startswith("_scaled_dot_product"):
            self.found += 2 * outputs[0].numel() * int(args[1].shape[-2])
        return outputs
