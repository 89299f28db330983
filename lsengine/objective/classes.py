"""Which axis of an output has the classes, and what its shapes say else.

Shape suffixes: N samples, K classes.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from lsengine.data.nesting import Nested
from lsengine.errors import UsageError

ClassAxis = Literal["last", "second"]


def class_axis(
    output: Tensor, targets: Tensor, wanted: ClassAxis | None = None
) -> Literal[1, -1] | None:
    """Return the axis of an output (N, ...) with K > 1 classes for each of its labels (N, ...).

    Axes of length 1 do not matter.  None if no axis is left when the labels' are taken away.  Of
    images, with two axes of labels or more, it is the second one where both fit, as in torch.

    Raises:
        ValueError: If both the second and the last axis of (N, K, K) may be meant and none is
            ``wanted``; or if the wanted one cannot be.
    """
    of_labels = _beyond_one(targets.shape[1:])
    is_second = _has_several(output, 1) and _beyond_one(output.shape[2:]) == of_labels
    is_last = _has_several(output, -1) and _beyond_one(output.shape[1:-1]) == of_labels
    if wanted is not None:
        if not (is_last if wanted == "last" else is_second):
            raise ValueError(f"class_axis is {wanted}, which {shapes(output, targets)} do not fit")
        return -1 if wanted == "last" else 1
    if is_second and is_last and output.ndim == 3:
        raise ValueError(
            f"{shapes(output, targets)} fit with classes on the second axis and on the last one; "
            "say which, such as loss: {name: cross_entropy, class_axis: last}"
        )
    return 1 if is_second else -1 if is_last else None


def have_same_places(output: Tensor, targets: Tensor) -> bool:
    """Whether the numbers of each sample stand in the same places in row-major order.

    Axes of length 1 do not matter, and one of both may be flat; rows and columns of the other do.
    """
    ours, theirs = _beyond_one(output.shape[1:]), _beyond_one(targets.shape[1:])
    is_flat = min(len(ours), len(theirs)) < 2 and math.prod(ours) == math.prod(theirs)
    return len(output) == len(targets) and (ours == theirs or is_flat)


def _has_several(output: Tensor, axis: int) -> bool:
    return output.ndim > 1 and output.shape[axis] > 1


def _beyond_one(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def refuse_too_few(
    output: Tensor, targets: Tensor, classes: int, wanted: ClassAxis | None = None
) -> None:
    """Refuse an output that has not one number for each class.

    Raises:
        UsageError: With what to do.
        ValueError: As `class_axis`.
    """
    axis = class_axis(output, targets, wanted)
    if output.ndim < 2 or output.shape[axis or 1] < classes:
        place = "the last axis" if axis == -1 and output.ndim > 2 else "the axis after the samples"
        raise UsageError(
            f"model.arch: the outputs have shape {[*output.shape[1:]]}, but the data need "
            f"{classes} on {place}; check model.args, or use a loss of "
            f"your own{', or store numbers to predict as floats' * (output.shape[1:] == (1,))}"
        )


def shapes(output: Nested, targets: Nested) -> str:
    """Return the shapes of outputs and targets as the beginning of a sentence."""
    return f"outputs of shape {shape(output)} and targets of shape {shape(targets)}"


def shape(nested: Nested) -> str:
    """Return the shape of a tensor, or those of a nesting by their names."""
    if isinstance(nested, Tensor):
        return str([*nested.shape])
    items = nested.items() if isinstance(nested, dict) else enumerate(nested)
    return "{" + ", ".join(f"{key}: {shape(value)}" for key, value in items) + "}"
