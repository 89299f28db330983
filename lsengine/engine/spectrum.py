"""`lsengine spectrum`: trace, density and leading eigenvectors of the Hessian at the centre.

One process does it.  Under a launcher that is rank 0; the others wait, without using their
cores, and leave with its exit code.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lsengine import devices, files, store, wording
from lsengine import log as logs
from lsengine.cores import own_share
from lsengine.curvature import Hessian, spectral_density, trace
from lsengine.engine import centre, prepare
from lsengine.engine.prepare import hessian_directions, threads
from lsengine.engine.prepare.settings import batch_size, sample_shape
from lsengine.engine.prepare.twin import twin_at_centre
from lsengine.engine.twin_check import compare_with_twin
from lsengine.errors import LsengineError, Stopped, UsageError
from lsengine.external import installation
from lsengine.job import Job, load
from lsengine.objective import Objective
from lsengine.ranks import StopRequest, Tag, World
from lsengine.surface.grid import Cell
from lsengine.surface.records import Spectrum

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much to compute; 0 leaves a part out."""

    vectors: int = 5  # leading eigenvectors
    trace: int = 32  # random probes of the trace, a product each
    density: int = 8  # random probes of the density, `curvature.basis` products each


def run(
    path: str | Path,
    sizes: Sizes,
    *,
    world: World | None,
    output: Path | None = None,
    changes: Sequence[str] = (),
) -> tuple[int, str]:
    """Compute the spectrum of a job's centre and write it; every rank calls it.

    Args:
        path: A job file that makes one job; directions and grid are not needed.
        sizes: How much to compute.
        world: The ranks, from `lsengine.ranks.join`; None alone.
        output: Default: beside the surface, its name with ``-spectrum``.
        changes: ``KEY=VALUE`` that replace values of the file.

    Returns:
        The exit code all ranks agree on, and what rank 0 has to print.

    Raises:
        LsengineError: On rank 0 (or alone), after the others have been told its exit code.
    """
    found = run_found(
        lambda: load(path, command="spectrum", changes=changes), sizes, world=world, output=output
    )
    return found.code, f"{text(found.spectrum)}\n{found.path}" if found.spectrum else ""


@dataclass(frozen=True, slots=True)
class Found:
    """What came of `run_found`: the exit code, and on rank 0 the spectrum and its file."""

    code: int
    spectrum: Spectrum | None = None
    path: Path | None = None


def run_found(
    find: Callable[[], Job], sizes: Sizes, *, world: World | None, output: Path | None = None
) -> Found:
    """Compute the spectrum of a job that rank 0 finds first; else as `run`."""
    world = world or World.alone()
    logs.configure(rank=world.rank)
    with StopRequest() as stop:
        if world.rank > 0:
            return Found(int(world.wait(Tag.STOP).payload))
        code = 1  # a bug, unless we know better
        try:
            with stop.at_once():
                job = find()
            path = output or default_output(job)
            spectrum = _measure(job, sizes, stop, path)
            code = 0
            return Found(code, spectrum, path)
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
        pairs = enumerate(zip(spectrum.eigenvalues, spectrum.residuals, strict=True), 1)
        rows = [[str(rank), f"{value:.6g}", f"{residual:.2g}"] for rank, (value, residual) in pairs]
        lines.append(wording.table([["rank", "eigenvalue", "residual"], *rows]))
    if not spectrum.attributes["converged"]:
        lines.append("not converged: see curvature.max_products")
    return "\n".join(lines)


