"""A training run's checkpoints: which ones, in what order, and whether they are all of it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from lsengine import files
from lsengine.errors import UsageError
from lsengine.geometry import principal
from lsengine.job import Job, matching
from lsengine.job.schema import TrainSpec
from lsengine.models import checkpoint
from lsengine.store import records
from lsengine.surface.records import History
from lsengine.training import recipe

log = logging.getLogger(__name__)
Tick = Callable[[], None]
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class CheckpointSeries:
    """Checkpoints of one run, by ascending epoch.

    Attributes:
        key: Key path of their glob in the job, for messages.
        paths: The files.
        epochs: Of each; all different.
        digests: SHA-256 of each file (hex).
        learning_rates: Of the epoch that each ended, NaN where nothing says it.
    """

    key: str
    paths: tuple[Path, ...]
    epochs: tuple[int, ...]
    digests: tuple[str, ...]
    learning_rates: tuple[float, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of all digests in order (hex)."""
        return hashlib.sha256("\n".join(self.digests).encode()).hexdigest()

    def reader(self, model: nn.Module, tick: Tick) -> principal.Load:
        """Return what reads a checkpoint's parameters and buffers, named as in the model.

        It calls ``tick`` first, and raises UsageError if the checkpoint cannot be read or is
        of another network.
        """

        def read(index: int) -> dict[str, Tensor]:
            tick()
            loaded = checkpoint.load(self.paths[index], key=self.key)
            return checkpoint.fitted(model, loaded, key=self.key)

        return read

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


def find(job: Job, tick: Tick = lambda: None) -> CheckpointSeries | None:
    """Return the checkpoints that a job projects, sorted by epoch; None if it has none.

    The epoch is what the file says, else the last integer of its name.  The learning rate is
    what the file says, else the history beside it.  A gap is warned of where nothing says
    which checkpoints the training saves.

    Args:
        job: For ``eval``.
        tick: Called before every file is read; may raise to stop.

    Raises:
        UsageError: If none matches, one has no epoch, two have the same, their names are in
            another order than the epochs they say they are of, one is of another training
            than the history beside it, or one is missing that the training saves, as the job
            or the history says.
    """
    if job.trajectory is None:
        return None
    key, pattern = job.trajectory
    paths = matching(pattern)
    if not paths:
        raise UsageError(f"{key}: no file matches {pattern}")
    numbers = {path: checkpoint.numbers(path, key=key) for path in paths}
    by_epoch = sorted((_epoch(path, numbers[path], key), path) for path in paths)
    for (earlier, first), (later, second) in pairwise(by_epoch):
        if earlier == later:
            raise UsageError(f"{key}: {first} and {second} are both of epoch {later}")
        before, after = _number(first), _number(second)
        if before is not None and after is not None and before > after:
            raise UsageError(
                f"{key}: {second.name} says that it is of epoch {later}, {first.name} of epoch "
                f"{earlier}: out of order; were files renamed?"
            )
    beside = {folder: _history(folder) for folder in {p.parent for p in paths}}
    saved = {folder: _saved(job, folder, beside[folder]) for folder in beside}
    if missing := _missing(pattern, paths, saved):
        raise UsageError(
            f"{key}: {_listed('missing', missing)}; the training saves them, and "
            '"lsengine train" writes them anew; or select others by the pattern'
        )
    if foreign := _foreign(numbers, beside):
        raise UsageError(
            f"{key}: {_listed('not of this run', foreign)}; history.h5 beside has another "
            "weight_norm at that epoch; remove what is of another training"
        )
    ordered = tuple(path for _, path in by_epoch)
    epochs = tuple(epoch for epoch, _ in by_epoch)
    if None in saved.values() and (gaps := _gaps(epochs)):
        log.warning(
            "%s: %s; elsewhere they are closer, and no history.h5 beside says which there are: "
            "is one missing?",
            *(key, _listed("no checkpoint between epochs", gaps)),
        )
    digests = []
    for path in ordered:
        tick()
        digests.append(files.sha256(path))
    rates = _learning_rates(by_epoch, numbers, beside)
    return CheckpointSeries(key, ordered, epochs, tuple(digests), rates)


