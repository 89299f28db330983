"""What the trainings of networks and of curves share: how they stop, and how they go on.

A training is a function of its job: the same seed gives the same bits on the same machine,
however often it was interrupted.  An epoch takes its randomness from the seed and its own
number, so all that has to survive is the state between two epochs, in ``resume.pt``.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lsengine.errors import Stopped, UsageError
from lsengine.external import user_code
from lsengine.job import Job
from lsengine.job.job import without_no_choice
from lsengine.models import folder_digests
from lsengine.ranks import StopRequest
from lsengine.surface.identity import first_difference

_SAVE_EVERY_S = 2.0
# Defaults of keys that are younger than some trainings, which do not have them.
_YOUNGER = {
    **{"schedule": "milestones", "warmup": 0.0, "clip_norm": None},
    **{"precision": "float32", "measure_every": 1},
}


class ResumableTraining(ABC):
    """A training that is asked to stop between batches, and saves its state between epochs.

    Args:
        result: The folder or file that it makes, for messages.
        resume_file: Where the state goes.
        epochs: Of the whole training.
        stop: Asked between batches.

    Attributes:
        epoch: The last one that has ended.
        epochs: How many there are.
        tick: Called where it is asked to stop.
    """

    def __init__(self, result: Path, resume_file: Path, epochs: int, stop: StopRequest) -> None:
        self.epochs, self.epoch = epochs, 0
        self._result, self._resume_file, self._stop = result, resume_file, stop
        self._saved_s: float | None = None
        self.tick: Callable[[], None] = lambda: None

    @abstractmethod
    def _write_state(self) -> None:
        """Write what the next epoch needs to ``resume.pt``."""

    def _stop_if_asked(self) -> None:
        self.tick()
        if self._stop:
            raise Stopped(
                f"{self._result}: stopped by {self._stop.signal} in epoch "
                f"{max(0, self.epoch) + 1} of {self.epochs}; the same command goes on with it"
            )

    def _save_if_due(self) -> None:
        """Write the state, unless that was done a moment ago."""
        if self._saved_s is None or time.monotonic() - self._saved_s >= _SAVE_EVERY_S:
            self._write_state()
            self._saved_s = time.monotonic()

    @contextmanager
    def _refused_if_damaged(self, key: str) -> Iterator[None]:
        """Turn what a damaged state provokes, while it is taken up, into an error of the user's."""
        try:
            yield
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UsageError(
                f"{key}: {self._resume_file} is damaged ({type(error).__name__}: "
                f"{str(error).splitlines()[0]}); remove it to start this training anew"
            ) from None


def identity_of(job: Job, section: str, *, ignored: Collection[str]) -> dict[str, Any]:
    """Return what decides a training's result, as plain JSON values.

    ``section`` is the training's own in the job, of which the ``ignored`` keys do not matter.
    The user's own sources are in it, if there are any.
    """
    content = job.document.model_dump(mode="json")
    settings = {
        k: v
        for k, v in content[section].items()
        if k not in ignored and (k not in _YOUNGER or v != _YOUNGER[k])
    }
    judged_by = "loss" if job.document.objective is None else "objective"
    code = user_code.source_digests(job.own_modules, job.source.parent)
    objective = job.document.objective
    own: dict[str, Any] = {} if objective is None else {"objective": objective}
    if folders := folder_digests(job.document.model, job.source.parent):
        own["folders"] = folders
    return ({"code": code} if code else {}) | {
        "model": {k: content["model"][k] for k in ("arch", "args")},
        "data": job.data_identity(),
        judged_by: content[judged_by],
        "seed": content["seed"],
        section: without_no_choice(settings),
        **own,
    }


def refuse_other(ours: Mapping[str, Any], theirs: Mapping[str, Any], what: str) -> None:
    """Refuse a folder whose training has another identity; ``what`` begins the message.

    Raises:
        UsageError: With the first difference.
    """
    if difference := first_difference(ours, theirs):
        undo = "undo the edit, " if difference.is_of_code else ""
        raise UsageError(f"{what}: {difference}; {undo}name another folder, or remove that one")
