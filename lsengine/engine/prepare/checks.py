"""Whether network, data, loss and quantities of a job go together, before any work."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor, nn

from lsengine import data, devices, models
from lsengine.data.dataset import NO_LABEL
from lsengine.data.nesting import mapped
from lsengine.engine.prepare.loading import Loaded, called, criterion_of, first_samples, widened
from lsengine.engine.prepare.normalisation import check_choices
from lsengine.engine.prepare.objective_check import check_objective
from lsengine.engine.prepare.selection import hessian_names
from lsengine.engine.prepare.tokens import refuse_unshifted_labels
from lsengine.errors import UsageError
from lsengine.geometry.parameters import can_move, real_dtype
from lsengine.job import Job
from lsengine.job.loss import LossSpec
from lsengine.log import NOTICE
from lsengine.objective.classes import ClassAxis, class_axis, refuse_too_few, shape
from lsengine.objective.criterion import OwnObjective
from lsengine.objective.device_state import in_precision
from lsengine.objective.losses import Loss, hits_of, of_samples
from lsengine.objective.outputs import logits_of
from lsengine.objective.reported import ReportedLoss

log = logging.getLogger(__name__)
_FEW = 64  # samples that show what kind of outputs a network has
_NEARLY_ONE = 1e-3  # how far probabilities in any precision may add up to something else


def check(job: Job, loaded: Loaded) -> tuple[str, ...]:
    """Check that network, data, loss or objective, and quantities go together.

    Returns what an objective makes of a split beside its loss; see `check_objective`.

    Raises:
        UsageError: If they do not.
    """
    document = job.document
    criterion = criterion_of(job, loaded.dataset)
    metrics: tuple[str, ...] = ()
    if isinstance(criterion, OwnObjective):
        metrics = check_objective(job, loaded, criterion)
    else:
        check_loss_accepts(loaded.model, loaded.dataset, criterion, document.loss_spec)
        if not document.loss_spec.is_own and document.loss_spec.name != "output":
            refuse_unshifted_labels(loaded.model, loaded.dataset)
        _check_accuracy(job, loaded, criterion)
    if name := undefined_number(loaded.model):
        log.warning(
            f"model.checkpoint: {name} holds NaN or infinite numbers, and so will the cells; a "
            "checkpoint from before the training diverged may be wanted"
        )
    check_choices(job, loaded.model)
    if "curvature" in document.quantities:
        hessian_names(job, loaded.model, at_cells=True)
    asked = "quantities" in document.model_fields_set and "accuracy" in document.quantities
    if asked and loaded.dataset.classes is None:
        raise UsageError(
            "quantities: accuracy needs integer labels; these targets are real numbers; "
            "leave it out"
        )
    return metrics


def check_loss_accepts(model: nn.Module, dataset: data.Dataset, loss: Loss, spec: LossSpec) -> None:
    """Run two samples through model and loss, on the CPU, so that misfits show before any work.

    Raises:
        UsageError: If the network does not take the data, or the loss its output.
    """
    if not spec.is_own:
        _check_targets(dataset, spec)
    split, dtype = next(iter(dataset.splits)), real_dtype(model.parameters())
    two = first_samples(dataset, split, 2)
    inputs = data.normalized(two, split, dtype)
    output = widened(models.check_model_accepts(model, inputs, call=called))
    y = two.splits[split].y
    assert y is not None  # or an objective would be needed
    targets = mapped(lambda tensor: in_precision(tensor, torch.float64), y)
    try:
        # A loss of one's own may want one logit for two classes, or a number for something else.
        if dataset.classes is not None and spec.has_class_outputs:
            refuse_too_few(logits_of(output), data.lone(targets), dataset.classes, spec.class_axis)
        with torch.no_grad():
            of_samples(loss, output, targets)
        if spec.name in ("mse", "l1", "huber", "bce_with_logits"):
            _tell_of_flat(logits_of(output), data.lone(targets))
        if spec.name == "nll":
            _warn_of_logits(logits_of(output), data.lone(targets), spec.class_axis)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"loss: {spec.name} refuses the network's output of shape {shape(output)} with "
            f"targets of shape {shape(targets)}: {type(error).__name__}: {error}"
            + ("; both are in float64: bring numbers of your own to output.dtype")
            * ("dtype" in str(error) or "scalar type" in str(error))
        ) from error


def _tell_of_flat(output: Tensor, targets: Tensor) -> None:
    """Tell of targets that are read in another shape than they have."""
    ours, theirs = ([n for n in t.shape[1:] if n != 1] for t in (output, targets))
    if ours != theirs and output.numel() == targets.numel():
        log.log(
            NOTICE,
            "loss: targets of shape %s per sample are compared with outputs of shape %s in "
            "row-major order",
            *([*targets.shape[1:]], [*output.shape[1:]]),
        )


def _warn_of_logits(output: Tensor, labels: Tensor, wanted: ClassAxis | None) -> None:
    """Warn of outputs that are no logarithms of probabilities, which `nll` takes as they are."""
    total = output.exp().sum(class_axis(output, labels, wanted) or 1)
    if bool(((total - 1).abs() > _NEARLY_ONE).any()):
        log.warning(
            "loss: nll takes logarithms of probabilities, but those of a sample add up to "
            f"{float(total.flatten()[0]):.3g}; of logits take cross_entropy"
        )


def _check_targets(dataset: data.Dataset, spec: LossSpec) -> None:
    """Refuse targets that are not what a built-in loss takes."""
    y, name = data.lone(next(iter(dataset.splits.values())).y), spec.name
    is_real = can_move(y)
    if name == "cross_entropy" and is_real and not _are_probabilities(y, spec.class_axis):
        other = spec.class_axis is None and _are_probabilities(y, "last")
        raise UsageError(
            "loss: cross_entropy needs integer labels, or a probability for every class; these "
            "targets are "
            + "probabilities on the last axis: say class_axis: last" * other
            + "other real numbers; use mse or a loss of your own" * (not other)
        )
    if name == "cross_entropy" and dataset.target_kind == "labels":
        raise UsageError(
            "loss: cross_entropy needs one class per sample; these targets are several labels of "
            "0 and 1 each; of one-hot vectors store the classes, y.argmax(1); for several labels "
            "use bce_with_logits or a loss of your own"
        )
    if is_real and (name == "nll" or spec.ignore_index is not None):
        key = "loss: nll" if name == "nll" else "loss.ignore_index:"
        raise UsageError(f"{key} needs integer labels; these targets are real numbers")
    if name == "bce_with_logits":
        _check_answers(dataset)


def _check_answers(dataset: data.Dataset) -> None:
    for split, part in dataset.splits.items():
        y = data.lone(part.y)
        odd = y if y.is_complex() else y[((y < 0) | (y > 1)) & (y != NO_LABEL)]
        if odd.numel():
            raise UsageError(
                f"loss: bce_with_logits needs targets from 0 to 1; {split} has "
                f"{odd.flatten()[0].item()}"
            )


def _check_accuracy(job: Job, loaded: Loaded, loss: Loss) -> None:
    """Refuse an accuracy that outputs and labels do not define."""
    dataset = loaded.dataset
    if dataset.classes is None or "accuracy" not in job.document.quantities:
        return
    output, targets = _outputs_of_few(loaded)
    try:
        hits_of(loss, output, targets)
        reason = _why_no_accuracy(dataset, loss, output, targets)
    except ValueError as error:
        reason = str(error)
    if reason:
        raise UsageError(f"quantities: accuracy: {reason}; leave it out: [loss]")


def _outputs_of_few(loaded: Loaded) -> tuple[data.Nested, Tensor]:
    """Return outputs in float64 and targets of a few samples, of fewer where memory ends."""
    dataset, count = loaded.dataset, _FEW
    split, dtype = next(iter(dataset.splits)), real_dtype(loaded.model.parameters())
    while True:
        part = first_samples(dataset, split, count)
        try:
            output = called(loaded.model, data.normalized(part, split, dtype))
        except (RuntimeError, MemoryError) as error:
            if count == 1 or not devices.is_out_of_memory(error):
                raise
        else:
            return widened(output), data.lone(part.splits[split].y)
        count //= 2


def _why_no_accuracy(
    dataset: data.Dataset, loss: Loss, output: data.Nested, targets: Tensor
) -> str:
    """Return why the answers that `hits` takes are not those that are meant; else nothing."""
    if dataset.target_kind == "labels" and all(
        bool((data.lone(split.y).sum(1) == 1).all()) for split in dataset.splits.values()
    ):
        return (
            f"every sample has one of {dataset.classes} labels, so they are classes as one-hot "
            "vectors; store the classes, y.argmax(1)"
        )
    if logits_of(output).numel() != targets.numel() or isinstance(loss, ReportedLoss):
        return ""
    return _why_no_logits(loss, output, targets)


def _why_no_logits(loss: Loss, output: data.Nested, targets: Tensor) -> str:
    """Return why outputs, one for each answer of 0 or 1, do not answer 1 where they are positive.

    They do if the loss falls as they go beyond 0 and 1, each to its side.  It is tried there, for
    what the network says of its samples may lie anywhere.
    """
    logits = logits_of(output)
    answers = (targets > 0).view_as(logits).to(logits.dtype)
    named = output if isinstance(output, dict) else None
    at, beyond = (
        _mean_loss(loss, tried if named is None else {**named, "logits": tried}, targets)
        for tried in (answers, 10 * answers - 5)
    )
    what = "positive outputs answer 1: let the network return logits, and leave the sigmoid to"
    if not math.isfinite(beyond):
        return (
            f"the loss takes outputs from 0 to 1 alone, so they are probabilities; {what} the loss"
        )
    is_within = bool(((logits >= 0) & (logits <= 1)).all())
    if beyond > at or (beyond == at and is_within):
        return (
            f"the loss is least at outputs of 0 and 1, so they are no logits; {what} a loss of them"
        )
    return ""


def _mean_loss(loss: Loss, output: data.Nested, targets: Tensor) -> float:
    try:
        with torch.no_grad():
            return float(of_samples(loss, output, targets).mean())
    except (RuntimeError, ValueError):
        return math.nan


def _are_probabilities(y: Tensor, class_axis: ClassAxis | None) -> bool:
    axis = -1 if class_axis == "last" else 1
    is_positive = y.ndim > 1 and not y.is_complex() and bool((y >= 0).all())
    return is_positive and bool(((y.sum(axis) - 1).abs() < 1e-4).all())


def undefined_number(model: nn.Module) -> str | None:
    """Return the name of the first parameter or statistic that is not finite; None without one."""
    statistics = models.batch_norm_buffers(model)
    numbers: dict[str, Tensor] = dict(model.named_parameters())
    numbers |= {n: b for n, b in model.named_buffers() if n in statistics}
    return next((n for n, t in numbers.items() if not bool(t.isfinite().all())), None)
