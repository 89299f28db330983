"""Which axis of an output has the classes."""

from __future__ import annotations

import pytest
import torch

from lsengine.errors import UsageError
from lsengine.objective.classes import class_axis, refuse_too_few


@pytest.mark.parametrize(
    ("output", "targets", "axis"),
    [
        ([4, 3], [4], 1),
        ([4, 3], [4, 1], 1),
        ([4, 3, 1, 1], [4], 1),
        ([4, 1, 3], [4, 1], -1),
        ([4, 3, 7], [4, 7], 1),
        ([4, 7, 3], [4, 7], -1),
        ([4, 3, 5, 6], [4, 5, 6], 1),
        ([4, 3, 5, 6], [4, 1, 5, 6], 1),
        ([4, 5, 6, 3], [4, 5, 6], -1),
        ([4, 4, 7], [4, 7], 1),
        ([4, 1], [4], None),
        ([4, 7, 1], [4, 7], None),
        ([4, 3], [4, 3], None),
        ([4, 3, 2], [4, 7], None),
        ([4], [4], None),
    ],
)
def test_classes_are_where_the_shape_of_labels_is_left(output, targets, axis):
    """Whatever the number of samples; axes of one do not matter."""
    labels = torch.zeros(targets, dtype=torch.int64)
    assert class_axis(torch.zeros(output), labels) == axis


def test_two_axes_that_fit_are_refused_unless_one_is_wanted():
    """As many classes as positions: nothing tells which is which."""
    output, labels = torch.zeros(4, 5, 5), torch.zeros(4, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"second axis and on the last one; say which.*class_axis"):
        class_axis(output, labels)
    assert (class_axis(output, labels, "second"), class_axis(output, labels, "last")) == (1, -1)


def test_classes_of_images_are_on_the_second_axis_where_both_fit():
    """As torch's own losses have them."""
    output, labels = torch.zeros(4, 5, 5, 5), torch.zeros(4, 5, 5, dtype=torch.int64)
    assert class_axis(output, labels) == 1
    assert class_axis(output, labels, "last") == -1


def test_a_wanted_axis_has_to_fit():
    """Another one is not taken in its place."""
    output, labels = torch.zeros(4, 3, 7), torch.zeros(4, 7, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"class_axis is last, which outputs of shape \[4, 3, 7\]"):
        class_axis(output, labels, "last")


@pytest.mark.parametrize(
    ("shape", "targets", "match"),
    [
        ([2, 10], [2], r"outputs have shape \[10\].*need 11 on the axis after the samples"),
        ([2, 7, 10], [2, 7], r"outputs have shape \[7, 10\].*need 11 on the last axis"),
        ([2, 1], [2], "or store numbers to predict as floats"),
    ],
)
def test_too_few_outputs_are_refused(shape, targets, match):
    """On the axis that has the classes; as many as the data have are taken."""
    labels = torch.zeros(targets, dtype=torch.int64)
    with pytest.raises(UsageError, match=match):
        refuse_too_few(torch.zeros(shape), labels, 11)
    refuse_too_few(torch.zeros(shape), labels, shape[-1])
