"""Tables in Parquet, Feather and Arrow files: columns become arrays, ragged ones padded.

Shapes: N rows, T positions, M numbers of all rows in order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lsengine.data.dataset import SPLITS
from lsengine.data.padding import fill, is_mask
from lsengine.errors import UsageError
from lsengine.external.optional import library

SUFFIXES = (".parquet", ".arrow", ".feather")
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Ragged:
    """A column of lists: their numbers in order (M, ...), and how many each row has (N,)."""

    numbers: Array
    lengths: NDArray[np.int64]

    def rows(self, is_chosen: NDArray[np.bool_]) -> Ragged:
        """Return some of the rows."""
        kept = np.repeat(is_chosen, self.lengths)
        return Ragged(self.numbers[kept], self.lengths[is_chosen])

    def padded(self, length: int, value: float) -> Array:
        """Return the rows (N, length, ...), those that are shorter with a value at their end."""
        shape = (len(self.lengths), length, *self.numbers.shape[1:])
        out = np.full(shape, value, dtype=self.numbers.dtype)
        out[self.is_real(length)] = self.numbers
        return out

    def is_real(self, length: int) -> NDArray[np.bool_]:
        """Return which places of the padded rows are no padding (N, length)."""
        return np.arange(length) < self.lengths[:, None]


Column = Array | Ragged


def read(
    files: Mapping[str, Path],
    *,
    wanted: Collection[str] | None,
    pad: float | None,
    is_target: Callable[[str], bool],
) -> dict[str, dict[str, Array]]:
    """Return the arrays of each split by name.

    Args:
        files: Of each split; or one of no split (an empty name), in which the column ``split``
            says whose a row is.  Without that column all rows are training samples.
        wanted: Columns that are read, as far as they are there; None for all.
        pad: What rows of different lengths are padded with at their end.  Masks get 0, targets
            `NO_LABEL`.  An array ``mask`` says which places are none of that, unless there is a
            mask in the table, or only lists of a fixed size.
        is_target: Whether a column of this name is targets.

    Raises:
        UsageError: If a file is missing or damaged, or a column is no numbers or not whole.
        EnvironmentUnfit: If pyarrow is not installed.
    """
    splits: dict[str, dict[str, Column]] = {}
    for split, file in files.items():
        columns = _columns(file, wanted)
        where = f"data.root: {file}"
        splits |= {split: columns} if split else _by_column(columns, where)
    where = f"data.root: {', '.join(map(str, files.values()))}"
    return _filled(splits, where, pad, is_target)


def _by_column(columns: dict[str, Column], where: str) -> dict[str, dict[str, Column]]:
    """Return the rows of each split."""
    of_rows = columns.pop("split", None)
    if of_rows is None:
        return {"train": columns}
    found = {str(name) for name in np.unique(np.asarray(of_rows))}
    if not found & set(SPLITS):
        raise UsageError(f"{where}: column split has {sorted(found)[:4]}; expected train and test")
    return {
        split: {
            name: _rows(column, np.asarray(of_rows) == split) for name, column in columns.items()
        }
        for split in SPLITS
        if split in found
    }


def _rows(column: Column, is_chosen: NDArray[np.bool_]) -> Column:
    return column.rows(is_chosen) if isinstance(column, Ragged) else column[is_chosen]


def _filled(
    splits: dict[str, dict[str, Column]],
    where: str,
    pad: float | None,
    is_target: Callable[[str], bool],
) -> dict[str, dict[str, Array]]:
    """Return ragged columns as arrays of one length, the same for all splits."""
    out: dict[str, dict[str, Array]] = {split: {} for split in splits}
    masks: list[dict[str, NDArray[np.bool_]]] = []
    for name in dict.fromkeys(name for columns in splits.values() for name in columns):
        parts = {split: columns[name] for split, columns in splits.items() if name in columns}
        lengths = [p.lengths for p in parts.values() if isinstance(p, Ragged)]
        length = max((int(n.max(initial=0)) for n in lengths), default=0)
        is_even = all(bool((n == length).all()) for n in lengths)
        if not is_even and pad is None:
            least = min(int(n.min()) for n in lengths)
            raise UsageError(
                f"{where}: column {name} has lists of {least} to {length} numbers; store lists of "
                "one length, or say data.args: {pad: 0}, which pads them and adds a mask"
            )
        for split, part in parts.items():
            if not isinstance(part, Ragged):
                out[split][name] = part
                continue
            dtype = torch.from_numpy(part.numbers[:0].copy()).dtype
            value = 0.0
            if not is_even and pad is not None:
                value = fill(name, dtype, pad, is_target=is_target(name), where=where)
            out[split][name] = part.padded(length, value)
        if lengths and pad is not None and not is_target(name):  # whatever the lengths
            masks.append({s: p.is_real(length) for s, p in parts.items() if isinstance(p, Ragged)})
    if masks and not any(is_mask(name) for columns in out.values() for name in columns):
        _add_mask(out, masks, where)
    return out


def _add_mask(
    out: dict[str, dict[str, Array]], masks: list[dict[str, NDArray[np.bool_]]], where: str
) -> None:
    """Add an array ``mask`` of the places that are no padding."""
    for other in masks[1:]:
        if any(not np.array_equal(masks[0][split], other[split]) for split in masks[0]):
            raise UsageError(
                f"{where}: padded columns have different lengths in one row, so one mask does not "
                "say what is real; store the mask of each, such as ids_mask"
            )
    for split, is_real in masks[0].items():
        out[split]["mask"] = is_real


def _columns(file: Path, wanted: Collection[str] | None) -> dict[str, Column]:
    """Return the columns of a file by name; ``split`` as text."""
    where = f"data.root: {file}"
    library("pyarrow", "arrow", where)
    table = _table(file, wanted)
    found: dict[str, Column] = {}
    for name, chunks in zip(table.column_names, table.columns, strict=True):
        at = f"{where}: column {name}"
        if name in found:
            raise UsageError(f"{at}: there are two of this name")
        column = chunks.combine_chunks()
        if isinstance(column, type(chunks)):  # of no chunk, or of too many bytes for one
            column = column.chunk(0)
        found[name] = np.asarray(column.to_pylist()) if name == "split" else _column(column, at)
    return found


def _table(file: Path, wanted: Collection[str] | None) -> Any:
    """Return a table of the columns that are wanted."""
    where = f"data.root: {file}"
    errors = library("pyarrow", "arrow", where).ArrowException, OSError
    try:
        if file.suffix == ".parquet":
            parquet = library("pyarrow.parquet", "arrow", where)
            names = parquet.read_schema(file).names
            return parquet.read_table(file, columns=_kept(names, wanted), partitioning=None)
        table = _arrow_table(file)
        return table.select(_kept(table.column_names, wanted))
    except FileNotFoundError:
        raise UsageError(f"{where}: no such file") from None
    except errors as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{where} is not a readable {file.suffix} file: {reason}") from None


def _arrow_table(file: Path) -> Any:
    """Return the table of a file of Arrow's, in its file format or as a stream."""
    arrow, where = library("pyarrow", "arrow", f"data.root: {file}"), f"data.root: {file}"
    ipc = library("pyarrow.ipc", "arrow", where)
    with arrow.memory_map(str(file)) as source:
        start = source.read(6)
        source.seek(0)
        if start.startswith(b"ARROW1"):
            return ipc.open_file(source).read_all()
        if start.startswith(b"FEA1"):
            return library("pyarrow.feather", "arrow", where).read_table(source)
        return ipc.open_stream(source).read_all()


