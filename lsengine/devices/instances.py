"""Instances of a card that MIG has divided: CUDA shows a process no more than one of them."""

from __future__ import annotations

import os

_VARIABLE = "CUDA_VISIBLE_DEVICES"


def instances(visible: str | None) -> list[str]:
    """Return the instances that a value of `CUDA_VISIBLE_DEVICES` lists; empty for whole cards.

    >>> instances("MIG-1f,MIG-2e")
    ['MIG-1f', 'MIG-2e']
    >>> instances("GPU-8932f937,GPU-72ab5c10")
    []
    """
    entries = [entry.strip() for entry in (visible or "").split(",")]
    return entries if all(entry.startswith("MIG-") for entry in entries) else []


def choose_instance(slot: int) -> None:
    """Leave a process the ``slot``-th of several listed instances, counted in a circle.

    Of a list CUDA takes the first, for every process, and the others would be idle
    (https://docs.nvidia.com/datacenter/tesla/mig-user-guide).  Call it before the first use of
    CUDA, which reads the variable once.
    """
    listed = instances(os.environ.get(_VARIABLE))
    if len(listed) > 1:
        os.environ[_VARIABLE] = listed[slot % len(listed)]
