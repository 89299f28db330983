"""Checkpoints beside the centre's, and jobs that lead to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.support.jobs import write_job

CURVE = {"alpha": [0, 1, 3]}


def other_checkpoint(
    folder: Path, scale: float = 1.1, drop: str | None = None
) -> dict[str, torch.Tensor]:
    """Write a checkpoint with all parameters and statistics of the centre, scaled."""
    state = torch.load(folder / "centre.pt")["state_dict"]
    other = {n: t * scale if t.is_floating_point() else t for n, t in state.items()}
    if drop:
        other.pop(drop)
    torch.save({"state_dict": other}, folder / "other.pt")
    return other


def toward(folder: Path, **changes: Any) -> Path:
    """Write a job of the line from the centre to the other checkpoint."""
    directions = {"alpha": {"kind": "toward", "checkpoint": "other.pt"}}
    return write_job(folder, directions=directions, grid=CURVE, **changes)
