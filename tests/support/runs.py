"""A small training run with all its checkpoints, for tests of trajectories and curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lsengine import job as jobs
from lsengine import store
from lsengine.engine import Options, evaluate
from lsengine.surface import Surface
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
LAST = "run/epoch_008.pt"
MODEL = {"arch": "testnets:mlp"}
SECTION = {"checkpoints": "run/epoch_*.pt"}
RANDOM = {
    "directions": {"alpha": {"kind": "random", "ignore": []}, "beta": {"kind": "random"}},
    "grid": {"alpha": [-1, 1, 3], "beta": [-1, 1, 2]},
}


def run_job(folder: Path, name: str = "job", *, arch: str = "testnets:mlp", **changes: Any) -> Path:
    """Train a network once, and write a job in the principal plane of its checkpoints."""
    if not (folder / LAST).exists():
        model = {"arch": arch, "args": {"seconds": 0.0} if arch.endswith("Slow") else {}}
        training.run(
            jobs.load(write_job(folder, "train", model=model, train=TRAIN)), progress="none"
        )
    document: dict[str, Any] = {
        "model": {"arch": arch, "checkpoint": LAST},
        "directions": {"alpha": PRINCIPAL, "beta": PRINCIPAL},
        "grid": {"alpha": ["auto", 5], "beta": ["auto", 4]},
    }
    return write_job(folder, name, **(document | changes))


def evaluated(job: Path, **options: Any) -> Surface:
    """Evaluate a job in this process and return its surface."""
    assert evaluate([job], Options(progress="none", **options), world=None) == 0
    return store.read(job.with_suffix(".h5"))


def checkpoints_of(folder: Path) -> list[Path]:
    """Return the checkpoints of the training, in order."""
    return [folder / f"run/epoch_{epoch:03d}.pt" for epoch in range(9)]
