"""A training run's checkpoints: which ones, in what order, and whether they are all of it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from lsengine import store
from lsengine.engine.prepare import checkpoint_order
from lsengine.engine.prepare.checkpoint_order import Order, Unit
from lsengine.errors import UsageError
from lsengine.geometry.parameters import CheckpointVectors
from lsengine.job import Job, Search
from lsengine.job.schema import ModelSpec, TrainSpec
from lsengine.models import checkpoint
from lsengine.surface.records import History
from lsengine.training import recipe
from lsengine.wording import listed

log = logging.getLogger(__name__)
Tick = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSeries:
    """Checkpoints of one run, from the first to the last."""

    key: str  # of their glob in the job, for messages
    spec: ModelSpec  # says how they are read
    paths: tuple[Path, ...]
    numbers: tuple[int, ...]  # ascending, all different
    unit: Unit  # what they are: epochs, steps, ...
    digests: tuple[str, ...]  # SHA-256 of each file (hex)
    learning_rates: tuple[float, ...]  # of the epoch that each ended, NaN where nothing says it

    @property
    def digest(self) -> str:
        """SHA-256 of all digests in order (hex)."""
        return hashlib.sha256("\n".join(self.digests).encode()).hexdigest()

    def state(self, index: int, model: nn.Module) -> dict[str, Tensor]:
        """Return a checkpoint's parameters and buffers by the model's names.

        Raises:
            UsageError: If it cannot be read or is of another network.
        """
        content = checkpoint.load(self.paths[index], key=self.key, spec=self.spec)
        return checkpoint.fitted(model, content, key=self.key)

    def vectors(self, model: nn.Module, names: Sequence[str], tick: Tick) -> CheckpointVectors:
        """Return what reads the checkpoints' parameters, and calls them by their files' names.

        Every reading calls ``tick`` first, which may raise to stop, and raises UsageError if the
        checkpoint cannot be read or is of another network.  ``names`` are the parameters and
        buffers that count.
        """

        def load(index: int) -> dict[str, Tensor]:
            tick()
            return self.state(index, model)

        return CheckpointVectors(load, len(self.paths), names, lambda index: self.paths[index].name)

    def difference(self, stored: Mapping[str, NDArray[Any]]) -> str | None:
        """Return which checkpoints a file's trajectory has not, or has besides; None if none."""
        if "sha256" not in stored or "source" not in stored:
            return "the file does not say which it has"
        theirs = [digest.decode() for digest in stored["sha256"]]
        if theirs == list(self.digests):
            return None
        names = [name.decode() for name in stored["source"]]
        gone = [n for n, d in zip(names, theirs, strict=True) if d not in self.digests]
        new = [p.name for p, d in zip(self.paths, self.digests, strict=True) if d not in theirs]
        differences = {
            "changed": [name for name in gone if name in new],
            "missing": [name for name in gone if name not in new],
            "not in the file": [name for name in new if name not in gone],
        }
        phrases = [f"{what}: {listed(those)}" for what, those in differences.items() if those]
        return "; ".join(phrases) or "another order"


@dataclass(frozen=True, slots=True)
class _Training:
    """What is known of the training whose checkpoints a folder holds."""

    saved: frozenset[int] | None  # the epochs after which it saves; None if nothing says it
    learning_rate: Mapping[int, float]  # by epoch, out of the history there; empty without one
    weight_norm: Mapping[int, float]


def find(job: Job, tick: Tick = lambda: None) -> CheckpointSeries | None:
    """Return the checkpoints that a job projects, in the order of time; None if it has none.

    The order is that of `checkpoint_order`.  The learning rate is what the file says, else the
    history beside it.  A gap is warned of where nothing says
    which checkpoints the training saves.  ``tick`` is called before every file is read; it may
    raise to stop.

    Raises:
        UsageError: If none matches, their order is ambiguous, one is of another training than
            the history beside it, or one is missing that the training saves, as the job or the
            history says.
    """
    if job.trajectory is None:
        return None
    key, pattern = job.trajectory
    found = Search().find(key, pattern)
    matches = found.checkpoints
    if not matches:
        raise UsageError(f"{key}: no file matches {pattern}")
    for reason in found.hollow:
        log.warning("%s: left out: %s", key, reason)
    numbers = {path: checkpoint.numbers(path, key=key) for path in matches}
    order = checkpoint_order.ordered(numbers, key)
    if len(matches) > 1:
        log.info("%s: %s", key, order.words())
    trainings = {f: _training(job, f) for f in dict.fromkeys(path.parent for path in matches)}
    _refuse_missing(matches, trainings, key, pattern)
    _refuse_foreign(numbers, trainings, key)
    if any(training.saved is None for training in trainings.values()):
        _warn_of_gaps(order, key)
    digests = []
    for path in order.paths:
        tick()
        digests.append(checkpoint.digest(path))
    rates = []
    for path, number in zip(order.paths, order.numbers, strict=True):
        of_epoch = trainings[path.parent].learning_rate if order.unit != "step" else {}
        rates.append(numbers[path].get("learning_rate", of_epoch.get(number, math.nan)))
    return CheckpointSeries(
        key=key,
        spec=job.document.model,
        paths=order.paths,
        numbers=order.numbers,
        unit=order.unit,
        digests=tuple(digests),
        learning_rates=tuple(rates),
    )


