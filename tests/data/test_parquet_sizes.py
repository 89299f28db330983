"""What a file of Parquet says of itself, read by another process."""

from __future__ import annotations

import pytest

from lsengine.data import parquet_sizes, tables
from lsengine.errors import UsageError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
COLUMNS = {"x": [[1.0, 2.0], [3.0, 4.0, 5.0], [6.0]], "y": [0, 1, 2], "other": [0, 0, 0]}


@pytest.fixture
def path(tmp_path):
    """Write three rows in two groups."""
    pq.write_table(pa.table(COLUMNS), tmp_path / "a.parquet", row_group_size=2)
    return tmp_path / "a.parquet"


@pytest.mark.parametrize(("columns", "expected"), [(["x", "y"], 9), (["y"], 3), ([], 3)])
def test_the_numbers_of_the_columns_are_counted(path, columns, expected):
    """Of lists all numbers count; there are never fewer than rows."""
    assert parquet_sizes.numbers(path, columns) == expected


def test_a_description_that_ends_pyarrow_is_damage(path):
    """This process goes on, and the message has the words of PyArrow's exception."""
    content = path.read_bytes()
    none = content.find(b"\x29\x06\x19\x26")  # an empty list, in the description of a column
    if none < 0:
        pytest.skip("this PyArrow writes no statistics of sizes")
    path.write_bytes(content[: none + 1] + b"\x46" + content[none + 2 :])  # four numbers
    with pytest.raises(UsageError, match=r"not a readable .* columns are damaged: .*\w"):
        tables.read({"": path}, wanted=None, pad=0, is_target=lambda name: name == "y")


def test_rows_that_lack_columns_are_damage(path, monkeypatch):
    """PyArrow would look for them behind the end of a list."""
    lacking = parquet_sizes._SCRIPT.replace("about.num_columns for", "about.num_columns + 1 for")
    monkeypatch.setattr(parquet_sizes, "_SCRIPT", lacking)
    with pytest.raises(ValueError, match="damaged: some of its rows lack columns"):
        parquet_sizes.numbers(path, ["x"])
