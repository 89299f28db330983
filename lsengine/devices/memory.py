"""How much memory is free: of a card, and of this host within the limits of its control groups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch


def free_bytes(device: torch.device) -> int:
    """Return how many bytes a process can still get on a device; of a CPU, of this host.

    On a card, what torch keeps for later counts as free.
    """
    if device.type != "cuda":
        return free_host_bytes()
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free) + int(kept)


def free_host_bytes(root: Path = Path("/")) -> int:
    """Return how many bytes this process can still get from its host.

    The least of what the kernel has available and what the control groups leave, those around
    them included.  Cached files count as free.  ``root`` is where ``proc`` and ``sys`` are.
    """
    found = [*_available(root / "proc/meminfo"), *_left_by_groups(root)]
    if not found:  # not on Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(0, min(found))


def _available(meminfo: Path) -> Iterator[int]:
    yield from (kib * 1024 for name, kib in _pairs(meminfo) if name == "MemAvailable:")


def _left_by_groups(root: Path) -> Iterator[int]:
    """Yield what each control group around this process leaves, by either version of them.

    The kernel's documents are cgroup-v2.rst, "Memory", and cgroup-v1/memory.rst.
    """
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        limit_name, usage_name, prefix = names
        inner = top / path.strip("/")
        for group in (inner, *inner.parents):
            limit, usage = (_lines(group / name) for name in (limit_name, usage_name))
            if limit and usage and limit[0].isdigit():
                kinds = {f"{prefix}active_file", f"{prefix}inactive_file"}
                cached = sum(n for kind, n in _pairs(group / "memory.stat") if kind in kinds)
                yield int(limit[0]) - int(usage[0]) + cached
            if group == top:
                break


def _pairs(path: Path) -> list[tuple[str, int]]:
    rows = (line.split() for line in _lines(path))
    return [(row[0], int(row[1])) for row in rows if len(row) > 1 and row[1].isdigit()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
