"""How far a surface is, from its file alone; also while it is being written."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lsengine import store
from lsengine.errors import UsageError
from lsengine.files import is_regular
from lsengine.report.inputs import is_job_file
from lsengine.store import damage, lock
from lsengine.surface import FAILED, Surface, parts
from lsengine.wording import duration

if TYPE_CHECKING:
    from lsengine.job import Job

_RECENT = 200
_PAUSE_S = 30.0
_LISTED = 10
_OF_THE_FILE = ("fingerprint", "created", "writing", "device_kind", "precision", "batch_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How far one surface is, in plain values; None is what is not known."""

    surface: str  # the file
    name: str  # of the job
    state: str  # not started, running, partial or finished
    shape: list[int]  # points of each axis
    axes: list[str]
    cells: int
    done: int = 0  # cells with a result
    missing: int
    failed: int = 0
    damaged: int = 0  # cells and checkpoints that do not fit their checksums, and count as missing
    rate_per_s: float | None = None  # cells
    remaining_s: float | None = None
    running_on: str | None = None  # host and process; None if no run has the lock
    quantities: list[str]  # of each cell
    failures: list[dict[str, Any]]  # cell index, coordinates and reason
    checkpoints: dict[str, int] | None = None  # of a trajectory: done, missing and failed
    # By axis and reason how many parameters, numbers and filters there are.
    parameters: dict[str, dict[str, dict[str, int]]] | None = None
    lengths: dict[str, dict[str, float]] | None = None  # of directions, by axis and kind
    zero_filters: dict[str, int] | None = None  # by axis; they are in the direction, and stay
    parameters_text: dict[str, str] | None = None  # by axis all of that in words
    unconverged: int | None = None  # cells done whose eigenvalues did not converge
    fingerprint: str | None = None  # like all that follows of the file; None before there is one
    created: str | None = None
    writing: str | None = None
    device_kind: str | None = None
    precision: str | None = None
    batch_size: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what ``status --json`` prints."""
        return {k: v for k, v in asdict(self).items() if k != "parameters_text"}

    def __str__(self) -> str:
        return text(self)

    def count(self, what: str) -> int:
        """Return what ``status --count`` prints: cells and checkpoints, or cells alone."""
        state = what.removesuffix("-cells")
        cells: int = getattr(self, state)
        return cells + (self.checkpoints[state] if self.checkpoints and state == what else 0)


def is_complete(surface: Surface) -> bool:
    """Whether neither a cell nor a checkpoint of its trajectory is missing."""
    checkpoints = surface.trajectory.counts() if surface.trajectory else None
    return not (surface.counts()["missing"] or (checkpoints and checkpoints["missing"]))


def summaries(path: str | Path, only: str = "*") -> list[Summary]:
    """Return how far a surface file is, or those of a job file's jobs with a matching name."""
    if not is_job_file(path):
        return [summary(path)]
    return [
        summary(job.output) if is_regular(job.output) else _not_started(job)
        for job in _jobs(path, only)
    ]


def _jobs(path: str | Path, only: str) -> list[Job]:
    from lsengine.job import load_all  # its checks are not for every surface to wait for

    return load_all(path, only=only)


def verdicts(path: str | Path, only: str = "*") -> list[damage.Verdict]:
    """Return what a thorough look at a surface finds, or at the surfaces of a job file's jobs.

    Jobs that are not started are left out.

    Raises:
        UsageError: If there is no such file, or no job is started.
        SurfaceError: If a file is no surface, or cannot be read at all.
    """
    if not is_job_file(path):
        return [damage.verify(Path(path))]
    outputs = [job.output for job in _jobs(path, only)]
    found = [damage.verify(output) for output in outputs if is_regular(output)]
    if not found:
        raise UsageError(f"{path}: no surface of it is there; lsengine eval {path} makes them")
    return found


