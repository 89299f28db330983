"""Histograms and norms of the parameters of checkpoints, into a file that pictures read.

torch is needed to load the checkpoints; the arithmetic is NumPy's, in float64.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lsengine import files, store, wording
from lsengine.errors import UsageError
from lsengine.geometry.parameters import Floats
from lsengine.models import checkpoint
from lsengine.surface.records import Bins, WeightHistograms

Arrays = dict[str, Floats]
BINS = 101  # odd: the middle one is around zero
_MOST_BINS = 10_000
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def histograms(
    paths: Sequence[Path], output: Path, *, names: Sequence[str] = (), bins: int = BINS
) -> WeightHistograms:
    """Count the parameters of checkpoints on common bins; write and return the result.

    Args:
        paths: Checkpoints of any networks.
        output: The HDF5 file; one that is there is replaced.
        names: What to call the checkpoints; default: what tells their paths apart.
        bins: How many, at most 10,000.

    Raises:
        UsageError: If a checkpoint cannot be read, names or bins do not fit, or nothing is finite.
    """
    if not 1 <= bins <= _MOST_BINS:
        raise UsageError(f"bins: got {bins}; expected 1 to {_MOST_BINS:,}")
    if output.suffix != ".h5":
        raise UsageError(f"{output}: expected a name that ends in .h5")
    files.check_target(output)
    if not files.is_folder(output.parent):
        raise UsageError(f"{output}: there is no folder {output.parent}; make it first")
    if files.is_regular(output) and store.format_of(output) != store.WEIGHTS_FORMAT:
        raise UsageError(f"{output}: exists and is no file of weights; give another name")
    labels = _labels(paths, names)
    checkpoints = [checkpoint.load(path, key="histogram") for path in paths]
    arrays = [_parameters(c) for c in checkpoints]
    groups = {}
    for group, is_weights in (("weights", True), ("others", False)):
        members = [{n: a for n, a in one.items() if (a.ndim >= 2) == is_weights} for one in arrays]
        if any(members):
            groups[group] = _binned(members, bins, group)
    epochs = tuple(-1 if c.epoch is None else c.epoch for c in checkpoints)
    digests = tuple(c.sha256 for c in checkpoints)
    counted = WeightHistograms(
        checkpoints=labels, groups=groups, epochs=epochs, sha256=digests, source=str(output)
    )
    store.write_histograms(output, counted)
    return counted


def _parameters(content: checkpoint.Checkpoint) -> Arrays:
    """Return a checkpoint's parameters, without the buffers of normalisation layers."""
    return {
        name: tensor.detach().double().numpy()
        for name, tensor in content.state.items()
        if tensor.is_floating_point() and name.rpartition(".")[2] not in _BUFFERS
    }


def _binned(members: Sequence[Arrays], bins: int, group: str) -> Bins:
    """Count each parameter of each checkpoint on bins that hold all finite values."""
    names = dict.fromkeys(name for one in members for name in one)
    places = {name: place for place, name in enumerate(names)}
    shape = len(members), len(places)
    counts = np.zeros((*shape, bins), np.int64)
    sizes, not_finite = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    norms = np.full(shape, np.nan)
    edges = _edges([a for one in members for a in one.values()], bins, group)
    for k, one in enumerate(members):
        for name, array in one.items():
            at = k, places[name]
            finite = array[np.isfinite(array)]
            counts[at] = np.histogram(finite, edges)[0]
            sizes[at], not_finite[at] = array.size, array.size - finite.size
            norms[at] = np.linalg.norm(finite)
    return Bins(
        edges=edges,
        parameters=tuple(places),
        counts=counts,
        sizes=sizes,
        norms=norms,
        not_finite=not_finite,
    )


def _edges(arrays: Sequence[Floats], bins: int, group: str) -> Floats:
    """Return edges around all finite values: of weights symmetric around zero."""
    finite = [values for a in arrays if (values := a[np.isfinite(a)]).size]
    if not finite:
        raise UsageError(f"histogram: the checkpoints' {group} have no finite value")
    low, high = min(float(a.min()) for a in finite), max(float(a.max()) for a in finite)
    if group == "weights":
        high = max(abs(low), abs(high))
        low = -high
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        room = abs(low) * 0.5 or 0.5
        low, high = low - room, high + room
    return np.linspace(low, high, bins + 1)


def _labels(paths: Sequence[Path], names: Sequence[str]) -> tuple[str, ...]:
    """Return different names for all checkpoints: given, or the parts in which paths differ."""
    if names:
        if len(names) != len(paths) or len(set(names)) != len(names):
            raise UsageError(
                f"histogram: got {len(names)} names for {len(paths)} checkpoints; give a "
                "different --name for each, in the same order"
            )
        return tuple(names)
    if len({os.path.realpath(path) for path in paths}) != len(paths):
        raise UsageError("histogram: a checkpoint is named twice")
    return tuple(wording.parts_that_differ(paths))
