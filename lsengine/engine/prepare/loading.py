"""From a valid job to model, data and identity."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from lsengine import data, devices, files, models
from lsengine.curvature import cells
from lsengine.engine.prepare.selection import (
    check_patterns,
    hessian_names,
    movable_tensors,
    roles,
    selection,
)
from lsengine.errors import LsengineError, UsageError
from lsengine.external import sources, user_code
from lsengine.geometry.parameters import can_move, real_dtype
from lsengine.job import Job
from lsengine.job.schema import PrincipalDirection
from lsengine.models import checkpoint
from lsengine.objective.device_state import in_precision
from lsengine.objective.forward import cast, manner_of
from lsengine.objective.losses import Loss, axis_hint, hits, loss_function, of_samples
from lsengine.surface import parts
from lsengine.surface.grid import Grid, make_grid

log = logging.getLogger(__name__)
_FEW = 64  # samples that show what kind of outputs a network has


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a job's files hold."""

    model: nn.Module  # at the centre, on the CPU
    dataset: data.Dataset
    digests: Mapping[str, str]  # SHA-256 of `checkpoint` and `data`
    is_wide: bool = False  # whether the network is in float64, as the job's precision is


def load(job: Job) -> Loaded:
    """Load data, network and checkpoint.

    Raises:
        UsageError: If one of them is missing, damaged or does not fit the others.
    """
    document, job_folder = job.document, job.source.parent
    root = job.path(document.data.root) if document.data.root else None
    is_wide = document.precision == "float64"
    dataset = data.load(
        document.data, root=root, job_folder=job_folder, seed=document.seed, exact=is_wide
    )
    model = network(job, dataset, wide=is_wide)
    digests = {"checkpoint": checkpoint.digest(job.checkpoint), "data": dataset.sha256}
    digests |= models.folder_digests(document.model, job_folder)
    return Loaded(model=model, dataset=dataset, digests=digests, is_wide=is_wide)


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
    two = data.lone(data.normalized(first_samples(dataset, split, 2), split, dtype))
    models.initialise_lazy(model, two, _called)
    return model


def moving_parts(job: Job) -> dict[str, dict[str, parts.Part]]:
    """Return by axis which parameters move and which stay, and why; no checkpoint is needed.

    Raises:
        UsageError: If there is no data or network, or they do not go together.
    """
    document = job.document
    root = job.path(document.data.root) if document.data.root else None
    dataset = data.load(document.data, root=root, job_folder=job.source.parent, seed=document.seed)
    model = _made(job, dataset)
    check_patterns(job, model)
    state, known = json.loads(state_dict_layout(model)), roles(model)
    return {
        axis: parts.parts(state, movable_tensors(job, model, spec).keys(), selection(spec), known)
        for axis, spec in job.directions.items()
    }


def check(job: Job, loaded: Loaded) -> None:
    """Check that network, data, loss and quantities go together.

    Raises:
        UsageError: If they do not.
    """
    document = job.document
    loss = loss_function(
        document.loss, job_folder=job.source.parent, lacks_labels=loaded.dataset.lacks_labels
    )
    check_loss_accepts(loaded.model, loaded.dataset, loss, document.loss)
    _check_accuracy(job, loaded)
    _warn_of_undefined(loaded.model)
    check_patterns(job, loaded.model)
    if "curvature" in document.quantities:
        hessian_names(job, loaded.model, at_cells=True)
    asked = "quantities" in document.model_fields_set and "accuracy" in document.quantities
    if asked and loaded.dataset.classes is None:
        raise UsageError(
            "quantities: accuracy needs integer labels; these targets are real numbers; "
            "leave it out"
        )


def check_loss_accepts(model: nn.Module, dataset: data.Dataset, loss: Loss, name: str) -> None:
    """Run two samples through model and loss, on the CPU, so that misfits show before any work.

    ``name`` is what the job calls the loss.

    Raises:
        UsageError: If the network does not take the data, or the loss its output.
    """
    split = next(iter(dataset.splits))
    y = data.lone(dataset.splits[split].y)
    _check_targets(dataset, y, name)
    dtype = real_dtype(model.parameters())
    inputs = data.lone(data.normalized(first_samples(dataset, split, 2), split, dtype))
    # A loss of one's own may want one logit for two classes, or a number for something else.
    outputs = None if ":" in name else dataset.classes
    output = models.check_model_accepts(model, inputs, outputs, call=_called)
    output, targets = (in_precision(t, torch.float64) for t in (output, y[:2]))
    try:
        with torch.no_grad():
            of_samples(loss, output, targets)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"loss: {name} refuses the network's output of shape {[*output.shape]} with targets "
            f"of shape {[*targets.shape]}: {type(error).__name__}: {error}"
            + ("; both are in float64: bring numbers of your own to output.dtype")
            * ("dtype" in str(error) or "scalar type" in str(error))
            + axis_hint(output, targets)
        ) from error


