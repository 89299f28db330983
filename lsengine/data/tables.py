"""Tables in Parquet, Feather and Arrow files: columns become arrays, ragged ones padded.

Shapes: N rows, T positions, M numbers of all rows in order.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lsengine.data import arrow_sizes, parquet_sizes
from lsengine.data.dataset import SPLITS
from lsengine.data.padding import fill, is_mask
from lsengine.devices.memory import free_host_bytes
from lsengine.errors import UsageError
from lsengine.external.optional import library
from lsengine.files import is_regular
from lsengine.wording import listed

log = logging.getLogger(__name__)
SUFFIXES = (".parquet", ".arrow", ".feather")
_FREE_NUMBERS, _NUMBERS_PER_BYTE = 2**24, 100
_FREE_BYTES, _TIMES = 2**27, 50  # that columns of Arrow's may take: these, and sizes of the file
_LONGEST_SPLIT = 100  # characters of the name of a split
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Ragged:
    """A column of lists: their numbers in order (M, ...), and how many each row has (N,)."""

    numbers: Array
    lengths: NDArray[np.int64]

    @property
    def longest(self) -> int:
        """Return how many numbers the longest row has."""
        return int(self.lengths.max(initial=0))

    def bytes_of(self, length: int) -> int:
        """Return how many bytes the rows need if they are padded to a length."""
        each = math.prod(self.numbers.shape[1:]) * self.numbers.itemsize
        return len(self.lengths) * length * each

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
        of_rows = columns.pop("split", None)
        if split or of_rows is None:
            splits[split or "train"] = columns
        else:
            splits |= _by_split(columns, np.asarray(of_rows), f"data.root: {file}")
    where = f"data.root: {', '.join(map(str, files.values()))}"
    return _filled(splits, where, pad, is_target)


def _by_split(
    columns: dict[str, Column], of_rows: Array, where: str
) -> dict[str, dict[str, Column]]:
    """Return the rows of each split."""
    found = {str(name): int((of_rows == name).sum()) for name in np.unique(of_rows)}
    others = {name: count for name, count in found.items() if name not in SPLITS}
    if len(others) == len(found):
        raise UsageError(
            f"{where}: column split has {listed(others, most=4) or 'no rows'}; expected train and "
            "test"
        )
    if others:
        left = listed((f"{count:,} of {name}" for name, count in others.items()), most=4)
        log.warning("%s: rows of no split are left out: %s", where, left)
    return {
        split: {name: _rows(column, of_rows == split) for name, column in columns.items()}
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
    ragged: dict[bool, list[dict[str, Ragged]]] = {False: [], True: []}  # by whether it is even
    for name in dict.fromkeys(name for columns in splits.values() for name in columns):
        parts = {split: columns[name] for split, columns in splits.items() if name in columns}
        lists = {split: part for split, part in parts.items() if isinstance(part, Ragged)}
        length = max((part.longest for part in lists.values()), default=0)
        is_even = all((part.lengths == length).all() for part in lists.values())
        value = 0.0
        if not is_even:
            value = _value(name, lists, pad, is_target(name), where)
        for split, part in parts.items():
            out[split][name] = part.padded(length, value) if isinstance(part, Ragged) else part
        if lists and not is_target(name):
            ragged[is_even].append(lists)
    has_mask = any(is_mask(name) for columns in out.values() for name in columns)
    if pad is not None and not has_mask and (padded := ragged[False] or ragged[True]):
        _add_mask(out, padded, where)
    return out


def _value(
    name: str, lists: Mapping[str, Ragged], pad: float | None, is_target: bool, where: str
) -> float:
    """Return what a column is padded with, or refuse it."""
    length = max(part.longest for part in lists.values())
    if pad is None:
        least = min(int(part.lengths.min(initial=length)) for part in lists.values())
        raise UsageError(
            f"{where}: column {name} has lists of {least} to {length} numbers; store lists of "
            "one length, or say data.args: {pad: 0}, which pads them and adds a mask"
        )
    needed = sum(part.bytes_of(length) for part in lists.values())
    if needed > (free := free_host_bytes()):
        raise UsageError(
            f"{where}: column {name} would need {needed / 2**30:,.1f} GiB if it were padded to its "
            f"longest list of {length:,}, and {free / 2**30:,.1f} GiB are free; cut long lists"
        )
    numbers = next(iter(lists.values())).numbers
    dtype = torch.from_numpy(numbers[:0].copy()).dtype
    return fill(name, dtype, pad, is_target=is_target, where=where)


def _add_mask(
    out: dict[str, dict[str, Array]], padded: list[dict[str, Ragged]], where: str
) -> None:
    """Add an array ``mask`` of the places that are no padding."""
    first = padded[0]
    for other in padded[1:]:
        if any(not np.array_equal(first[s].lengths, part.lengths) for s, part in other.items()):
            raise UsageError(
                f"{where}: padded columns have different lengths in one row, so one mask does not "
                "say what is real; store the mask of each, such as ids_mask"
            )
    length = max(part.longest for part in first.values())
    for split, part in first.items():
        out[split]["mask"] = part.is_real(length)


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
        found[name] = (
            np.asarray([str(split)[:_LONGEST_SPLIT] for split in column.to_pylist()])
            if name == "split"
            else _column(column, at)
        )
    return found


def _table(file: Path, wanted: Collection[str] | None) -> Any:
    """Return a table of the columns that are wanted, of which every value is there."""
    where = f"data.root: {file}"
    damage = OSError, ValueError, TypeError, KeyError, NotImplementedError
    errors = library("pyarrow", "arrow", where).ArrowException, *damage
    if not is_regular(file, "data.root"):
        raise UsageError(f"{where}: no such file")
    try:
        if file.suffix == ".parquet":
            parquet = library("pyarrow.parquet", "arrow", where)
            table = _parquet_table(parquet, file, wanted)
        else:
            table = _arrow_table(file)
            table = table.select(_kept(table.column_names, wanted))
        table.validate(full=True)  # else places that it names may lie outside of it
        return table
    except FileNotFoundError:
        raise UsageError(f"{where}: no such file") from None
    except errors as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{where} is not a readable {file.suffix} file: {reason}") from None


def _parquet_table(parquet: Any, file: Path, wanted: Collection[str] | None) -> Any:
    """Return the table of a file of Parquet, if its numbers are not too many for it.

    Few bytes can say that one number comes a thousand million times.
    """
    schema = parquet.read_schema(file)
    kept = _kept(schema.names, wanted)
    for name in kept:
        if name != "split" and schema.names.count(name) == 1:
            _check_type(schema.field(name).type, f"data.root: {file}: column {name}")
    numbers = parquet_sizes.numbers(file, kept)
    if numbers > _FREE_NUMBERS + _NUMBERS_PER_BYTE * file.stat().st_size:
        raise ValueError(f"it has {numbers:,} numbers, too many for its size")
    return parquet.read_table(file, columns=kept, partitioning=None, read_dictionary=["split"])


def _check_type(kind: Any, at: str) -> None:
    """Refuse a column that is none of numbers, before it is read."""
    types = library("pyarrow.types", "arrow", at)
    inner = kind
    while True:
        if types.is_dictionary(inner) or hasattr(inner, "value_type"):
            inner = inner.value_type
        elif hasattr(inner, "storage_type"):  # fixed-shape tensors
            inner = inner.storage_type
        else:
            break
    if not (types.is_boolean(inner) or types.is_integer(inner) or types.is_floating(inner)):
        raise _no_numbers(kind, at)


def _no_numbers(kind: Any, at: str) -> UsageError:
    return UsageError(
        f"{at}: has the type {str(kind)[:200]}; expected numbers, truth values or lists of them; "
        "data.args: {inputs: [...]} names the columns that are read"
    )


def _arrow_table(file: Path) -> Any:
    """Return the table of a file of Arrow's, in its file format or as a stream.

    It must not take many times the bytes of the file.
    """
    arrow, where = library("pyarrow", "arrow", f"data.root: {file}"), f"data.root: {file}"
    ipc = library("pyarrow.ipc", "arrow", where)
    with arrow.memory_map(str(file)) as source:
        start = source.read(6)
        source.seek(0)
        if start.startswith(b"FEA1"):
            return library("pyarrow.feather", "arrow", where).read_table(source)
        size = arrow_sizes.taken(file)
        if size > _FREE_BYTES + _TIMES * file.stat().st_size:
            raise ValueError(
                f"it would take {size / 2**30:,.2f} GiB, more than {_TIMES} times what it has; "
                "write it without compression"
            )
        if start.startswith(b"ARROW1"):
            return ipc.open_file(source).read_all()
        return ipc.open_stream(source).read_all()


def _kept(names: Collection[str], wanted: Collection[str] | None) -> list[str]:
    return [name for name in names if wanted is None or name in wanted or name == "split"]


def _column(column: Any, at: str) -> Column:
    """Return a column of numbers, or of lists of them."""
    types, kind = library("pyarrow.types", "arrow", at), column.type
    if column.null_count:
        raise UsageError(f"{at}: {column.null_count:,} of {len(column):,} values are null")
    if types.is_dictionary(kind) and not types.is_nested(kind.value_type):
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
    raise _no_numbers(kind, at)


def _even(column: Column, at: str) -> Array:
    """Return lists in lists, which must have one length, as an array."""
    if not isinstance(column, Ragged):
        return column
    if not (column.lengths == column.longest).all():
        raise UsageError(f"{at}: the lists in its lists differ in length; store one length")
    return column.padded(column.longest, 0)
