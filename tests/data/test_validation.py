"""What a source gives as inputs and labels: right, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lsengine import data
from lsengine.errors import UsageError
from lsengine.job import schema
from tests.support.datasets import arrays, load

VALUES = np.linspace(-3, 5, 24).reshape(6, 4)


def of(tmp_path, x=VALUES, y=None, **options):
    """Load a training split of arrays."""
    y = np.arange(6) % 3 if y is None else y
    path = arrays(tmp_path, x_train=x, y_train=y, x_test=None, y_test=None)
    return load("arrays", root=path, splits=["train"], **options)


def returned(tmp_path, x, y=None, **options):
    """Load a training split of a factory of one's own, with arrays or tensors as they are."""
    y = np.arange(6) % 3 if y is None else y
    (tmp_path / "returned.py").write_text("def give(): return of\n")
    from lsengine.external import user_code

    give = user_code.lookup("returned:give", key="data.dataset", job_folder=tmp_path)
    give.__globals__["of"] = {"x_train": x, "y_train": y}
    return load("returned:give", job_folder=tmp_path, splits=["train"], **options)


def test_numbers_of_64_bits_are_kept_if_asked(tmp_path):
    """From the file to what the network sees; else they are rounded once, to float32."""
    x, y = VALUES + 1e9, VALUES[:, :2] * 1e9 + 1 / 3
    kept = of(tmp_path, x, y, exact=True)
    np.testing.assert_array_equal(data.normalized(kept, "train", torch.float64).numpy(), x)
    np.testing.assert_array_equal(kept.splits["train"].y.numpy(), y)
    assert kept.splits["train"].y.dtype == torch.float64
    rounded = of(tmp_path, x, y)
    np.testing.assert_array_equal(rounded.splits["train"].x.numpy(), x.astype("f4"))
    np.testing.assert_array_equal(rounded.splits["train"].y.numpy(), y.astype("f4"))
    assert rounded.sha256 != kept.sha256
    single = of(tmp_path, x.astype("f4"), y.astype("f4"), exact=True)
    assert single.sha256 == rounded.sha256


@pytest.mark.parametrize(
    ("dtype", "stays"), [("u1", True), ("f4", True), ("i8", True), ("f8", False), (">f4", False)]
)
def test_a_mapped_file_is_not_read_into_memory(tmp_path, dtype, stays):
    """What a factory maps stays in its file, if its numbers are those that are needed."""
    shape = (6, 2, 3, 4)
    x = np.arange(144).reshape(shape).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    split = returned(tmp_path, mapped).splits["train"]
    assert split.is_mapped is stays
    assert (split.x.data_ptr() == mapped.ctypes.data) is stays
    np.testing.assert_array_equal(split.x.numpy(), x.astype(x.dtype.newbyteorder("=")))
    part = returned(tmp_path, mapped[2:], np.arange(4) % 3).splits["train"]
    assert part.is_mapped is stays
    in_memory = returned(tmp_path, x).splits["train"]
    assert not in_memory.is_mapped
    computed = returned(tmp_path, mapped + 0).splits["train"]  # numpy calls it a memmap, too
    assert not computed.is_mapped
    assert torch.equal(split.x, in_memory.x)


def test_numbers_that_are_not_finite_are_found_far_behind(tmp_path):
    """Numbers are looked at a few million at a time."""
    x = np.zeros((3, 2**23), np.float32)
    x[2, -1] = np.inf
    with pytest.raises(UsageError, match="1 of 3 inputs have NaN or infinite values, the first at"):
        returned(tmp_path, x, np.arange(3))


def test_the_digest_of_values_does_not_know_their_shape(tmp_path):
    """Surfaces made when all values were float32 (N, K) are still resumed."""
    flat = of(tmp_path, VALUES.astype("f4"), np.arange(6.0).reshape(6, 1)).sha256
    assert of(tmp_path, VALUES.astype("f4"), np.arange(6.0)).sha256 == flat
    known = "f049d77b2c2ca64a2b1ce4bfb2c48c7cacb1f6f77831cdfd831d7770c795b303"
    assert of(tmp_path, VALUES.astype("f4"), np.arange(24.0).reshape(6, 2, 2)).sha256 == known


