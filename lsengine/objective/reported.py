"""The loss that a network returns itself, as those of Hugging Face do: ``loss: output``.

It is one number for a batch.  Where it is known to be the mean of a loss of the logits, that loss
is taken instead, sample by sample, so that batches count rightly and there is an error bar.

Shape suffixes: N samples, T tokens, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lsengine.errors import UsageError
from lsengine.models.copies import duplicate
from lsengine.objective import builtin
from lsengine.objective.classes import ClassAxis
from lsengine.objective.outputs import logits_of

Kind = Literal["next", "last", "second", "answers", "numbers"]
"""Cross entropy of the next token, the logits being (N, T, K); of labels, with classes on the last
or on the second axis; binary cross entropy; squared error."""
_ROUNDING = 1e-4  # of a loss that the network computes in its own precision


class ReportedLoss:
    """The mean over what counts in each sample; or the batch's number, if no kind is known."""

    def __init__(self, kind: Kind | None = None, *, lacks_labels: bool = False) -> None:
        self._kind = kind
        axes: dict[Kind | None, ClassAxis] = {"next": "last", "last": "last", "second": "second"}
        self.class_axis: ClassAxis | None = axes.get(kind)
        names: dict[Kind | None, str] = {"answers": "bce_with_logits", "numbers": "mse"}
        is_of_classes = self.class_axis is not None
        self._loss = builtin.of_name(
            names.get(kind, "cross_entropy"),
            {"class_axis": self.class_axis} if is_of_classes else {},
            lacks_labels=lacks_labels and kind != "numbers",
        )

    def __call__(self, output: Any, target: Tensor) -> Any:
        """Return one number per sample (N,), with their weights (N,) where they differ; or one."""
        if self._kind is None:
            return _reported(output)
        return self._loss(*self.paired(output, target))

    def paired(self, output: Any, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and the labels that they are for.

        Raises:
            ValueError: If that is not known.
        """
        if self._kind is None:
            raise ValueError("the loss of the network does not say which label an output is for")
        logits = logits_of(output)
        return (logits[:, :-1], target[:, 1:]) if self._kind == "next" else (logits, target)


def kind_by_trial(
    model: nn.Module, call: Callable[[nn.Module], Any], target: Tensor
) -> Kind | None:
    """Return the kind of a network's own loss, with its weights and with others.

    Its own may give all tokens the same probability, which tells nothing.  ``call`` returns the
    output (N, ...) of a network in float64 for some samples, whose targets are (N, ...).

    Raises:
        UsageError: As `kind_of`.
    """
    return kind_of([(call(net), target) for net in (model, _noisy(model))])


@torch.no_grad()
def _noisy(model: nn.Module) -> nn.Module:
    """Return a copy with other weights."""
    other, generator = duplicate(model), torch.Generator().manual_seed(0)
    for parameter in other.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.add_(noise, alpha=0.1)
    return other


def kind_of(batches: Sequence[tuple[Any, Tensor]]) -> Kind | None:
    """Return of which loss of the logits the reported one is the mean; None if of no known one.

    The batches are outputs (N, ...) in float64 with a ``loss``, of networks with different
    weights, and targets (N, ...).

    Raises:
        UsageError: If there is no loss.
    """
    found = [(output, target, _reported(output)) for output, target in batches]
    known = [row for row in found if row[2].ndim == 0 and bool(row[2].isfinite())]
    fitting = (kind for kind in get_args(Kind) if all(_agrees(kind, *row) for row in known))
    return next(fitting, None) if known else None


def _agrees(kind: Kind, output: Any, target: Tensor, reported: Tensor) -> bool:
    try:
        result = ReportedLoss(kind, lacks_labels=kind != "numbers")(output, target)
    except (ValueError, RuntimeError, IndexError):
        return False
    values, weights = result if isinstance(result, tuple) else (result, torch.ones_like(result))
    mean = float((values * weights).sum() / weights.sum())
    return abs(mean - float(reported)) <= _ROUNDING * abs(mean)


def _reported(output: Any) -> Tensor:
    loss = output.get("loss") if isinstance(output, dict) else None
    if not isinstance(loss, Tensor):
        raise UsageError(
            "loss: output, but the network returns no loss; it needs its labels among its inputs, "
            "by the name that it gives them, such as labels_train; or take another loss"
        )
    return loss