def summary(path: str | Path) -> Summary:
    """Return how far the surface of a surface file is.

    Raises:
        UsageError: If there is no such file.
        SurfaceError: If the file is damaged or no surface.
    """
    path = Path(path)
    surface = store.read(path)
    owner = lock.owner(path)
    counts, rate = surface.counts(), _rate(surface)
    known: dict[str, Any] = {name: surface.attributes.get(name) for name in _OF_THE_FILE} | counts
    moved, sizes, damaged = store.read_parts(path), surface.direction_sizes, damage.cells(path)
    return Summary(
        surface=str(path),
        name=surface.name,
        state="finished" if is_complete(surface) else "running" if owner else "partial",
        shape=list(surface.status.shape),
        axes=list(surface.axes),
        cells=int(surface.status.size),
        rate_per_s=rate,
        remaining_s=counts["missing"] / rate if rate and counts["missing"] else None,
        running_on=f"{owner.get('host')} (process {owner.get('pid')})" if owner else None,
        quantities=list(surface.quantities),
        failures=_failures(surface),
        checkpoints=surface.trajectory.counts() if surface.trajectory else None,
        unconverged=surface.unconverged,
        damaged=sum(map(len, damaged)),
        parameters={a: {w: p.as_dict() for w, p in of.items()} for a, of in moved.items()} or None,
        lengths={axis: size.lengths for axis, size in sizes.items()} or None,
        zero_filters={axis: size.zero_filters for axis, size in sizes.items()} or None,
        parameters_text=parts.said(moved, sizes) or None,
        **known,
    )


def text(summary: Summary) -> str:
    """Return a summary as a few lines for a person."""
    shape = " x ".join(f"{n} {a}" for n, a in zip(summary.shape, summary.axes, strict=True))
    lines = [
        f"{summary.surface}: {summary.state}{', with failed cells' if summary.failed else ''}",
        f"  cells      {summary.cells:,} ({shape})",
        f"  done       {summary.done:,} ({summary.done / max(1, summary.cells):.1%})",
        f"  missing    {summary.missing:,}",
        f"  failed     {summary.failed:,}",
    ]
    if summary.damaged:
        lines.append(f"  damaged    {summary.damaged:,}; they count as missing; see --verify")
    if summary.checkpoints is not None:
        words = ", ".join(f"{n:,} {state}" for state, n in summary.checkpoints.items() if n)
        lines.append(f"  trajectory {words}")
    for axes, words in parts.together(summary.parameters_text or {}).items():
        label = "both axes" if "and" in axes else axes
        lines.append(f"  {label:<10} {words}".replace("; ", f"\n{' ' * 13}"))
    if summary.unconverged:
        lines.append(f"  curvature  {summary.unconverged:,} of the done cells did not converge")
    if summary.rate_per_s:
        lines.append(f"  rate       {summary.rate_per_s:.3g} cells/s")
    if summary.remaining_s is not None:
        lines.append(f"  remaining  {duration(summary.remaining_s)}")
    if summary.running_on:
        lines.append(f"  running on {summary.running_on}")
    for failure in summary.failures[:_LISTED]:
        lines.append(f"  cell {failure['cell']} failed: {failure['reason']}")
    if len(summary.failures) > _LISTED:
        lines.append(f"  and {len(summary.failures) - _LISTED} more failed cells")
    return "\n".join(lines)


def _not_started(job: Job) -> Summary:
    spec = job.document.grid
    specs = {"beta": spec.beta, "alpha": spec.alpha} if spec else {}
    points = {name: int(axis[-1]) for name, axis in specs.items() if axis is not None}
    if job.document.repeats > 1:
        points = {"repeat": job.document.repeats, **points}
    cells = math.prod(points.values()) if points else 0
    return Summary(
        surface=str(job.output),
        name=job.document.name,
        state="not started",
        shape=list(points.values()),
        axes=list(points),
        cells=cells,
        missing=cells,
        quantities=[],
        failures=[],
    )


def _rate(surface: Surface) -> float | None:
    """Return cells per second over the most recently finished cells; None if unknown."""
    if "finished" not in surface.provenance:
        return None  # other writers need not know
    finished = surface.provenance["finished"][surface.status != 0]
    finished = np.sort(finished[np.isfinite(finished)])[-_RECENT:]
    gaps = np.diff(finished)
    if len(gaps) and (breaks := np.flatnonzero(gaps > max(_PAUSE_S, 20 * np.median(gaps)))).size:
        finished = finished[breaks[-1] + 1 :]  # before that there was no run
    if len(finished) < 2 or finished[-1] <= finished[0]:
        return None
    return float((len(finished) - 1) / (finished[-1] - finished[0]))


def _failures(surface: Surface) -> list[dict[str, Any]]:
    unknown = np.full(surface.status.shape, b"unknown reason")
    reasons = surface.provenance.get("failure", unknown).ravel()
    failures = []
    for index in np.flatnonzero(surface.status == FAILED):
        position = np.unravel_index(index, surface.status.shape)
        at = {a: float(c[i]) for (a, c), i in zip(surface.axes.items(), position, strict=True)}
        reason = reasons[index].decode(errors="replace")
        failures.append({"cell": int(index), **at, "reason": reason})
    return failures