@pytest.mark.parametrize(
    "dtype", ["i1", "i2", "i4", "i8", "?", "u2", "u4", "u8", ">i4", "<u2", ">u8"]
)
def test_integers_stay_integers(tmp_path, dtype):
    """Tokens of any width are int64, also for the network, in every precision."""
    x = (np.arange(24).reshape(6, 4) * 7 % 101).astype(dtype)
    dataset = of(tmp_path, x)
    for precision in (torch.float32, torch.float64, torch.bfloat16):
        seen = data.normalized(dataset, "train", precision)
        assert seen.dtype == torch.int64
        np.testing.assert_array_equal(seen.numpy(), x.astype("i8"))
    assert seen.data_ptr() != dataset.splits["train"].x.data_ptr()
    normalize = schema.NormalizeSpec(mean=[0.0], std=[1.0])
    with pytest.raises(UsageError, match=r"data\.normalize: the inputs are integers"):
        of(tmp_path, x, normalize=normalize)


def test_large_tokens_are_not_rounded(tmp_path):
    """2**53 + 1 has no float64."""
    x = np.full((6, 1), 2**53 + 1)
    assert of(tmp_path, x).splits["train"].x.tolist() == x.tolist()
    with pytest.raises(UsageError, match="inputs: not an array of numbers: 18446744073709551615"):
        of(tmp_path, np.full((6, 1), 2**64 - 1, "u8"))


def test_images_of_16_bits_are_scaled_by_their_range(tmp_path):
    """As those of 8 bits are; 65535 is 1."""
    x = (np.arange(48).reshape(6, 2, 2, 2) * 1394).astype("u2")
    seen = data.normalized(of(tmp_path, x), "train", torch.float32).numpy()
    np.testing.assert_array_equal(seen, (x / 65535).astype("f4"))
    seen = data.normalized(of(tmp_path, x, exact=True), "train", torch.float64).numpy()
    np.testing.assert_array_equal(seen, x / 65535)


@pytest.mark.parametrize("wide", [False, True])
def test_complex_inputs_and_values_stay_complex(tmp_path, wide):
    """complex64, or complex128 where 64 bits are kept; the mean is taken from the real part."""
    x = VALUES + 1j * VALUES[::-1] / 3
    dataset = of(tmp_path, x, x[:, 0], exact=wide)
    expected = torch.complex128 if wide else torch.complex64
    assert dataset.splits["train"].y.dtype == expected
    assert (dataset.target_kind, dataset.outputs) == ("values", 1)
    seen = data.normalized(dataset, "train", torch.float64 if wide else torch.float32)
    np.testing.assert_array_equal(seen.numpy(), x if wide else x.astype("c8"))
    assert len(dataset.sha256) == 64
    normalize = schema.NormalizeSpec(mean=[1.0], std=[2.0])
    moved = of(tmp_path, x, exact=wide, normalize=normalize)
    seen = data.normalized(moved, "train", torch.float64 if wide else torch.float32)
    np.testing.assert_allclose(seen.numpy(), (x - 1) / 2, rtol=1e-6)


ALIKE = {
    "float16": lambda x: x.astype("f2"),
    "big-endian": lambda x: x.astype(">f8"),
    "columns first": np.asfortranarray,
    "a view": lambda x: np.repeat(x, 2, 0)[::2],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "broadcast": lambda x: np.broadcast_to(x, (1, *x.shape))[0],
    "nothing masked": lambda x: np.ma.masked_greater(x, 99),
    "a list": lambda x: x.tolist(),
    "bfloat16": lambda x: torch.from_numpy(x).to(torch.bfloat16),
    "a gradient": lambda x: torch.from_numpy(x).requires_grad_(),
    "transposed": lambda x: torch.from_numpy(x.T.copy()).T,
    "negated": lambda x: torch.from_numpy(np.array(1j * -x)).conj().imag,
}


@pytest.mark.parametrize("kept", ALIKE.values(), ids=ALIKE.keys())
def test_numbers_are_those_of_the_array_however_it_lies(tmp_path, kept):
    """Widths, byte orders, orders in memory and tensors of other kinds."""
    x = np.round(VALUES * 4) / 4  # few bits, so that the narrow types hold them
    if kept is ALIKE["a view"]:
        assert not np.repeat(x, 2, 0)[::2].flags["C_CONTIGUOUS"]
    split = returned(tmp_path, kept(x), kept(x[:, 0:1])).splits["train"]
    np.testing.assert_array_equal(split.x.numpy(), x)
    np.testing.assert_array_equal(split.y.numpy(), x[:, 0:1])
    assert type(split.x) is torch.Tensor
    assert split.x.is_contiguous()
    assert not split.x.requires_grad


