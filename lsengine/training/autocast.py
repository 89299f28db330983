"""Trainings whose networks multiply numbers of 16 bits.

Weights, gradients, running statistics, losses and what an optimiser keeps stay in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lsengine import devices
from lsengine.data.nesting import Nested
from lsengine.errors import UsageError
from lsengine.log import NOTICE
from lsengine.objective.device_state import all_in_precision
from lsengine.objective.forward import Call
from lsengine.objective.outputs import nested_output

log = logging.getLogger(__name__)
_KEY = "train.precision"


def settle(
    asked: str, earlier: str | None, device: torch.device, obstacle: str, trial: Callable[[], Any]
) -> str:
    """Return the precision of a training that may be in bfloat16: that, or ``float32``.

    Args:
        asked: By the job, ``auto`` or ``bfloat16``.
        earlier: What an earlier run of the same training settled, if there was one.
        device: Of the training.
        obstacle: Why network and data have no bfloat16; empty if they may have it.
        trial: Runs a few samples in bfloat16, and raises what the network raises.

    Raises:
        UsageError: If bfloat16 cannot be had.
    """
    if earlier == "float32":
        return "float32"
    has_to_be = "bfloat16" in (asked, earlier)
    is_fast = devices.multiplies_bfloat16(device)
    if not is_fast and not has_to_be:
        log.info("%s: float32, since this %s multiplies no bfloat16", _KEY, device.type)
        return "float32"
    if obstacle := obstacle or _failure(trial):
        if has_to_be:
            raise UsageError(f"{_KEY}: bfloat16 cannot be used: {obstacle}; use float32")
        log.log(NOTICE, "%s: float32, since %s", _KEY, obstacle)
        return "float32"
    if not is_fast:
        log.warning(
            f"{_KEY}: bfloat16, but this {device.type} has no instructions for it: the training "
            "goes on, and may take longer than in float32"
        )
    log.info("%s: bfloat16", _KEY)
    return "bfloat16"


def _failure(trial: Callable[[], Any]) -> str:
    try:
        trial()
    except Exception as error:
        if devices.is_out_of_memory(error):
            raise
        return f"the network does not run with it ({type(error).__name__}: {error})"
    return ""


def called(call: Call, model: nn.Module, inputs: Nested, device: torch.device) -> Nested:
    """Return the outputs of a batch, in float32, of products in bfloat16.

    Torch's autocast chooses which operations those are, and rounds their inputs.
    """
    with torch.autocast(device.type, dtype=torch.bfloat16):
        output = call(model, inputs)
    return all_in_precision(nested_output(output), torch.float32)
