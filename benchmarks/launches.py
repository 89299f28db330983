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
from lsengine import data

REPEATS = 3


def measured(*, quick: bool) -> list[dict[str, Any]]:
    """Run a small plane of ResNet-20 alone and with two ranks, in turns.

    On two cores rank 0 evaluates, too, so that two ranks are two evaluating processes.
    """
    ways = [("alone", 1), *([("mpirun -n 2", 2)] if harness.MPI is not None else [])]
    found: dict[str, list[dict[str, float]]] = {name: [] for name, _ in ways}
    points, images = (3, 64) if quick else (6, 256)
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(Path(folder), workloads.make("resnet20", images), points)
        for _ in range(1 if quick else REPEATS):
            for name, ranks in ways:
                found[name].append(run(job, ranks))
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


def make_job(
    folder: Path, work: workloads.Workload, points: int, device: str = "cpu", **more: Any
) -> Path:
    """Write a job of a plane over a workload's network and data, and return its path."""
    split = work.dataset.splits["train"]
    x, y = data.lone(split.x), data.lone(split.y)
    np.savez(folder / "data.npz", x_train=x.numpy(), y_train=y.numpy())
    torch.save({"state_dict": work.model.state_dict(), "epoch": 0}, folder / "network.pt")
    document = {
        "name": "speed",
        "model": {"arch": work.name, "checkpoint": "network.pt", "args": work.args},
        "data": {"dataset": "arrays", "root": "data.npz", "splits": ["train"]},
        "directions": {a: {"kind": "random", "seed": i} for i, a in enumerate(("alpha", "beta"))},
        "grid": {"alpha": [-1, 1, points], "beta": [-1, 1, points]},
        "threads": 1,
        "device": device,
        "output": "speed.h5",
        **more,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def run(job: Path, ranks: int, *, again: bool = False) -> dict[str, float]:
    """Evaluate a job with so many ranks, from the start or ``again``; return its times.

    Raises:
        RuntimeError: If the run fails; with what it printed.
    """
    output = job.with_name("speed.h5")
    if not again:
        output.unlink(missing_ok=True)
    start = time.time()
    launched(ranks, "eval", str(job))
    whole_s = time.time() - start
    surface = lsengine.open(output)
    finished, wall_s = (surface.provenance[name] for name in ("finished", "wall_s"))
    is_new = finished > start
    finished, wall_s = finished[is_new], wall_s[is_new]
    first = float((finished - wall_s).min())
    return {
        "first_cell_s": first - start,
        "cells_per_s": finished.size / (float(finished.max()) - first),
        "cell_s": float(np.median(wall_s)),
        "whole_s": whole_s,
    }


def launched(ranks: int, *arguments: str) -> str:
    """Run a command of lsengine with so many ranks, and return what it printed.

    Raises:
        RuntimeError: If it fails; with what it printed.
    """
    command = [sys.executable, "-m", "lsengine", *arguments]
    if ranks > 1:
        command = [*harness.mpirun(ranks), *command]
    done = subprocess.run(
        command,
        env={**os.environ, **harness.QUIET},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}\n{done.stdout}")
    return done.stdout
