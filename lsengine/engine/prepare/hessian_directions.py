"""The Hessian at the centre, and its leading eigenvectors as directions."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lsengine import devices
from lsengine import objective as objectives
from lsengine.curvature import (
    Eigenpairs,
    Hessian,
    LanczosOptions,
    cells,
    krylov_bytes,
    leading_eigenvectors,
)
from lsengine.engine.messages import WorkerInfo
from lsengine.engine.prepare.directions import movable_tensors
from lsengine.engine.prepare.loading import Loaded
from lsengine.errors import UsageError
from lsengine.job import Job
from lsengine.job.schema import HessianDirection
from lsengine.objective import losses
from lsengine.surface.grid import Cell

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Eigenvector:
    """One eigenpair of the Hessian at the centre.

    Attributes:
        value: The eigenvalue.
        residual: Norm of ``H v - value v``.
        vector: Of unit norm, named and shaped like the parameters; float32, on the CPU.
    """

    value: float
    residual: float
    vector: dict[str, Tensor]


def hessian_directions(
    job: Job, loaded: Loaded, facts: WorkerInfo, *, batch_size: int, tick: Callable[[], None]
) -> dict[str, Eigenvector]:
    """Compute the directions of kind hessian of a job, by axis; none if it has none.

    Axes that ignore the same parameters share one Krylov run, so their vectors are orthogonal.

    Args:
        job: Valid for ``eval``.
        loaded: Model and data; left alone.
        facts: Of the worker that settles what is open; its threads are taken over.
        batch_size: The settled one.
        tick: Called before every mini-batch; may raise to stop.

    Raises:
        UsageError: If the Hessian is not finite or has no such eigenvector.
    """
    specs = {a: s for a, s in job.directions.items() if isinstance(s, HessianDirection)}
    if not specs:
        return {}
    device = devices.device_of(job.document.device, 0)
    if device.type != facts.device_kind.partition(" ")[0]:
        log.warning("hessian directions: computed on %s, cells on %s", device, facts.device_kind)
    torch.set_num_threads(facts.threads)
    found: dict[str, Eigenvector] = {}
    for axis, spec in specs.items():
        if axis in found:
            continue
        like = {a: s.rank for a, s in specs.items() if sorted(s.ignore) == sorted(spec.ignore)}
        movable = movable_tensors(job, loaded.model, spec)
        names = [n for n, _ in loaded.model.named_parameters() if n in movable]
        hessian = at_centre(job, loaded, device, batch_size=batch_size, names=names, tick=tick)
        pairs = leading(job, hessian, max(like.values()))
        for other, rank in like.items():
            found[other] = _pair(job, f"directions.{other}", hessian, pairs, rank)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # a worker may have the same card
    return found


def at_centre(
    job: Job,
    loaded: Loaded,
    device: torch.device,
    *,
    batch_size: int,
    names: list[str] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Hessian:
    """Return the Hessian of the mean training loss at the centre, of a copy of the model.

    Args:
        job: With a checkpoint.
        loaded: Model and data; left alone.
        device: Where products are computed.
        batch_size: Samples per mini-batch.
        names: The parameters to differentiate by, of the trainable ones; default all.
        tick: Called before every mini-batch; may raise to abandon a product.

    Raises:
        UsageError: If the job has no training split, or no parameter is left.
    """
    document = job.document
    if "train" not in loaded.dataset.splits:
        raise UsageError("data.splits: the Hessian is of the training loss; add train")
    if names is not None and not names:
        raise UsageError("directions: kind hessian, but every parameter is ignored")
    names = cells.hessian_parameters(cells.trainable_names(loaded.model), names)
    devices.use_deterministic_kernels()
    batch_norm = document.batch_norm
    settings = objectives.EvaluationSettings(
        device=device,
        precision=precision(job),
        batch_size=batch_size,
        batch_norm=batch_norm.policy,
        recalibration=(batch_norm.samples, batch_norm.batch_size),
        seed=document.seed,
        channels_last=not document.model.is_own,
    )
    loss = losses.loss_function(document.loss, job_folder=job.source.parent)
    model = copy.deepcopy(loaded.model)
    centre = objectives.Objective(model, loaded.dataset, loss, {}, settings, tick=tick)
    return centre.hessian(Cell(0.0), names)


def precision(job: Job) -> str:
    """Return the precision of products with the Hessian: the job's, but never below float32."""
    return "float64" if job.document.precision == "float64" else "float32"


def needs(hessian: Hessian, basis: int) -> str:
    """Return a line about the memory of a Krylov run."""
    gib = krylov_bytes(hessian.size, hessian.dtype, basis) / 2**30
    return f"hessian: parameters={hessian.size} basis={basis} vectors={gib:.2g} GiB"


def leading(job: Job, hessian: Hessian, count: int) -> Eigenpairs:
    """Return the ``count`` eigenpairs of largest modulus, as well as the job asks for.

    Raises:
        UsageError: If there is no room for so many, or a product was not finite.
    """
    asked = job.document.curvature
    basis = min(asked.basis, asked.max_products)
    log.info("%s", needs(hessian, basis))
    options = LanczosOptions(asked.tolerance, asked.max_products, basis, job.document.seed)
    try:
        pairs = leading_eigenvectors(hessian, count, options)
    except ValueError as error:
        raise UsageError(f"{count} eigenvectors of {hessian.size:,} parameters: {error}") from None
    if not bool(pairs.vectors.isfinite().all()):
        raise UsageError("the Hessian at the centre is not finite; is the checkpoint's loss?")
    if not pairs.converged:
        log.warning(
            "%d of %d eigenvectors after %d products, the worst residual is %.2g of its "
            "eigenvalue; a larger curvature.max_products may do better",
            *(len(pairs.values), count, pairs.products),
            max(pairs.residuals / abs(pairs.values).clip(1e-300), default=0.0),
        )
    return pairs


def signed(vector_P: Tensor) -> Tensor:
    """Return a vector or its negative: that whose number of largest modulus is positive."""
    largest = vector_P[vector_P.abs().argmax()]
    return -vector_P if float(largest) < 0 else vector_P


def _pair(job: Job, key: str, hessian: Hessian, pairs: Eigenpairs, rank: int) -> Eigenvector:
    if rank > len(pairs.values):
        most = job.document.curvature.max_products
        raise UsageError(
            f"{key}.rank: got {rank}; only {len(pairs.values)} eigenvectors were found with "
            f"curvature.max_products {most}"
        )
    value, residual = float(pairs.values[rank - 1]), float(pairs.residuals[rank - 1])
    log.info("%s: eigenvalue=%.6g residual=%.1g", key, value, residual)
    views = hessian.unflatten(signed(pairs.vectors[rank - 1]))
    vector = {name: view.detach().float().cpu().contiguous() for name, view in views.items()}
    return Eigenvector(value, residual, vector)
