"""Training of a network: one recipe, its checkpoints and its history.

Shapes: E epochs that were measured so far, P parameters.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lsengine import data, files, store
from lsengine.errors import LsengineError, UsageError
from lsengine.job import Job
from lsengine.log import Progress
from lsengine.models import checkpoint, sealed
from lsengine.ranks import StopRequest
from lsengine.store import lock
from lsengine.surface.identity import read_identity
from lsengine.surface.records import History
from lsengine.training import recipe
from lsengine.training.determinism import deterministic_torch
from lsengine.training.learner import Learner
from lsengine.training.resumable import ResumableTraining, identity_of, refuse_other

log = logging.getLogger(__name__)
_IGNORED = ("output",)  # of the section ``train``: does not change the training


def run(
    job: Job,
    *,
    progress: str = "auto",
    slot: int = 0,
    threads: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Path:
    """Train the network of a job, or go on where an earlier run of it stopped.

    Writes ``epoch_NNN.pt`` before training, at the epochs the recipe names and at the end,
    and ``history.h5``, all in ``train.output``.  SIGINT, SIGTERM and SIGUSR1 stop it between
    two batches.  A loss that is not finite is recorded and warned about, not an error.

    Args:
        job: Loaded for ``train``.
        progress: ``bar``, ``lines``, ``none``, or ``auto``: a bar on a terminal, else lines.
        slot: Of this training among those on its host; see `deterministic_torch`.
        threads: CPU threads where the job leaves them open.
        tick: Called between two batches.

    Returns:
        The last epoch's checkpoint.

    Raises:
        UsageError: If job, data and network do not go together, or the folder holds
            something else; nothing is overwritten then.
        EnvironmentUnfit: If the folder cannot be made.
        SurfaceError: If another process trains into the folder.
        Stopped: If a signal asked for it.
    """
    assert job.document.train is not None
    folder, last = job.path(job.document.train.output), job.document.train.epochs
    _check_recipe(job)
    files.make_folder(folder, "train.output")
    with StopRequest() as stop, deterministic_torch(job, slot=slot, threads=threads):
        lost = partial(stop.request, "the loss of its lock")
        with lock.held(folder / "history.h5", lost=lost, tick=stop.raise_if_requested):
            earlier = _earlier(job, folder)
            if _is_finished(job, earlier):
                (folder / "resume.pt").unlink(missing_ok=True)
                log.info("%s: finished earlier, nothing to do", folder)
            else:
                training = NetworkTraining(job, folder, stop, slot, earlier)
                training.tick = tick
                training.begin(earlier)
                training.finish(progress)
    return folder / recipe.checkpoint_name(last)


def is_finished(job: Job) -> bool:
    """Whether a network is trained, as far as can be told; False where `run` says what is wrong."""
    assert job.document.train is not None
    try:
        return _is_finished(job, _earlier(job, job.path(job.document.train.output)))
    except LsengineError:
        return False


def _is_finished(job: Job, earlier: History | None) -> bool:
    settings = job.document.train
    assert settings is not None
    if earlier is None or not earlier.finished:
        return False
    return _has_checkpoints(job, job.path(settings.output), settings.epochs)


def _check_recipe(job: Job) -> None:
    settings = job.document.train
    assert settings is not None
    if "train" not in job.document.data.splits:
        raise UsageError("data.splits: training needs the train split")
    if late := [epoch for epoch in settings.save_epochs if epoch > settings.epochs]:
        raise UsageError(f"train.save_epochs: got {late[0]}; train.epochs is {settings.epochs}")


def _earlier(job: Job, folder: Path) -> History | None:
    """Return the history of an earlier run of this training; refuse any other folder."""
    file = folder / "history.h5"
    if not file.exists():
        if foreign := [*folder.glob("epoch_*.pt"), *folder.glob("resume.pt")]:
            raise UsageError(
                f"train.output: {folder} holds {foreign[0].name}, but no history.h5: it is "
                "not of lsengine, or not whole; name another folder"
            )
        return None
    earlier = store.read_history(file)
    refuse_other(
        identity_of(job, "train", ignored=_IGNORED),
        read_identity(earlier.attributes, "recipe") or {},
        f"train.output: {folder} holds another training",
    )
    return earlier


def _has_checkpoints(job: Job, folder: Path, epoch: int) -> bool:
    """Whether all checkpoints up to an epoch are there."""
    assert job.document.train is not None
    due = [e for e in recipe.saved_epochs(job.document.train) if e <= epoch]
    return all((folder / recipe.checkpoint_name(e)).is_file() for e in due)


def _settled_precision(earlier: History | None) -> str | None:
    """Return what an earlier run settled; runs older than the attribute were in float32."""
    return None if earlier is None else str(earlier.attributes.get("precision", "float32"))


class NetworkTraining(ResumableTraining):
    """The training of a network, whose progress is kept in a folder.

    Args:
        job: Loaded for ``train``.
        folder: Where everything is written.
        stop: Asked between batches.
        slot: Chooses the device; see `lsengine.devices.device_of`.
        earlier: What an earlier run of this training has left; it settles the precision.

    Attributes:
        epoch: -1 before the network of epoch 0 is measured.
    """

    def __init__(
        self, job: Job, folder: Path, stop: StopRequest, slot: int, earlier: History | None
    ) -> None:
        document, job_folder = job.document, job.source.parent
        assert document.train is not None
        super().__init__(folder, folder / "resume.pt", document.train.epochs, stop)
        self._job, self._recipe, self._folder = job, document.train, folder
        root = None if document.data.root is None else job.path(document.data.root)
        dataset = data.load(
            document.data,
            root=root,
            job_folder=job_folder,
            seed=document.seed,
            needs_targets=document.objective is None,
            keeps_targets=document.loss_spec.name == "output",
            ignored=document.loss_spec.ignore_index,
        )
        self._learner = Learner(
            document,
            dataset,
            job_folder=job_folder,
            tick=self._stop_if_asked,
            slot=slot,
            precision=_settled_precision(earlier),
        )
        self.epoch = -1
        self._measured = recipe.measured_epochs(document.train)
        self._rows: list[list[float]] = []  # of these, the curves' values and parameters' norms
        self._attributes = {
            "name": document.name,
            "job": job.resolved(),
            "recipe": json.dumps(identity_of(job, "train", ignored=_IGNORED), sort_keys=True),
            "epochs": self.epochs,
            "data_sha256": dataset.sha256,
            "torch_version": str(torch.__version__),
            "device_kind": self._learner.device.type,
            "precision": self._learner.precision,
        }
        self._has_diverged = False

    def begin(self, earlier: History | None) -> None:
        """Take up the state an earlier run left, or claim the folder and start.

        Raises:
            UsageError: If the data are not the earlier run's, or its state is damaged.
        """
        data_sha256 = self._attributes["data_sha256"]
        if earlier is not None and earlier.attributes.get("data_sha256") != data_sha256:
            raise UsageError(
                f"train.output: {self._folder} holds a training on other data; name another "
                "folder, or remove that one"
            )
        if earlier is not None and self._resume_file.exists():
            self._take_up()
        if self.epoch >= 0:
            log.info("going on after epoch %d of %d", self.epoch, self.epochs)
        else:
            self._write_history()
            self._record(0)

    def _take_up(self) -> None:
        """Go on from the saved state, unless checkpoints are missing that only a start brings."""
        state = sealed.read(self._resume_file, key="train.output")
        with self._refused_if_damaged("train.output"):
            if _has_checkpoints(self._job, self._folder, state["epoch"]):
                self._learner.model.load_state_dict(state["state_dict"])
                recipe.take_up(self._learner.optimizer, state["optimizer"])
                self._rows, self.epoch = state["rows"].tolist(), state["epoch"]

    def finish(self, progress: str) -> None:
        """Run the epochs that are left.

        Raises:
            Stopped: If asked to, between two batches.
        """
        report = Progress("epoch", total=self.epochs, done=self.epoch, style=progress)
        with contextlib.closing(report):
            while self.epoch < self.epochs:
                batch_loss = self._learner.train_epoch(self.epoch + 1)
                row = self._record(self.epoch + 1) | {"batch_loss": batch_loss}
                values = (f"{k}={v:.4g}" for k, v in row.items() if k != "weight_norm")
                report.advance(values=" ".join(values))
        self._write_history()
        self._resume_file.unlink(missing_ok=True)

    def _record(self, epoch: int) -> dict[str, float]:
        """Measure the epoch that has just ended, save what is due, and return the numbers."""
        is_measured = epoch in self._measured
        row, norms_P = self._learner.measure(epoch, losses=is_measured)
        if is_measured:
            self._rows.append([*row.values(), *norms_P])
        self.epoch = epoch
        telling = "train_loss" if is_measured else "weight_norm"
        if not math.isfinite(row[telling]) and not self._has_diverged:
            self._has_diverged = True
            advice = "the training has diverged and goes on as it is; lower train.lr"
            log.warning("epoch=%d %s=%s: %s", epoch, telling, row[telling], advice)
        if epoch in recipe.saved_epochs(self._recipe):
            file = self._folder / recipe.checkpoint_name(epoch)
            checkpoint.save(file, self._learner.model, epoch=epoch, content=row)
        self._save_if_due()
        return row

    def _write_state(self) -> None:
        state = {
            "rows": torch.tensor(self._rows, dtype=torch.float64),
            "state_dict": checkpoint.state_of(self._learner.model),
            "epoch": self.epoch,
            "optimizer": self._learner.optimizer.state_dict(),
        }
        sealed.write(self._resume_file, state)
        self._write_history()

    def _write_history(self) -> None:
        names, parameters = self._learner.columns, tuple(self._learner.parameters)
        table = np.array(self._rows, np.float64).reshape(-1, len(names) + len(parameters))
        curves_E = {name: table[:, i] for i, name in enumerate(names)}
        history = History(
            columns={"epoch": np.array(self._measured[: len(table)], np.int64), **curves_E},
            parameters=parameters,
            layer_norms=table[:, len(names) :],
            attributes=self._attributes,
        )
        store.write_history(self._folder / "history.h5", history)
