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


def two_networks(parent: Path) -> list[Path]:
    """Write two networks with known weights, under the same file name in two folders."""
    paths = []
    for folder, scale in (("small", 1.0), ("large", 3.0)):
        state = {
            "conv.weight": torch.tensor([[-1.0, 0.0], [0.0, 1.0]]) * scale,
            "fc.weight": torch.full((1, 4), 0.5) * scale,
            "fc.bias": torch.tensor([2.0]),
            "bn.running_mean": torch.full((4,), 77.0),
            "bn.num_batches_tracked": torch.tensor(9),
        }
        path = parent / folder / "epoch_300.pt"
        path.parent.mkdir()
        torch.save({"state_dict": state, "epoch": 300}, path)
        paths.append(path)
    return paths
