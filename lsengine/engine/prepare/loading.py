"""From a valid job to model, data and identity."""

from __future__ import annotations

import fnmatch
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from lsengine import data, files, models
from lsengine.curvature import cells
from lsengine.engine.prepare.checks import check_loss_accepts
from lsengine.engine.prepare.directions import movable_tensors
from lsengine.errors import UsageError
from lsengine.job import Job
from lsengine.job.schema import Direction, PrincipalDirection
from lsengine.models import checkpoint
from lsengine.objective.losses import loss_function
from lsengine.surface.grid import Grid, make_grid

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a job's files hold.

    Attributes:
        model: The network at the centre, on the CPU in float32.
        dataset: The data.
        digests: SHA-256 of what the centre and the data come from: ``checkpoint``, ``data``.
    """

    model: nn.Module
    dataset: data.Dataset
    digests: Mapping[str, str]


def load(job: Job) -> Loaded:
    """Load data, network and checkpoint.

    Raises:
        UsageError: If one of them is missing, damaged or does not fit the others.
    """
    document, job_folder = job.document, job.source.parent
    dataset = _dataset(job)
    model = models.build(
        document.model,
        channels=dataset.channels,
        classes=dataset.outputs,
        size=dataset.size,
        job_folder=job_folder,
    )
    checkpoint.fit(model, checkpoint.load(job.checkpoint), key="model.checkpoint")
    digests = {"checkpoint": files.sha256(job.checkpoint), "data": dataset.sha256}
    return Loaded(model.eval(), dataset, digests)


def _warn_of_undefined(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            log.warning(
                "model.checkpoint: %s holds NaN or infinite numbers, and so will the cells; a "
                "checkpoint from before the training diverged may be wanted",
                name,
            )
            return


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
    for axis, spec in (job.directions if document.directions else {}).items():
        _warn_of_idle_patterns(axis, spec, loaded.model)
    asked = "quantities" in document.model_fields_set and "accuracy" in document.quantities
    if asked and loaded.dataset.classes is None:
        raise UsageError(
            "quantities: accuracy needs integer labels; these targets are real numbers; "
            "leave it out"
        )


def _warn_of_idle_patterns(axis: str, spec: Direction, model: nn.Module) -> None:
    names = [*dict(model.named_parameters()), *dict(model.named_buffers())]
    for pattern in spec.ignore:
        if pattern not in ("bias", "norm") and not fnmatch.filter(names, pattern):
            log.warning("directions.%s.ignore: %s fits no parameter", axis, pattern)


def grid(job: Job, ranges: Mapping[str, tuple[float, float]] = MappingProxyType({})) -> Grid:
    """Return the grid of a job for ``eval``.

    Args:
        job: For ``eval``.
        ranges: By axis, those that a trajectory gives; without them only the shape of an
            automatic axis is right.
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

    Args:
        job: For ``eval``.
        loaded: Its files.
        trajectory: Digest of its checkpoints, which decide where directions or axes come from
            them.
    """
    digests = dict(loaded.digests)
    for key, path in job.direction_files().items():
        digests[key.rpartition(".")[0]] = files.sha256(path)
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


def _dataset(job: Job) -> data.Dataset:
    spec = job.document.data
    root = job.path(spec.root) if spec.root else None
    return data.load(spec, root=root, job_folder=job.source.parent, seed=job.document.seed)
