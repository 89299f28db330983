"""Whole runs of `lsengine eval`, from launch to exit: start-up, and cells per second by ranks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
import workloads
import yaml

import lsengine

REPEATS = 3


def measured(*, quick: bool) -> list[dict[str, Any]]:
    """Run a small plane of ResNet-20 alone and with two ranks, in turns.

    On two cores rank 0 evaluates, too, so that two ranks are two evaluating processes.
    """
    ways = [("alone", 1), *([("mpirun -n 2", 2)] if harness.MPI is not None else [])]
    found: dict[str, list[dict[str, float]]] = {name: [] for name, _ in ways}
    points, images = (3, 64) if quick else (6, 256)
    with tempfile.TemporaryDirectory() as folder:
        _make_job(Path(folder), images, points)
        for _ in range(1 if quick else REPEATS):
            for name, ranks in ways:
                found[name].append(_run(Path(folder), ranks))
    return [
        {
            "ranks": name,
            "cells": points**2,
            "images": images,
            **{key: harness.summary([run[key] for run in runs]) for key in runs[0]},
        }
        for name, runs in found.items()
    ]


def note(run: dict[str, Any]) -> str:
    """Return a line about a kind of run."""
    return (
        f"lsengine eval, {run['ranks']}: {harness.shown(run['first_cell_s'], '.1f')} s from launch "
        f"to the first cell begun, then {harness.shown(run['cells_per_s'], '.2f')} cells/s by wall "
        f"clock; a cell took {harness.shown(run['cell_s'], '.3f')} s"
    )


def _make_job(folder: Path, images: int, points: int) -> None:
    work = workloads.make("resnet20", images)
    split = work.dataset.splits["train"]
    np.savez(folder / "data.npz", x_train=split.x.numpy(), y_train=split.y.numpy())
    torch.save({"state_dict": work.model.state_dict(), "epoch": 0}, folder / "network.pt")
    document = {
        "name": "speed",
        "model": {"arch": "resnet20", "checkpoint": "network.pt"},
        "data": {"dataset": "arrays", "root": "data.npz", "splits": ["train"]},
        "directions": {a: {"kind": "random", "seed": i} for i, a in enumerate(("alpha", "beta"))},
        "grid": {"alpha": [-1, 1, points], "beta": [-1, 1, points]},
        "threads": 1,
        "device": "cpu",
        "output": "speed.h5",
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(document))


def _run(folder: Path, ranks: int) -> dict[str, float]:
    (folder / "speed.h5").unlink(missing_ok=True)
    command = [str(Path(sys.executable).with_name("lsengine")), "eval", str(folder / "job.yaml")]
    if ranks > 1:
        command = [*harness.mpirun(ranks), *command]
    start = time.time()
    done = subprocess.run(
        command,
        env={**os.environ, **harness.QUIET},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    whole_s = time.time() - start
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}\n{done.stdout}{done.stderr}")
    surface = lsengine.open(folder / "speed.h5")
    finished, wall_s = (surface.provenance[name] for name in ("finished", "wall_s"))
    first = float((finished - wall_s).min())
    return {
        "first_cell_s": first - start,
        "cells_per_s": finished.size / (float(finished.max()) - first),
        "cell_s": float(np.median(wall_s)),
        "whole_s": whole_s,
    }
