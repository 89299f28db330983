"""Whether an objective, network and data go together, and which quantities it makes."""

from __future__ import annotations

import torch
from torch import Tensor

from lsengine import devices
from lsengine.data.nesting import Nested, count, leaves, mapped
from lsengine.engine.prepare.loading import Loaded
from lsengine.errors import LsengineError, UsageError
from lsengine.geometry.parameters import real_dtype
from lsengine.job import Job
from lsengine.job.direction_types import HessianDirection
from lsengine.objective.batches import Batches
from lsengine.objective.criterion import Measured, OwnObjective
from lsengine.objective.forward import Manner, manner_of
from lsengine.objective.summary import Summary

_FEW = 8  # samples, where batches have no size that counts


def check_objective(job: Job, loaded: Loaded, own: OwnObjective) -> tuple[str, ...]:
    """Judge a few samples twice, and return what there is of a split beside loss and ``loss_se``.

    Of every metric that is its name and that with ``_se``, which a summary has not.

    Raises:
        UsageError: If the objective fails or returns something else than is needed, if two calls
            differ, or if curvature is asked for and there is no gradient.
    """
    batch = _first_batch(job, loaded)
    manner = _manner(job, loaded, own, batch)
    first, again = (_measured(loaded, own, manner, batch) for _ in range(2))
    if (name := _different(first, again)) is not None:
        raise UsageError(
            f'objective: two calls of {job.document.objective} give another "{name}" for the same '
            "batch and weights; take chance out of it: a seed at its beginning (torch.manual_seed, "
            "env.reset(seed=...)), or a network in evaluation mode"
        )
    _check_gradient(job, loaded, own, batch)
    names: list[str] = []
    for name, metric in first.metrics.items():
        names += [name] if isinstance(metric, Summary) else [name, f"{name}_se"]
    return tuple(names)


def _first_batch(job: Job, loaded: Loaded) -> Nested:
    wanted, dataset = job.document.batch_size, loaded.dataset
    dtype = real_dtype(loaded.model.parameters())
    samples = _FEW if wanted == "auto" else wanted
    return Batches.of(dataset, whole=True).first(next(iter(dataset.splits)), samples, dtype)


def _manner(job: Job, loaded: Loaded, own: OwnObjective, batch: Nested) -> Manner:
    try:
        return manner_of(loaded.model, batch, own.call)
    except LsengineError:
        raise
    except (Exception, SystemExit) as error:
        if devices.is_out_of_memory(error):
            raise
        shapes = ", ".join(f"{name} {[*t.shape]}".strip() for name, t in leaves(batch))
        raise UsageError(
            f"objective: {job.document.objective} fails for a batch of {count(batch)} samples "
            f"({shapes}): {type(error).__name__}: {error}; it is called with network and batch, "
            "which is the pair (x, y), or x where there is no y"
        ) from error


def _measured(loaded: Loaded, own: OwnObjective, manner: Manner, batch: Nested) -> Measured:
    result = manner.call(loaded.model, batch, own.call)
    return own.measured(result, count(batch))


def _different(a: Measured, b: Measured) -> str | None:
    """Return the name of what differs between two results, bit by bit."""
    if not _is_same(a.losses.values, b.losses.values):
        return "loss"
    metrics = a.metrics.items()
    return next((n for n, m in metrics if not _is_same(m.values, b.metrics[n].values)), None)


def _is_same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(), b.nan_to_num())


def _check_gradient(job: Job, loaded: Loaded, own: OwnObjective, batch: Nested) -> None:
    """Refuse curvature of a loss without a gradient."""
    specs = job.directions.values() if job.document.directions else ()
    along = any(isinstance(spec, HessianDirection) for spec in specs)
    if not along and "curvature" not in job.document.quantities:
        return
    losses = own.loss(own.call(loaded.model, mapped(Tensor.clone, batch)))
    values = losses if isinstance(losses, Tensor) else losses[0]
    if not values.requires_grad:
        raise UsageError(
            "objective: its loss has no gradient by the network's parameters, so there is no "
            "Hessian; leave out curvature and directions of kind hessian, or take no_grad(), "
            "detach(), item() and numpy() out of it"
        )
