"""Tables as arrays, against the rows that were written."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from lsengine.data import tables
from lsengine.errors import UsageError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
feather = pytest.importorskip("pyarrow.feather")

RNG = np.random.default_rng(0)
LENGTHS = [3, 1, 4, 0, 2]
IDS = [RNG.integers(1, 50, n).tolist() for n in LENGTHS]
SPLIT = ["train", "test", "train", "train", "test"]


def write(folder, columns, suffix=".parquet", name="data"):
    """Write a table; return its path."""
    path, table = folder / f"{name}{suffix}", pa.table(columns)
    if suffix == ".parquet":
        pq.write_table(table, path, row_group_size=2)
    elif suffix == ".feather":
        feather.write_feather(table, path, compression="lz4", chunksize=2)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return path


def read(files, pad=None, wanted=None, target="y"):
    """Read files as `array_files` would."""
    files = files if isinstance(files, dict) else {"": files}
    return tables.read(files, wanted=wanted, pad=pad, is_target=lambda name: name == target)


@pytest.mark.parametrize("suffix", tables.SUFFIXES)
def test_columns_of_numbers_and_even_lists_are_arrays(tmp_path, suffix):
    """Of every type and depth, with the rows of each split in the file's order."""
    cube, pairs = RNG.normal(size=(5, 2, 3)), RNG.integers(0, 9, (5, 2))
    inner = pa.FixedSizeListArray.from_arrays(cube.ravel(), 3)
    columns = {
        "cube": pa.FixedSizeListArray.from_arrays(inner, 2),
        "pairs": pa.array(pairs.tolist(), pa.list_(pa.int32())),
        "deep": pa.array(cube.tolist(), pa.large_list(pa.list_(pa.float32()))),
        "half": pa.array(np.arange(5, dtype=np.float16)),
        "seen": pa.array([True, False, True, True, False]),
        "coded": pa.array([7, 7, 8, 9, 7]).dictionary_encode(),
        "y": pa.array([0, 1, 2, 0, 1], pa.uint8()),
        "split": pa.array(SPLIT).dictionary_encode(),
    }
    found = read(write(tmp_path, columns, suffix))
    expected = {
        "cube": cube,
        "pairs": pairs.astype("i4"),
        "deep": cube.astype("f4"),
        "half": np.arange(5, dtype=np.float16),
        "seen": np.array([True, False, True, True, False]),
        "coded": np.array([7, 7, 8, 9, 7]),
        "y": np.array([0, 1, 2, 0, 1], np.uint8),
    }
    assert [*found] == ["train", "test"]
    for split, arrays in found.items():
        rows = [i for i, name in enumerate(SPLIT) if name == split]
        assert arrays.keys() == expected.keys()
        for name, array in arrays.items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name][rows])


def test_ragged_columns_are_padded_to_one_length_of_all_splits(tmp_path):
    """Inputs with the number that is asked for, labels with none; a mask says what is real."""
    labels = [[i % 3 for i in row] for row in IDS]
    path = write(tmp_path, {"ids": IDS, "y": labels, "split": SPLIT})
    with pytest.raises(UsageError, match=r"column ids has lists of 0 to 4 numbers.*pad: 0"):
        read(path)
    found = read(path, pad=7)
    for split in ("train", "test"):
        rows = [i for i, name in enumerate(SPLIT) if name == split]
        for place, row in enumerate(rows):
            blank = 4 - LENGTHS[row]
            assert found[split]["ids"][place].tolist() == IDS[row] + [7] * blank
            assert found[split]["y"][place].tolist() == labels[row] + [-100] * blank
            assert found[split]["mask"][place].tolist() == [True] * (4 - blank) + [False] * blank
    halves = {
        split: write(
            tmp_path,
            {"ids": [r for r, s in zip(IDS, SPLIT, strict=True) if s == split]},
            name=split,
        )
        for split in ("train", "test")
    }
    for split, arrays in read(halves, pad=7).items():
        np.testing.assert_array_equal(arrays["ids"], found[split]["ids"])
        np.testing.assert_array_equal(arrays["mask"], found[split]["mask"])


