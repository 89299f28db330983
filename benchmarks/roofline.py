"""A GPU's cells against the bandwidth of its memory.

A residual network of CIFAR is bound by memory, not by arithmetic: layer by layer, ResNet-110
reads and writes about 5 MB of activations per image in bfloat16.  What the measured copy bandwidth
would allow for that is the roofline.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import harness
import torch
import workloads

ARCH, IMAGES, CELLS = "resnet110", 50_000, 51 * 51
BYTES_PER_IMAGE = 5e6  # bfloat16; twice that in float32 and tf32
TARGET, TARGET_S = 0.5, 300.0


def main(load: float, *, quick: bool) -> None:
    """Measure bandwidth and some cells, and print what a whole plane would take."""
    if not torch.cuda.is_available():
        sys.exit("bench_speed: --device cuda, but torch sees no such device here")
    device = torch.device("cuda", 0)
    images, repeats = (2048, 2) if quick else (IMAGES, 5)
    bytes_per_s = copy_bandwidth(device, repeats)
    work = workloads.make(ARCH, images)
    rows, results = [], []
    for precision in ("float32", "tf32", "bfloat16"):
        torch.cuda.reset_peak_memory_stats()
        evaluator = work.objective(precision, device)
        start = time.perf_counter()
        evaluator.losses(workloads.cells(1)[0])
        first_s = time.perf_counter() - start
        seconds = [wall_s(partial(evaluator.losses, cell)) for cell in workloads.cells(repeats)]
        size = BYTES_PER_IMAGE * (1 if precision == "bfloat16" else 2)
        cell_s = harness.summary(seconds)
        fraction = harness.summary([images * size / s / bytes_per_s["median"] for s in seconds])
        result: dict[str, Any] = {
            "precision": precision,
            "batch_size": evaluator.batch_size,
            "first_cell_s": first_s,
            "cell_s": cell_s,
            "roofline": fraction,
            "plane_s": cell_s["median"] * CELLS * IMAGES / images,
            "peak_mib": torch.cuda.max_memory_allocated() / 2**20,
        }
        results.append(result)
        rows.append(
            [
                *(precision, str(evaluator.batch_size), f"{first_s:.2f}"),
                *(harness.shown(cell_s), harness.shown(fraction, ".2f")),
                *(f"{result['plane_s'] / 60:.1f}", f"{result['peak_mib']:.0f}"),
            ]
        )
        del evaluator
    name = torch.cuda.get_device_name(device)
    facts = harness.context(load, device=name, cuda=torch.version.cuda, images=images)
    header = ["precision", "batch", "first cell, s", "cell, s", "of the roofline"]
    header += ["51x51 of 50,000 images, min", "peak memory, MiB"]
    notes = [
        f"{name}: copies {harness.shown(bytes_per_s, '.0f', 1e-9)} GB/s, read and written counted",
        f"{ARCH}; roofline: {BYTES_PER_IMAGE / 1e6:g} MB per image in bfloat16, twice that else",
        f"targets: {TARGET} of the roofline, {TARGET_S / 60:g} min; displaced cells, by the wall "
        f"clock, synchronised; cores {os.cpu_count()}",
    ]
    record = {"context": facts, "bytes_per_s": bytes_per_s, "results": results}
    harness.print_report("bench_speed --device cuda", header, rows, notes, record)


def copy_bandwidth(device: torch.device, repeats: int) -> dict[str, float]:
    """Return bytes read and written per second by copies of 1 GiB."""
    source = torch.empty(2**28, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        for _ in range(20):
            target.copy_(source)

    copy()
    seconds = [wall_s(copy) for _ in range(max(5, repeats))]
    moved = 20 * 2 * source.numel() * source.element_size()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return harness.summary([moved / s for s in seconds])


def wall_s(action: Callable[[], object]) -> float:
    """Return the wall time of an action, with everything on the device done."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    torch.cuda.synchronize()
    return time.perf_counter() - start