def _listed(word: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{word}: {', '.join(names[:_SHOWN])}{more}"


def _history(folder: Path) -> History | None:
    """Return the history in a folder, None where there is none that can be read."""
    file = folder / "history.h5"
    if not file.is_file():
        return None
    try:
        return records.read(file)
    except UsageError as error:
        log.warning("nothing is known of the training of these checkpoints: %s", error)
        return None


def _saved(job: Job, folder: Path, beside: History | None) -> frozenset[int] | None:
    """Return the epochs that a folder's training saves, None if nothing says it."""
    own = job.document.train
    if own is not None and job.path(own.output).resolve() == folder.resolve():
        return recipe.saved_epochs(own)
    if beside is None:
        return None
    try:
        settings = json.loads(beside.attributes["recipe"])["train"]
        # No other keys: they may be those of another version.
        asked = {name: settings[name] for name in ("epochs", "save_every", "save_epochs")}
        return recipe.saved_epochs(TrainSpec(output=str(folder), **asked))
    except (KeyError, TypeError, ValueError):
        return None


def _missing(
    pattern: str, paths: list[Path], saved: Mapping[Path, frozenset[int] | None]
) -> list[str]:
    """Return the names of checkpoints that are saved and asked for, and that are not there."""
    missing = []
    for folder, epochs in saved.items():
        due = [folder / recipe.checkpoint_name(epoch) for epoch in sorted(epochs or ())]
        missing += [p.name for p in due if fnmatchcase(str(p), pattern) and p not in paths]
    return missing


def _gaps(epochs: tuple[int, ...]) -> list[str]:
    """Return the steps that are longer than the usual one, such as ``3 and 9``."""
    steps = [later - earlier for earlier, later in pairwise(epochs)]
    usual = median_low(steps) if steps else 0
    return [f"{a} and {b}" for a, b in pairwise(epochs) if b - a > usual]


def _foreign(
    numbers: Mapping[Path, Mapping[str, float]], beside: Mapping[Path, History | None]
) -> list[str]:
    """Return the names of checkpoints that are of another training than the history beside.

    Parameters of another training of the same network fit; only their numbers tell.
    """
    norms = {folder: _column(found, "weight_norm") for folder, found in beside.items()}
    found = []
    for path, own in numbers.items():
        said, epoch = own.get("weight_norm", math.nan), checkpoint.epoch_of(own)
        known = math.nan if epoch is None else norms[path.parent].get(epoch, math.nan)
        if abs(said - known) > 1e-6 * abs(known):  # not where either is NaN
            found.append(path.name)
    return found


def _learning_rates(
    by_epoch: list[tuple[int, Path]],
    numbers: Mapping[Path, Mapping[str, float]],
    beside: Mapping[Path, History | None],
) -> tuple[float, ...]:
    known = {folder: _column(found, "learning_rate") for folder, found in beside.items()}
    return tuple(
        numbers[path].get("learning_rate", known[path.parent].get(epoch, math.nan))
        for epoch, path in by_epoch
    )


def _column(beside: History | None, name: str) -> dict[int, float]:
    """Return a column of a history by epoch, empty without one."""
    if beside is None or name not in beside.columns:
        return {}
    return dict(zip(beside.columns["epoch"].tolist(), beside.columns[name].tolist(), strict=True))


def _epoch(path: Path, numbers: Mapping[str, float], key: str) -> int:
    said = checkpoint.epoch_of(numbers)
    number = _number(path) if said is None else said
    if number is None:
        raise UsageError(f"{key}: {path} says no epoch, and its name has no number")
    return number


def _number(path: Path) -> int | None:
    """Return the last integer of a file's name."""
    found = re.findall(r"\d+", path.stem)
    return int(found[-1]) if found else None
