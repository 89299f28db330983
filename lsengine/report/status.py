"""How far a surface is, from its file alone; also while it is being written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lsengine import job as jobs
from lsengine import store
from lsengine.store import lock
from lsengine.surface import FAILED, Surface

_RECENT = 200
_PAUSE_S = 30.0
_OF_THE_FILE = ("fingerprint", "created", "writing", "device_kind", "precision", "batch_size")


def summaries(path: str | Path, only: str = "*") -> list[dict[str, Any]]:
    """Return how far the surfaces of a file are; see `summary`.

    Args:
        path: A surface file, or a job file (``.yaml``, ``.yml``), possibly of several jobs.
        only: Pattern of the names of the wanted jobs.
    """
    if Path(path).suffix not in (".yaml", ".yml"):
        return [summary(path)]
    return [
        summary(job.output) if job.output.exists() else _not_started(job)
        for job in jobs.load_all(path, only=only)
    ]


def summary(path: str | Path) -> dict[str, Any]:
    """Return how far a surface is.

    Args:
        path: A surface file.

    Returns:
        Plain values: ``surface``, ``name``, ``state`` (``not started``, ``running``,
        ``partial`` or ``finished``), ``shape``, ``cells``, ``done``, ``missing``,
        ``failed``, ``rate_per_s`` and ``remaining_s`` (None when unknown), ``running_on``,
        ``failures`` (cell index, coordinates and reason), ``checkpoints`` (how many
        of a trajectory's are ``done``, ``missing`` and ``failed``; None without one),
        ``unconverged`` (cells done whose eigenvalues did not converge; None without
        curvature), and what the file says of itself.

    Raises:
        UsageError: If there is no such file.
        SurfaceError: If the file is damaged or no surface.
    """
    path = Path(path)
    surface = store.read(path)
    owner = lock.owner(path)
    counts = surface.counts()
    checkpoints = surface.trajectory.counts() if surface.trajectory else None
    missing = counts["missing"] + (checkpoints["missing"] if checkpoints else 0)
    rate = _rate(surface)
    state = "partial" if missing else "finished"
    return {
        "surface": str(path),
        "name": surface.name,
        "state": "running" if owner and missing else state,
        "shape": list(surface.status.shape),
        "axes": list(surface.axes),
        "cells": int(surface.status.size),
        **counts,
        "rate_per_s": rate,
        "remaining_s": counts["missing"] / rate if rate and counts["missing"] else None,
        "running_on": f"{owner.get('host')} (process {owner.get('pid')})" if owner else None,
        "quantities": list(surface.quantities),
        "failures": _failures(surface),
        "checkpoints": checkpoints,
        "unconverged": surface.unconverged,
        **{name: surface.attributes.get(name) for name in _OF_THE_FILE},
    }


def text(found: dict[str, Any]) -> str:
    """Return a summary as a few lines for a person."""
    shape = " x ".join(f"{n} {a}" for n, a in zip(found["shape"], found["axes"], strict=True))
    lines = [
        f"{found['surface']}: {found['state']}{', with failed cells' if found['failed'] else ''}",
        f"  cells      {found['cells']:,} ({shape})",
        f"  done       {found['done']:,} ({found['done'] / found['cells']:.1%})",
        f"  missing    {found['missing']:,}",
        f"  failed     {found['failed']:,}",
    ]
    if (track := found["checkpoints"]) is not None:
        words = ", ".join(f"{count:,} {word}" for word, count in track.items() if count)
        lines.append(f"  trajectory {words}")
    if found["unconverged"]:
        lines.append(f"  curvature  {found['unconverged']:,} of the done cells did not converge")
    if found["rate_per_s"]:
        lines.append(f"  rate       {found['rate_per_s']:.3g} cells/s")
    if found["remaining_s"] is not None:
        lines.append(f"  remaining  {_duration(found['remaining_s'])}")
    if found["running_on"]:
        lines.append(f"  running on {found['running_on']}")
    for failure in found["failures"][:10]:
        lines.append(f"  cell {failure['cell']} failed: {failure['reason']}")
    if len(found["failures"]) > 10:
        lines.append(f"  and {len(found['failures']) - 10} more failed cells")
    return "\n".join(lines)


def _not_started(job: jobs.Job) -> dict[str, Any]:
    spec = job.document.grid
    axes = {"beta": spec.beta, "alpha": spec.alpha} if spec else {}
    shape = [int(a[-1]) for a in axes.values() if a is not None]
    if job.document.repeats > 1:
        shape.insert(0, job.document.repeats)
    names = [n for n, a in axes.items() if a is not None]
    cells = int(np.prod(shape)) if shape else 0
    return {
        "surface": str(job.output),
        "name": job.document.name,
        "state": "not started",
        "shape": shape,
        "axes": ["repeat", *names] if job.document.repeats > 1 else names,
        **{"cells": cells, "done": 0, "missing": cells, "failed": 0},
        **{"rate_per_s": None, "remaining_s": None, "running_on": None},
        **{"quantities": [], "failures": [], "checkpoints": None, "unconverged": None},
        **dict.fromkeys(_OF_THE_FILE),  # settled when the file is laid out
    }


def _rate(surface: Surface) -> float | None:
    """Return cells per second over the most recently finished cells; None if unknown."""
    if "finished" not in surface.provenance:
        return None  # other writers need not know
    finished = np.sort(surface.provenance["finished"][surface.status != 0])[-_RECENT:]
    gaps = np.diff(finished)
    if len(gaps) and (breaks := np.flatnonzero(gaps > max(_PAUSE_S, 20 * np.median(gaps)))).size:
        finished = finished[breaks[-1] + 1 :]  # before that there was no run
    if len(finished) < 2 or finished[-1] <= finished[0]:
        return None
    return float((len(finished) - 1) / (finished[-1] - finished[0]))


def _failures(surface: Surface) -> list[dict[str, Any]]:
    unknown = np.full(surface.status.shape, b"unknown reason")
    reasons = surface.provenance.get("failure", unknown).ravel()
    found = []
    for index in np.flatnonzero(surface.status == FAILED):
        position = np.unravel_index(index, surface.status.shape)
        at = {a: float(c[i]) for (a, c), i in zip(surface.axes.items(), position, strict=True)}
        reason = reasons[index].decode(errors="replace")
        found.append({"cell": int(index), **at, "reason": reason})
    return found


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
