"""Time and memory of principal directions and projection, checkpoints on disk.

    python benchmarks/bench_trajectory.py [--checkpoints 200] [--numbers 10000000] [--block 32]
    python benchmarks/bench_trajectory.py --whole [--checkpoints 200]

The first measures the mathematics alone, the second `lsengine trajectory` as a process of its own,
on checkpoints of a ResNet-18 of 11 million parameters.  Both write as many files (40 MB each by
default) into the temporary folder, delete them, and fail if memory exceeds what is promised.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lsengine import models
from lsengine.geometry.parameters import CheckpointVectors
from lsengine.geometry.principal import principal_components
from lsengine.geometry.projection import project
from lsengine.job.schema import ModelSpec
from lsengine.models import checkpoint

LAYERS = 20
PROCESS_MIB = 1024  # torch, the network a few times over, and its activations
CHUNK_MIB = 0.1  # scratch of `gram` for each checkpoint that it holds
FIXED_MIB = 64  # code loaded at first use, and holes in the heap


def main() -> None:
    """Measure, and fail if memory exceeds what `gram` promises."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=200)
    parser.add_argument("--numbers", type=int, default=10_000_000)
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--whole", action="store_true", help="the command, not the mathematics")
    parser.add_argument("--quick", action="store_true", help="10 small ones: a smoke test")
    options = parser.parse_args()
    if options.quick:
        options.checkpoints, options.numbers = 10, 1_000_000
    torch.set_num_threads(1)  # as the engine does, for the sake of the last bits
    with tempfile.TemporaryDirectory() as folder:
        if options.whole:
            _measure_command(Path(folder), options.checkpoints)
            return
        _write(Path(folder), options.checkpoints, options.numbers)
        _measure(Path(folder), options.checkpoints, options.block)


def _measure_command(folder: Path, count: int) -> None:
    """Write a walk of a network's parameters, and measure a process that projects it."""
    network = models.build(
        ModelSpec(arch="resnet18"), channels=1, classes=10, size=(8, 8), job_folder=folder
    )
    generator = torch.Generator().manual_seed(0)
    size = sum(parameter.numel() for parameter in network.parameters())
    for t in range(count):
        for parameter in network.parameters():
            parameter.data += 1e-3 * torch.randn(parameter.shape, generator=generator)
        checkpoint.save(folder / f"epoch_{t:03}.pt", network, epoch=t)
    run = {"kind": "principal", "checkpoints": "epoch_*.pt"}
    job = {
        "model": {"arch": "resnet18", "checkpoint": f"epoch_{count - 1:03}.pt"},
        "data": {"dataset": "digits", "subset": 20},
        "directions": {"alpha": run, "beta": run},
        "grid": {"alpha": ["auto", 2], "beta": ["auto", 2]},
        "threads": 1,
        "device": "cpu",
    }
    (folder / "job.yaml").write_text(json.dumps(job))  # is YAML, too
    lsengine = str(Path(sys.executable).with_name("lsengine"))
    command = [lsengine, "trajectory", str(folder / "job.yaml")]
    start_s = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall_s, peak_mib = time.perf_counter() - start_s, _peak_mib(resource.RUSAGE_CHILDREN)
    bound_mib = PROCESS_MIB + 2**11
    print(f"checkpoints={count} parameters={size} files_gib={_gib(folder):.1f}")
    print(f"command_s={wall_s:.0f} peak_mib={peak_mib:.0f} bound_mib={bound_mib:.0f}")
    if peak_mib > bound_mib:
        sys.exit("memory exceeds the bound")


def _gib(folder: Path) -> float:
    return float(sum(path.stat().st_size for path in folder.glob("epoch_*.pt")) / 2**30)


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
    vectors = CheckpointVectors(load, count, list(centre))
    size_mib = sum(t.numel() * t.element_size() for t in centre.values()) / 2**20
    before_mib, start, cpu = _peak_mib(), time.perf_counter(), time.process_time()
    found = principal_components(vectors, block=block)
    middle = time.perf_counter()
    cpu_s = time.process_time() - cpu
    print(f"principal_directions_s={middle - start:.1f} cpu_s={cpu_s:.1f}")
    print(f"loads={loads} loading_s={spent:.1f}")
    projection = project(vectors, centre, found.directions)
    print(f"project_s={time.perf_counter() - middle:.1f} threads={torch.get_num_threads()}")
    grown_mib = _peak_mib() - before_mib
    bound_mib = (block + 10) * (size_mib + CHUNK_MIB) + FIXED_MIB  # held, eight by, final, read
    print(f"checkpoint_mib={size_mib:.0f} grown_mib={grown_mib:.0f} bound_mib={bound_mib:.0f}")
    print(f"explained={found.explained_variance_ratio[:3].round(4)}")
    print(f"distance_max={projection.distance.max():.3f} length_max={projection.length.max():.3f}")
    if grown_mib > bound_mib:
        sys.exit("memory exceeds the bound")


def _peak_mib(whose: int = resource.RUSAGE_SELF) -> float:
    peak = resource.getrusage(whose).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
