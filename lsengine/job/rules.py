"""What is wrong between the keys of a job that are right one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lsengine.job import loss, schema
from lsengine.job.direction_types import (
    CurveDirection,
    Direction,
    HessianDirection,
    PrincipalDirection,
)
from lsengine.job.schema import DATASETS, ROOTLESS, Document
from lsengine.wording import did_you_mean, short

_MOST_CELLS = 100_000_000  # more is a slip of the keyboard, and would fill memory and disk


def between_keys(job: Document) -> Iterator[str]:
    """Yield what is wrong between keys; sections that are wrong by themselves are None."""
    for rules in (_names, _model, _objective, _data, _grid, _curvature, _trajectory, _curve):
        yield from rules(job)
    for rules in (_repeats, _stored):
        yield from rules(job)


def directions_of(job: Document) -> dict[str, Direction]:
    """Return the directions that a job gives by axis, ``alpha`` first."""
    both = {axis: getattr(job.directions, axis, None) for axis in ("alpha", "beta")}
    return {axis: spec for axis, spec in both.items() if spec is not None}


def selection_key(spec: Direction) -> tuple[tuple[str, ...], ...]:
    """Return what is equal for directions that choose their parameters by the same words."""
    return tuple(sorted(spec.only or ())), tuple(sorted(spec.ignore))


def is_curve_plane(job: Document) -> bool:
    """Whether the directions are the plane of a trained curve."""
    specs = directions_of(job).values()
    return len(specs) == 2 and all(isinstance(spec, CurveDirection) for spec in specs)


def trajectory_glob(job: Document) -> tuple[str, str] | None:
    """Return key path and glob of the trajectory's checkpoints as written, None without one."""
    for axis, spec in directions_of(job).items():
        if isinstance(spec, PrincipalDirection):
            return f"directions.{axis}.checkpoints", spec.checkpoints
    if job.trajectory is not None and job.trajectory.checkpoints is not None:
        return "trajectory.checkpoints", job.trajectory.checkpoints
    return None


def automatic_axes(job: Document) -> list[str]:
    """Return the axes that take their range from the trajectory."""
    specs = {axis: getattr(job.grid, axis, None) for axis in ("alpha", "beta")}
    return [axis for axis, spec in specs.items() if spec and spec[0] == "auto"]


def _names(job: Document) -> Iterator[str]:
    """Yield names that are neither of ours nor of the form of a user's own."""
    libraries = "torchvision:NAME, transformers:CLASS"
    zoo = f'a zoo name (see "lsengine models"), {libraries} or module:factory'
    datasets = f"{', '.join(DATASETS)} or module:factory"
    losses = f"{', '.join(schema.LOSSES)} or module:function"
    for key, name, known, allowed in (
        ("model.arch", job.model and job.model.arch, schema.ARCHITECTURES, zoo),
        ("data.dataset", job.data and job.data.dataset, DATASETS, datasets),
        ("loss", job.loss and job.loss_spec.name, schema.LOSSES, losses),
    ):
        if name and ":" not in name and name not in known:
            yield f"{key}: got {short(name)}; allowed: {allowed}{did_you_mean(name, known)}"
    if job.loss:
        yield from loss.problems(job.loss_spec)


def _model(job: Document) -> Iterator[str]:
    """Yield what is wrong with a network from a folder."""
    if not job.model:
        return
    path, adapter, example = job.model.path, job.model.adapter, "transformers:AutoModelForCausalLM"
    is_library = job.model.arch.startswith("transformers:")
    if is_library and path is None:
        yield f"model.path: required for {job.model.arch}: a folder with config.json and weights"
    if path is not None and not is_library:
        yield f"model.path: arch {job.model.arch} takes none; only such as {example} does"
    if adapter is not None and path is None:
        yield f"model.adapter: needs model.path, the network that it adapts, with arch {example}"


def _objective(job: Document) -> Iterator[str]:
    if job.objective is None:
        return
    if ":" not in job.objective:
        yield f"objective: got {short(job.objective)}; allowed: module:function"
    if "loss" in job.model_fields_set:
        yield "loss: an objective has a loss of its own; leave out loss or objective"
    if "quantities" in job.model_fields_set and "accuracy" in (job.quantities or ()):
        named = 'let the objective return a metric "accuracy"'
        yield f"quantities: accuracy is of a loss's outputs; leave it out, and {named}"


def _data(job: Document) -> Iterator[str]:
    if not job.data:
        return
    dataset = job.data.dataset
    if dataset in DATASETS and dataset not in ROOTLESS and job.data.root is None:
        yield f"data.root: required for dataset {dataset}"
    if job.data.resize is not None and job.data.dataset != "image_folder":
        yield f"data.resize: dataset {job.data.dataset} takes none; only image_folder does"
    policy = job.batch_norm.policy if job.batch_norm else None
    if policy == "recalibrated" and "train" not in job.data.splits:
        yield "batch_norm: recalibrated is from training samples; data.splits needs train"


