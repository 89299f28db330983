"""From a valid job to model, data and identity."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from lsengine import data, devices, files, models
from lsengine.curvature import cells
from lsengine.data import nesting
from lsengine.data.dataset import NO_LABEL
from lsengine.engine.prepare.normalisation import check_choices
from lsengine.engine.prepare.selection import (
    movable_tensors,
    roles,
    selection,
)
from lsengine.engine.prepare.tokens import refuse_unknown_tokens
from lsengine.errors import LsengineError, UsageError
from lsengine.external import user_code
from lsengine.geometry.parameters import real_dtype
from lsengine.job import Job
from lsengine.job.direction_types import PrincipalDirection
from lsengine.models import calling, checkpoint
from lsengine.objective import reported
from lsengine.objective.batches import Batches
from lsengine.objective.criterion import Criterion, OwnObjective, own_objective
from lsengine.objective.device_state import in_precision
from lsengine.objective.forward import Call, cast, manner_of
from lsengine.objective.losses import loss_function
from lsengine.objective.outputs import nested_output
from lsengine.surface import parts
from lsengine.surface.grid import Grid, make_grid

log = logging.getLogger(__name__)
_FEW = 8  # samples that show of which loss the network's own is


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a job's files hold."""

    model: nn.Module  # at the centre, on the CPU
    dataset: data.Dataset
    digests: Mapping[str, str]  # SHA-256 of `checkpoint` and `data`
    is_wide: bool = False  # whether the network is in float64, as the job's precision is
    metrics: tuple[str, ...] = ()  # of an objective, as `lsengine.engine.prepare.check` finds them


def load(job: Job) -> Loaded:
    """Load data, network and checkpoint.

    Raises:
        UsageError: If one of them is missing, damaged or does not fit the others.
    """
    is_wide = job.document.precision == "float64"
    dataset = _dataset(job, exact=is_wide)
    model = network(job, dataset, wide=is_wide)
    refuse_unknown_tokens(model, dataset)
    digests = {"checkpoint": checkpoint.digest(job.checkpoint), "data": dataset.sha256}
    if job.document.loss_spec.name == "output":
        dataset = _with_own_loss(dataset, model)
    digests |= models.folder_digests(job.document.model, job.source.parent)
    return Loaded(model=model, dataset=dataset, digests=digests, is_wide=is_wide)


def _dataset(job: Job, *, exact: bool = False) -> data.Dataset:
    """Return the data of a job; an objective does without targets."""
    document = job.document
    return data.load(
        document.data,
        root=job.path(document.data.root) if document.data.root else None,
        job_folder=job.source.parent,
        seed=document.seed,
        exact=exact,
        needs_targets=document.objective is None,
        keeps_targets=document.loss_spec.name == "output",
        ignored=document.loss_spec.ignore_index,
    )


def _with_own_loss(dataset: data.Dataset, model: nn.Module) -> data.Dataset:
    """Tell a data set of which loss of its logits the network's own is, by a few samples.

    If a label is that of the next token, the first one is none.
    """
    split, dtype = next(iter(dataset.splits)), real_dtype(model.parameters())
    part = first_samples(dataset, split, _FEW)
    x, y = data.normalized(part, split, dtype), data.lone(part.splits[split].y)
    kind = reported.kind_by_trial(model, lambda net: widened(called(net, x)), y)
    log.info("loss: output: %s", kind or "as it is, for every batch")
    if kind != "next":
        return replace(dataset, own_loss=kind)
    splits = {n: replace(s, y=_without_first(data.lone(s.y))) for n, s in dataset.splits.items()}
    return replace(dataset, own_loss=kind, splits=splits)


def _without_first(labels_NT: Tensor) -> Tensor:
    return torch.cat([torch.full_like(labels_NT[:, :1], NO_LABEL), labels_NT[:, 1:]], 1)


def network(job: Job, dataset: data.Dataset, *, wide: bool = False) -> nn.Module:
    """Return the network of a job with its checkpoint's numbers, in evaluation mode.

    It is in the precision in which its factory makes it, but float32 for 16 bits; or ``wide``: in
    float64.

    Raises:
        UsageError: If it cannot be made, or the checkpoint is not of it.
    """
    model = _made(job, dataset)
    if wide:  # before the checkpoint, so that nothing of it is rounded
        cast(model, torch.float64)
    else:
        model._apply(lambda t: t.float() if t.dtype in (torch.float16, torch.bfloat16) else t)
    if job.document.model.checkpoint is not None:  # else the factory has read the folder's
        centre = checkpoint.load(job.checkpoint, spec=job.document.model)
        checkpoint.fit(model, centre, key="model.checkpoint")
    return model.eval()


def _made(job: Job, dataset: data.Dataset) -> nn.Module:
    """Return the network of a job as its factory makes it, lazy layers with shapes."""
    model = models.build(
        job.document.model,
        channels=dataset.channels,
        classes=dataset.outputs,
        size=dataset.size,
        job_folder=job.source.parent,
    )
    split = next(iter(dataset.splits))
    dtype = real_dtype(model.parameters())
    batches, call = use_of(job, dataset)
    two = batches.first(split, 2, dtype)
    models.initialise_lazy(model, two, lambda m, x: manner_of(m, x, call).call(m, x, call))
    return model


