"""From a valid job to model, data and identity."""

from __future__ import annotations

import fnmatch
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from lsengine import data, files, models
from lsengine.curvature import cells
from lsengine.engine.prepare.directions import movable_tensors
from lsengine.errors import UsageError
from lsengine.job import Job
from lsengine.job.schema import PrincipalDirection
from lsengine.models import checkpoint
from lsengine.objective.losses import Loss, loss_function, per_sample
from lsengine.surface.grid import Grid, make_grid
from lsengine.surface.parts import ROLES

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a job's files hold."""

    model: nn.Module  # at the centre, on the CPU in float32
    dataset: data.Dataset
    digests: Mapping[str, str]  # SHA-256 of `checkpoint` and `data`


def load(job: Job) -> Loaded:
    """Load data, network and checkpoint.

    Raises:
        UsageError: If one of them is missing, damaged or does not fit the others.
    """
    document, job_folder = job.document, job.source.parent
    root = job.path(document.data.root) if document.data.root else None
    exact = document.precision == "float64"
    dataset = data.load(
        document.data, root=root, job_folder=job_folder, seed=document.seed, exact=exact
    )
    model = models.build(
        document.model,
        channels=dataset.channels,
        classes=dataset.outputs,
        size=dataset.size,
        job_folder=job_folder,
    )
    centre = checkpoint.load(job.checkpoint, spec=document.model)
    checkpoint.fit(model, centre, key="model.checkpoint")
    digests = {"checkpoint": checkpoint.digest(job.checkpoint), "data": dataset.sha256}
    return Loaded(model.eval(), dataset, digests)


def check(job: Job, loaded: Loaded) -> None:
    """Check that network, data, loss and quantities go together.

    Raises:
        UsageError: If they do not.
    """
    document = job.document
    loss = loss_function(document.loss, job_folder=job.source.parent)
    check_loss_accepts(loaded.model, loaded.dataset, loss, document.loss)
    _warn_of_undefined(loaded.model)
    if "curvature" in document.quantities:
        moved = None
        if document.curvature.parameters == "moved" and document.directions:
            specs = job.directions.values()
            moved = {name for spec in specs for name in movable_tensors(job, loaded.model, spec)}
        cells.hessian_parameters(cells.trainable_names(loaded.model), moved)
    _warn_of_idle_patterns(job, loaded.model)
    asked = "quantities" in document.model_fields_set and "accuracy" in document.quantities
    if asked and loaded.dataset.classes is None:
        raise UsageError(
            "quantities: accuracy needs integer labels; these targets are real numbers; "
            "leave it out"
        )


def check_loss_accepts(model: nn.Module, dataset: data.Dataset, loss: Loss, name: str) -> None:
    """Run two samples through model and loss, on the CPU, so that misfits show before any work.

    ``name`` is what the job calls the loss.

    Raises:
        UsageError: If the network does not take the data, or the loss its output.
    """
    split = next(iter(dataset.splits))
    y = dataset.splits[split].y
    if name == "cross_entropy" and y.is_floating_point() and not _are_probabilities(y):
        raise UsageError(
            "loss: cross_entropy needs integer labels, or a probability for every class; these "
            "targets are other real numbers; use mse or a loss of your own"
        )
    inputs = data.normalized(dataset, split, torch.float32)[:2]
    targets = y[:2]
    models.check_model_accepts(model, inputs, dataset.classes)
    try:
        with torch.inference_mode():
            output = model.eval()(inputs).double()
            targets = targets.double() if targets.is_floating_point() else targets
            both = loss(output, targets)
            one_by_one = [loss(output[i : i + 1], targets[i : i + 1]) for i in range(len(targets))]
            per_sample(both, len(targets))
    except Exception as error:
        raise UsageError(
            f"loss: {name} refuses the network's output of shape {[*output.shape]} with targets "
            f"of shape {[*targets.shape]}: {type(error).__name__}: {error}"
        ) from error
    mean = torch.stack([one.double().mean() for one in one_by_one]).mean()
    if both.ndim == 0 and not torch.isclose(both.double(), mean, rtol=1e-4, equal_nan=True):
        raise UsageError(
            f"loss: {name} returns one number, {float(both):.6g}, which is not the mean of the "
            f"samples' own losses ({float(mean):.6g}); return one loss per sample, or their mean"
        )


