"""The history of a training: an HDF5 file of curves over the epochs, named like netCDF.

Every dataset has the dimension scale ``epoch``; ``xarray.open_dataset`` reads it.  Imports no
torch, so that drawing a history does not either.

Shapes: E epochs so far (the first is 0, before training), P parameters.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lsengine.errors import UsageError

FORMAT, FORMAT_VERSION = "lsengine-history", 1
_LONG_NAMES = {
    "epoch": "epochs finished; 0 is before training",
    "train_loss": "mean loss over the training split, without augmentation",
    "test_loss": "mean loss over the test split",
    "train_error": "fraction of the training split classified wrongly",
    "test_error": "fraction of the test split classified wrongly",
    "learning_rate": "learning rate of the epoch that has just ended",
    "weight_norm": "Euclidean norm of all trainable parameters",
    "layer_norm": "Euclidean norm of each trainable parameter tensor",
}
_NOT_COLUMNS = ("parameter", "layer_norm")


@dataclass(frozen=True, slots=True)
class History:
    """What a training has done so far.

    Attributes:
        columns: ``epoch`` (int64), and float64 (E,) curves by name: ``train_loss``,
            ``train_error``, ``test_loss``, ``test_error``, ``learning_rate`` (NaN at epoch
            0), ``weight_norm``.  No errors if the data are no classification.
        parameters: Names of the trainable parameters.
        layer_norms: Their norms, (E, P).
        attributes: Texts and numbers, among them ``name`` and ``job`` (YAML), ``recipe``
            (JSON), ``epochs`` (planned).
    """

    columns: Mapping[str, NDArray[Any]]
    parameters: tuple[str, ...]
    layer_norms: NDArray[np.float64]
    attributes: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether all planned epochs are there."""
        epochs = self.columns["epoch"]
        return len(epochs) > 0 and bool(epochs[-1] == self.attributes["epochs"])


@dataclass(slots=True)
class Rows:
    """A history while it grows.

    Attributes:
        columns: Names of the curves.
        parameters: Names of the trainable parameters.
        rows: For each epoch so far the curves' values, then the norms of the parameters.
    """

    columns: tuple[str, ...]
    parameters: tuple[str, ...]
    rows: list[list[float]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """The epochs finished; -1 before the first row."""
        return len(self.rows) - 1

    @property
    def last(self) -> dict[str, float]:
        """The last epoch's values by name."""
        return dict(zip(self.columns, self.rows[-1], strict=False))

    def history(self, attributes: Mapping[str, Any]) -> History:
        """Return what there is so far."""
        width = len(self.columns) + len(self.parameters)
        table = np.array(self.rows, np.float64).reshape(-1, width)
        curves: dict[str, NDArray[Any]] = {"epoch": np.arange(len(table))}
        curves |= {name: table[:, i] for i, name in enumerate(self.columns)}
        return History(curves, self.parameters, table[:, len(self.columns) :], attributes)


def write(path: Path, history: History) -> None:
    """Write a history whole or not at all; one that is there is replaced.

    Raises:
        UsageError: If it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with h5py.File(partial, "w") as file:
            _fill(file, history)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _fill(file: h5py.File, history: History) -> None:
    file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
    for name, value in history.attributes.items():
        file.attrs[name] = value
    epoch = file.create_dataset("epoch", data=history.columns["epoch"])
    epoch.make_scale("epoch")
    parameter = file.create_dataset(
        "parameter", data=list(history.parameters), dtype=h5py.string_dtype()
    )
    parameter.make_scale("parameter")
    for name, values in history.columns.items():
        if name != "epoch":
            file.create_dataset(name, data=values).dims[0].attach_scale(epoch)
    norms = file.create_dataset("layer_norm", data=history.layer_norms)
    norms.dims[0].attach_scale(epoch)
    norms.dims[1].attach_scale(parameter)
    for name, text in _LONG_NAMES.items():
        if name in file:
            file[name].attrs["long_name"] = text


def read(path: Path) -> History:
    """Read a history.

    Raises:
        UsageError: If there is none, or the file is damaged or something else.
    """
    if not path.is_file():
        raise UsageError(f'{path}: no such file; "lsengine train" writes a history')
    try:
        with h5py.File(path, "r", locking=False) as file:
            kind = file.attrs.get("format")
            if kind != FORMAT:
                raise UsageError(f"{path}: is no training history, its format is {kind!r}")
            version = int(file.attrs["format_version"])
            if version > FORMAT_VERSION:
                raise UsageError(
                    f"{path}: format version {version} is newer than this lsengine's "
                    f"{FORMAT_VERSION}; update lsengine"
                )
            return History(
                columns={name: file[name][()] for name in file if name not in _NOT_COLUMNS},
                parameters=tuple(file["parameter"].asstr()[()]),
                layer_norms=file["layer_norm"][()],
                attributes=dict(file.attrs),
            )
    except (OSError, KeyError) as error:
        raise UsageError(f"{path}: is not HDF5, or damaged: {error}") from error
