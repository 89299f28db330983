"""Training: one recipe, its checkpoints and its history.

A training is a function of its job: the same seed gives the same bits on the same machine,
however often it was interrupted.  An epoch takes its randomness from the seed and its own
number, so all that has to survive is the state between two epochs (``resume.pt``).

Shapes: P parameters.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lsengine import data, devices
from lsengine.errors import Stopped, UsageError
from lsengine.job import Job, first_difference
from lsengine.models import checkpoint
from lsengine.ranks import StopRequest
from lsengine.store import lock, records
from lsengine.surface import records as surface_records
from lsengine.training import history_rows, recipe
from lsengine.training.learner import Learner

log = logging.getLogger(__name__)
_RESUME_EVERY_S = 2.0
_LINE_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class DeviceSlot:
    """Where a training runs.

    Attributes:
        slot: Number of the process among those of its host, which chooses the device.
        threads: CPU threads where the job leaves them open; None for torch's own choice.
    """

    slot: int = 0
    threads: int | None = None


def run(job: Job, *, progress: str = "auto", place: DeviceSlot = DeviceSlot()) -> Path:
    """Train the network of a job, or go on where an earlier run of it stopped.

    Writes ``epoch_NNN.pt`` before training, at the epochs the recipe names and at the end,
    and ``history.h5``, all in ``train.output``.  SIGINT, SIGTERM and SIGUSR1 stop it between
    two batches.  A loss that is not finite is recorded and warned about, not an error.

    Args:
        job: Loaded for ``train``.
        progress: ``bar``, ``lines``, ``none``, or ``auto``: a bar on a terminal, else lines.
        place: Device and threads, where several trainings share a host.

    Returns:
        The last epoch's checkpoint.

    Raises:
        UsageError: If job, data and network do not go together, or the folder holds
            something else; nothing is overwritten then.
        SurfaceError: If another process trains into the folder.
        Stopped: If a signal asked for it.
    """
    assert job.document.train is not None
    folder = job.path(job.document.train.output)
    _check_recipe(job)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"train.output: {folder} cannot be made: {error}") from None
    last = job.document.train.epochs
    with _listening() as stop, deterministic_torch(job, place):
        file = folder / "history.h5"
        with lock.held(file, lost=lambda: stop.request("the loss of its lock")):
            earlier = _earlier(job, folder)
            if earlier is not None and earlier.finished and _complete(job, folder, last):
                (folder / "resume.pt").unlink(missing_ok=True)
                log.info("%s: finished earlier, nothing to do", folder)
            else:
                training = _Training(job, folder, stop, place)
                training.begin(earlier)
                training.finish(progress)
    return folder / recipe.checkpoint_name(last)


def _identity(job: Job) -> dict[str, Any]:
    """Return what decides a training's result, as plain JSON values."""
    content = job.document.model_dump(mode="json")
    return {
        "model": {k: content["model"][k] for k in ("arch", "args")},
        "data": {k: v for k, v in content["data"].items() if k != "root"},
        "loss": content["loss"],
        "seed": content["seed"],
        "train": {k: v for k, v in content["train"].items() if k != "output"},
    }


def _check_recipe(job: Job) -> None:
    settings = job.document.train
    assert settings is not None
    if "train" not in job.document.data.splits:
        raise UsageError("data.splits: training needs the train split")
    late = [epoch for epoch in settings.save_epochs if epoch > settings.epochs]
    if late:
        raise UsageError(f"train.save_epochs: got {late[0]}; train.epochs is {settings.epochs}")


def _earlier(job: Job, folder: Path) -> surface_records.History | None:
    """Return the history of an earlier run of this training; refuse any other folder."""
    file = folder / "history.h5"
    if not file.exists():
        foreign = [*folder.glob("epoch_*.pt"), *folder.glob("resume.pt")]
        if foreign:
            raise UsageError(
                f"train.output: {folder} holds {foreign[0].name}, but no history.h5: it is "
                "not of lsengine, or not whole; name another folder"
            )
        return None
    earlier = records.read(file)
    difference = first_difference(_identity(job), json.loads(earlier.attributes["recipe"]))
    if difference:
        raise UsageError(
            f"train.output: {folder} holds another training: {difference}; name "
            "another folder, or remove that one"
        )
    return earlier


def _complete(job: Job, folder: Path, epoch: int) -> bool:
    """Whether all checkpoints up to an epoch are there."""
    assert job.document.train is not None
    due = [e for e in recipe.saved_epochs(job.document.train) if e <= epoch]
    return all((folder / recipe.checkpoint_name(e)).is_file() for e in due)


