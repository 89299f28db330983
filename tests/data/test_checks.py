"""What is refused of a data set."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine.errors import UsageError
from tests.support.datasets import arrays, load

NAN = np.full((6, 2), np.nan, np.float32)


BROKEN = {
    "no inputs": ({"x_train": None}, "has y_train, but no x_train"),
    "no labels": ({"y_test": None}, "has x_test, but no y_test"),
    "no split": ({"x_test": None, "y_test": None}, "^data.splits: test is asked for.*has: train"),
    "empty": ({"x_train": np.zeros((0, 2, 3, 4), "u1"), "y_train": np.zeros(0, int)}, "is empty"),
    "lengths": ({"y_train": np.zeros(5, int)}, "train: 6 inputs, but 5 labels"),
    "scalar": ({"x_train": np.zeros(6)}, r"inputs have shape \[6\]"),
    "nan": ({"x_train": NAN, "x_test": NAN[:3]}, "6 of 6 inputs have NaN.*index 0"),
    "nan labels": ({"y_train": NAN[:, 0], "y_test": NAN[:3, 0]}, "labels have NaN"),
    "negative": ({"y_train": np.array([0, 1, 2, 0, -1, 2])}, "train has the label -1"),
    "huge": ({"y_train": np.array([0, 1, 2, 0, 1, 2**40])}, "label 1099511627776"),
    "one-hot": ({"y_train": np.eye(6, dtype=int)}, r"int64 of shape \[6, 6\]"),
    "last": ({"x_train": np.zeros((6, 8, 8, 3), "u1")}, "channels last"),
    "flat bytes": ({"x_train": np.zeros((6, 4), "u1")}, "bytes are images"),
    "integers": ({"x_train": np.zeros((6, 4), int)}, "inputs are int64"),
    "text": ({"y_train": np.array(["cat"] * 6)}, "labels: not an array of numbers"),
    "sizes": ({"x_test": np.zeros((3, 2, 3, 5), "u1")}, "the splits differ"),
    "kinds": ({"y_test": np.zeros(3)}, "the splits differ: train labels are int64"),
    "nothing": ({k: None for k in ("x_train", "y_train", "x_test", "y_test")}, "found nothing"),
}


@pytest.mark.parametrize(("content", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_wrong_with_arrays_is_named(tmp_path, content, said):
    """Each mistake gives one message that starts with the key path."""
    path = arrays(tmp_path, **content)
    with pytest.raises(UsageError, match=said) as caught:
        load("arrays", root=path)
    assert str(caught.value).startswith("data.")


def test_labels_beyond_the_declared_classes_are_refused(tmp_path):
    """The range that is allowed is named."""
    with pytest.raises(UsageError, match="test has the label 3; expected 0 to 2"):
        load("arrays", root=arrays(tmp_path), args={"classes": 3})
