"""Time and memory of principal directions and projection, checkpoints on disk.

    python benchmarks/bench_trajectory.py [--checkpoints 200] [--numbers 10000000] [--block 32]

writes as many files (40 MB each by default) into the temporary folder and deletes them.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lsengine.principal import principal_directions, project

LAYERS = 20
CHUNK_MIB = 0.1  # scratch of `gram` for each checkpoint that it holds


def main() -> None:
    """Measure, and fail if memory exceeds what `gram` promises."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=200)
    parser.add_argument("--numbers", type=int, default=10_000_000)
    parser.add_argument("--block", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), options.checkpoints, options.numbers)
        _measure(Path(folder), options.checkpoints, options.block)


def _write(folder: Path, count: int, numbers: int) -> None:
    """Write a random walk with drift: the steps of ten vectors in a changing mixture."""
    generator = torch.Generator().manual_seed(0)
    shape = (numbers // LAYERS,)
    state = {f"layer{i}.weight": torch.randn(shape, generator=generator) for i in range(LAYERS)}
    steps = 0.01 * torch.randn(11, *shape, generator=generator)
    for t in range(count):
        torch.save(state, folder / f"epoch_{t:03}.pt")
        for tensor in state.values():
            tensor += steps[0] + torch.randn(10, generator=generator) @ steps[1:]


def _measure(folder: Path, count: int, block: int) -> None:
    loads, spent = 0, 0.0

    def load(index: int) -> Mapping[str, Tensor]:
        nonlocal loads, spent
        start = time.perf_counter()
        state: dict[str, Tensor] = torch.load(folder / f"epoch_{index:03}.pt", weights_only=True)
        loads, spent = loads + 1, spent + time.perf_counter() - start
        return state

    centre = load(count - 1)
    size_mib = sum(t.numel() * t.element_size() for t in centre.values()) / 2**20
    before_mib, start, cpu = _peak_mib(), time.perf_counter(), time.process_time()
    found = principal_directions(load, count, list(centre), block=block)
    middle = time.perf_counter()
    cpu_s = time.process_time() - cpu
    print(f"principal_directions_s={middle - start:.1f} cpu_s={cpu_s:.1f}")
    print(f"loads={loads} loading_s={spent:.1f}")
    projection = project(load, count, list(centre), centre, found.directions)
    print(f"project_s={time.perf_counter() - middle:.1f} threads={torch.get_num_threads()}")
    grown_mib = _peak_mib() - before_mib
    bound_mib = (block + 10) * (size_mib + CHUNK_MIB)  # held, eight by, final, being read
    print(f"checkpoint_mib={size_mib:.0f} grown_mib={grown_mib:.0f} bound_mib={bound_mib:.0f}")
    print(f"explained={found.explained_variance_ratio[:3].round(4)}")
    print(f"distance_max={projection.distance.max():.3f} length_max={projection.length.max():.3f}")
    if grown_mib > bound_mib:
        sys.exit("memory exceeds the bound")


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
