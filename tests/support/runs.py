"""A small training run with all its checkpoints, for tests of trajectories and curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lsengine import job as jobs
from lsengine.training import training
from tests.support.jobs import write_job

TRAIN = {
    "output": "run",
    "epochs": 8,
    "save_every": 1,
    "lr": 0.1,
    "milestones": [5],
    "batch_size": 16,
}
PRINCIPAL = {"kind": "principal", "checkpoints": "run/epoch_*.pt"}


def run_job(folder: Path, name: str = "job", *, arch: str = "testnets:mlp", **changes: Any) -> Path:
    """Train a network once, and write a job in the principal plane of its checkpoints."""
    last = "run/epoch_008.pt"
    if not (folder / last).exists():
        model = {"arch": arch, "args": {"seconds": 0.0} if arch.endswith("Slow") else {}}
        training.run(
            jobs.load(write_job(folder, "train", model=model, train=TRAIN)), progress="none"
        )
    document: dict[str, Any] = {
        "model": {"arch": arch, "checkpoint": last},
        "directions": {"alpha": PRINCIPAL, "beta": PRINCIPAL},
        "grid": {"alpha": ["auto", 5], "beta": ["auto", 4]},
    }
    return write_job(folder, name, **(document | changes))
