"""The training of a curve between two minima, resumable after every epoch."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lsengine import data, files
from lsengine.data import Dataset
from lsengine.devices import device_of
from lsengine.errors import Stopped, UsageError
from lsengine.job import Job, first_difference
from lsengine.models import checkpoint
from lsengine.objective.losses import loss_function
from lsengine.ranks import StopRequest
from lsengine.training import curve_learner, recipe

log = logging.getLogger(__name__)
_EVALUATED = ("to", "output", "points", "plane")  # do not change the training
_SAVE_EVERY_S = 2.0
_LINE_EVERY_S = 10.0


def curve_identity(job: Job, dataset: data.Dataset) -> dict[str, Any]:
    """Return what decides a curve, as plain JSON values."""
    content = job.document.model_dump(mode="json")
    settings = content["curve"]
    return {
        "model": {k: content["model"][k] for k in ("arch", "args")},
        "data": {k: v for k, v in content["data"].items() if k != "root"},
        "loss": content["loss"],
        "seed": content["seed"],
        "curve": {k: v for k, v in settings.items() if k not in _EVALUATED},
        "digests": {
            "checkpoint": files.sha256(job.checkpoint),
            "to": files.sha256(job.path(settings["to"])),
            "data": dataset.sha256,
        },
    }


def is_trained(file: Path, identity: dict[str, Any]) -> bool:
    """Whether a folder holds the finished curve; refuse one of another."""
    if not file.exists():
        return False
    content = checkpoint.read(file, key="curve.output")
    try:
        difference = first_difference(identity, json.loads(content["identity"]))
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"curve.output: {file} is no curve of lsengine's") from None
    if difference:
        raise UsageError(
            f"curve.output: {file} is another curve: {difference}; name another folder, or "
            "remove that one"
        )
    log.info("%s: trained earlier", file)
    return True


class CurveTraining:
    """The training of a curve, whose progress is kept beside it.

    Args:
        job: Loaded for ``connect``.
        model: The network at the first end; taken over.
        dataset: The data.
        identity: What decides the result.
        file: Where the curve goes.
        stop: Asked between batches.
    """

    def __init__(
        self,
        job: Job,
        model: nn.Module,
        dataset: Dataset,
        identity: dict[str, Any],
        file: Path,
        stop: StopRequest,
    ) -> None:
        settings = job.document.curve
        assert settings is not None
        self._settings, self._file, self._stop = settings, file, stop
        self._identity = json.dumps(identity, sort_keys=True)
        self._device = device_of(job.document.device, 0)
        start = {n: t.clone() for n, t in model.state_dict().items()}
        other = checkpoint.load(job.path(settings.to), key="curve.to")
        end = checkpoint.fitted(model, other, key="curve.to")
        if all(torch.equal(p, end[n]) for n, p in model.named_parameters()):
            raise UsageError(
                f"curve.to: {other.path} has the same parameters as model.checkpoint; name "
                "another minimum"
            )
        if "train" not in dataset.splits:
            raise UsageError("data.splits: a curve needs the train split")
        self._model = model.to(self._device).requires_grad_(True)
        inputs = data.normalized(dataset, "train", torch.float32)
        self._x = inputs.to(self._device)
        self._y = dataset.splits["train"].y.to(self._device)
        asked = {"kind", "bends", "epochs", "lr", "momentum", "weight_decay", "seed"}
        self._trainer = curve_learner.CurveTrainer(
            self._model,
            (start, end),
            loss_function(job.document.loss, job_folder=job.source.parent),
            curve_learner.CurveTrainingSettings(**settings.model_dump(include=asked)),
        )
        self._epoch, self._saved = 0, -_SAVE_EVERY_S
        self._resume()

    def finish(self) -> None:
        """Train the epochs that are left and write the curve.

        Raises:
            Stopped: If asked to, between two batches.
            UsageError: If the loss ceases to be finite.
        """
        epochs, shown = self._settings.epochs, time.monotonic()
        while self._epoch < epochs:
            number = self._epoch + 1
            try:
                loss = self._trainer.epoch(number, self._batches(number), self._tick)
            except FloatingPointError as error:
                raise UsageError(f"curve.lr: {error}") from None
            self._epoch = number
            if time.monotonic() - self._saved >= _SAVE_EVERY_S:
                self._write_resume()
            if number == epochs or time.monotonic() - shown >= _LINE_EVERY_S:
                shown = time.monotonic()
                log.info("curve: epoch=%d/%d loss=%.4g", number, epochs, loss)
        self._write()
        self._resume_file.unlink(missing_ok=True)

    @property
    def _resume_file(self) -> Path:
        return self._file.with_name("resume.pt")

    def _batches(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = recipe.generator_of(self._settings.seed, f"curve, epoch {number}")
        for chosen in recipe.batches(len(self._y), self._settings.batch_size, generator):
            indices = chosen.to(self._device)
            yield self._x[indices], self._y[indices]

    def _tick(self) -> None:
        if self._stop:
            raise Stopped(
                f"{self._file}: stopped by {self._stop.signal} in epoch {self._epoch + 1} of "
                f"{self._settings.epochs}; the same command goes on with it"
            )

    def _resume(self) -> None:
        if not self._resume_file.exists():
            return
        state = checkpoint.read(self._resume_file, key="curve.output")
        if state.get("identity") == self._identity:
            self._trainer.load_state_dict(state["trainer"])
            self._epoch = state["epoch"]
            log.info("curve: going on after epoch %d of %d", self._epoch, self._settings.epochs)

    def _write_resume(self) -> None:
        state = {"trainer": self._trainer.state_dict(), "epoch": self._epoch}
        _save(self._resume_file, {**state, "identity": self._identity})
        self._saved = time.monotonic()

    def _write(self) -> None:
        controls = [{n: t.cpu() for n, t in c.items()} for c in self._trainer.controls]
        for number, bend in enumerate(controls[1:-1], 1):
            with torch.no_grad():
                for name, parameter in self._model.named_parameters():
                    parameter.copy_(bend[name])
            checkpoint.save(self._file.with_name(f"bend_{number}.pt"), self._model)
        _save(self._file, {"controls": controls, "identity": self._identity})


def _save(path: Path, content: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    files.write(path, buffer.getbuffer())
