"""`connect`: a curve of low loss between two minima, and the straight line beside it.

The curve is trained here, by one process; its points and those of the line are then cells
of two surfaces like any others.  A training is a function of its job: however often it was
interrupted, it ends with the same bits.
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lsengine import checkpoint, curve, data, lock, recipe, store, train
from lsengine.engine import Options, evaluate_found, prepare
from lsengine.errors import CellsFailed, Stopped, UsageError
from lsengine.job import Job, first_difference, load
from lsengine.objective import device_of, loss_function
from lsengine.ranks import StopRequest, World, usable_cores
from lsengine.schema import BatchNorm, CurveDirection, Directions, Grid, TowardDirection

log = logging.getLogger(__name__)
_SAVE_EVERY_S = 2.0
_LINE_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Barrier:
    """What one of the two ways costs.

    Attributes:
        way: ``curve`` or ``line``.
        path: Its surface.
        heights: Height of the barrier by loss, such as ``train_loss``.
    """

    way: str
    path: Path
    heights: Mapping[str, float]


def run(path: str | Path, options: Options, *, world: World | None) -> int:
    """Train the curve of a job, evaluate it and the straight line, and measure both barriers.

    Every rank calls it; see `lsengine.engine.evaluate`.

    Args:
        path: The job file; only the coordinator reads it.
        options: Of the evaluation.
        world: The ranks, or None alone.

    Raises:
        UsageError: If ends, network, data and loss do not go together, or the folder holds
            another curve.
        Stopped: If a signal asked for it; the same command goes on.
    """
    found: list[Job] = []

    def find(stop: StopRequest) -> list[Job]:
        job = load(path, command="connect")
        trained(job, stop)
        found.extend(ways(job))
        return found

    code = evaluate_found(find, options, world=world)
    if world is None or world.rank == 0:
        for way, job in zip(("curve", "line"), found, strict=True):
            log.info("%s", text(measured(way, job.output)))
    return code


def trained(job: Job, stop: StopRequest) -> Path:
    """Train the curve of a job, or go on where an earlier run of it stopped; return its file.

    Writes ``curve.pt``, all control points, and ``bend_1.pt`` and so on, checkpoints like
    any others, into ``curve.output``.
    """
    settings = job.document.curve
    assert settings is not None
    file = job.path(settings.output) / "curve.pt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"curve.output: {file.parent} cannot be made: {error}") from None
    place = train.Place(0, len(usable_cores()))
    with (
        lock.held(file, lost=lambda: stop.request("the loss of its lock")),
        train.undisturbed(job, place),
    ):
        loaded = prepare.load(job)
        prepare.check(job, loaded)
        identity = _identity(job, loaded.dataset)
        if not _is_there(file, identity):
            _Training(job, loaded, identity, file, stop).finish()
    return file


def ways(job: Job) -> list[Job]:
    """Return the jobs of the two surfaces: along the curve, and along the straight line."""
    document = job.document
    settings = document.curve
    assert settings is not None
    along: dict[str, CurveDirection | TowardDirection] = {
        "curve": CurveDirection(
            kind="curve",
            path=str(job.path(settings.output) / "curve.pt"),
            shape=settings.kind,
        ),
        "line": TowardDirection(kind="toward", checkpoint=str(job.path(settings.to))),
    }
    jobs = []
    for way, direction in along.items():
        suffix = "" if way == "curve" else f"-{way}"
        output = job.output.with_name(f"{job.output.stem}{suffix}{job.output.suffix}")
        policy = document.batch_norm
        if "batch_norm" not in document.model_fields_set:
            policy = BatchNorm(policy="recalibrated")
        changes = {
            "name": f"{document.name}{suffix}",
            "directions": Directions(alpha=direction),
            "grid": Grid(alpha=(0.0, 1.0, settings.points)),
            "batch_norm": policy,
            "output": str(output),
            **{"repeats": 1, "trajectory": None},
        }
        jobs.append(Job(job.source, document.model_copy(update=changes)))
    return jobs


def measured(way: str, path: Path) -> Barrier:
    """Measure a way's barriers from its finished surface, and note them in the file."""
    surface = store.read(path)
    if not surface.done.all():
        raise CellsFailed(f"{path}: is not complete; its barrier is not known")
    heights = {
        name: curve.barrier(values, surface.axes["alpha"])
        for name, values in surface.quantities.items()
        if name in ("train_loss", "test_loss")
    }
    noted = {f"{name}_barrier": height for name, height in heights.items()}
    if any(surface.attributes.get(name) != height for name, height in noted.items()):
        with lock.held(path, lost=lambda: None):
            store.amend(path, noted)
    return Barrier(way, path, heights)


def text(barrier: Barrier) -> str:
    """Return a barrier as a line for a person."""
    heights = " ".join(f"{name}={height:.4g}" for name, height in barrier.heights.items())
    return f"barrier of the {barrier.way}: {heights} ({barrier.path})"


def _identity(job: Job, dataset: data.Dataset) -> dict[str, Any]:
    """Return what decides a curve, as plain JSON values."""
    content = job.document.model_dump(mode="json")
    settings = content["curve"]
    return {
        "model": {k: content["model"][k] for k in ("arch", "args")},
        "data": {k: v for k, v in content["data"].items() if k != "root"},
        "loss": content["loss"],
        "seed": content["seed"],
        "curve": {k: v for k, v in settings.items() if k not in ("to", "output", "points")},
        "digests": {
            "checkpoint": checkpoint.sha256(job.checkpoint),
            "to": checkpoint.sha256(job.path(settings["to"])),
            "data": dataset.sha256,
        },
    }


def _is_there(file: Path, identity: dict[str, Any]) -> bool:
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


class _Training:
    """The training of a curve, whose progress is kept beside it.

    Args:
        job: Loaded for ``connect``.
        loaded: Model at the first end, and data.
        identity: What decides the result.
        file: Where the curve goes.
        stop: Asked between batches.
    """

    def __init__(
        self,
        job: Job,
        loaded: prepare.Loaded,
        identity: dict[str, Any],
        file: Path,
        stop: StopRequest,
    ) -> None:
        settings = job.document.curve
        assert settings is not None
        self._settings, self._file, self._stop = settings, file, stop
        self._identity = json.dumps(identity, sort_keys=True)
        self._device = device_of(job.document.device, 0)
        start = {n: t.clone() for n, t in loaded.model.state_dict().items()}
        other = checkpoint.load(job.path(settings.to), key="curve.to")
        end = checkpoint.fitted(loaded.model, other, key="curve.to")
        if "train" not in loaded.dataset.splits:
            raise UsageError("data.splits: a curve needs the train split")
        self._model = loaded.model.to(self._device).requires_grad_(True)
        inputs = data.normalized(loaded.dataset, "train", torch.float32)
        self._x = inputs.to(self._device)
        self._y = loaded.dataset.splits["train"].y.to(self._device)
        asked = {"kind", "bends", "epochs", "lr", "momentum", "weight_decay", "seed"}
        self._trainer = curve.CurveTrainer(
            self._model,
            (start, end),
            loss_function(job.document.loss, beside=job.source.parent),
            curve.Settings(**settings.model_dump(include=asked)),
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
    checkpoint.replace(path, buffer.getbuffer())