ODD = {
    "masked": (lambda x: np.ma.masked_greater(x, 4), r"\d numbers are masked"),
    "objects": (lambda x: x.astype(object), "numpy.object_"),
    "ragged": (lambda x: [[1.0], [2.0, 3.0]] * 3, "inhomogeneous"),
    "texts": (lambda x: x.astype(str), "numpy.str_"),
    "dates": (lambda x: x.astype("M8[s]"), "numpy.datetime64"),
    "records": (lambda x: x.astype([("a", "f8")]), "numpy.void"),
    "a set": (lambda x: {1, 2}, "numpy.object_"),
    "longdouble": (lambda x: x.astype(np.longdouble), "numpy.longdouble"),
    "sparse": (lambda x: torch.from_numpy(x).to_sparse(), "a sparse tensor"),
    "meta": (lambda x: torch.from_numpy(x).to("meta"), "a meta tensor"),
    "nested": (lambda x: torch.nested.nested_tensor([torch.zeros(2)] * 6), "a nested tensor"),
    "quantized": (
        lambda x: torch.quantize_per_tensor(torch.from_numpy(x).float(), 0.1, 0, torch.qint8),
        "a quantized tensor",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("odd", "said"), ODD.values(), ids=ODD.keys())
def test_what_is_no_array_of_numbers_is_refused(tmp_path, odd, said):
    """In inputs and in labels, each with one message."""
    with pytest.raises(UsageError, match=f"train inputs: not an array of numbers: .*{said}"):
        returned(tmp_path, odd(VALUES))
    with pytest.raises(UsageError, match=f"train labels: not an array of numbers: .*{said}"):
        returned(tmp_path, VALUES, odd(VALUES))


def test_numbers_beyond_float32_are_refused(tmp_path):
    """They would be infinite, in inputs and in values; with 64 bits they are right."""
    x = VALUES.copy()
    x[2, 1] = 1e200
    with pytest.raises(UsageError, match=r"1 of 6 inputs have values beyond float32.*index 2"):
        of(tmp_path, x)
    with pytest.raises(UsageError, match=r"labels have values beyond float32.*precision: float64"):
        of(tmp_path, y=x)
    assert of(tmp_path, x, x, exact=True).splits["train"].y[2, 1] == 1e200
    with pytest.raises(UsageError, match="labels have NaN"):
        of(tmp_path, y=x * np.nan, exact=True)


@pytest.mark.parametrize("shape", [(), (0,), (6, 0)])
def test_labels_that_are_none_are_refused(tmp_path, shape):
    """A single number for all, and no numbers."""
    with pytest.raises(UsageError, match=r"one label each|6 inputs, but 0|one or more each"):
        of(tmp_path, y=np.zeros(shape))


LABELS = {
    "classes": (np.array([0, 2, 1, 0, 2, 1]), {}, "classes", 3),
    "declared": (np.array([0, 2, 1, 0, 2, 1]), {"classes": 7}, "classes", 7),
    "a column": (np.array([[0], [2], [1], [0], [2], [1]]), {}, "classes", 3),
    "truth": (np.array([True, False] * 3), {}, "classes", 2),
    "multi-label": (np.eye(6, 4, dtype="i4"), {}, "labels", 4),
    "multi-label, declared": (np.eye(6, 4, dtype=bool), {"classes": 4}, "labels", 4),
    "tokens": (np.arange(24).reshape(6, 4) % 5, {}, "positions", 5),
    "two tokens": (np.eye(6, 4, dtype="i8"), {"classes": 2}, "positions", 2),
    "pixels": (np.arange(54).reshape(6, 3, 3) % 3, {}, "positions", 3),
    "pixels of 0 and 1": (np.arange(54).reshape(6, 3, 3) % 2, {"classes": 4}, "positions", 4),
}


@pytest.mark.parametrize(("y", "args", "kind", "classes"), LABELS.values(), ids=LABELS.keys())
def test_integer_labels_keep_their_shape_and_have_a_kind(tmp_path, y, args, kind, classes):
    """One class each, several answers of 0 and 1, or a class at every position."""
    dataset = of(tmp_path, y=y, args=args)
    assert dataset.splits["train"].y.dtype == torch.int64
    np.testing.assert_array_equal(dataset.splits["train"].y.numpy(), y)
    assert (dataset.target_kind, dataset.classes, dataset.outputs) == (kind, classes, classes)
    part = of(tmp_path, y=y, args=args, subset=4)
    assert part.splits["train"].y.shape == (4, *y.shape[1:])
    assert part.target_kind == kind


def test_labels_out_of_range_are_refused_at_every_position(tmp_path):
    """Negative ones and those beyond the classes; torch's -100 stands for no label."""
    y = np.arange(54).reshape(6, 3, 3) % 3
    with pytest.raises(UsageError, match="train has the label 2; expected 0 to 1"):
        of(tmp_path, y=y, args={"classes": 2})
    y[0, 0, 0] = -100
    assert of(tmp_path, y=y).classes == 3
    y[0, 0, 0] = -1
    with pytest.raises(UsageError, match=r"label -1; expected 0 to 999999, or -100.*no_label"):
        of(tmp_path, y=y)


def test_classes_of_labels_that_are_floats_are_refused(tmp_path):
    """They would be values to predict; shares of every class are meant so."""
    with pytest.raises(UsageError, match="classes is 3, but the labels are float32; store int"):
        of(tmp_path, y=np.array([0.0, 1.0, 2.0] * 2), args={"classes": 3})
    shares = of(tmp_path, y=np.full((6, 3), 1 / 3), args={"classes": 3})
    assert (shares.classes, shares.outputs, shares.target_kind) == (None, 3, "values")


def test_splits_of_32_and_64_bits_go_together(tmp_path):
    """Kept or rounded; integers and floats do not."""
    path = arrays(tmp_path, x_train=VALUES, x_test=VALUES[:3].astype("f4"))
    for exact in (False, True):
        dataset = load("arrays", root=path, exact=exact)
        seen = data.normalized(dataset, "test", torch.float64)
        np.testing.assert_array_equal(seen.numpy(), VALUES[:3].astype("f4"))
    path = arrays(tmp_path, x_train=VALUES, x_test=np.arange(12).reshape(3, 4))
    with pytest.raises(UsageError, match="the splits differ: train inputs are float32"):
        load("arrays", root=path)


NESTED = {
    "ids": np.arange(24, dtype=np.uint8).reshape(6, 4),
    "mask": np.arange(24).reshape(6, 4) > 3,
    "pair": (VALUES.astype("f2"), [1, 2, 3, 4, 5, 6]),
}


def test_arrays_of_a_nesting_are_taken_as_they_are(tmp_path):
    """Integers and bytes as int64, truth values as bool, floats in the precision of the job."""
    for exact, real in ((False, torch.float32), (True, torch.float64)):
        nested = {**NESTED, "wide": VALUES + 1 / 3}
        x = returned(tmp_path, nested, exact=exact).splits["train"].x
        assert (x["ids"].dtype, x["mask"].dtype) == (torch.int64, torch.bool)
        assert (x["pair"][0].dtype, x["pair"][1].dtype) == (torch.float32, torch.int64)
        assert x["wide"].dtype == real
        np.testing.assert_array_equal(x["ids"].numpy(), NESTED["ids"])
        np.testing.assert_array_equal(x["wide"].numpy(), (VALUES + 1 / 3).astype(str(real)[6:]))
    labels = returned(tmp_path, VALUES, {"a": np.arange(6), "b": VALUES})
    assert (labels.target_kind, labels.classes) == ("nested", None)


HOLED = VALUES.copy()
HOLED[2, 1] = np.inf
MISFITS = {
    "another count": ({**NESTED, "size": np.ones(7)}, None, "size has 7 samples, ids 6; all need"),
    "another count of labels": (NESTED, np.arange(5), "labels has 5 samples, ids 6"),
    "a number": ({**NESTED, "scale": 3.0}, None, "scale is one number; expected"),
    "nothing in it": ({}, None, "inputs: dict without arrays"),
    "nothing inside": ({"ids": np.ones(6), "more": ()}, None, "inputs more: tuple without arrays"),
    "no samples": ({"ids": np.ones((0, 3))}, np.ones(0), r"is empty: ids has shape \[0, 3\]"),
    "a number as key": ({0: VALUES}, None, "inputs: 0 is a key; expected names"),
    "a dot in a key": ({"a.b": VALUES}, None, "inputs: 'a.b' is a key"),
    "objects": ({"a": VALUES.astype(object)}, None, "inputs a: not an array of numbers"),
    "not finite": ({"a": (HOLED, HOLED)}, None, "inputs a 0: 1 of 6 inputs have NaN or infinite"),
    "beyond float32": ({"a": VALUES.round() + 2**25}, None, "inputs a: some are whole numbers"),
    "a shorter mask": (
        {"ids": np.ones((6, 4), int), "mask": np.ones((6, 3), bool)},
        None,
        r"mask has shape \[6, 3\], ids \[6, 4\]",
    ),
}


@pytest.mark.parametrize(("x", "y", "said"), MISFITS.values(), ids=MISFITS.keys())
def test_a_nesting_that_is_no_batch_is_refused(tmp_path, x, y, said):
    """With the place of what does not fit."""
    with pytest.raises(UsageError, match=rf"^data\.dataset: returned:give: train:? .*{said}"):
        returned(tmp_path, x, y)


def test_nothing_scales_or_relabels_a_nesting(tmp_path):
    """What says how to is refused: nothing says which array it is meant for."""
    normalize = schema.NormalizeSpec(mean=[0.0], std=[1.0])
    with pytest.raises(UsageError, match="normalize: the inputs are several arrays"):
        returned(tmp_path, NESTED, normalize=normalize)
    for said in ({"classes": 3}, {"no_label": 3}):
        with pytest.raises(UsageError, match=f"{next(iter(said))} is 3"):
            both(tmp_path, {**said, "x_train": VALUES, "y_train": {"a": np.arange(6)}})


def both(tmp_path, arrays, needs_targets=True):
    """Load what a factory returns."""
    (tmp_path / "returned.py").write_text("def give(): return of\n")
    from lsengine.external import user_code

    give = user_code.lookup("returned:give", key="data.dataset", job_folder=tmp_path)
    give.__globals__["of"] = arrays
    spec = schema.DataSpec(dataset="returned:give", splits=[s for s in SPLITS if has(arrays, s)])
    return data.load(spec, root=None, job_folder=tmp_path, seed=0, needs_targets=needs_targets)


SPLITS = ("train", "test")


def has(arrays, split):
    """Return whether there are arrays of a split."""
    return any(key.endswith(split) for key in arrays)


def test_splits_of_other_names_or_shapes_are_refused(tmp_path):
    """The other split is no test of the same network."""
    for test, said in (
        ({"ids": NESTED["ids"]}, "train inputs are ids, mask, pair.0, pair.1, test inputs ids"),
        ({**NESTED, "mask": np.ones((6, 4))}, "train inputs mask are bool .4. per sample"),
        ({**NESTED, "ids": np.ones(6, int)}, r"test inputs ids int64 \[\]"),
        (VALUES, "test inputs one array"),
    ):
        with pytest.raises(UsageError, match=f"the splits differ: .*{said}"):
            both(tmp_path, {"train": (NESTED, np.arange(6) % 3), "test": (test, np.arange(6) % 3)})


def test_an_objective_needs_no_targets(tmp_path):
    """Then all names are inputs, samples may be numbers, and labels any integers."""
    alone = both(tmp_path, {"x_train": VALUES[:, 0]}, needs_targets=False)
    assert (alone.splits["train"].y, alone.target_kind, alone.classes) == (None, "none", None)
    assert (alone.channels, alone.outputs, len(alone.splits["train"])) == (1, 1, 6)
    named = both(tmp_path, {"x_train": VALUES, "at_train": VALUES}, needs_targets=False)
    assert set(named.splits["train"].x) == {"x", "at"}
    signs = np.array([-1, 1] * 3)
    signed = both(tmp_path, {"x_train": VALUES, "y_train": signs}, needs_targets=False)
    assert (signed.target_kind, signed.classes) == ("values", None)
    np.testing.assert_array_equal(signed.splits["train"].y.numpy(), signs)
    labelled = both(tmp_path, {"x_train": VALUES, "y_train": np.arange(6)}, needs_targets=False)
    assert (labelled.target_kind, labelled.classes) == ("classes", 6)
