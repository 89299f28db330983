"""From a job's section to a data set."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine.errors import UsageError
from lsengine.job import schema
from tests.support.datasets import arrays, load


def test_classes_are_counted_over_the_whole_source(tmp_path):
    """A class that only the test split has counts even when only train is asked for."""
    path = arrays(tmp_path)
    assert load("arrays", root=path, splits=["train"]).classes == 4
    assert load("arrays", root=path, args={"classes": 9}).classes == 9


def test_real_numbers_to_predict_make_no_classes(tmp_path):
    """Float labels are values of the shape of the file; (N,) is one of them."""
    for shape, outputs in ((), 1), ((1,), 1), ((4,), 4), ((4, 1, 1), 4), ((2, 3), 6):
        values = np.arange(6.0).reshape(6, *[1] * len(shape)) * np.ones((6, *shape))
        dataset = load("arrays", root=arrays(tmp_path, y_train=values, y_test=values[:3]))
        assert (dataset.classes, dataset.outputs, dataset.target_kind) == (None, outputs, "values")
        np.testing.assert_array_equal(dataset.splits["train"].y.numpy(), values)


@pytest.mark.parametrize("kind", ["text", "cut", "absent", "folder", "pickled"])
def test_what_is_no_npz_is_named(tmp_path, kind):
    """Damaged and foreign files are refused, and nothing is unpickled."""
    path = arrays(tmp_path)
    if kind == "text":
        path.write_text("hello")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "absent":
        path = tmp_path / "absent.npz"
    elif kind == "folder":
        path = tmp_path
    else:
        np.savez(path, x_train=np.array([{}], dtype=object))
    with pytest.raises(UsageError, match=r"^data\.root: "):
        load("arrays", root=path)


def test_other_keys_of_the_section_are_checked(tmp_path):
    """Arguments nobody takes, a normalisation of other channels, a root that is missing."""
    with pytest.raises(UsageError, match=r"data.args.size: dataset digits takes none"):
        load("digits", args={"size": 3})
    with pytest.raises(UsageError, match=r"data.normalize: mean has 3 values.* 1 channels"):
        load("digits", normalize=schema.NormalizeSpec(mean=[0.0] * 3, std=[1.0] * 3))
    with pytest.raises(UsageError, match=r"data.root: required"):
        load("cifar10")


MODULE = """
import numpy as np
import torch

def make(n, classes=None):
    more = {} if classes is None else {"classes": classes}
    return {"x_train": torch.zeros(n, 2), "y_train": np.zeros(n, dtype=np.int64), **more}

def wrong():
    return [1]

def fails():
    raise OSError("disk on fire")
"""


def test_a_users_module_makes_data(tmp_path):
    """Arrays and tensors are taken, its own errors are shown."""
    (tmp_path / "userdata.py").write_text(MODULE)
    options = {"job_folder": tmp_path, "splits": ["train"]}
    assert load("userdata:make", args={"n": 5}, **options).splits["train"].x.shape == (5, 2)
    assert load("userdata:make", args={"n": 5, "classes": 4}, **options).classes == 4
    for name, said in (("wrong", "returned list"), ("fails", "OSError: disk on fire")):
        with pytest.raises(UsageError, match=f"data.dataset: userdata:{name}.*{said}"):
            load(f"userdata:{name}", **options)
    with pytest.raises(UsageError, match=r"data.dataset: userdata:make.*is empty"):
        load("userdata:make", args={"n": 0}, **options)
    with pytest.raises(UsageError, match="classes: expected an integer"):
        load("userdata:make", args={"n": 1, "classes": "ten"}, **options)