def test_a_mask_of_the_table_is_kept(tmp_path):
    """It is padded with 0; without one, columns of different lengths have no common mask."""
    ones = [[1] * n for n in LENGTHS]
    found = read(write(tmp_path, {"ids": IDS, "attention_mask": ones}), pad=7)["train"]
    assert set(found) == {"ids", "attention_mask"}
    assert found["attention_mask"].sum(1).tolist() == LENGTHS
    others = [row[:1] for row in IDS]
    with pytest.raises(UsageError, match=r"different lengths in one row.*ids_mask"):
        read(write(tmp_path, {"ids": IDS, "others": others}), pad=0)


REFUSED = {
    "texts": ({"x": ["a", "b"]}, {}, "column x: has the type string"),
    "nulls": ({"x": [1, None]}, {}, "column x: 1 of 2 values are null"),
    "inner nulls": ({"x": [[1], [None]]}, {}, "column x: 1 of 2 values are null"),
    "ragged in ragged": ({"x": [[[1]], [[1, 2]]]}, {"pad": 0}, "lists in its lists differ"),
    "other splits": (
        {"x": [1, 2], "split": ["dev", "val"]},
        {},
        "split has dev, val; expected train",
    ),
    "real targets": ({"y": [[1.0], []]}, {"pad": 0}, "y has targets of different lengths"),
}


