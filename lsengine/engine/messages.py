"""What coordinator and workers tell each other: plain values that travel between ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsengine.cores import NO_LIMITS, Limits, Threads, bound, limits
from lsengine.job import Job
from lsengine.store import CellResults
from lsengine.surface.grid import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Where a rank runs."""

    host: str
    pid: int
    cores: frozenset[int]  # it may use them
    limits: Limits = NO_LIMITS
    visible: str | None  # `CUDA_VISIBLE_DEVICES` as given to it

    @classmethod
    def here(cls, host: str) -> Hello:
        """Return where this process runs, on a host of that name."""
        return cls(
            host=host,
            pid=os.getpid(),
            cores=bound(),
            limits=limits(),
            visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        )


@dataclass(frozen=True, slots=True)
class VisibleDevices:
    """The devices that a process sees."""

    kind: str  # `cpu`, `cuda` or `mps`
    count: int
    visible: str | None  # `CUDA_VISIBLE_DEVICES`


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a worker needs to start loading."""

    job: Job
    slot: int  # its number among the workers of its host that see the same devices
    share: Threads  # of its host's cores
    settled: int = 0  # threads of the surface that is gone on with, or of the other workers
    peers: int = 1  # workers of its host, itself included


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """Where a worker's values come from."""

    host: str
    device_kind: str  # `cpu` and its instruction set, `mps`, or `cuda` and the name of the card
    device_id: str = ""  # of the card, to find out two workers on one; empty without card
    memory: int = 0  # of the card, in bytes; 0 without card
    threads: int  # CPU threads in use
    threads_why: str = ""  # why so many
    torch_version: str  # with the build's suffix
    sample_shape: tuple[int, ...]  # of one input sample
    precision: str  # the job's, or what `auto` comes to here
    forward: str  # `fused` if layers are fused, `eager` if the network's own code runs
    products_by: str = ""  # the way of products with Hessians; empty without curvature
    weights: str = ""  # what weights and directions take and where; empty if that is little


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Where the twin looks: a cell of the grid, or a checkpoint of the trajectory."""

    cell: Cell
    checkpoint: Path | None = None
    losses: Mapping[str, NDArray[np.float64]]  # by split, (N,), or (1,) of a loss that is a mean
    hits: Mapping[str, NDArray[np.float64]]  # by split with classes, (N,)
    allowed: Mapping[str, float]  # by split, how far a loss may be off
    # By split and name: an objective's metric, (N,) or (N, K), and how far a number may be off
    metrics: Mapping[str, Mapping[str, tuple[NDArray[np.float64], float]]] = field(
        default_factory=dict
    )

    def describe(self) -> str:
        """Return where it is, for a person."""
        if self.checkpoint is not None:
            return self.checkpoint.name
        return f"alpha={self.cell.alpha:g} beta={self.cell.beta:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """What a worker compares its own values with: see `lsengine.engine.prepare.twin`.

    Shape suffix: N samples.
    """

    samples: Mapping[str, NDArray[np.int64]]  # indices by split, (N,)
    probes: Sequence[Probe]
    of_split: bool = False  # whether the loss is taken of all samples at once

    @property
    def count(self) -> int:
        """How many samples of all splits it has."""
        return sum(len(indices) for indices in self.samples.values())

    def means(self) -> dict[str, list[float]]:
        """Return by split the mean loss of every probe, for a surface's attribute ``twin``."""
        return {s: [float(probe.losses[s].mean()) for probe in self.probes] for s in self.samples}


NO_TWIN = Twin(samples={}, probes=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is settled before the first cell, the same for all workers but for ``check``."""

    path: Path  # the surface file, laid out
    parallel: bool  # whether workers write their own cells
    precision: str
    batch_size: int
    digests: Mapping[str, str]  # SHA-256 of checkpoint and data as the coordinator has read them
    code: Mapping[str, str] = field(default_factory=dict)  # likewise, of the user's sources
    cells_per_pass: int = 1  # how many cells are evaluated at once
    checkpoints: tuple[Path, ...] = ()  # the trajectory's: the cells after those of the grid
    metrics: tuple[str, ...] = ()  # of an objective: `lsengine.engine.prepare.check`
    twin: Twin = NO_TWIN  # what every worker compares its values with before its first cell
    check: bool = False  # whether this worker tells the losses of the centre, and the precision
    report_s: float = 0.25  # seconds between its reports


@dataclass(frozen=True, slots=True)
class Farewell:
    """The end of a job for a worker."""

    code: int  # the exit code all ranks agree on
    more: bool  # whether another job follows


@dataclass(frozen=True, slots=True)
class Report:
    """A chunk's end, or that of a part of it; without cells no more than a sign of life."""

    results: CellResults  # without values when the worker has written them
    seconds: float
    interrupted: str | None = None  # the signal that ended the chunk early