def _measure(job: Job, sizes: Sizes, stop: StopRequest, output: Path) -> Spectrum:
    def tick() -> None:
        if stop:
            raise Stopped(f"stopped by {stop.signal}; nothing is kept of a spectrum half done")

    files.check_target(output)
    if files.is_regular(output) and store.format_of(output) != store.SPECTRUM_FORMAT:
        raise UsageError(f"{output}: exists and is no spectrum; give another --output")
    files.make_folder(output.parent)
    document = job.document
    torch.set_num_threads(own_share().count)
    device = devices.device_of(document.device, 0)
    if device.type == "cpu":
        devices.tune_malloc()
    devices.use_deterministic_kernels()
    loaded = prepare.load(job)
    chosen = threads.choose(job, loaded, device, own_share())
    loaded = replace(loaded, metrics=prepare.check(job, loaded))
    size = batch_size(job, sample_shape(loaded.dataset), device.type, devices.memory_of(device))
    hessian = hessian_directions.hessian_at_centre(
        job, loaded, device, batch_size=size, tick=tick, check=_check_of(job, loaded, tick)
    )
    attributes: dict[str, str | int | float] = {
        "lsengine_version": installation.version(),
        "name": document.name,
        "job": job.resolved(),
        "checkpoint_sha256": loaded.digests["checkpoint"],
        "data_sha256": loaded.dataset.sha256,
        "torch_version": str(torch.__version__),
        "device_kind": device.type,
        "precision": hessian_directions.precision(job),
        "batch_size": size,
        "threads": chosen.count,
        "products_by": str(hessian.way),
        "parameters": hessian.size,
    }
    spectrum = _spectrum(job, hessian, sizes, attributes)
    store.write_spectrum(output, spectrum)
    return spectrum


def _check_of(
    job: Job, loaded: prepare.Loaded, tick: Callable[[], None]
) -> Callable[[Objective], None]:
    """Return what compares an objective at the centre with the twin, and with what is expected."""
    precision, twin = hessian_directions.precision(job), twin_at_centre(job, loaded, tick)
    centre.refuse_unknown(job, prepare.quantity_names(job, loaded.dataset, loaded.metrics))

    def check(objective: Objective) -> None:
        compare_with_twin(job, objective, twin, loaded=loaded, precision=precision)
        if job.document.expect:
            centre.compare(job, objective.losses(Cell(0.0)), precision)

    return check


def _spectrum(
    job: Job, hessian: Hessian, sizes: Sizes, attributes: dict[str, str | int | float]
) -> Spectrum:
    """Compute the parts of a spectrum that are asked for."""
    seed, basis = job.document.seed, job.document.curvature.basis
    log.info("%s: parameters=%d device=%s", job.document.name, hessian.size, hessian.device)
    empty = ("eigenvalues", "residuals", "nodes", "weights", "grid", "density")
    parts: dict[str, Any] = {"trace": None, "vectors": {}, **dict.fromkeys(empty, np.empty(0))}
    products, converged = 0, True
    if sizes.trace:
        counted = hessian_directions.Counted(hessian, "the trace", sizes.trace)
        estimate = trace(counted, probes=sizes.trace, seed=seed)
        parts["trace"] = estimate.value, estimate.standard_error
        products += estimate.products
        log.info("trace=%.6g standard_error=%.2g products=%d", *parts["trace"], products)
    if sizes.density:
        counted = hessian_directions.Counted(hessian, "the density", sizes.density * basis)
        shape = spectral_density(counted, probes=sizes.density, steps=basis, seed=seed)
        parts |= {name: getattr(shape, name) for name in ("nodes", "weights", "grid", "density")}
        attributes["density_width"] = shape.width
        products += shape.products
        log.info("density probes=%d products=%d", sizes.density, shape.products)
    if sizes.vectors:
        pairs = hessian_directions.leading_eigenpairs(job, hessian, sizes.vectors)
        parts |= {"eigenvalues": pairs.values, "residuals": pairs.residuals}
        rows = [hessian.unflatten(row) for row in pairs.vectors]
        parts["vectors"] = {
            name: np.stack([hessian_directions.stored(row[name]).numpy() for row in rows])
            for name in hessian.names
        }
        products, converged = products + pairs.products, pairs.converged
        log.info("eigenvectors=%d products=%d", len(pairs.values), pairs.products)
    attributes |= {
        "tolerance": job.document.curvature.tolerance,
        "converged": int(converged),
        "trace_probes": sizes.trace,
        "density_probes": sizes.density,
        "products": products,
    }
    return Spectrum(**parts, attributes=attributes)