def _check_targets(dataset: data.Dataset, y: Tensor, name: str) -> None:
    """Refuse targets that are not what a built-in loss takes."""
    if name == "cross_entropy" and can_move(y) and not _are_probabilities(y):
        raise UsageError(
            "loss: cross_entropy needs integer labels, or a probability for every class; these "
            "targets are other real numbers; use mse or a loss of your own"
        )
    if name == "cross_entropy" and dataset.target_kind == "labels":
        raise UsageError(
            "loss: cross_entropy needs one class per sample; these targets are several labels of "
            "0 and 1 each; of one-hot vectors store the classes, y.argmax(1); for several labels "
            "use a loss of your own"
        )


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
        is_own = document.model.is_own or ":" in document.loss or ":" in document.data.dataset
        if not is_own or devices.is_out_of_memory(error):
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"model.arch: network or loss fail {where}: {what}") from error


def first_samples(dataset: data.Dataset, split: str, count: int) -> data.Dataset:
    """Return a data set of the first samples of one split."""
    return replace(dataset, splits={split: dataset.splits[split].part(slice(count))})


def _called(model: nn.Module, inputs: Tensor) -> Tensor:
    return manner_of(model, inputs).call(model, inputs)


def _check_accuracy(job: Job, loaded: Loaded) -> None:
    """Refuse an accuracy that outputs and labels do not define."""
    dataset = loaded.dataset
    if dataset.classes is None or "accuracy" not in job.document.quantities:
        return
    output, targets = _outputs_of_few(loaded)
    try:
        hits(output, targets)
        reason = _why_no_accuracy(job, dataset, output, targets)
    except ValueError as error:
        reason = str(error)
    if reason:
        raise UsageError(f"quantities: accuracy: {reason}; leave it out: [loss]")


def _outputs_of_few(loaded: Loaded) -> tuple[Tensor, Tensor]:
    """Return outputs in float64 and targets of a few samples, of fewer where memory ends."""
    dataset, count = loaded.dataset, _FEW
    split, dtype = next(iter(dataset.splits)), real_dtype(loaded.model.parameters())
    while True:
        part = first_samples(dataset, split, count)
        try:
            output = _called(loaded.model, data.lone(data.normalized(part, split, dtype)))
        except (RuntimeError, MemoryError) as error:
            if count == 1 or not devices.is_out_of_memory(error):
                raise
        else:
            return in_precision(output, torch.float64), data.lone(part.splits[split].y)
        count //= 2


def _why_no_accuracy(job: Job, dataset: data.Dataset, output: Tensor, targets: Tensor) -> str:
    """Return why the answers that `hits` takes are not those that are meant; else nothing."""
    shape = [*output.shape[1:]]
    if ":" in job.document.loss and len(shape) == 2 and shape[0] == shape[1]:
        return (
            f"outputs of shape {shape} per sample do not say which axis has the classes, with a "
            "loss of your own"
        )
    if dataset.target_kind == "labels" and all(
        bool((data.lone(split.y).sum(1) == 1).all()) for split in dataset.splits.values()
    ):
        return (
            f"every sample has one of {dataset.classes} labels, so they are classes as one-hot "
            "vectors; store the classes, y.argmax(1)"
        )
    if output.numel() == targets.numel() and bool(((output >= 0) & (output <= 1)).all()):
        loss = loss_function(job.document.loss, job_folder=job.source.parent)
        try:
            with torch.no_grad():
                values = of_samples(loss, output - 2, targets).values
        except (RuntimeError, ValueError):
            values = torch.tensor(torch.nan)
        if not bool(values.isfinite().all()):
            return (
                "the loss takes outputs from 0 to 1 alone, so they are probabilities; positive "
                "outputs answer 1: let the network return logits, and leave the sigmoid to the loss"
            )
    return ""


def _are_probabilities(y: Tensor) -> bool:
    is_positive = y.ndim > 1 and bool((y >= 0).all())
    return is_positive and bool(((y.sum(1) - 1).abs() < 1e-4).all())


def _warn_of_undefined(model: nn.Module) -> None:
    statistics = models.batch_norm_buffers(model)
    numbers: dict[str, Tensor] = dict(model.named_parameters())
    numbers |= {n: b for n, b in model.named_buffers() if n in statistics}
    if name := next((n for n, t in numbers.items() if not bool(t.isfinite().all())), None):
        log.warning(
            f"model.checkpoint: {name} holds NaN or infinite numbers, and so will the cells; a "
            "checkpoint from before the training diverged may be wanted"
        )


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
    return sources.digests([*modules, *user_code.imported(folder)], folder)


def state_dict_layout(model: nn.Module) -> str:
    """Return names and shapes of a network's state dict as `Layout.state` wants them."""
    parameters = dict(model.named_parameters())
    state = {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    entries = [(n, list(t.shape), n in parameters) for n, t in state.items()]
    return json.dumps(entries, separators=(",", ":"))


def quantity_names(job: Job, dataset: data.Dataset) -> list[str]:
    """Return the names of the quantities' datasets, split by split."""
    kinds = []
    if "loss" in job.document.quantities:
        kinds += ["loss", "loss_se"]
    if "accuracy" in job.document.quantities and dataset.classes is not None:
        kinds += ["accuracy"]
    names = [f"{split}_{kind}" for split in dataset.splits for kind in kinds]
    return names + list(cells.NAMES if "curvature" in job.document.quantities else ())


def trajectory_quantity_names(job: Job, dataset: data.Dataset) -> list[str]:
    """Return the names of a checkpoint's quantities: its own, and those of the plane under it."""
    names = [name for name in quantity_names(job, dataset) if name not in cells.NAMES]
    return names + [f"plane_{name}" for name in names if not name.endswith("_se")]
