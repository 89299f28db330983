"""Arrays with names in files: .npz, .safetensors, and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile, ZipInfo

import numpy as np

from lsengine.data import tables
from lsengine.data.dataset import SPLITS
from lsengine.data.naming import TARGETS, Choice, by_split
from lsengine.errors import UsageError
from lsengine.external.optional import library
from lsengine.files import is_folder, is_regular

SUFFIXES = (".npz", ".safetensors", *tables.SUFFIXES)
_ROOM, _TIMES = 2**27, 50  # bytes that compressed arrays may take: these, and sizes of the file
_MOST_AXES = 32
_MAGIC = np.lib.format.MAGIC_PREFIX
_header_2_0 = np.lib.format.read_array_header_2_0
EXPECTED = f"expected an .npz file, or one of {', '.join(SUFFIXES[1:])}"


def read(root: Path, choice: Choice, pad: float | None) -> dict[str, dict[str, Any]]:
    """Return the arrays of each split by name, of a file or of a folder with one for each.

    ``pad`` is for tables; see `tables.read`.

    Raises:
        UsageError: If there is no such file, or it is damaged or has no arrays.
        EnvironmentUnfit: If a library that reads it is not installed.
    """
    files = _of_folder(root) if is_folder(root) else {"": root}
    suffixes = {file.suffix for file in files.values()}
    if suffixes <= set(tables.SUFFIXES):
        wanted = _wanted(choice)
        return tables.read(files, wanted=wanted, pad=pad, is_target=choice.is_target)
    if pad is not None:
        raise UsageError(f"data.args.pad: {root} has arrays, which have no rows of other lengths")
    if "" in files:
        return by_split(_content(root), f"data.root: {root}")
    return {split: dict(_content(file)) for split, file in files.items()}


def _of_folder(root: Path) -> dict[str, Path]:
    """Return the files of the splits in a folder, ``train.parquet`` for example."""
    found = {}
    for split in SPLITS:
        files = [file for s in SUFFIXES if (file := root / f"{split}{s}").is_file()]
        if len(files) > 1:
            raise UsageError(f"data.root: {files[0]} and {files[1]} are both there; keep one")
        if files:
            found[split] = files[0]
    kinds = {file.suffix in tables.SUFFIXES for file in found.values()}
    if not found or len(kinds) > 1:
        raise UsageError(
            f"data.root: {root} is a directory; {EXPECTED}, or a folder with train and test of "
            "one kind, such as train.parquet and test.parquet"
        )
    return found


def _wanted(choice: Choice) -> set[str] | None:
    """Return the columns that are needed, or None for all."""
    if choice.inputs is None:
        return None
    inputs = [choice.inputs] if isinstance(choice.inputs, str) else choice.inputs
    return {*inputs, *([choice.targets] if choice.targets else TARGETS)}


def _content(file: Path) -> Mapping[str, Any]:
    if file.suffix == ".safetensors":
        return _safetensors(file)
    if not is_regular(file, "data.root"):
        raise UsageError(f"data.root: no such file: {file}; {EXPECTED}")
    try:
        _check_sizes(file)
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except UsageError:
        raise
    except Exception as error:  # NumPy, zipfile and zlib raise many kinds
        raise UsageError(
            f"data.root: {file} is not a readable .npz file of plain arrays: "
            f"{' '.join(str(error).split())[:200] or type(error).__name__}"
        ) from None


def _check_sizes(file: Path) -> None:
    """Compare what each array says of itself with the bytes that are there for it.

    Raises:
        UsageError: If the arrays would take much more memory than the file has bytes.
        ValueError: If an array says of itself that it is larger than it is, or two have one name.
    """
    with ZipFile(file) as archive:
        entries = archive.infolist()
        total = sum(entry.file_size for entry in entries)
        if total > _ROOM + _TIMES * file.stat().st_size:
            raise UsageError(
                f"data.root: {file} would take {total / 2**30:,.2f} GiB, more than {_TIMES} times "
                "what it has; store it with numpy.savez, which does not compress"
            )
        if len({entry.filename.removesuffix(".npy") for entry in entries}) < len(entries):
            raise ValueError("two of its arrays have one name")
        for entry in entries:  # NumPy takes arrays by their first bytes, whatever they are called
            with archive.open(entry) as content:
                is_array = content.read(len(_MAGIC)) == _MAGIC
                content.seek(0)
                if is_array or entry.filename.endswith(".npy"):
                    _check_array(content, entry)


def _check_array(content: IO[bytes], entry: ZipInfo) -> None:
    version = np.lib.format.read_magic(content)
    if version > (2, 0):  # names of fields that are not ASCII
        raise ValueError(f"{entry.filename} is of version {version[0]} of NumPy's format")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else _header_2_0
    shape, _, dtype = read(content)
    needed = math.prod(shape) * max(dtype.itemsize, 1)
    if dtype.hasobject or not 0 <= needed <= entry.file_size or len(shape) > _MOST_AXES:
        raise ValueError(f"{entry.filename} of shape {shape} and type {dtype} is not all there")


def _safetensors(file: Path) -> Mapping[str, Any]:
    reader = library("safetensors.torch", "safetensors", f"data.root: {file}")
    if not is_regular(file, "data.root"):
        raise UsageError(f"data.root: no such file: {file}; {EXPECTED}")
    try:
        return dict(reader.load_file(str(file), device="cpu"))
    except Exception as error:  # the library raises its own, and others
        reason = str(error).partition("\n")[0][:200]
        raise UsageError(
            f"data.root: {file} is not a readable .safetensors file: {reason}"
        ) from None
