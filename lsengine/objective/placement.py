"""Which vectors of a run fit on its device, by arithmetic on memory: no value depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lsengine.errors import EnvironmentUnfit

Hosted = Literal["none", "directions", "all"]
"""Which vectors are in the host's memory: none, the directions, or the centre as well."""
HOSTED: tuple[Hosted, ...] = ("none", "directions", "all")
_RESERVE = 8  # an eighth of what is free on a card is for blocks and activations
_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What a run keeps of a network's numbers.

    Attributes:
        moving: How many numbers move.
        network: How many the network has in all.
        directions: How many directions they have, those of repeats included.
        width: Bytes of a number.
        compute_width: Bytes of one in forward passes.
        is_copied: Whether forward passes have a copy of the network.
        is_fused: Whether that copy is fused: what moves is then rounded on its own.
        is_folded: Whether normalisations are folded in, with vectors of their own.
        others: Bytes that curvature takes on the device.
    """

    moving: int
    network: int
    directions: int
    width: int
    compute_width: int
    is_copied: bool
    is_fused: bool = False
    is_folded: bool = False
    others: int = 0

    def on_device(self, hosted: Hosted) -> dict[str, int]:
        """Return the bytes on the device by what they are of, without activations and data."""
        vector = self.moving * self.width
        kept = {"centre": hosted != "all", "directions": hosted == "none"}
        sizes = self._vectors()
        forward = self.network * self.compute_width if self.is_copied else 0
        if self.is_fused:
            forward += self.moving * self.compute_width
            is_rounded = self.compute_width < self.width
            forward += vector if is_rounded and hosted == "none" else 0
        found = {"network": self.network * self.width, "forward passes": forward}
        found |= {name: sizes[name] if is_there else 0 for name, is_there in kept.items()}
        return {**found, "curvature": self.others}

    def on_host(self, hosted: Hosted) -> dict[str, int]:
        """Return likewise the bytes in the host's memory."""
        sizes = self._vectors()
        return {name: sizes[name] for name in HOST_PARTS[hosted]}

    def _vectors(self) -> dict[str, int]:
        vector = self.moving * self.width * (2 if self.is_folded else 1)
        return {"centre": vector, "directions": vector * self.directions}

    def said(self, hosted: Hosted, device: str, free: int) -> str:
        """Return what there is and where, for the log."""
        there = _listed(self.on_device(hosted))
        directions = f"{self.directions} direction{'s' if self.directions != 1 else ''}"
        text = f"{self.moving:,} numbers move along {directions}; on {device} {there}"
        text += f" of {free / _GIB:,.1f} GiB free"
        if hosted != "none":
            text += (
                f"; in the host's memory, copied for every cell, {_listed(self.on_host(hosted))}"
            )
        return f"{text}; activations not counted"


HOST_PARTS: dict[Hosted, tuple[str, ...]] = {
    "none": (),
    "directions": ("directions",),
    "all": ("centre", "directions"),
}


def placement(weights: Weights, *, device: str, free: int, free_host: int) -> Hosted:
    """Return which vectors are to be in the host's memory: as few as may be.

    ``device`` is the type of the device.  All but cards use the host's memory.  There the network
    is loaded already, and takes no more room.

    Raises:
        EnvironmentUnfit: If they do not fit in either way.
    """
    if device != "cuda":
        needed = sum(weights.on_device("none").values()) - weights.network * weights.width
        if needed > free:
            raise _too_large(weights, "none", device, free)
        return "none"
    room = free - free // _RESERVE
    fitting = [h for h in HOSTED if sum(weights.on_device(h).values()) <= room]
    hosted = fitting[0] if fitting else "all"
    if sum(weights.on_device(hosted).values()) > free:
        raise _too_large(weights, hosted, device, free)
    needed = sum(weights.on_host(hosted).values())
    if needed > free_host:
        raise EnvironmentUnfit(
            f"{weights.said(hosted, device, free)}: the host has {free_host / _GIB:,.1f} GiB free; "
            "use a host with more memory, fewer ranks on it, or let fewer parameters move "
            "(directions.*.ignore)"
        )
    return hosted


def _too_large(weights: Weights, hosted: Hosted, device: str, free: int) -> EnvironmentUnfit:
    return EnvironmentUnfit(
        f"{weights.said(hosted, device, free)}: too large; use a device with more memory, a "
        "precision of 16 bits, or let fewer parameters move (directions.*.ignore)"
    )


def _listed(parts: dict[str, int]) -> str:
    shown = [f"{name} {size / _GIB:,.1f}" for name, size in parts.items() if size]
    return f"{' + '.join(shown)} = {sum(parts.values()) / _GIB:,.1f} GiB"
