"""A training run's checkpoints: which ones, in what order, and where they lie in a plane.

Shape suffix: T checkpoints.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lsengine import checkpoint, history, principal
from lsengine.engine import prepare
from lsengine.errors import UsageError
from lsengine.job import Job, matching
from lsengine.schema import PrincipalDirection
from lsengine.store import TrajectoryLayout

log = logging.getLogger(__name__)
Directions = Mapping[str, Mapping[str, NDArray[np.float32]]]
_SHOWN = 5
_HELD_BYTES = 2**31


@dataclass(frozen=True, slots=True)
class Series:
    """Checkpoints of one run, by ascending epoch.

    Attributes:
        key: Key path of their glob in the job, for messages.
        paths: The files.
        epochs: Of each; all different.
        digests: SHA-256 of each file (hex).
    """

    key: str
    paths: tuple[Path, ...]
    epochs: tuple[int, ...]
    digests: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of all digests in order (hex)."""
        return hashlib.sha256("\n".join(self.digests).encode()).hexdigest()

    def state(self, index: int, model: nn.Module) -> dict[str, Tensor]:
        """Read one checkpoint's parameters and buffers, named as in the model.

        Raises:
            UsageError: If it cannot be read, or is of another network.
        """
        loaded = checkpoint.load(self.paths[index], key=self.key)
        return checkpoint.fitted(model, loaded, key=self.key)

    def named(self, text: str) -> str:
        """Return a message with checkpoints' numbers replaced by their files' names."""
        text = re.sub(r"checkpoint (\d+)\b", lambda m: self.paths[int(m[1])].name, text)
        return re.sub(
            r"\b(\d+) = (\d+)\b",
            lambda m: f"{self.paths[int(m[1])].name} = {self.paths[int(m[2])].name}",
            text.replace(" (counted from 0)", ""),
        )

    def difference(self, stored: Mapping[str, NDArray[Any]]) -> str | None:
        """Return which checkpoints are not those of a surface file, by name; None if all are.

        Args:
            stored: The columns of the file's trajectory.
        """
        if "sha256" not in stored or "source" not in stored:
            return "the file does not say which it has"
        theirs = [d.decode() for d in stored["sha256"]]
        if theirs == list(self.digests):
            return None
        names = dict(zip(theirs, (n.decode() for n in stored["source"]), strict=True))
        ours = dict(zip(self.digests, (p.name for p in self.paths), strict=True))
        gone = [n for d, n in names.items() if d not in ours]
        new = [n for d, n in ours.items() if d not in names]
        changed = [n for n in gone if n in new]
        parts = (
            ("changed", changed),
            ("missing", [n for n in gone if n not in changed]),
            ("not in the file", [n for n in new if n not in changed]),
        )
        return "; ".join(_listed(word, some) for word, some in parts if some) or "another order"


@dataclass(frozen=True, slots=True)
class Components:
    """Principal directions of a job.

    Attributes:
        directions: By axis, float32 by parameter name; none if no axis is principal.
        ratio: Fraction of the run's variance that each explains; None without directions.
    """

    directions: dict[str, dict[str, Tensor]]
    ratio: NDArray[np.float64] | None = None


def find(job: Job) -> Series | None:
    """Return the checkpoints that a job projects, sorted by epoch; None if it has none.

    The epoch is what the file says, else the last integer of its name.

    Raises:
        UsageError: If none matches, one has no epoch, two have the same, or their names are in
            another order than the epochs they say they are of.
    """
    if job.trajectory is None:
        return None
    key, pattern = job.trajectory
    paths = matching(pattern)
    if not paths:
        raise UsageError(f"{key}: no file matches {pattern}")
    by_epoch = sorted((_epoch(path, key), path) for path in paths)
    for (earlier, first), (later, second) in pairwise(by_epoch):
        if earlier == later:
            raise UsageError(f"{key}: {first} and {second} are both of epoch {later}")
        numbers = _number(first), _number(second)
        if None not in numbers and numbers[0] > numbers[1]:  # type: ignore[operator]
            raise UsageError(
                f"{key}: {second.name} says that it is of epoch {later}, {first.name} of epoch "
                f"{earlier}: out of order; were files renamed?"
            )
    ordered = tuple(path for _, path in by_epoch)
    return Series(
        key=key,
        paths=ordered,
        epochs=tuple(epoch for epoch, _ in by_epoch),
        digests=tuple(checkpoint.sha256(path) for path in ordered),
    )