def moving_parts(job: Job) -> dict[str, dict[str, parts.Part]]:
    """Return by axis which parameters move and which stay, and why; no checkpoint is needed.

    Raises:
        UsageError: If there is no data or network, or they do not go together.
    """
    dataset = _dataset(job)
    model = _made(job, dataset)
    check_choices(job, model)
    state, known = json.loads(state_dict_layout(model)), roles(model)
    policy = job.document.batch_norm.policy
    return {
        axis: parts.parts(
            state, movable_tensors(job, model, spec).keys(), selection(spec), known, policy
        )
        for axis, spec in job.directions.items()
    }


def criterion_of(job: Job, dataset: data.Dataset) -> Criterion:
    """Return what a job judges batches by: its objective if it has one, else its loss.

    Raises:
        UsageError: As `criterion`.
    """
    document, folder = job.document, job.source.parent
    if document.objective is not None:
        return own_objective(document.objective, job_folder=folder)
    return loss_function(
        document.loss_spec.name,
        document.loss_spec.options,
        job_folder=folder,
        lacks_labels=dataset.lacks_labels,
        own_loss=dataset.own_loss,
    )


def use_of(job: Job, dataset: data.Dataset) -> tuple[Batches, Call]:
    """Return what goes through the network of a job, and what is done with both.

    Raises:
        UsageError: As `criterion_of`.
    """
    own = job.document.objective is not None and criterion_of(job, dataset)
    if isinstance(own, OwnObjective):
        return Batches.of(dataset, whole=True), own.call
    return Batches.of(dataset, whole=False), calling.call


@contextlib.contextmanager
def failures_named(job: Job, where: str) -> Iterator[None]:
    """Turn what a user's own code raises at the centre into a message without a traceback.

    Raises:
        UsageError: With the exception, if network, loss or data are the user's own.
    """
    try:
        yield
    except LsengineError:
        raise
    except Exception as error:
        document = job.document
        is_own = document.model.is_own or document.loss_spec.is_own
        is_own = is_own or document.objective is not None
        is_own = is_own or ":" in document.data.dataset
        if not is_own or devices.is_out_of_memory(error):
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        judged_by = "loss" if document.objective is None else "objective"
        raise UsageError(f"model.arch: network or {judged_by} fail {where}: {what}") from error


def first_samples(dataset: data.Dataset, split: str, count: int) -> data.Dataset:
    """Return a data set of the first samples of one split."""
    return replace(dataset, splits={split: dataset.splits[split].part(slice(count))})


def called(model: nn.Module, inputs: data.Nested) -> Any:
    """Return what a network makes of inputs, called in its manner."""
    return manner_of(model, inputs).call(model, inputs)


def widened(output: Any) -> data.Nested:
    """Return a network's output in float64.

    Raises:
        UsageError: If it has no tensors.
    """
    try:
        nested = nested_output(output)
    except ValueError as error:
        raise UsageError(f"model.arch: {error}") from None
    return nesting.mapped(lambda tensor: in_precision(tensor, torch.float64), nested)


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
    return job.identity(digests, code(job, loaded.model))


def code(job: Job, model: nn.Module) -> dict[str, str]:
    """Return the SHA-256 of the user's own sources, by path: of network, data and loss.

    A network may come out of modules that no source names, and what is beside the job may be
    imported by names that are put together.  So it is asked after network and loss have run.
    """
    modules, folder = job.own_modules, job.source.parent
    if job.document.model.is_own:
        modules += {type(module).__module__ for module in model.modules()}
    return user_code.source_digests([*modules, *user_code.imported(folder)], folder)


def state_dict_layout(model: nn.Module) -> str:
    """Return names and shapes of a network's state dict as `Layout.state` wants them."""
    parameters = dict(model.named_parameters())
    state = {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    entries = [(n, list(t.shape), n in parameters) for n, t in state.items()]
    return json.dumps(entries, separators=(",", ":"))


def quantity_names(job: Job, dataset: data.Dataset, metrics: Sequence[str]) -> list[str]:
    """Return the names of the quantities' datasets, split by split.

    ``metrics`` are those of the job's objective, as `Loaded` and `Plan` have them.
    """
    document, kinds = job.document, []
    if "loss" in document.quantities:
        kinds += ["loss", "loss_se", *metrics]
    is_of_loss = document.objective is None and dataset.classes is not None
    if "accuracy" in document.quantities and is_of_loss:
        kinds += ["accuracy"]
    names = [f"{split}_{kind}" for split in dataset.splits for kind in kinds]
    return names + list(cells.NAMES if "curvature" in job.document.quantities else ())


def trajectory_quantity_names(job: Job, dataset: data.Dataset, metrics: Sequence[str]) -> list[str]:
    """Return the names of a checkpoint's quantities: its own, and those of the plane under it."""
    names = [name for name in quantity_names(job, dataset, metrics) if name not in cells.NAMES]
    return names + [f"plane_{name}" for name in names if not name.endswith("_se")]
