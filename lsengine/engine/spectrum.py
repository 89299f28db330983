"""`lsengine spectrum`: trace, density and leading eigenvectors of the Hessian at the centre.

One process does it.  Under a launcher that is rank 0; the others wait, without using their
cores, and leave with its exit code.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lsengine import __version__, devices, files
from lsengine import log as logs
from lsengine.curvature import Eigenpairs, Hessian, spectral_density, trace
from lsengine.engine import prepare
from lsengine.engine.prepare import hessian_directions
from lsengine.errors import LsengineError, Stopped, UsageError
from lsengine.job import Job, load
from lsengine.ranks import StopRequest, Tag, World
from lsengine.store import records
from lsengine.surface.records import Spectrum

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much to compute; 0 leaves a part out.

    Attributes:
        vectors: Leading eigenvectors.
        trace: Random probes of the trace, a product each.
        density: Random probes of the density, ``curvature.basis`` products each.
    """

    vectors: int = 5
    trace: int = 32
    density: int = 8


def run(
    path: str | Path, sizes: Sizes, *, world: World | None, output: Path | None = None
) -> tuple[int, str]:
    """Compute the spectrum of a job's centre and write it; every rank calls it.

    Args:
        path: A job file that makes one job; directions and grid are not needed.
        sizes: How much to compute.
        world: The ranks, from `lsengine.ranks.join`; None alone.
        output: Default: beside the surface, its name with ``-spectrum``.

    Returns:
        The exit code all ranks agree on, and what rank 0 has to print.

    Raises:
        LsengineError: On rank 0 (or alone), after the others have been told its exit code.
    """
    stop = StopRequest().install()
    world = world or World.alone()
    logs.configure(rank=world.rank)
    if world.rank > 0:
        return int(world.wait(Tag.STOP).payload), ""
    code = 1  # a bug, unless we know better
    try:
        shown = _measure(load(path, command="spectrum"), sizes, stop, output)
        code = 0
        return code, shown
    except LsengineError as error:
        code = error.exit_code
        raise
    finally:
        for rank in range(1, world.size):
            world.send(code, to=rank, tag=Tag.STOP)
        world.flush()


def default_output(job: Job) -> Path:
    """Return the spectrum's file: beside the surface."""
    return job.output.with_name(f"{job.output.stem}-spectrum.h5")


def text(spectrum: Spectrum) -> str:
    """Return a short table of a spectrum."""
    lines = [f"{spectrum.attributes['parameters']:,} parameters"]
    if spectrum.trace is not None:
        value, error = spectrum.trace
        lines.append(f"trace {value:.6g} +- {error:.2g}")
    if len(spectrum.nodes):
        ends = f"from {spectrum.nodes.min():.4g} to {spectrum.nodes.max():.4g}"
        bulk = np.abs(spectrum.nodes) <= 0.01 * np.abs(spectrum.nodes).max()
        share = float(spectrum.weights[bulk].sum())
        lines.append(f"density {ends}; {share:.2%} of it within 1 % of the larger end around 0")
    if len(spectrum.eigenvalues):
        lines.append("rank    eigenvalue    residual")
    for rank, (value, residual) in enumerate(
        zip(spectrum.eigenvalues, spectrum.residuals, strict=True), 1
    ):
        lines.append(f"{rank:4d}  {value:12.6g}  {residual:10.2g}")
    if not spectrum.attributes["converged"]:
        lines.append("not converged: see curvature.max_products")
    return "\n".join(lines)


def _measure(job: Job, sizes: Sizes, stop: StopRequest, output: Path | None) -> str:
    def tick() -> None:
        if stop:
            raise Stopped(f"stopped by {stop.signal}; nothing is kept of a spectrum half done")

    output = _checked(output or default_output(job))
    document = job.document
    threads = len(os.sched_getaffinity(0)) if document.threads == "auto" else document.threads
    torch.set_num_threads(threads)
    device = devices.device_of(document.device, 0)
    if device.type == "cpu":
        devices.tune_malloc()
    loaded = prepare.load(job)
    prepare.check(job, loaded)
    batch_size = document.batch_size
    if batch_size == "auto":
        split = next(iter(loaded.dataset.splits.values()))
        batch_size = devices.automatic_batch_size(split.x.shape[1:], device.type)
    hessian = hessian_directions.at_centre(job, loaded, device, batch_size=batch_size, tick=tick)
    attributes: dict[str, str | int | float] = {
        "lsengine_version": __version__,
        "name": document.name,
        "job": job.resolved(),
        "checkpoint_sha256": files.sha256(job.checkpoint),
        "data_sha256": loaded.dataset.sha256,
        "torch_version": str(torch.__version__),
        "device_kind": device.type,
        "precision": hessian_directions.precision(job),
        "batch_size": batch_size,
        "threads": threads,
        "parameters": hessian.size,
    }
    found = _computed(job, hessian, sizes, attributes)
    records.write_spectrum(output, found)
    return f"{text(found)}\n{output}"


def _computed(
    job: Job, hessian: Hessian, sizes: Sizes, attributes: dict[str, str | int | float]
) -> Spectrum:
    seed, basis = job.document.seed, job.document.curvature.basis
    log.info("%s: parameters=%d device=%s", job.document.name, hessian.size, hessian.device)
    trace_, products, converged = None, 0, True
    nothing, vectors = np.empty(0), {}
    nodes = weights = grid = density = values = residuals = nothing
    if sizes.trace:
        estimate = trace(hessian, probes=sizes.trace, seed=seed)
        trace_, products = (estimate.value, estimate.standard_error), estimate.products
        log.info("trace=%.6g standard_error=%.2g products=%d", *trace_, estimate.products)
    if sizes.density:
        shape = spectral_density(hessian, probes=sizes.density, steps=basis, seed=seed)
        nodes, weights, grid, density = shape.nodes, shape.weights, shape.grid, shape.density
        attributes["density_width"] = shape.width
        products += shape.products
        log.info("density probes=%d products=%d", sizes.density, shape.products)
    if sizes.vectors:
        pairs = hessian_directions.leading(job, hessian, sizes.vectors)
        values, residuals, vectors = pairs.values, pairs.residuals, _by_name(hessian, pairs)
        products, converged = products + pairs.products, pairs.converged
        log.info("eigenvectors=%d products=%d", len(values), pairs.products)
    attributes |= {
        "tolerance": job.document.curvature.tolerance,
        "converged": int(converged),
        "trace_probes": sizes.trace,
        "density_probes": sizes.density,
        "products": products,
    }
    return Spectrum(values, residuals, vectors, trace_, nodes, weights, grid, density, attributes)


def _by_name(hessian: Hessian, pairs: Eigenpairs) -> dict[str, NDArray[np.float32]]:
    """Return the vectors (K, P) as arrays (K, ...) by parameter, signed like directions."""
    rows = [hessian.unflatten(hessian_directions.signed(row)) for row in pairs.vectors]
    return {
        name: np.stack([row[name].detach().float().cpu().numpy() for row in rows])
        for name in hessian.names
    }


def _checked(output: Path) -> Path:
    """Return an output that a slip has not made a surface or a checkpoint.

    Raises:
        UsageError: If something else is there, or it cannot be written.
    """
    if output.exists() and records.format_of(output) != records.SPECTRUM_FORMAT:
        raise UsageError(f"{output}: exists and is no spectrum; give another --output")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{output.parent}: cannot be made: {error.strerror}") from None
    return output
