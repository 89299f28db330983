"""Histories of trainings, histograms of weights and spectra: written whole, and read.

``docs/FORMAT.md`` specifies all three.  Every dataset has a scale on each axis, so that xarray
reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lsengine import files
from lsengine.errors import UsageError
from lsengine.store import digest, structure
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
    plain_file,
    reserve,
)
from lsengine.store.validation import Content
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
_HISTORY_KINDS = {
    **dict.fromkeys(("name", "job", "recipe", "data_sha256", "torch_version"), "text"),
    **{"device_kind": "text", "precision": "text", "epochs": "integer"},
}
_SPECTRUM_KINDS = {
    **dict.fromkeys(("name", "job", "checkpoint_sha256", "data_sha256", "products_by"), "text"),
    **dict.fromkeys(("torch_version", "device_kind", "precision"), "text"),
    **dict.fromkeys(("batch_size", "threads", "parameters", "products"), "integer"),
    **dict.fromkeys(("trace_probes", "density_probes", "converged"), "integer"),
    **{"tolerance": "number", "density_width": "number"},
}
_NOT_COLUMNS = ("parameter", "layer_norm", digest.NAME)
_GROUPS = ("weights", "others")
_LAST_EPOCH = 10**9
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
        with plain_file(path) as file:
            written = file.attrs.get("format")
    except (OSError, structure.Unfit):
        return None
    written = written.decode(errors="replace") if isinstance(written, bytes) else written
    return written if isinstance(written, str) else None


@contextmanager
def _content(path: Path, kind: str) -> Iterator[Content]:
    with opened(path, kind) as file:
        yield Content(file, UsageError)


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
    with _content(path, HISTORY_FORMAT) as content:
        attributes = content.attributes(_HISTORY_KINDS, required=("epochs",))
        if not isinstance(content.json("recipe", attributes.get("recipe", "{}")), dict):
            raise content.damage("recipe is not what decides the training, as JSON")
        epochs = content.array("epoch", (np.int64,), (None,))
        steps = np.diff(epochs, prepend=-1)  # of a training just begun there are none
        if (steps <= 0).any() or (epochs > _LAST_EPOCH).any():
            raise content.damage(f"epoch does not ascend from 0 or more to at most {_LAST_EPOCH:,}")
        names = [name for name in content if name not in _NOT_COLUMNS and name != "epoch"]
        parameters = content.texts("parameter")
        for name in names:
            content.refuse_name(name)
        return History(
            columns={"epoch": epochs} | {n: content.floats(n, epochs.shape) for n in names},
            parameters=parameters,
            layer_norms=content.floats("layer_norm", (len(epochs), len(parameters))),
            attributes=attributes,
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
    with _content(path, WEIGHTS_FORMAT) as content:
        checkpoints = content.texts("checkpoint")
        shape = (len(checkpoints),)
        if len(set(checkpoints)) != len(checkpoints) or not checkpoints:
            raise content.damage("checkpoint has no names, or one twice")
        return WeightHistograms(
            checkpoints=checkpoints,
            groups={n: _bins(content.inner(n), *shape) for n in _GROUPS if n in content},
            epochs=tuple(content.array("epoch", (np.int64,), shape).tolist()),
            sha256=content.texts("sha256", *shape),
            source=str(path),
        )


def _bins(content: Content, checkpoints: int) -> Bins:
    edges, parameters = content.finite("edge", (None,)), content.texts("parameter")
    if len(edges) < 2 or (np.diff(edges) <= 0).any():
        raise content.damage(f"{content.path('edge')} does not increase")
    shape = (checkpoints, len(parameters))
    return Bins(
        edges=edges,
        parameters=parameters,
        counts=_counts(content, "parameter_count", (*shape, len(edges) - 1)),
        sizes=_counts(content, "parameter_size", shape),
        norms=content.floats("parameter_norm", shape),
        not_finite=_counts(content, "parameter_not_finite", shape),
    )


def _counts(content: Content, name: str, shape: Sequence[int]) -> NDArray[np.int64]:
    counts = content.array(name, (np.int64,), shape)
    if counts.min(initial=0) < 0:
        raise content.damage(f"{content.path(name)} has negative numbers")
    return counts


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
    with _content(path, SPECTRUM_FORMAT) as content:
        eigenvalues, nodes, grid = (
            content.floats(name, (None,)) if name in content else np.empty(0)
            for name in ("eigenvalue", "node_value", "at")
        )
        residuals = eigenvalues
        if len(eigenvalues):
            residuals = content.floats("residual", eigenvalues.shape)
        trace = [content.floats(n, ()).item() for n in ("trace", "trace_se") if n in content]
        if len(trace) == 1:
            raise content.damage("trace or trace_se is not there")
        return Spectrum(
            eigenvalues=eigenvalues,
            residuals=residuals,
            vectors=_vectors(content, len(eigenvalues)),
            trace=(trace[0], trace[1]) if trace else None,
            nodes=nodes,
            weights=content.floats("node_weight", nodes.shape) if len(nodes) else nodes,
            grid=grid,
            density=content.floats("density", grid.shape) if len(grid) else grid,
            attributes=content.attributes(_SPECTRUM_KINDS),
            source=str(path),
        )


def _vectors(content: Content, count: int) -> dict[str, NDArray[Any]]:
    if "vectors" not in content:
        return {}
    inner, found = content.inner("vectors"), {}
    for name in inner:
        if not (dataset := inner.dataset(name)).is_scale:
            shape = (count, *[None] * (len(dataset.shape) - 1))
            found[name] = inner.array(name, (np.float32, np.complex64), shape)
    return found
