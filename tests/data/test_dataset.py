"""Splits as tensors, what the network sees of them, and their digest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lsengine import data
from lsengine.errors import UsageError
from lsengine.job import schema
from tests.support.datasets import arrays, load


def test_bytes_are_scaled_and_normalized_per_channel(tmp_path):
    """(x / 255 - mean) / std, as an independent formula in float64 says."""
    path = arrays(tmp_path)
    normalize = schema.NormalizeSpec(mean=[0.25, 0.5], std=[0.5, 2.0])
    dataset = load("arrays", root=path, normalize=normalize)
    raw = np.load(path)["x_train"].astype(np.float64)
    expected = (raw / 255 - np.array([0.25, 0.5])[:, None, None]) / np.array([0.5, 2.0])[
        :, None, None
    ]
    found = data.normalized(dataset, "train", torch.float64).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-15, atol=1e-15)
    single = data.normalized(dataset, "train", torch.float32).numpy()
    np.testing.assert_allclose(single, expected, rtol=1e-6, atol=1e-6)
    assert dataset.splits["train"].x.dtype == torch.uint8  # the stored data are not touched


def test_floats_are_used_as_they_are(tmp_path):
    """No scaling, no normalisation, float32, of any shape."""
    x = np.linspace(-300, 300, 30).reshape(6, 5)
    dataset = load("arrays", root=arrays(tmp_path, x_train=x, x_test=x[:3]), splits=["train"])
    torch.testing.assert_close(
        data.normalized(dataset, "train", torch.float32),
        torch.from_numpy(x).float(),
        rtol=0,
        atol=0,
    )
    assert (dataset.channels, dataset.size) == (5, None)


def test_foreign_byte_order_is_understood(tmp_path):
    """Big-endian files give the same tensors and the same digest."""
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    x_test = x[:3]
    little = load("arrays", root=arrays(tmp_path, x_train=x, x_test=x_test))
    swapped = arrays(tmp_path, x_train=x.astype(">f4"), x_test=x_test.astype(">f4"))
    assert load("arrays", root=swapped).sha256 == little.sha256


def test_the_digest_knows_contents_labels_shapes_and_splits(tmp_path):
    """Any change of what is evaluated changes it; where the file lies does not."""
    base = load("arrays", root=arrays(tmp_path)).sha256
    (tmp_path / "moved").mkdir()
    assert load("arrays", root=arrays(tmp_path / "moved")).sha256 == base
    pixels = np.load(tmp_path / "a.npz")["x_train"]
    changed = pixels.copy()
    changed[0, 0, 0, 0] ^= 1
    others = [
        load("arrays", root=arrays(tmp_path, x_train=changed)).sha256,
        load("arrays", root=arrays(tmp_path, y_train=np.array([1, 1, 2, 0, 1, 2]))).sha256,
        load("arrays", root=arrays(tmp_path), splits=["train"]).sha256,
        load("arrays", root=arrays(tmp_path), splits=["test"]).sha256,
        load("arrays", root=arrays(tmp_path), subset=2).sha256,
        load(
            "arrays",
            root=arrays(
                tmp_path, x_train=pixels.reshape(6, 2, 4, 3), x_test=np.zeros((3, 2, 4, 3), "u1")
            ),
            splits=["train"],
        ).sha256,
    ]
    assert len({base, *others}) == 7


def test_a_subset_is_stratified_and_belongs_to_the_seed():
    """Shares are right to one sample; a seed draws the same samples, another one others."""
    whole, part = load("digits").splits["train"], load("digits", subset=100).splits["train"]
    share = whole.y.bincount() * 100 / len(whole.y)
    assert len(part.y) == 100
    assert ((part.y.bincount() - share).abs() < 1).all()
    assert torch.equal(load("digits", subset=100).splits["train"].x, part.x)
    assert not torch.equal(load("digits", subset=100, seed=1).splits["train"].x, part.x)
    assert len(load("digits", subset=400).splits["test"].y) == 360


def test_a_subset_keeps_the_order_and_the_pairs():
    """Its samples are a subsequence of the whole, each with its own label."""
    whole, part = load("digits").splits["test"], load("digits", subset=37).splits["test"]
    rows = [(x.tolist(), int(y)) for x, y in zip(whole.x, whole.y, strict=True)]
    position = -1
    assert len(part.x) == len(part.y) == 37
    for x, y in zip(part.x, part.y, strict=True):
        position = rows.index((x.tolist(), int(y)), position + 1)


def test_a_subset_of_values_is_uniform(tmp_path):
    """Without classes any samples may be drawn, none twice."""
    y = np.arange(6.0)
    path = arrays(tmp_path, y_train=y, y_test=y[:3])
    drawn = load("arrays", root=path, subset=4).splits["train"].y.flatten().tolist()
    assert len(set(drawn)) == 4
    assert drawn == sorted(drawn)


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
    "one-hot": ({"y_train": np.eye(6, dtype=int)}, r"differ: train labels are int64 \[6\]"),
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
