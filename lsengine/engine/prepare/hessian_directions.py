"""The Hessian at the centre, and its leading eigenvectors as directions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from lsengine import devices
from lsengine.curvature import Eigenpairs, Hessian, Way, cells, krylov_bytes, leading_eigenvectors
from lsengine.engine.messages import WorkerInfo
from lsengine.engine.prepare.loading import Loaded, criterion_of, network, use_of
from lsengine.engine.prepare.precision import check_products
from lsengine.engine.prepare.selection import hessian_names, movable_tensors
from lsengine.engine.prepare.settings import CURVATURE, evaluation_settings, lanczos_options
from lsengine.errors import UsageError
from lsengine.geometry.parameters import real_dtype
from lsengine.job import Job, rules
from lsengine.job.direction_types import HessianDirection
from lsengine.log import Progress
from lsengine.models.copies import original_number
from lsengine.objective import Objective
from lsengine.objective.forward import copied
from lsengine.surface.grid import Cell

log = logging.getLogger(__name__)
_FEW = 48  # samples that a way of products is chosen with, at most


def hessian_directions(
    job: Job,
    loaded: Loaded,
    facts: WorkerInfo,
    *,
    batch_size: int,
    tick: Callable[[], None],
    progress: str = "none",
) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]]:
    """Compute the directions of kind hessian of a job; none if it has none.

    Axes that choose the same parameters share one Krylov run, so their vectors are orthogonal.
    The threads of the worker of ``facts`` are taken over.  ``tick`` is called before every
    mini-batch; it may raise to stop.  Products are reported unless ``progress`` is ``none``.

    Returns:
        By axis, unit eigenvectors, float32, on the CPU; and for the surface the attributes
        ``alpha_eigenvalue``, ``alpha_eigenvalue_residual`` (norm of ``H v - value v``), and those
        of beta.

    Raises:
        UsageError: If the Hessian is not finite or has no such eigenvector.
    """
    specs = {a: s for a, s in job.directions.items() if isinstance(s, HessianDirection)}
    directions: dict[str, dict[str, Tensor]] = {}
    attributes: dict[str, float] = {}
    if not specs:
        return directions, attributes
    device = devices.device_of(job.document.device, 0)
    if device.type != facts.device_kind.partition(" ")[0]:
        log.warning("hessian directions: computed on %s, cells on %s", device, facts.device_kind)
    torch.set_num_threads(facts.threads)
    devices.use_deterministic_kernels()
    for axis, spec in specs.items():
        if axis in directions:
            continue
        key = rules.selection_key(spec)
        ranks = {a: s.rank for a, s in specs.items() if rules.selection_key(s) == key}
        movable = movable_tensors(job, loaded.model, spec)
        names = [n for n, _ in loaded.model.named_parameters() if n in movable]
        hessian = hessian_at_centre(
            job, loaded, device, batch_size=batch_size, names=names, tick=tick
        )
        pairs = leading_eigenpairs(job, hessian, max(ranks.values()), progress=progress)
        for sharing, rank in ranks.items():
            value, residual, vector = _pair(job, f"directions.{sharing}", hessian, pairs, rank)
            directions[sharing] = vector
            attributes[f"{sharing}_eigenvalue"] = value
            attributes[f"{sharing}_eigenvalue_residual"] = residual
    if device.type == "cuda":
        torch.cuda.empty_cache()  # a worker may have the same card
    return directions, attributes


def hessian_at_centre(
    job: Job,
    loaded: Loaded,
    device: torch.device,
    *,
    batch_size: int,
    names: list[str] | None = None,
    tick: Callable[[], None] = lambda: None,
    check: Callable[[Objective], None] = lambda _: None,
) -> Hessian:
    """Return the Hessian of the mean training loss at the centre, of a copy of the model.

    ``names`` are the parameters to differentiate by, as far as they are trainable; by default those
    that the section ``curvature`` chooses.  ``tick`` is called
    before every mini-batch; it may raise to abandon a product.  ``check`` is called with what
    evaluates the centre.

    Raises:
        UsageError: If the job has no training split, or no parameter is left.
    """
    if "train" not in loaded.dataset.splits:
        raise UsageError("data.splits: the Hessian is of the training loss; add train")
    if names is not None and not names:
        raise UsageError("directions: kind hessian, but every parameter is ignored")
    check_products(job.document.curvature.precision, device)
    if names is None:
        names = hessian_names(job, loaded.model, at_cells=False)
    else:
        names = cells.hessian_parameters(cells.trainable_names(loaded.model), names)
    # Without curvature: the Hessian itself is wanted, not its extreme eigenvalues at cells.
    settings = evaluation_settings(
        job, device, precision=precision(job), batch_size=batch_size, without=CURVATURE
    )
    loss = criterion_of(job, loaded.dataset)
    centre = Objective(_of_its_own(job, loaded), loaded.dataset, loss, {}, settings, tick=tick)
    check(centre)
    return centre.hessian(Cell(0.0), names)


def _of_its_own(job: Job, loaded: Loaded) -> nn.Module:
    """Return a network like the loaded one with numbers of its own: a copy, or made anew."""
    if job.document.model.is_own:
        dtype = real_dtype(loaded.model.parameters())
        batches, call = use_of(job, loaded.dataset)
        few, made = batches.first("train", 8, dtype), copied(loaded.model)
        if name := original_number(loaded.model, made, lambda m: call(m, few)):
            log.info("a copy of the network computes with its %s, so it is made anew", name)
            return network(job, loaded.dataset, wide=loaded.is_wide)
    return copied(loaded.model)


def way_of_products(job: Job, loaded: Loaded, device: torch.device) -> Way:
    """Return how products with the Hessians of a job's cells are computed, by a few samples.

    Raises:
        UsageError: If none can be right.
    """
    split = loaded.dataset.splits["train"]
    generator = np.random.Generator(np.random.PCG64(job.document.seed))
    drawn = np.sort(generator.permutation(len(split))[:_FEW])
    few, size = split.part(torch.from_numpy(drawn)), _FEW
    if job.document.objective is not None and job.document.batch_size != "auto":
        size = job.document.batch_size  # an objective may depend on the batch
        few = split.part(slice(size))
    part = replace(loaded, dataset=replace(loaded.dataset, splits={"train": few}))
    names = hessian_names(job, loaded.model, at_cells=True)
    return hessian_at_centre(job, part, device, batch_size=size, names=names).way


def precision(job: Job) -> str:
    """Return the precision of products with the Hessian: float64 if that of the job is."""
    document = job.document
    return "float64" if document.precision == "float64" else document.curvature.precision


class Counted:
    """A Hessian whose products are reported, a line every few seconds, ``most`` at the most."""

    def __init__(self, hessian: Hessian, what: str, most: int, progress: str = "lines") -> None:
        self._hessian = hessian
        self.size, self.dtype, self.device = hessian.size, hessian.dtype, hessian.device
        style = "none" if progress == "none" else "lines"
        self._progress = Progress(f"products of {what}", total=most, done=0, style=style)

    def __call__(self, vector: Tensor, /) -> Tensor:
        """Return the product with a vector (P,)."""
        product = self._hessian(vector)
        self._progress.advance()
        return product


def leading_eigenpairs(
    job: Job, hessian: Hessian, count: int, *, progress: str = "lines"
) -> Eigenpairs:
    """Return the ``count`` eigenpairs of largest modulus, as well as the job asks for.

    Raises:
        UsageError: If there is no room for so many, or a product was not finite.
    """
    options = lanczos_options(job)
    basis = min(options.basis, options.max_products)
    gib = krylov_bytes(hessian.size, hessian.dtype, basis) / 2**30
    log.info("hessian: parameters=%d basis=%d vectors=%.2g GiB", hessian.size, basis, gib)
    try:
        counted = Counted(hessian, "eigenvectors", options.max_products, progress)
        pairs = leading_eigenvectors(counted, count, replace(options, basis=basis))
    except ValueError as error:
        raise UsageError(f"{count} eigenvectors of {hessian.size:,} parameters: {error}") from None
    if not bool(pairs.vectors.isfinite().all()):
        raise UsageError("the Hessian at the centre is not finite; is the checkpoint's loss?")
    if not pairs.converged:
        relative = pairs.residuals / abs(pairs.values).clip(1e-300)
        log.warning(
            f"{len(pairs.values)} of {count} eigenvectors after {pairs.products} products, the "
            f"worst residual is {max(relative, default=0.0):.2g} of its eigenvalue; a larger "
            "curvature.max_products may do better"
        )
    return pairs


def stored(tensor: Tensor) -> Tensor:
    """Return a part of a vector as files have it: on the CPU, in float32 or complex64."""
    narrow = torch.complex64 if tensor.is_complex() else torch.float32
    return tensor.detach().to("cpu", narrow).contiguous()


def _pair(
    job: Job, key: str, hessian: Hessian, pairs: Eigenpairs, rank: int
) -> tuple[float, float, dict[str, Tensor]]:
    """Return eigenvalue, residual and eigenvector of a rank."""
    if rank > len(pairs.values):
        most = job.document.curvature.max_products
        raise UsageError(
            f"{key}.rank: got {rank}; only {len(pairs.values)} eigenvectors were found with "
            f"curvature.max_products {most}"
        )
    value, residual = float(pairs.values[rank - 1]), float(pairs.residuals[rank - 1])
    log.info("%s: eigenvalue=%.6g residual=%.1g", key, value, residual)
    views = hessian.unflatten(pairs.vectors[rank - 1])
    vector = {name: stored(view) for name, view in views.items()}
    return value, residual, vector
