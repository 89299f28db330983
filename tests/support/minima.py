"""Jobs that connect two minima, for tests of curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.support.jobs import write_job


def write_connection(folder: Path, name: str = "job", **changes: Any) -> Path:
    """Write a job that connects two networks trained on digits; see `minima`."""
    document: dict[str, Any] = {
        "name": name,
        "model": {"arch": "mlp", "checkpoint": "end0/epoch_008.pt"},
        "data": {"dataset": "digits", "subset": 500},
        "threads": 1,
        "device": "cpu",
        "output": f"{name}.h5",
        "curve": {
            "to": "end1/epoch_008.pt", "output": f"{name}-curve", "epochs": 20, "points": 11,
            "lr": 0.05, "batch_size": 64,
        },
    }  # fmt: skip
    curve_section = (
        document["curve"] | changes.pop("curve", {}) if changes.get("curve", 1) else None
    )
    document |= {**changes, "curve": curve_section}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}))
    return path


def connecting(folder: Path, name: str, **changes: Any) -> Path:
    """Write a job that connects two networks with batch norm."""
    model = {"arch": "testnets:mlp", "checkpoint": "end0/epoch_008.pt"}
    curve = {
        "to": "end1/epoch_008.pt",
        "output": "curve",
        "epochs": 2,
        "points": 3,
        "plane": [2, 2],
    }
    return write_job(folder, name, model=model, directions=None, grid=None, curve=curve, **changes)
