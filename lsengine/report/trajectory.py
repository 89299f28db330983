"""What a surface's file says of its trajectory, as a table for a person."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lsengine import store, wording
from lsengine.job import load_all
from lsengine.surface import Surface, Trajectory

_COLUMNS = ("alpha", "beta", "distance", "train_loss", "plane_train_loss", "test_loss")
_NEAR, _FAR = 0.2, 0.5  # of a checkpoint's distance from the centre; of the range of their losses
_TITLES = {"plane_train_loss": "plane's", "train_loss": "train loss", "test_loss": "test loss"}


def text(paths: Sequence[str | Path], only: str = "*", changes: Sequence[str] = ()) -> str:
    """Return a table for each job of job files with a matching name, from its surface file.

    ``changes`` are the ``KEY=VALUE`` that the files were evaluated with.

    Raises:
        UsageError: If a job has no surface file yet.
        SurfaceError: If one is damaged.
    """
    jobs = [job for path in paths for job in load_all(path, only=only, changes=changes)]
    return "\n\n".join(table(store.read(job.output)) for job in jobs)


def table(surface: Surface) -> str:
    """Return one line per checkpoint, and what the plane shows of the run."""
    track = surface.trajectory
    if track is None:
        return f"{surface.source}: has no trajectory"
    names = [name for name in (*_COLUMNS, *_metrics(surface)) if name in track.columns]
    rows = [[track.unit, *(_TITLES.get(n, n.replace("_", " ")) for n in names), ""]]
    for row, epoch in enumerate(track.columns["epoch"]):
        numbers = [f"{track.columns[name][row]:.5g}" for name in names]
        rows.append([str(epoch), *numbers, "learning rate drops" if track.lr_drops[row] else ""])
    return "\n".join([surface.source, wording.table(rows), *summary(track), *gaps(track)])


def _metrics(surface: Surface) -> list[str]:
    """Return the columns of an objective's metrics, without error bars."""
    names = json.loads(surface.attributes.get("metrics", "[]"))
    return [f"{s}_{name}" for s in ("train", "test") for name in names if not name.endswith("_se")]


def gaps(track: Trajectory) -> list[str]:
    """Return at which checkpoint the plane has another loss although it is near, nothing if none.

    Near is a distance from the plane of less than a fifth of that from the centre.  Another loss
    differs by more than half the range of all checkpoints' own.
    """
    columns = track.columns
    if not {"train_loss", "plane_train_loss", "length"} <= columns.keys():
        return []
    own_T, plane_T = columns["train_loss"], columns["plane_train_loss"]
    known = np.isfinite(own_T) & np.isfinite(plane_T)
    near = columns["distance"] < _NEAR * columns["length"]
    gap_T = np.where(known & near, np.abs(plane_T - own_T), 0.0)
    if not known.any() or gap_T.max() <= _FAR * np.ptp(own_T[known]):
        return []
    row = int(gap_T.argmax())
    return [
        f"at {track.unit} {columns['epoch'][row]} the plane's train loss is {plane_T[row]:.5g}, "
        f"the checkpoint's own {own_T[row]:.5g}, although the plane is near: do not read the path's"
        " loss off the picture; with batch normalisation use batch_norm: recalibrated"
    ]


def summary(track: Trajectory) -> list[str]:
    """Return how much of a run its plane shows, in sentences."""
    attributes, lines = track.attributes, []
    if (ratio := attributes.get("explained_variance_ratio")) is not None:
        shares = ", ".join(f"{share:.1%}" for share in np.atleast_1d(ratio))
        lines.append(f"explained variance: {shares}; together {np.sum(ratio):.1%}")
    if (share := attributes.get("explained_displacement")) is not None:
        lines.append(f"of the squared distance from the centre, {100 * share:.4g}% is in the plane")
    for axis in ("alpha", "beta"):
        if (cosine_T := track.columns.get(f"cosine_{axis}")) is not None:
            moved = cosine_T[cosine_T != 0]
            mean = float(np.abs(moved).mean()) if moved.size else 0.0
            expected = attributes.get("expected_cosine", float("nan"))
            lines.append(f"mean |cosine| with {axis}: {mean:.3g}; of random vectors {expected:.3g}")
    return lines
