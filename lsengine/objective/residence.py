"""Where a run's inputs are, by arithmetic on memory: the forward pass sees the same numbers.

Whatever is chosen, no value depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Residence = Literal["ready", "raw", "host", "file"]
"""From the fastest to the one for the most data.

``ready``: on the device, as the network reads them.  ``raw``: on the device as they were stored.
``host``: in the host's memory.  ``file``: in a file that is mapped into memory.  All but the first
are made ready batch by batch; of the last two a batch is copied while the one before is computed.
"""
RESIDENCES: tuple[Residence, ...] = ("ready", "raw", "host", "file")
_SHARE = 2  # half of what is free is for the data, the rest for activations and what others take


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the inputs of all splits of a run are made of.

    Attributes:
        ready: Bytes as the network reads them, of each precision that stays.
        raw: Bytes as they were stored.
        is_mapped: Whether they are in a file that is mapped into memory.
    """

    ready: int
    raw: int
    is_mapped: bool


def residence(inputs: Inputs, *, device: str, free: int, others: int = 0) -> Residence:
    """Return where inputs are to be.

    ``device`` is the type of the device, ``free`` are the bytes that are free on it, and
    ``others`` those that are going to be taken by something else than data and activations.

    On a CPU what is stored is in the memory of the device already.
    """
    room = (free - others) // _SHARE
    if device == "mps" or inputs.ready <= room:  # one memory for both, and no exact division
        return "ready"
    is_there = device == "cpu" and not inputs.is_mapped
    if is_there or (inputs.raw < inputs.ready and inputs.raw <= room):
        return "raw"
    return "file" if inputs.is_mapped else "host"