@pytest.mark.parametrize(("columns", "options", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_columns_that_are_no_arrays_are_refused(tmp_path, columns, options, said):
    """With the file, the column and what was found."""
    path = write(tmp_path, columns)
    with pytest.raises(UsageError, match=rf"^data\.root: {path}: .*{said}"):
        read(path, **options)


def test_even_lists_beside_ragged_ones_have_no_part_in_the_mask(tmp_path):
    """With no ragged ones at all the mask is true everywhere: a job may count on it."""
    vectors = np.ones((5, 2)).tolist()
    found = read(write(tmp_path, {"ids": IDS, "vector": vectors}), pad=0)["train"]
    assert found["mask"].sum(1).tolist() == LENGTHS
    even = read(write(tmp_path, {"ids": [[1, 2], [3, 4]]}), pad=0)["train"]
    assert even["mask"].tolist() == [[True, True]] * 2
    assert "mask" not in read(write(tmp_path, {"ids": [[1, 2], [3, 4]]}))["train"]


def test_padding_beyond_memory_is_refused(tmp_path, monkeypatch):
    """Before anything is allocated."""
    path = write(tmp_path, {"ids": IDS})
    monkeypatch.setattr(tables, "free_host_bytes", lambda: 5 * 4 * 8 - 1)
    with pytest.raises(UsageError, match=r"column ids would need .* longest list of 4, and"):
        read(path, pad=0)
    monkeypatch.setattr(tables, "free_host_bytes", lambda: 5 * 4 * 8)
    assert read(path, pad=0)["train"]["ids"].shape == (5, 4)


def test_rows_of_other_splits_are_left_out_and_said(tmp_path, caplog):
    """Null, too, is no split."""
    path = write(tmp_path, {"ids": [1, 2, 3, 4], "split": ["dev", "test", None, "dev"]})
    assert read(path)["test"]["ids"].tolist() == [2]
    assert "rows of no split are left out: 1 of None, 2 of dev" in caplog.text


def test_fixed_shape_tensors_are_arrays(tmp_path):
    """Over several groups of rows."""
    cube = RNG.normal(size=(5, 2, 3))
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(cube)
    np.testing.assert_array_equal(read(write(tmp_path, {"x": column}))["train"]["x"], cube)


def test_only_wanted_columns_are_read(tmp_path):
    """So a text beside them does no harm."""
    path = write(tmp_path, {"ids": [1, 2], "text": ["a", "b"], "split": ["test", "train"]})
    assert {
        s: {n: a.tolist() for n, a in c.items()} for s, c in read(path, wanted=["ids"]).items()
    } == {
        "train": {"ids": [2]},
        "test": {"ids": [1]},
    }


@pytest.mark.parametrize("suffix", tables.SUFFIXES)
@pytest.mark.parametrize("damage", ["text", "empty", "cut", "absent"])
def test_what_is_no_table_is_named(tmp_path, suffix, damage):
    """One message for each file that is damaged or not there."""
    path = write(tmp_path, {"x": [1, 2]}, suffix)
    content = {"text": b"hello", "empty": b"", "cut": path.read_bytes()[:90]}.get(damage)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"^data\.root: {path}.*(not a readable|no such file)"):
        read(path)


@pytest.mark.parametrize("suffix", [".arrow", ".feather"])
@pytest.mark.parametrize("changed", [0x01, 0x80])
def test_no_changed_byte_gets_through(tmp_path, suffix, changed):
    """Whatever byte of a file is another one, it is read as some table, or refused by name."""
    columns = {"x": pa.array([[1.0, 2.0], [3.0], [], [4.0], [5.0]]), "split": SPLIT, "y": range(5)}
    path = write(tmp_path, columns, suffix)
    content, refused = bytearray(path.read_bytes()), 0
    for i in range(len(content)):
        content[i] ^= changed
        path.write_bytes(content)
        content[i] ^= changed
        with contextlib.suppress(UsageError):
            read(path, pad=0)
            refused -= 1
        refused += 1
    assert refused > len(content) // 20


def test_types_are_known_before_columns_are_read(tmp_path):
    """Texts are refused by name, however long they are."""
    pq.write_table(pa.table({"a": [1], "words": ["x" * 1000]}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="column words: has the type string; expected numbers"):
        read({"": tmp_path / "a.parquet"})
    assert list(read({"": tmp_path / "a.parquet"}, wanted={"a"})["train"]) == ["a"]


def test_a_number_that_comes_too_often_is_refused(tmp_path, monkeypatch):
    """Few bytes can say that one number comes a thousand million times."""
    pq.write_table(pa.table({"a": np.zeros(500_000, np.int8)}), tmp_path / "a.parquet")
    assert len(read({"": tmp_path / "a.parquet"})["train"]["a"]) == 500_000
    monkeypatch.setattr(tables, "_FREE_NUMBERS", 1000)
    with pytest.raises(UsageError, match="it has 500,000 numbers, too many for its size"):
        read({"": tmp_path / "a.parquet"})


@pytest.mark.parametrize("suffix", [".arrow", ".feather"])
def test_many_numbers_of_few_bytes_are_refused(tmp_path, monkeypatch, suffix):
    """What is packed may be thousands of times as large as its file."""
    path = tmp_path / f"a{suffix}"
    feather.write_feather(pa.table({"a": np.zeros(500_000)}), path, compression="zstd")
    assert len(read({"": path})["train"]["a"]) == 500_000
    monkeypatch.setattr(tables, "_FREE_BYTES", 1000)
    with pytest.raises(
        UsageError, match=r"it would take 0\.00 GiB, more than 50 times what it has"
    ):
        read({"": path})


@pytest.mark.parametrize("offsets", [[0, 2, 10**9], [0, -1, 3], [3, 2, 0], [10**9] * 3])
def test_lists_that_are_not_within_their_numbers_are_refused(tmp_path, offsets):
    """A file may say that a list begins or ends anywhere."""
    path = write(tmp_path, {"x": [[7.0, 8.0], [9.0]]}, ".arrow")
    good, bad = (np.array(ends, np.int32).tobytes() for ends in ([0, 2, 3], offsets))
    assert path.read_bytes().count(good) == 1
    path.write_bytes(path.read_bytes().replace(good, bad))
    with pytest.raises(UsageError, match=r"is not a readable \.arrow file"):
        read(path)


@pytest.mark.parametrize("index", [2, -1, 127])
def test_what_a_dictionary_lacks_is_refused(tmp_path, index):
    """And so is a dictionary of lists, each of which would be copied for every row."""
    indices = pa.array([0, index], pa.int8())
    column = pa.DictionaryArray.from_arrays(indices, [1.0, 2.0], safe=False)
    with pytest.raises(UsageError, match=r"is not a readable \.arrow file"):
        read(write(tmp_path, {"x": column}, ".arrow"))
    lists = pa.DictionaryArray.from_arrays([0, 0], pa.array([[1.0, 2.0]]))
    with pytest.raises(UsageError, match=r"column x: has the type dictionary.*expected numbers"):
        read(write(tmp_path, {"x": lists}, ".arrow"))


def test_a_long_name_of_a_split_is_cut(tmp_path):
    """NumPy would make all names as long as the longest."""
    column = ["train"] * 30_000 + ["x" * 10**6]
    columns = {"x": np.zeros(30_001), "split": column}
    assert len(read(write(tmp_path, columns))["train"]["x"]) == 30_000