def _kept(names: Collection[str], wanted: Collection[str] | None) -> list[str]:
    return [name for name in names if wanted is None or name in wanted or name == "split"]


def _column(column: Any, at: str) -> Column:
    """Return a column of numbers, or of lists of them."""
    types, kind = library("pyarrow.types", "arrow", at), column.type
    if column.null_count:
        raise UsageError(f"{at}: {column.null_count:,} of {len(column):,} values are null")
    if types.is_dictionary(kind):
        return _column(column.dictionary_decode(), at)
    if hasattr(column, "to_numpy_ndarray"):  # fixed-shape tensors
        return np.asarray(column.to_numpy_ndarray())
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    if types.is_fixed_size_list(kind):
        inner = _even(_column(column.flatten(), at), at)
        return inner.reshape(len(column), kind.list_size, *inner.shape[1:])
    if types.is_list(kind) or types.is_large_list(kind):
        lengths = np.asarray(column.value_lengths().to_numpy(zero_copy_only=False))
        return Ragged(_even(_column(column.flatten(), at), at), lengths.astype(np.int64))
    raise UsageError(
        f"{at}: has the type {kind}; expected numbers, truth values or lists of them; "
        "data.args: {inputs: [...]} names the columns that are read"
    )


def _even(column: Column, at: str) -> Array:
    """Return lists in lists, which must have one length, as an array."""
    if not isinstance(column, Ragged):
        return column
    length = int(column.lengths.max(initial=0))
    if not (column.lengths == length).all():
        raise UsageError(f"{at}: the lists in its lists differ in length; store one length")
    return column.padded(length, 0)
