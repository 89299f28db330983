"""Histories of trainings, histograms of weights and spectra: written whole, and read.

``docs/FORMAT.md`` specifies all three.  Every dataset has a scale on each axis, so that xarray
reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from lsengine import files
from lsengine.store import digest
from lsengine.store.file import (
    HISTORY_FORMAT,
    KINDS,
    SPECTRUM_FORMAT,
    WEIGHTS_FORMAT,
    add_dataset,
    add_names,
    add_scale,
    length_scales,
    opened,
    reserve,
)
from lsengine.surface.records import Bins, History, Spectrum, WeightHistograms

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
_NOT_COLUMNS = ("parameter", "layer_norm", digest.NAME)
_GROUPS = ("weights", "others")
_ROOM_BYTES = 2**19


@contextmanager
def _created(path: Path, kind: str, size: int = 0) -> Iterator[h5py.File]:
    """Give a new file, which takes its name when it is complete; ``size`` is of large arrays."""
    with files.whole(path, failures=(OSError, RuntimeError)) as part:  # HDF5 raises both
        reserve(part, _ROOM_BYTES + size)
        with h5py.File(part, "w", locking=False) as file:
            file.attrs["format"], file.attrs["format_version"] = kind, KINDS[kind].version
            yield file
        digest.seal(part)


def format_of(path: Path) -> str | None:
    """Return the ``format`` of an HDF5 file, None if it has none or is something else."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            written = file.attrs.get("format")
    except OSError:
        return None
    return written.decode() if isinstance(written, bytes) else written


def write_history(path: Path, history: History) -> None:
    """Write a history whole or not at all over any other; its lock is held.

    Raises:
        EnvironmentUnfit: If it cannot be written.
    """
    files.remove_parts(path)  # of a training that was killed here
    with _created(path, HISTORY_FORMAT) as file:
        file.attrs.update(history.attributes)
        epoch = add_scale(file, "epoch", history.columns["epoch"])
        parameter = add_names(file, "parameter", history.parameters)
        for name, values in history.columns.items():
            if name != "epoch":
                add_dataset(file, name, values, [epoch])
        add_dataset(file, "layer_norm", history.layer_norms, [epoch, parameter])
        for name, text in _LONG_NAMES.items():
            if name in file:
                file[name].attrs["long_name"] = text


def read_history(path: Path) -> History:
    """Read the history of a training.

    Raises:
        UsageError: If there is none, or the file is damaged or something else.
    """
    with opened(path, HISTORY_FORMAT) as file:
        return History(
            columns={name: file[name][()] for name in file if name not in _NOT_COLUMNS},
            parameters=tuple(file["parameter"].asstr()[()]),
            layer_norms=file["layer_norm"][()],
            attributes=dict(file.attrs),
            source=str(path),
        )


def write_histograms(path: Path, weights: WeightHistograms) -> None:
    """Write histograms of weights; see `write_history`."""
    with _created(path, WEIGHTS_FORMAT) as file:
        checkpoint = add_names(file, "checkpoint", weights.checkpoints)
        add_dataset(file, "epoch", np.array(weights.epochs, np.int64), [checkpoint])
        add_dataset(file, "sha256", np.array(weights.sha256, "S64"), [checkpoint])
        for name, bins in weights.groups.items():
            _fill_bins(file.create_group(name), bins, checkpoint)


def _fill_bins(group: h5py.Group, bins: Bins, checkpoint: h5py.Dataset) -> None:
    add_scale(group, "edge", bins.edges)
    middle = add_scale(group, "bin", (bins.edges[1:] + bins.edges[:-1]) / 2)
    parameter = add_names(group, "parameter", bins.parameters)
    add_dataset(group, "count", bins.counts.sum(axis=1), [checkpoint, middle])
    add_dataset(group, "norm", bins.total_norms, [checkpoint])
    add_dataset(group, "parameter_count", bins.counts, [checkpoint, parameter, middle])
    add_dataset(group, "parameter_size", bins.sizes, [checkpoint, parameter])
    add_dataset(group, "parameter_norm", bins.norms, [checkpoint, parameter])
    add_dataset(group, "parameter_not_finite", bins.not_finite, [checkpoint, parameter])


def read_histograms(path: Path) -> WeightHistograms:
    """Read histograms of weights; raises like `read_history`."""
    with opened(path, WEIGHTS_FORMAT) as file:
        return WeightHistograms(
            checkpoints=tuple(file["checkpoint"].asstr()[()]),
            groups={name: _bins(item) for name, item in file.items() if name in _GROUPS},
            epochs=tuple(int(e) for e in file["epoch"][()]),
            sha256=tuple(d.decode() for d in file["sha256"][()]),
            source=str(path),
        )


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
    """Write a spectrum; see `write_history`."""
    size = sum(values.nbytes + 1024 for values in spectrum.vectors.values())
    with _created(path, SPECTRUM_FORMAT, size) as file:
        file.attrs.update(spectrum.attributes)
        rank = add_scale(file, "rank", np.arange(1, len(spectrum.eigenvalues) + 1))
        add_dataset(file, "eigenvalue", spectrum.eigenvalues, [rank])
        add_dataset(file, "residual", spectrum.residuals, [rank])
        if spectrum.trace is not None:
            file["trace"], file["trace_se"] = spectrum.trace
        if len(spectrum.grid):
            at = add_scale(file, "at", spectrum.grid)
            add_dataset(file, "density", spectrum.density, [at])
            node = add_scale(file, "node", np.arange(len(spectrum.nodes)))
            add_dataset(file, "node_value", spectrum.nodes, [node])
            add_dataset(file, "node_weight", spectrum.weights, [node])
        if spectrum.vectors:
            group = file.create_group("vectors")
            for name, values in spectrum.vectors.items():
                scales = length_scales(group, values.shape[1:], np.int64)
                add_dataset(group, name, values, [rank, *scales])


def read_spectrum(path: Path) -> Spectrum:
    """Read a spectrum; raises like `read_history`."""
    with opened(path, SPECTRUM_FORMAT) as file:
        columns = {
            name: file[name][()] if name in file else np.empty(0)
            for name in ("eigenvalue", "residual", "node_value", "node_weight", "at", "density")
        }
        vectors = {n: d[()] for n, d in file.get("vectors", {}).items() if not d.is_scale}
        has_trace = "trace" in file
        return Spectrum(
            eigenvalues=columns["eigenvalue"],
            residuals=columns["residual"],
            vectors=vectors,
            trace=(float(file["trace"][()]), float(file["trace_se"][()])) if has_trace else None,
            nodes=columns["node_value"],
            weights=columns["node_weight"],
            grid=columns["at"],
            density=columns["density"],
            attributes=dict(file.attrs),
            source=str(path),
        )
