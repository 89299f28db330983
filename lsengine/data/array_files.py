"""Arrays with names in files: .npz, .safetensors, and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from lsengine.data import tables
from lsengine.data.dataset import SPLITS
from lsengine.data.naming import TARGETS, Choice, by_split
from lsengine.errors import UsageError
from lsengine.external.optional import library

SUFFIXES = (".npz", ".safetensors", *tables.SUFFIXES)
EXPECTED = f"expected an .npz file, or one of {', '.join(SUFFIXES[1:])}"


def read(root: Path, choice: Choice, pad: float | None) -> dict[str, dict[str, Any]]:
    """Return the arrays of each split by name, of a file or of a folder with one for each.

    ``pad`` is for tables; see `tables.read`.

    Raises:
        UsageError: If there is no such file, or it is damaged or has no arrays.
        EnvironmentUnfit: If a library that reads it is not installed.
    """
    files = _of_folder(root) if root.is_dir() else {"": root}
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
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UsageError(f"data.root: no such file: {file}; {EXPECTED}") from None
    except (OSError, ValueError, EOFError, BadZipFile, AttributeError, TypeError) as error:
        raise UsageError(
            f"data.root: {file} is not a readable .npz file of plain arrays: {error}"
        ) from None


def _safetensors(file: Path) -> Mapping[str, Any]:
    reader = library("safetensors.torch", "safetensors", f"data.root: {file}")
    if not file.is_file():
        raise UsageError(f"data.root: no such file: {file}; {EXPECTED}")
    try:
        return dict(reader.load_file(str(file), device="cpu"))
    except Exception as error:  # the library raises its own, and others
        reason = str(error).partition("\n")[0][:200]
        raise UsageError(
            f"data.root: {file} is not a readable .safetensors file: {reason}"
        ) from None