def of_directions(job: Job, model: nn.Module, series: Series | None) -> Components:
    """Compute the directions of kind principal of a job, by axis; none if it has none.

    Raises:
        UsageError: If a checkpoint does not fit, or the run has too few dimensions.
    """
    specs = _principal(job)
    if not specs or series is None:
        return Components({})
    centre = prepare.movable(job, model, next(iter(specs.values())))
    block = _block(sum(tensor.numel() for tensor in centre.values()))
    count = 2 if "beta" in specs else 1
    with _explained(series):
        found = principal.principal_directions(
            lambda index: series.state(index, model),
            *(len(series.paths), list(centre)),
            components=count,
            block=block,
        )
    axes = dict(zip(("alpha", "beta"), found.directions, strict=False))
    ratio = dict(zip(axes, found.explained_variance_ratio, strict=False))
    return Components({a: axes[a] for a in specs}, np.array([ratio[a] for a in specs]))


def project(
    job: Job,
    loaded: prepare.Loaded,
    series: Series,
    directions: Directions,
    ratio: NDArray[np.float64] | None = None,
) -> TrajectoryLayout:
    """Return where a job's checkpoints lie, and what is to be evaluated of each.

    The distance from the plane is in all parameters that can move, of principal directions in
    those that are not ignored.

    Args:
        job: For ``eval``.
        loaded: Its model and data.
        series: Its checkpoints.
        directions: By axis.
        ratio: Explained variance of principal directions, else None.

    Raises:
        UsageError: If a checkpoint does not fit, or the directions span no plane.
    """
    names = prepare.movable(job, loaded.model, next(iter(_principal(job).values()), None))
    tensors = [{n: torch.from_numpy(a) for n, a in d.items()} for d in directions.values()]
    centre = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    with _explained(series):
        found = principal.project(
            lambda index: series.state(index, loaded.model),
            *(len(series.paths), list(names), centre, tensors),
        )
    columns: dict[str, NDArray[Any]] = {"epoch": np.array(series.epochs, np.int64)}
    for k, axis in enumerate(directions):
        columns[axis] = found.coordinates[:, k]
        columns[f"cosine_{axis}"] = found.cosine[:, k]
    columns |= {"distance": found.distance, "length": found.length}
    columns["learning_rate"] = _learning_rates(series)
    columns["source"] = np.array([path.name.encode() for path in series.paths])
    columns["sha256"] = np.array(series.digests, "S64")
    moving, total = sum(t.numel() for t in tensors[0].values()), float((found.length**2).sum())
    attributes: dict[str, Any] = {
        "expected_cosine": principal.expected_cosine(moving),
        "explained_displacement": 1 - float((found.distance**2).sum()) / total if total else 1.0,
    }
    if ratio is not None:
        attributes["explained_variance_ratio"] = ratio
    quantities = prepare.trajectory_quantities(job, loaded.dataset)
    return TrajectoryLayout(columns, quantities, attributes)


def ranges(job: Job, layout: TrajectoryLayout) -> dict[str, tuple[float, float]]:
    """Return (start, stop) by axis that cover a trajectory and the job's margin."""
    axes = [axis for axis in ("alpha", "beta") if axis in layout.columns]
    return {axis: principal.axis_range(layout.columns[axis], job.margin) for axis in axes}


def _block(numbers: int) -> int:
    """Return how many checkpoints to hold: 2 GiB of them, but never less than ten in all.

    By arithmetic on shapes, so that it is the same in every run.
    """
    return max(1, min(principal.BLOCK, _HELD_BYTES // (4 * numbers) - 9))


def _principal(job: Job) -> dict[str, PrincipalDirection]:
    return {a: s for a, s in job.directions.items() if isinstance(s, PrincipalDirection)}


@contextmanager
def _explained(series: Series) -> Iterator[None]:
    """Turn what does not fit into an error that names files."""
    try:
        with _one_thread():
            yield
    except ValueError as error:
        raise UsageError(f"{series.key}: {series.named(str(error))}") from None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: the last bits must not depend on how many cores a rank has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _listed(word: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{word}: {', '.join(names[:_SHOWN])}{more}"


def _epoch(path: Path, key: str) -> int:
    said = checkpoint.epoch(path, key=key)
    number = _number(path) if said is None else said
    if number is None:
        raise UsageError(f"{key}: {path} says no epoch, and its name has no number")
    return number


def _number(path: Path) -> int | None:
    """Return the last integer of a file's name."""
    found = re.findall(r"\d+", path.stem)
    return int(found[-1]) if found else None


def _learning_rates(series: Series) -> NDArray[np.float64]:
    """Return the learning rate of each checkpoint's epoch, NaN where no history says it."""
    rates_T = np.full(len(series.paths), np.nan)
    file = series.paths[-1].parent / "history.h5"
    if not file.is_file():
        return rates_T
    try:
        columns = history.read(file).columns
    except UsageError as error:
        log.warning("learning rates are not known: %s", error)
        return rates_T
    known = dict(zip(columns["epoch"].tolist(), columns["learning_rate"].tolist(), strict=True))
    return np.array([known.get(epoch, np.nan) for epoch in series.epochs])
