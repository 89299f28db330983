"""HDF5 files beside the surface: histories of trainings, histograms of weights, spectra.

Named like netCDF: every dataset has a dimension scale on each axis, and xarray reads them.
Imports no torch, so that drawing does not either.  `docs/FORMAT.md` specifies all.

Shapes: E epochs so far (the first is 0, before training), P parameters, K checkpoints,
N bins.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.surface.records import Bins, History, Spectrum, WeightHistograms

FORMAT, FORMAT_VERSION = "lsengine-history", 1
WEIGHTS_FORMAT = "lsengine-weights"
SPECTRUM_FORMAT = "lsengine-spectrum"
_KINDS = {
    FORMAT: ("training history", "lsengine train"),
    WEIGHTS_FORMAT: ("histogram of weights", "lsengine histogram"),
    SPECTRUM_FORMAT: ("spectrum", "lsengine spectrum"),
}
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


def write(path: Path, history: History) -> None:
    """Write a history whole or not at all; one that is there is replaced.

    Raises:
        UsageError: If it cannot be written.
    """
    with _made(path, FORMAT) as file:
        _fill(file, history)


_ROOM_BYTES = 2**19


@contextmanager
def _made(path: Path, kind: str) -> Iterator[h5py.File]:
    """Open a new file under another name, and put it in place when it is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if path.parent.is_dir() and (free := shutil.disk_usage(path.parent).free) < _ROOM_BYTES:
        # HDF5 fails loudly, and more than once, on a full disk.
        raise EnvironmentUnfit(f"{path}: No space left on device: {free:,} bytes are free")
    try:
        with h5py.File(partial, "w", locking=False) as file:
            file.attrs["format"], file.attrs["format_version"] = kind, FORMAT_VERSION
            yield file
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _fill(file: h5py.File, history: History) -> None:
    for name, value in history.attributes.items():
        file.attrs[name] = value
    epoch = file.create_dataset("epoch", data=history.columns["epoch"])
    epoch.make_scale("epoch")
    parameter = _names(file, "parameter", history.parameters)
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
    with _opened(path, FORMAT) as file:
        return History(
            columns={name: file[name][()] for name in file if name not in _NOT_COLUMNS},
            parameters=tuple(file["parameter"].asstr()[()]),
            layer_norms=file["layer_norm"][()],
            attributes=dict(file.attrs),
            source=str(path),
        )


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[h5py.File]:
    word, command = _KINDS[kind]
    if not path.is_file():
        raise UsageError(f'{path}: no such file; "{command}" writes a {word}')
    try:
        with h5py.File(path, "r", locking=False) as file:
            found = file.attrs.get("format")
            if found != kind:
                raise UsageError(f"{path}: is no {word}, its format is {found!r}")
            version = int(file.attrs["format_version"])
            if version > FORMAT_VERSION:
                raise UsageError(
                    f"{path}: format version {version} is newer than this lsengine's "
                    f"{FORMAT_VERSION}; update lsengine"
                )
            yield file
    except (OSError, KeyError) as error:
        raise UsageError(f"{path}: is not HDF5, or damaged: {error}") from error


