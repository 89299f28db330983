"""A training run's checkpoints in a plane: its own two principal directions, or any others.

Shape suffix: T checkpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lsengine import devices
from lsengine.engine.prepare.checkpoint_series import CheckpointSeries, Tick
from lsengine.engine.prepare.loading import Loaded, trajectory_quantity_names
from lsengine.engine.prepare.selection import movable_tensors, weights_among
from lsengine.errors import UsageError
from lsengine.geometry.parameters import Floats
from lsengine.geometry.principal import BLOCK, principal_components
from lsengine.geometry.projection import axis_range, expected_cosine
from lsengine.geometry.projection import project as projected
from lsengine.job import Job
from lsengine.job.direction_types import PrincipalDirection
from lsengine.store import TrajectoryLayout

log = logging.getLogger(__name__)
Directions = Mapping[str, Mapping[str, NDArray[np.float32]]]
_HELD_BYTES = 2**31  # of checkpoints in memory


def principal_directions(
    job: Job, model: nn.Module, series: CheckpointSeries | None, tick: Tick = lambda: None
) -> tuple[dict[str, dict[str, Tensor]], Floats | None]:
    """Compute the directions of kind principal of a job; none if it has none.

    They are components of the weights.  Running statistics that move are in them, too, as the same
    combination of checkpoints; they do not count.  ``tick`` is called before every checkpoint is
    read; it may raise to stop.

    Returns:
        By axis, unit vectors of weights, float32; and the fraction of the run's variance that each
        explains, None without directions.

    Raises:
        UsageError: If a checkpoint does not fit, or the run has too few dimensions.
    """
    specs = _principal(job)
    if not specs or series is None:
        return {}, None
    moving = movable_tensors(job, model, next(iter(specs.values())))
    weights = weights_among(moving, model)
    # By arithmetic on shapes, so that it is the same in every run; never less than ten in all.
    numbers = sum(tensor.numel() for tensor in weights.values())
    block = max(1, min(BLOCK, _HELD_BYTES // (4 * max(1, numbers)) - 9))
    with _on_one_thread(series.key):
        run = principal_components(
            series.vectors(model, list(weights), tick),
            moving=series.vectors(
                model, [*weights, *(n for n in moving if n not in weights)], tick
            ),
            components=2 if "beta" in specs else 1,
            block=block,
        )
    ranks = [("alpha", "beta").index(axis) for axis in specs]
    directions = {axis: run.directions[k] for axis, k in zip(specs, ranks, strict=True)}
    return directions, run.explained_variance_ratio[ranks]


def project(
    job: Job,
    loaded: Loaded,
    series: CheckpointSeries,
    directions: Directions,
    ratio: Floats | None = None,
    *,
    tick: Tick = lambda: None,
) -> TrajectoryLayout:
    """Return where a job's checkpoints lie, and what is to be evaluated of each.

    The distance from the plane is in all parameters that can move, of principal directions in
    those that are not ignored, whose ``ratio`` comes from `principal_directions`.  Running
    statistics do not count, also where they move.  ``tick`` is called before every checkpoint is
    read; it may raise to stop.

    Raises:
        UsageError: If a checkpoint does not fit, or the directions span no plane.
    """
    model = loaded.model
    moving = movable_tensors(job, model, next(iter(_principal(job).values()), None))
    tensors = [
        {n: torch.from_numpy(a) for n, a in weights_among(d, model).items()}
        for d in directions.values()
    ]
    centre = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with _on_one_thread(series.key):
        vectors = series.vectors(model, list(weights_among(moving, model)), tick)
        track = projected(vectors, centre, tensors)
    _warn_of_incomplete_path(series, track.length)
    columns: dict[str, NDArray[Any]] = {"epoch": np.array(series.numbers, np.int64)}
    for k, axis in enumerate(directions):
        columns[axis] = track.coordinates[:, k]
        columns[f"cosine_{axis}"] = track.cosine[:, k]
    columns |= {"distance": track.distance, "length": track.length}
    columns["learning_rate"] = np.array(series.learning_rates)
    columns["source"] = np.array([path.name.encode() for path in series.paths])
    columns["sha256"] = np.array(series.digests, "S64")
    count, total = sum(t.numel() for t in tensors[0].values()), float((track.length**2).sum())
    attributes: dict[str, Any] = {
        "expected_cosine": expected_cosine(count),
        "explained_displacement": 1 - float((track.distance**2).sum()) / total if total else 1.0,
    }
    if series.unit != "epoch":
        attributes["unit"] = "step" if series.unit == "step" else "checkpoint"
    if ratio is not None:
        attributes["explained_variance_ratio"] = ratio
    quantities = trajectory_quantity_names(job, loaded.dataset, loaded.metrics)
    return TrajectoryLayout(columns, quantities, attributes)


def ranges(job: Job, layout: TrajectoryLayout) -> dict[str, tuple[float, float]]:
    """Return (start, stop) by axis that cover a trajectory and the job's margin."""
    axes = [axis for axis in ("alpha", "beta") if axis in layout.columns]
    return {axis: axis_range(layout.columns[axis], job.margin) for axis in axes}


def _warn_of_incomplete_path(series: CheckpointSeries, length_T: Floats) -> None:
    """Warn of a centre that is not the end of the path; say that nobody knows learning rates."""
    (at,) = np.nonzero(length_T == 0)
    key, final = series.key, series.paths[-1].name
    if not at.size:
        log.warning(
            f"model.checkpoint has the parameters of none of {key}: the path does not touch the "
            f"centre; the final one is {final}"
        )
    elif length_T[-1] > 0:
        log.warning(
            f"model.checkpoint is {series.paths[at[-1]].name}, and the final one of {key} is "
            f"{final}: the path does not end at 0"
        )
    if np.isnan(series.learning_rates).all():
        log.info(
            f"{key}: neither they nor a history.h5 beside say the learning rate; its drops are not "
            "marked"
        )


def _principal(job: Job) -> dict[str, PrincipalDirection]:
    return {a: s for a, s in job.directions.items() if isinstance(s, PrincipalDirection)}


@contextmanager
def _on_one_thread(key: str) -> Iterator[None]:
    """Compute on one thread, and turn what does not fit into an error of a key of the job."""
    try:
        with devices.one_thread():
            yield
    except ValueError as error:
        raise UsageError(f"{key}: {error}") from None