def _training(job: Job, folder: Path) -> _Training:
    """Return what the job, and the history in a folder, say of the training there."""
    history, spec = _history(folder), job.document.train
    saved = None if history is None else _saved_epochs(history, folder)
    if spec is not None and job.path(spec.output).resolve() == folder.resolve():
        saved = recipe.saved_epochs(spec)
    curves = history.columns if history else {}
    by_epoch = {
        name: dict(zip(curves["epoch"].tolist(), curves[name].tolist(), strict=True))
        for name in ("learning_rate", "weight_norm")
        if name in curves
    }
    return _Training(saved, by_epoch.get("learning_rate", {}), by_epoch.get("weight_norm", {}))


def _history(folder: Path) -> History | None:
    """Return the history in a folder, None where there is none that can be read."""
    file = folder / "history.h5"
    if not file.is_file():
        return None
    try:
        return store.read_history(file)
    except UsageError as error:
        log.warning("nothing is known of the training of these checkpoints: %s", error)
        return None


def _saved_epochs(history: History, folder: Path) -> frozenset[int] | None:
    """Return the epochs that a history's training saves, None if it does not say it."""
    try:
        settings = json.loads(history.attributes["recipe"])["train"]
        # No other keys: they may be those of another version.
        asked = {name: settings[name] for name in ("epochs", "save_every", "save_epochs")}
        return recipe.saved_epochs(TrainSpec(output=str(folder), **asked))
    except (KeyError, TypeError, ValueError):
        return None


def _refuse_missing(
    paths: Sequence[Path], trainings: Mapping[Path, _Training], key: str, pattern: str
) -> None:
    """Refuse a series without checkpoints that are saved and asked for."""
    missing = []
    for folder, training in trainings.items():
        due = [folder / recipe.checkpoint_name(epoch) for epoch in sorted(training.saved or ())]
        missing += [p.name for p in due if fnmatchcase(str(p), pattern) and p not in paths]
    if missing:
        raise UsageError(
            f"{key}: missing: {listed(missing)}; the training saves them, and "
            '"lsengine train" writes them anew; or select others by the pattern'
        )


def _refuse_foreign(
    numbers: Mapping[Path, Mapping[str, float]], trainings: Mapping[Path, _Training], key: str
) -> None:
    """Refuse checkpoints of another training than the history beside them.

    Parameters of another training of the same network fit; only their numbers tell.
    """
    foreign = []
    for path, stated in numbers.items():
        epoch, norm = checkpoint.epoch_of(stated), stated.get("weight_norm", math.nan)
        norms = trainings[path.parent].weight_norm
        recorded = math.nan if epoch is None else norms.get(epoch, math.nan)
        if abs(norm - recorded) > 1e-6 * abs(recorded):  # not where either is NaN
            foreign.append(path.name)
    if foreign:
        raise UsageError(
            f"{key}: not of this run: {listed(foreign)}; history.h5 beside has another "
            "weight_norm at that epoch; remove what is of another training"
        )


def _warn_of_gaps(order: Order, key: str) -> None:
    """Warn of steps that are longer than the usual one."""
    steps = [later - earlier for earlier, later in pairwise(order.numbers)]
    usual = median_low(steps) if steps else 0
    gaps = [f"{a} and {b}" for a, b in pairwise(order.numbers) if b - a > usual]
    if gaps:
        log.warning(
            f"{key}: no checkpoint between {order.unit}s: {listed(gaps)}; elsewhere they are "
            "closer, and no history.h5 beside says which there are: is one missing?"
        )
