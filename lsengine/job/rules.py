"""What is wrong between the keys of a job that are right one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lsengine.job.schema import (
    ARCHITECTURES,
    DATASETS,
    LOSSES,
    CurveDirection,
    Document,
    HessianDirection,
    PrincipalDirection,
)
from lsengine.wording import did_you_mean, short

_MOST_CELLS = 100_000_000  # more is a slip of the keyboard, and would fill memory and disk


def between_keys(job: Document) -> Iterator[str]:
    """Yield what is wrong between keys that are right one by one."""
    if job.model and ":" not in job.model.arch and job.model.arch not in ARCHITECTURES:
        hint = did_you_mean(job.model.arch, ARCHITECTURES)
        yield (
            f"model.arch: got {short(job.model.arch)}; allowed: a zoo name (see "
            f'"lsengine models"), torchvision:NAME or module:factory{hint}'
        )
    if job.data and ":" not in job.data.dataset and job.data.dataset not in DATASETS:
        allowed = ", ".join(DATASETS)
        hint = did_you_mean(job.data.dataset, DATASETS)
        yield (
            f"data.dataset: got {short(job.data.dataset)}; allowed: {allowed} "
            f"or module:factory{hint}"
        )
    if job.loss and ":" not in job.loss and job.loss not in LOSSES:
        hint = did_you_mean(job.loss, LOSSES)
        allowed = ", ".join(LOSSES)
        yield f"loss: got {short(job.loss)}; allowed: {allowed} or module:function{hint}"
    if job.data and job.data.dataset in DATASETS[1:] and job.data.root is None:
        yield f"data.root: required for dataset {job.data.dataset}"
    if job.grid and job.directions and (job.grid.beta is None) != (job.directions.beta is None):
        there, missing = ("grid", "directions") if job.grid.beta else ("directions", "grid")
        yield f"{missing}.beta: required, because {there}.beta is given"
    if getattr(getattr(job.directions, "alpha", None), "orthogonal", False):
        yield (
            "directions.alpha.orthogonal: alpha is drawn first and stays as it is; give "
            "orthogonal: true to directions.beta, which is made orthogonal to it"
        )
    yield from _curvature_checks(job)
    policy = job.batch_norm.policy if job.batch_norm else None
    if policy == "recalibrated" and job.data and "train" not in job.data.splits:
        yield "batch_norm: recalibrated is from training samples; data.splits needs train"
    if job.grid:
        axes = [axis for axis in (job.grid.alpha, job.grid.beta) if axis]
        cells = math.prod(int(axis[-1]) for axis in axes) * (job.repeats or 1)
        if cells > _MOST_CELLS:
            yield f"grid: makes {cells:,} cells; allowed: at most {_MOST_CELLS:,}"
        for axis in automatic_axes(job):
            if trajectory_glob(job) is None and not is_curve_plane(job):
                yield (
                    f"grid.{axis}: auto needs a trajectory; give trajectory.checkpoints, or "
                    "[start, stop, points]"
                )
    yield from _trajectory_checks(job)
    if job.directions:
        yield from _curve_checks(job)
    if (job.repeats or 1) > 1 and job.directions:
        if job.directions.beta is not None:
            yield f"repeats: got {job.repeats}; two directions allow 1 only"
        elif job.directions.alpha.kind != "random":
            yield (
                f"repeats: got {job.repeats}; only directions of kind random differ "
                f"between repeats, got kind {job.directions.alpha.kind}"
            )


def is_curve_plane(job: Document) -> bool:
    """Whether the directions are the plane of a trained curve."""
    both = [getattr(job.directions, axis, None) for axis in ("alpha", "beta")]
    return all(isinstance(spec, CurveDirection) for spec in both)


def _curve_checks(job: Document) -> Iterator[str]:
    alpha, beta = (getattr(job.directions, axis, None) for axis in ("alpha", "beta"))
    if is_curve_plane(job):
        if alpha != beta:
            yield "directions.beta: the plane of a curve is of one curve and bend; repeat alpha's"
        return
    if isinstance(beta, CurveDirection) or (isinstance(alpha, CurveDirection) and beta):
        yield (
            "directions: a curve is alpha alone, along it, or both axes, the plane of its ends and "
            "a bend"
        )
    if not isinstance(alpha, CurveDirection) or job.grid is None:
        return
    spec = job.grid.alpha
    if spec[0] == "auto" or float(spec[0]) < 0 or float(spec[1]) > 1:
        yield f"grid.alpha: got {list(spec)}; a curve goes from 0 to 1"
    if trajectory_glob(job) is not None:
        yield "trajectory: cannot be projected on a curve"


def trajectory_glob(job: Document) -> tuple[str, str] | None:
    """Return key path and glob of the trajectory's checkpoints as written, None without one."""
    for axis in ("alpha", "beta"):
        spec = getattr(job.directions, axis, None)
        if isinstance(spec, PrincipalDirection):
            return f"directions.{axis}.checkpoints", spec.checkpoints
    if job.trajectory is not None and job.trajectory.checkpoints is not None:
        return "trajectory.checkpoints", job.trajectory.checkpoints
    return None


def automatic_axes(job: Document) -> list[str]:
    """Return the axes that take their range from the trajectory."""
    specs = {axis: getattr(job.grid, axis, None) for axis in ("alpha", "beta")}
    return [axis for axis, spec in specs.items() if spec and spec[0] == "auto"]


def _trajectory_checks(job: Document) -> Iterator[str]:
    both = [getattr(job.directions, axis, None) for axis in ("alpha", "beta")]
    principal = [spec for spec in both if isinstance(spec, PrincipalDirection)]
    if len({(spec.checkpoints, *sorted(spec.ignore)) for spec in principal}) > 1:
        yield (
            "directions.beta: principal axes are components of one run; give checkpoints and "
            "ignore as in directions.alpha"
        )
    if job.trajectory is not None:
        own = job.trajectory.checkpoints
        if own is None and not principal and not is_curve_plane(job):
            yield "trajectory.checkpoints: required, because no direction is principal"
        if own is not None and principal and own != principal[0].checkpoints:
            yield (
                "trajectory.checkpoints: the trajectory of principal directions is that of their "
                "own checkpoints; leave it out"
            )
    if (job.repeats or 1) > 1 and trajectory_glob(job) is not None:
        yield f"repeats: got {job.repeats}; a trajectory is projected on one set of directions"


def _curvature_checks(job: Document) -> Iterator[str]:
    given = ((axis, getattr(job.directions, axis, None)) for axis in ("alpha", "beta"))
    sharp = [(axis, spec) for axis, spec in given if isinstance(spec, HessianDirection)]
    users = ["quantities: curvature"] if "curvature" in (job.quantities or ()) else []
    users += [f"directions.{axis}: kind hessian" for axis, _ in sharp]
    if job.data and "train" not in job.data.splits:
        yield from (f"{user} is of the training loss; data.splits needs train" for user in users)
    if not users or not job.curvature:
        return
    basis, products = job.curvature.basis, job.curvature.max_products
    if basis > products:
        yield f"curvature.basis: got {basis}; at most curvature.max_products, which is {products}"
    for axis, spec in sharp:
        if spec.rank > basis // 2 - 1:
            room = f"curvature.basis {basis} has room for ranks up to {basis // 2 - 1}"
            yield f"directions.{axis}.rank: got {spec.rank}; {room}"
    if len(sharp) == 2 and sharp[0][1] == sharp[1][1]:
        yield "directions.beta: the same eigenvector as alpha; give it another rank"