def format_of(path: Path) -> str | None:
    """Return the ``format`` of an HDF5 file, None if it has none or is something else."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            found = file.attrs.get("format")
    except OSError:
        return None
    return found.decode() if isinstance(found, bytes) else found


def write_weights(path: Path, weights: WeightHistograms) -> None:
    """Write histograms whole or not at all; a file that is there is replaced.

    Raises:
        UsageError: If it cannot be written.
    """
    with _made(path, WEIGHTS_FORMAT) as file:
        checkpoint = _names(file, "checkpoint", weights.checkpoints)
        _attached(file, "epoch", np.array(weights.epochs, np.int64), [checkpoint])
        digests = np.array(weights.sha256, "S64")
        _attached(file, "sha256", digests, [checkpoint])
        for name, bins in weights.groups.items():
            _fill_bins(file.create_group(name), bins, checkpoint)


def _fill_bins(group: h5py.Group, bins: Bins, checkpoint: h5py.Dataset) -> None:
    edge = group.create_dataset("edge", data=bins.edges)
    edge.make_scale("edge")
    middle = group.create_dataset("bin", data=(bins.edges[1:] + bins.edges[:-1]) / 2)
    middle.make_scale("bin")
    parameter = _names(group, "parameter", bins.parameters)
    _attached(group, "count", bins.counts.sum(axis=1), [checkpoint, middle])
    _attached(group, "norm", bins.total_norms, [checkpoint])
    _attached(group, "parameter_count", bins.counts, [checkpoint, parameter, middle])
    for name, values in (
        ("parameter_size", bins.sizes),
        ("parameter_norm", bins.norms),
        ("parameter_not_finite", bins.not_finite),
    ):
        _attached(group, name, values, [checkpoint, parameter])


def _names(group: h5py.Group, name: str, texts: Sequence[str]) -> h5py.Dataset:
    scale = group.create_dataset(name, data=list(texts), dtype=h5py.string_dtype())
    scale.make_scale(name)
    return scale


def _attached(
    group: h5py.Group, name: str, values: NDArray[Any], scales: Sequence[h5py.Dataset]
) -> None:
    dataset = group.create_dataset(name, data=values)
    for axis, scale in zip(dataset.dims, scales, strict=True):
        axis.attach_scale(scale)


def read_weights(path: Path) -> WeightHistograms:
    """Read histograms of weights; raises like `read`."""
    with _opened(path, WEIGHTS_FORMAT) as file:
        return WeightHistograms(
            checkpoints=tuple(file["checkpoint"].asstr()[()]),
            groups={name: _bins(item) for name, item in file.items() if name in _GROUPS},
            epochs=tuple(int(e) for e in file["epoch"][()]),
            sha256=tuple(d.decode() for d in file["sha256"][()]),
            source=str(path),
        )


_GROUPS = ("weights", "others")


def _bins(group: h5py.Group) -> Bins:
    return Bins(
        edges=group["edge"][()],
        parameters=tuple(group["parameter"].asstr()[()]),
        counts=group["parameter_count"][()],
        sizes=group["parameter_size"][()],
        norms=group["parameter_norm"][()],
        not_finite=group["parameter_not_finite"][()],
    )


def write_spectrum(path: Path, spectrum: Spectrum) -> None:
    """Write a spectrum whole or not at all; one that is there is replaced.

    Raises:
        UsageError: If it cannot be written.
    """
    with _made(path, SPECTRUM_FORMAT) as file:
        for name, value in spectrum.attributes.items():
            file.attrs[name] = value
        rank = _scale(file, "rank", np.arange(1, len(spectrum.eigenvalues) + 1))
        _attached(file, "eigenvalue", spectrum.eigenvalues, [rank])
        _attached(file, "residual", spectrum.residuals, [rank])
        if spectrum.trace is not None:
            file["trace"], file["trace_se"] = spectrum.trace
        if len(spectrum.grid):
            at = _scale(file, "at", spectrum.grid)
            _attached(file, "density", spectrum.density, [at])
            node = _scale(file, "node", np.arange(len(spectrum.nodes)))
            _attached(file, "node_value", spectrum.nodes, [node])
            _attached(file, "node_weight", spectrum.weights, [node])
        if spectrum.vectors:
            group = file.create_group("vectors")
            for name, values in spectrum.vectors.items():
                _attached(group, name, values, [rank, *_lengths(group, values.shape[1:])])


def read_spectrum(path: Path) -> Spectrum:
    """Read a spectrum; raises like `read`."""
    with _opened(path, SPECTRUM_FORMAT) as file:
        columns = {
            name: file[name][()] if name in file else np.empty(0)
            for name in ("eigenvalue", "residual", "node_value", "node_weight", "at", "density")
        }
        vectors = {n: d[()] for n, d in file.get("vectors", {}).items() if not d.is_scale}
        trace = (float(file["trace"][()]), float(file["trace_se"][()])) if "trace" in file else None
        return Spectrum(
            *(columns["eigenvalue"], columns["residual"], vectors, trace),
            *(columns["node_value"], columns["node_weight"], columns["at"], columns["density"]),
            attributes=dict(file.attrs),
            source=str(path),
        )


def _scale(group: h5py.Group, name: str, values: NDArray[Any]) -> h5py.Dataset:
    scale = group.create_dataset(name, data=values)
    scale.make_scale(name)
    return scale


def _lengths(group: h5py.Group, shape: Sequence[int]) -> list[h5py.Dataset]:
    """Return scales for the axes of a parameter, called as in a surface file's directions."""
    scales = []
    for axis, length in enumerate(shape):
        name = f"n{length}_{list(shape[:axis]).count(length)}"
        made = name in group
        scales.append(group[name] if made else _scale(group, name, np.arange(length)))
    return scales