@contextlib.contextmanager
def _listening() -> Iterator[StopRequest]:
    """Turn signals into a request to stop, within the context."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set handlers
        return
    numbers = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    stop.install()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def deterministic_torch(job: Job, place: DeviceSlot) -> Iterator[None]:
    """Choose threads and deterministic kernels, and leave torch as it was."""
    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    wanted = place.threads if job.document.threads == "auto" else job.document.threads
    if wanted is not None:
        torch.set_num_threads(wanted)
    devices.use_deterministic_kernels()
    try:
        with torch.random.fork_rng([0] if torch.cuda.is_available() else []):
            yield
    finally:
        torch.backends.cudnn.deterministic = deterministic
        torch.set_num_threads(threads)


class _Training:
    """A learner whose progress is kept in a folder.

    Args:
        job: Loaded for ``train``.
        folder: Where everything is written.
        stop: Asked between batches.
        place: Chooses the device.
    """

    def __init__(self, job: Job, folder: Path, stop: StopRequest, place: DeviceSlot) -> None:
        document, job_folder = job.document, job.source.parent
        assert document.train is not None
        self._job, self._recipe, self._folder, self._stop = job, document.train, folder, stop
        root = None if document.data.root is None else job.path(document.data.root)
        dataset = data.load(document.data, root=root, job_folder=job_folder, seed=document.seed)
        self._learner = Learner(
            document, dataset, job_folder=job_folder, tick=self._stop_if_asked, slot=place.slot
        )
        self._rows = history_rows.Rows(self._learner.columns, tuple(self._learner.parameters))
        self._attributes = {
            "name": document.name,
            "job": job.resolved(),
            "recipe": json.dumps(_identity(job), sort_keys=True),
            "epochs": self._recipe.epochs,
            "data_sha256": dataset.sha256,
            "torch_version": str(torch.__version__),
            "device_kind": self._learner.device.type,
        }
        self._saved, self._diverged = -math.inf, False

    def begin(self, earlier: surface_records.History | None) -> None:
        """Take up the state an earlier run left, or claim the folder and start.

        Raises:
            UsageError: If the data are not the earlier run's, or its state is damaged.
        """
        ours = self._attributes["data_sha256"]
        if earlier is not None and earlier.attributes["data_sha256"] != ours:
            raise UsageError(
                f"train.output: {self._folder} holds a training on other data; name another "
                "folder, or remove that one"
            )
        resume, state = self._folder / "resume.pt", None
        if earlier is not None and resume.exists():
            state = checkpoint.read(resume, key="train.output")
        try:
            if state is not None and not _complete(self._job, self._folder, state["epoch"]):
                state = None  # someone removed a checkpoint; only a new start brings it back
            if state is not None:
                self._learner.model.load_state_dict(state["state_dict"])
                self._learner.optimizer.load_state_dict(state["optimizer"])
                self._rows.rows = state["rows"].tolist()
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UsageError(
                f"train.output: {resume} is damaged ({type(error).__name__}: "
                f"{str(error).splitlines()[0]}); remove it to start this training anew"
            ) from None
        if state is not None:
            log.info("going on after epoch %d of %d", self._rows.epoch, self._recipe.epochs)
        else:
            self._write_history()
            self._record(0)

    def finish(self, progress: str) -> None:
        """Run the epochs that are left.

        Raises:
            Stopped: If asked to, between two batches.
        """
        with _Progress(self._recipe.epochs, self._rows.epoch, progress) as report:
            while self._rows.epoch < self._recipe.epochs:
                epoch = self._rows.epoch + 1
                self._learner.train_epoch(epoch)
                self._record(epoch)
                report.advance(self._rows.last)
        self._write_history()
        (self._folder / "resume.pt").unlink(missing_ok=True)

    def _stop_if_asked(self) -> None:
        if self._stop:
            epoch = max(1, self._rows.epoch + 1)
            raise Stopped(
                f"{self._folder}: stopped by {self._stop.signal} in epoch {epoch} of "
                f"{self._recipe.epochs}; the same command goes on with it"
            )

    def _record(self, epoch: int) -> None:
        """Measure the epoch that has just ended, and save what is due."""
        row, norms_P = self._learner.measure(epoch)
        self._rows.rows.append([*row.values(), *norms_P])
        if not math.isfinite(row["train_loss"]) and not self._diverged:
            self._diverged = True
            log.warning(
                "epoch=%d train_loss=%s: the training has diverged and goes on as it is; "
                "lower train.lr",
                *(epoch, row["train_loss"]),
            )
        if epoch in recipe.saved_epochs(self._recipe):
            checkpoint.save(
                self._folder / recipe.checkpoint_name(epoch),
                self._learner.model,
                epoch=epoch,
                content=row,
            )
        if time.monotonic() - self._saved >= _RESUME_EVERY_S:
            self._write_resume(epoch)

    def _write_resume(self, epoch: int) -> None:
        rows = torch.tensor(self._rows.rows, dtype=torch.float64)
        checkpoint.save(
            self._folder / "resume.pt",
            self._learner.model,
            self._learner.optimizer,
            epoch=epoch,
            content={"rows": rows},
        )
        self._write_history()
        self._saved = time.monotonic()

    def _write_history(self) -> None:
        records.write(self._folder / "history.h5", self._rows.history(self._attributes))


class _Progress:
    """A bar on a terminal, else a line now and then.

    Args:
        epochs: Of the whole training.
        done: Before this run.
        style: ``bar``, ``lines``, ``none`` or ``auto``.
    """

    def __init__(self, epochs: int, done: int, style: str) -> None:
        if style == "auto":
            style = "bar" if sys.stderr.isatty() else "lines"
        self._epochs, self._first, self._done = epochs, done, done
        self._start = self._last = time.monotonic()
        self._lines = style == "lines"
        self._bar = tqdm(total=epochs, initial=done, unit="epoch") if style == "bar" else None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, row: dict[str, float]) -> None:
        """Count an epoch that has just ended, with its measurements."""
        self._done += 1
        text = " ".join(f"{k}={v:.4g}" for k, v in row.items() if k != "weight_norm")
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()
        now, finished = time.monotonic(), self._done == self._epochs
        if self._lines and (finished or now - self._last >= _LINE_EVERY_S):
            self._last = now
            each_s = (now - self._start) / (self._done - self._first)
            left_s = each_s * (self._epochs - self._done)
            log.info("epoch=%d/%d %s eta=%.0fs", self._done, self._epochs, text, left_s)