def _are_probabilities(y: Tensor) -> bool:
    is_positive = y.ndim > 1 and bool((y >= 0).all())
    return is_positive and bool(((y.sum(1) - 1).abs() < 1e-4).all())


def _warn_of_undefined(model: nn.Module) -> None:
    numbers = {n: t for n, t in model.state_dict().items() if t.is_floating_point()}
    if name := next((n for n, t in numbers.items() if not bool(t.isfinite().all())), None):
        log.warning(
            f"model.checkpoint: {name} holds NaN or infinite numbers, and so will the cells; a "
            "checkpoint from before the training diverged may be wanted"
        )


def _warn_of_idle_patterns(job: Job, model: nn.Module) -> None:
    names = [*dict(model.named_parameters()), *dict(model.named_buffers())]
    for axis, spec in (job.directions if job.document.directions else {}).items():
        for pattern in spec.ignore:
            if pattern not in ROLES and not fnmatch.filter(names, pattern):
                log.warning("directions.%s.ignore: %s fits no parameter", axis, pattern)


def grid(job: Job, ranges: Mapping[str, tuple[float, float]] = MappingProxyType({})) -> Grid:
    """Return the grid of a job for ``eval``.

    ``ranges`` are by axis those that a trajectory or a curve gives; without them only the shape
    of an automatic axis is right.
    """
    spec = job.document.grid
    assert spec is not None
    axes: list[tuple[float, float, int] | None] = []
    for name, axis in (("alpha", spec.alpha), ("beta", spec.beta)):
        if axis is not None and len(axis) == 2:
            axes.append((*ranges.get(name, (-1.0, 1.0)), axis[1]))
        else:
            axes.append(axis)
    assert axes[0] is not None
    return make_grid(axes[0], axes[1], job.document.repeats)


def identity(job: Job, loaded: Loaded, trajectory: str | None = None) -> dict[str, Any]:
    """Return everything that decides the surface's values, file digests included.

    ``trajectory`` is the digest of the job's checkpoints, which decide where directions or axes
    come from them.
    """
    digests = dict(loaded.digests)
    for key, path in job.direction_files().items():
        is_checkpoint = key.endswith(".checkpoint")
        digest = checkpoint.digest if is_checkpoint else files.sha256
        digests[key.rpartition(".")[0]] = digest(path)
    if trajectory is not None:
        for axis, spec in job.directions.items():
            if isinstance(spec, PrincipalDirection):
                digests[f"directions.{axis}"] = trajectory
        if job.fits_trajectory:
            digests["trajectory"] = trajectory
    return job.identity(digests)


def state_dict_layout(model: nn.Module) -> str:
    """Return names and shapes of a network's state dict as `Layout.state` wants them."""
    parameters = dict(model.named_parameters())
    state = {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    entries = [(n, list(t.shape), n in parameters) for n, t in state.items()]
    return json.dumps(entries, separators=(",", ":"))


def quantity_names(job: Job, dataset: data.Dataset) -> list[str]:
    """Return the names of the quantities' datasets, split by split."""
    kinds = []
    if "loss" in job.document.quantities:
        kinds += ["loss", "loss_se"]
    if "accuracy" in job.document.quantities and dataset.classes is not None:
        kinds += ["accuracy"]
    names = [f"{split}_{kind}" for split in dataset.splits for kind in kinds]
    return names + list(cells.NAMES if "curvature" in job.document.quantities else ())


def trajectory_quantity_names(job: Job, dataset: data.Dataset) -> list[str]:
    """Return the names of a checkpoint's quantities: its own, and those of the plane under it."""
    names = [name for name in quantity_names(job, dataset) if name not in cells.NAMES]
    return names + [f"plane_{name}" for name in names if not name.endswith("_se")]
