"""Splits as tensors, what the network sees of them, and their digest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lsengine import data
from lsengine.data.dataset import draw_subset
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


def _nested(samples: int = 8) -> data.Split:
    ids = torch.arange(samples * 3).reshape(samples, 3)
    x = {"ids": ids, "more": (ids > 4, ids[:, 0].float() / 3)}
    return data.Split(x, {"a": ids[:, 0], "b": ids.double()})


def _of(split: data.Split) -> data.Dataset:
    return data.Dataset(
        splits={"train": split}, mean=None, std=None, classes=None, target_kind="nested"
    )


def test_a_nesting_of_inputs_is_what_the_network_sees() -> None:
    """Floats are brought to the precision; integers and truth values stay what they are."""
    split = _nested()
    found = data.normalized(_of(split), "train", torch.float64)
    ids, (mask, numbers) = found["ids"], found["more"]
    assert (ids.dtype, mask.dtype, numbers.dtype) == (torch.int64, torch.bool, torch.float64)
    assert torch.equal(ids, split.x["ids"])
    assert torch.equal(mask, split.x["more"][0])
    assert torch.equal(numbers, split.x["more"][1].double())


def test_samples_of_a_nesting_stay_together() -> None:
    """A part has the same samples of every tensor, in order; without labels, too."""
    split = _nested()
    for labels in (split.y, None):
        part = draw_subset(data.Split(split.x, labels), 5, 0, "train")
        rows = part.x["ids"][:, 0] // 3
        assert len(part) == 5
        assert rows.tolist() == sorted(set(rows.tolist()))
        assert torch.equal(part.x["more"][0], split.x["more"][0][rows])
        assert torch.equal(part.x["more"][1], split.x["more"][1][rows])
        if labels is None:
            assert part.y is None
        else:
            assert torch.equal(part.y["a"], split.y["a"][rows])
    assert draw_subset(split, 8, 0, "train") is split


def test_a_nesting_says_what_a_network_may_want_to_know() -> None:
    """Channels are those of the first inputs; outputs are all numbers of a sample's labels."""
    split = _nested()
    dataset = _of(split)
    assert (dataset.channels, dataset.size, dataset.outputs) == (3, None, 4)
    assert not dataset.lacks_labels
    alone = _of(data.Split(torch.zeros(4), None))
    assert (alone.channels, alone.size, alone.outputs, len(alone.splits["train"])) == (
        1,
        None,
        1,
        4,
    )


def test_the_digest_knows_places_types_and_numbers_but_not_the_order_of_names() -> None:
    """Another name, place, type, number or the lack of labels changes it."""
    split = _nested()
    ids, more = split.x["ids"], split.x["more"]
    base = _of(split).sha256
    assert _of(data.Split({"more": more, "ids": ids}, split.y)).sha256 == base
    others = [
        data.Split({"ids": ids, "other": more}, split.y),
        data.Split({"ids": ids, "more": more[::-1]}, split.y),
        data.Split({"ids": ids.double(), "more": more}, split.y),
        data.Split({"ids": ids + (ids == 23), "more": more}, split.y),
        data.Split(split.x, split.y["a"]),
        data.Split(split.x, None),
        data.Split((ids, more), split.y),
    ]
    assert len({base, *(_of(other).sha256 for other in others)}) == 8
    alone, tensor = data.Split(ids, split.y["a"]), data.Split((ids,), split.y["a"])
    assert _of(alone).sha256 != _of(tensor).sha256
