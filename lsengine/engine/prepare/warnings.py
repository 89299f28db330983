"""What a job may well do, and its author may not want: warnings before a run.

Shape suffix: C channels of all layers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lsengine import data, models
from lsengine.engine.prepare.checkpoint_series import CheckpointSeries
from lsengine.engine.prepare.directions import Arrays, require_shapes, stored_direction
from lsengine.engine.prepare.loading import Loaded, first_samples
from lsengine.geometry.parameters import Parameters, real_dtype
from lsengine.job import Job
from lsengine.job.direction_types import CurveDirection, FileDirection, TowardDirection
from lsengine.models import checkpoint
from lsengine.surface.grid import Grid, coordinates
from lsengine.surface.parts import Size
from lsengine.wording import listed

log = logging.getLogger(__name__)


_MUCH = 0.1  # of a direction's length


def log_all(
    job: Job, loaded: Loaded, directions: Arrays, grid: Grid, sizes: Mapping[str, Size]
) -> None:
    """Log all warnings of a run that is about to begin; the arguments are those below."""
    model = loaded.model
    of_batch_norm = of_statistics(job, model), of_variances(job, model, directions, grid)
    others = of_other_statistics(job, loaded), of_centre(job), of_labels(job)
    for warning in chain(of_shares(sizes), *of_batch_norm, *others):
        log.warning(warning)


def of_statistics(job: Job, model: nn.Module) -> Iterator[str]:
    """Yield where a job's directions and its policy for running statistics do not go together.

    Along a direction that ends at other statistics the activations change with the weights;
    statistics that stay the centre's then normalise by the wrong numbers.  The model is the one
    at the centre, on the CPU.

    Raises:
        UsageError: If a file or checkpoint has statistics, but not those of the model.
    """
    policy = job.document.batch_norm.policy
    buffers = models.batch_norm_buffers(model)
    centre = {n: t for n, t in model.named_buffers() if n in buffers}
    if not centre or policy == "recalibrated":
        return
    for axis, spec in job.directions.items():
        if isinstance(spec, TowardDirection) and policy == "frozen":
            yield from _of_checkpoint(job, model, centre, axis, spec)
        if isinstance(spec, FileDirection):
            yield from _of_file(job, model, centre, axis, spec)
    if policy == "frozen" and any(isinstance(s, CurveDirection) for s in job.directions.values()):
        yield (
            "batch_norm: frozen keeps the first end's running statistics, which are wrong along a "
            "trained curve and at its other end; use recalibrated"
        )


def _of_checkpoint(
    job: Job, model: nn.Module, centre: Parameters, axis: str, spec: TowardDirection
) -> Iterator[str]:
    key = f"directions.{axis}.checkpoint"
    content = checkpoint.load(job.path(spec.checkpoint), key=key, spec=job.document.model)
    state = checkpoint.fitted(model, content, key=key, needed=())
    if not centre.keys() & state.keys():
        yield (
            f"{key}: {spec.checkpoint} holds no running statistics, and batch_norm: frozen keeps "
            "the centre's: the cell at 1 is not that checkpoint; use recalibrated"
        )
        return
    other = require_shapes(state, centre, axis, spec.checkpoint)
    if differences := _differences(centre, other):
        yield (
            f"batch_norm: frozen keeps the centre's running statistics, but those of "
            f"directions.{axis} differ ({differences}): the cell at 1 is not that "
            "checkpoint; use interpolated or recalibrated"
        )


def _of_file(
    job: Job, model: nn.Module, centre: Parameters, axis: str, spec: FileDirection
) -> Iterator[str]:
    stored = stored_direction(job, spec, axis, model)
    moved = {n: torch.from_numpy(stored[n]) for n in centre if n in stored}
    is_interpolated = job.document.batch_norm.policy == "interpolated"
    if is_interpolated and not moved:
        yield (
            f"directions.{axis}.path: {spec.path} holds no running statistics to move, and "
            "batch_norm: interpolated keeps the centre's; if it leads to another minimum, use "
            "recalibrated"
        )
    if is_interpolated or not moved:
        return
    steps = require_shapes(moved, centre, axis, spec.path)
    if differences := _differences(centre, {n: centre[n] + step for n, step in steps.items()}):
        yield (
            f"batch_norm: frozen keeps the centre's running statistics, but {spec.path} moves "
            f"them along directions.{axis} ({differences} at 1): cells far from 0 are not those "
            "of the file; use interpolated or recalibrated"
        )


def _differences(centre: Parameters, other: Parameters) -> str:
    """Return by how much two sets of statistics differ, nothing if not clearly.

    Clearly is: means by more than a tenth of a standard deviation, or variances by more than
    a fifth, on average over all channels.
    """
    names = [name.removesuffix("running_mean") for name in centre if name.endswith("running_mean")]
    names = [name for name in names if f"{name}running_var" in centre]
    if not names:
        return ""

    def channels(side: Parameters, kind: str) -> Tensor:
        return torch.cat([side[f"{n}running_{kind}"].double() for n in names])

    shift_C = channels(other, "mean") - channels(centre, "mean")
    spread_C = channels(centre, "var").clamp_min(1e-12)
    shift = float((shift_C.abs() / spread_C.sqrt()).mean())
    ratio = float((channels(other, "var").clamp_min(1e-12) / spread_C).log().abs().mean())
    if shift <= 0.1 and ratio <= 0.2:
        return ""
    return (
        f"means by {shift:.2g} standard deviations, variances by a factor of "
        f"{np.exp(ratio):.2g} on average"
    )


def of_variances(job: Job, model: nn.Module, directions: Arrays, grid: Grid) -> Iterator[str]:
    """Yield where interpolated variances become negative within the grid, which makes losses NaN.

    Directions are by axis and parameter; running variances are among them where they move.
    """
    along = isinstance(job.directions["alpha"], CurveDirection) and not job.is_curve_plane
    if along or job.document.batch_norm.policy != "interpolated":
        return  # a curve stays between its control points
    names = {n for d in directions.values() for n in d if n.endswith("running_var")}
    lowest = {n: b.double().numpy() for n, b in model.named_buffers() if n in names}
    for axis, direction in directions.items():
        first, last = grid.axes[axis].min(), grid.axes[axis].max()
        for name in lowest.keys() & direction.keys():
            step = direction[name].astype(np.float64)
            lowest[name] = lowest[name] + np.minimum(first * step, last * step)
    negative = sum(int((values < 0).sum()) for values in lowest.values())
    if negative:
        yield (
            f"batch_norm: interpolated makes {negative} running variances negative towards the "
            "edge of the grid, where the loss is NaN; use recalibrated, or a smaller grid"
        )


def of_trajectory(
    job: Job,
    model: nn.Module,
    series: CheckpointSeries,
    directions: Mapping[str, Mapping[str, NDArray[Any]]],
    tick: Callable[[], None] = lambda: None,
) -> Iterator[str]:
    """Yield that checkpoints have other running statistics than the plane under them.

    Their own losses are with their own statistics.  The first that differs clearly is named, which
    as a rule is the first of the training; later ones are not read then.  ``tick`` is called before
    each is read, and may raise to stop.

    Raises:
        UsageError: If a checkpoint cannot be read or is of another network.
    """
    policy = job.document.batch_norm.policy
    buffers = models.batch_norm_buffers(model)
    centre = {n: t for n, t in model.named_buffers() if n in buffers}
    along = any(isinstance(spec, CurveDirection) for spec in job.directions.values())
    moves = any(np.any(d[n]) for d in directions.values() for n in centre.keys() & d.keys())
    if not centre or policy == "recalibrated" or along or moves:
        return
    for index, path in enumerate(series.paths):
        tick()
        state = series.state(index, model)
        if not centre.keys() <= state.keys():
            continue
        if differences := _differences(centre, state):
            yield (
                f"batch_norm: {policy} keeps the centre's running statistics in the whole plane, "
                f"but those of {path.name} differ ({differences}): the plane under the path is not "
                "the loss that the training saw; use batch_norm: recalibrated"
            )
            return


def of_shares(sizes: Mapping[str, Size]) -> Iterator[str]:
    """Yield which direction is running statistics by more than a tenth of its length."""
    for axis, size in sizes.items():
        if size.share_of_statistics > _MUCH:
            yield (
                f"directions.{axis}: {size.share_of_statistics:.0%} of its length is running "
                f"statistics, which batch_norm: interpolated moves ({size.text()}): cells differ "
                "by them rather than by weights; use recalibrated"
            )


def of_other_statistics(job: Job, loaded: Loaded) -> Iterator[str]:
    """Yield what a training of a user's own network changes, and no policy for statistics reaches.

    It is found by a forward pass of a copy in training mode, where there can be one.
    """
    if not job.document.model.is_own:
        return
    split, dtype = next(iter(loaded.dataset.splits)), real_dtype(loaded.model.parameters())
    x = data.normalized(first_samples(loaded.dataset, split, 4), split, dtype)
    known = models.batch_norm_buffers(loaded.model)
    if names := models.changing_statistics(loaded.model, x) - known:
        yield (
            f"model.arch: a forward pass in training mode changes {listed(sorted(names), most=4)}; "
            f"batch_norm: {job.document.batch_norm.policy} leaves them as the checkpoint has them "
            "(running statistics are buffers with the names running_mean and running_var)"
        )


def of_centre(job: Job) -> Iterator[str]:
    """Yield which axis has no cell at the centre, and how it would get one.

    Axes that take their range from a trajectory have none as a rule, and are not spoken of.
    """
    spec, wanting = job.document.grid, []
    for name in job.directions:
        axis = getattr(spec, name)
        if len(axis) == 2 or 0.0 in coordinates(*axis):
            continue
        start, stop, points = axis
        more = (n for n in range(points + 1, 2 * points + 2) if 0.0 in coordinates(start, stop, n))
        cure = next((f"{n} points have one" for n in more), f"0 is not in {start:g} to {stop:g}")
        wanting.append(f"grid.{name} has no cell at 0 ({cure})")
    if wanting:
        yield (
            f"{' and '.join(wanting)}: the surface has no cell at the checkpoint, and its pictures "
            "cannot say the test error there"
        )


def of_labels(job: Job) -> Iterator[str]:
    """Yield that a training saw other labels than the surface is of."""
    train, splits = job.document.train, job.document.data.splits
    if train is not None and train.label_noise and "train" in splits:
        yield (
            f"train.label_noise: {train.label_noise:g} of the labels were others in training; the "
            "surface is of the data as they are, so the training loss at its centre is not that "
            "of history.h5"
        )
