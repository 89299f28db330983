"""How many threads suit the size of a network's work on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lsengine.cores import Threads

_PER_THREAD = 2**25  # multiply-adds of a layer; an estimate, for two cores


def threads_for(
    model: nn.Module, call: Callable[[], tuple[int, int]], *, batch_size: int, share: Threads
) -> Threads:
    """Return as many threads as have enough to do in a layer, at most the share.

    Counted, not timed, so that it is the same in every run: last bits may depend on the number of
    threads.  What counts is what a batch takes in a layer, on average: at least a multiply-add for
    every weight and sample.

    Args:
        model: The network.
        call: Sends a few samples through a copy of it, and returns what `counted` has found, and
            how many they are.  It is called where the weights do not tell that the work is large.
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
        with torch.random.fork_rng(devices=[]):
            found, samples = call()
        wanted = found * batch_size // samples // layers // _PER_THREAD
    if wanted >= share.count:
        return share
    why = "a network this small gains little by more" if wanted < 2 else "as its layers are large"
    return Threads(max(1, wanted), why)


@contextlib.contextmanager
def counted(network: nn.Module) -> Iterator[list[int]]:
    """Count the multiply-adds of linear layers and convolutions within the context.

    The number is the one in the list.  By hooks: a dispatch mode of torch would load its compiler,
    which takes two seconds.  Products that no layer makes, as in attention, are not counted.
    """
    found = [0]

    def add(layer: nn.Module, inputs: Any, output: Any) -> None:
        weight = layer.weight
        if isinstance(weight, Tensor) and isinstance(output, Tensor):
            larger = inputs[0] if getattr(layer, "transposed", False) else output
            found[0] += larger.numel() * weight[0].numel()

    hooks = [
        layer.register_forward_hook(add)
        for layer in network.modules()
        if getattr(getattr(layer, "weight", None), "ndim", 0) > 1
        and not isinstance(layer, nn.Embedding)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