def _grid(job: Document) -> Iterator[str]:
    specs = directions_of(job)
    if job.grid and specs and (job.grid.beta is None) != ("beta" not in specs):
        given, missing = ("grid", "directions") if job.grid.beta else ("directions", "grid")
        yield f"{missing}.beta: required, because {given}.beta is given"
    if getattr(specs.get("alpha"), "orthogonal", False):
        remedy = "give orthogonal: true to directions.beta, which is made orthogonal to it"
        yield f"directions.alpha.orthogonal: alpha is drawn first and stays as it is; {remedy}"
    if not job.grid:
        return
    axes = [axis for axis in (job.grid.alpha, job.grid.beta) if axis]
    cells = math.prod(int(axis[-1]) for axis in axes) * (job.repeats or 1)
    if cells > _MOST_CELLS:
        yield f"grid: makes {cells:,} cells; allowed: at most {_MOST_CELLS:,}"
    if trajectory_glob(job) is None and not is_curve_plane(job):
        for axis in automatic_axes(job):
            remedy = "give trajectory.checkpoints, or [start, stop, points]"
            yield f"grid.{axis}: auto needs a trajectory; {remedy}"


def _curve(job: Document) -> Iterator[str]:
    yield from _size_of_curve(job)
    specs = directions_of(job)
    if is_curve_plane(job):
        if specs["alpha"] != specs["beta"]:
            yield "directions.beta: must be the same as directions.alpha for the plane of a curve"
        return
    curves = [axis for axis, spec in specs.items() if isinstance(spec, CurveDirection)]
    if curves and "beta" in specs:
        both = "both axes, the plane of its ends and a bend"
        yield f"directions: a curve is alpha alone, along it, or {both}"
    if "alpha" not in curves or job.grid is None:
        return
    spec = job.grid.alpha
    if spec[0] == "auto" or float(spec[0]) < 0 or float(spec[1]) > 1:
        yield f"grid.alpha: got {list(spec)}; a curve goes from 0 to 1"
    if trajectory_glob(job) is not None:
        yield "trajectory: cannot be projected on a curve"


def _size_of_curve(job: Document) -> Iterator[str]:
    for key in ("points", "plane"):
        points = getattr(job.curve, key, None) or 1
        cells = points if isinstance(points, int) else math.prod(points)
        if cells > _MOST_CELLS:
            yield f"curve.{key}: makes {cells:,} cells; allowed: at most {_MOST_CELLS:,}"


def _trajectory(job: Document) -> Iterator[str]:
    specs = directions_of(job).values()
    principal = [spec for spec in specs if isinstance(spec, PrincipalDirection)]
    if len({(spec.checkpoints, *selection_key(spec)) for spec in principal}) > 1:
        remedy = "give checkpoints, only and ignore as in directions.alpha"
        yield f"directions.beta: principal axes are components of one run; {remedy}"
    if job.trajectory is None:
        return
    checkpoints = job.trajectory.checkpoints
    if checkpoints is None and not principal and not is_curve_plane(job):
        yield "trajectory.checkpoints: required, because no direction is principal"
    if checkpoints is not None and principal and checkpoints != principal[0].checkpoints:
        whose = "the trajectory of principal directions is that of their own checkpoints"
        yield f"trajectory.checkpoints: {whose}; leave it out"


def _curvature(job: Document) -> Iterator[str]:
    specs = directions_of(job)
    sharp = {a: spec for a, spec in specs.items() if isinstance(spec, HessianDirection)}
    users = ["quantities: curvature"] if "curvature" in (job.quantities or ()) else []
    users += [f"directions.{axis}: kind hessian" for axis in sharp]
    if job.data and "train" not in job.data.splits:
        yield from (f"{user} is of the training loss; data.splits needs train" for user in users)
    if not users or not job.curvature:
        return
    basis, products = job.curvature.basis, job.curvature.max_products
    if basis > products:
        yield f"curvature.basis: got {basis}; at most curvature.max_products, which is {products}"
    if job.curvature.precision == "tf32" and job.precision == "float64":
        yield "curvature.precision: tf32 rounds what precision: float64 asks for; leave one out"
    for axis, spec in sharp.items():
        if spec.rank > basis // 2 - 1:
            room = f"curvature.basis {basis} has room for ranks up to {basis // 2 - 1}"
            yield f"directions.{axis}.rank: got {spec.rank}; {room}"
    if len(sharp) == 2 and sharp["alpha"] == sharp["beta"]:
        yield "directions.beta: the same eigenvector as alpha; give it another rank"


def _repeats(job: Document) -> Iterator[str]:
    specs, repeats = directions_of(job), job.repeats or 1
    if repeats == 1:
        return
    if trajectory_glob(job) is not None:
        yield f"repeats: got {repeats}; a trajectory is projected on one set of directions"
    if "beta" in specs:
        yield f"repeats: got {repeats}; two directions allow 1 only"
    elif specs and specs["alpha"].kind != "random":
        only = "only directions of kind random differ between repeats"
        yield f"repeats: got {repeats}; {only}, got kind {specs['alpha'].kind}"


def _stored(job: Document) -> Iterator[str]:
    if getattr(job.directions, "stored", True):
        return
    for axis, spec in directions_of(job).items():
        if spec.kind != "random":
            only = "only random ones are drawn again from their seed"
            yield f"directions.stored: false, but {axis} is of kind {spec.kind}; {only}"
