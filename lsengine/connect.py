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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsengine import checkpoint, curve, data, lock, recipe, store, train
from lsengine.devices import device_of
from lsengine.engine import Options, evaluate_found, prepare
from lsengine.errors import CellsFailed, Stopped, UsageError
from lsengine.job import Job, first_difference, load
from lsengine.losses import loss_function
from lsengine.objective import Objective, Settings
from lsengine.ranks import StopRequest, World, usable_cores
from lsengine.schema import BatchNorm, CurveDirection, Directions, Grid, TowardDirection

log = logging.getLogger(__name__)
_EVALUATED = ("to", "output", "points", "plane")  # do not change the training
_SAVE_EVERY_S = 2.0
_LINE_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Barrier:
    """What one of the two ways costs, by loss, such as ``train_loss``.

    Attributes:
        way: ``curve`` or ``line``.
        path: Its surface.
        ends: Losses of both ends as points of the way, (2,).
        own: Losses of both with the running statistics of their checkpoints, (2,).
        highest: The highest loss of the way.
        heights: Height of the barrier.
    """

    way: str
    path: Path
    ends: Mapping[str, NDArray[np.float64]]
    own: Mapping[str, NDArray[np.float64]]
    highest: Mapping[str, float]
    heights: Mapping[str, float]


def run(path: str | Path, options: Options, *, world: World | None) -> tuple[int, str]:
    """Train the curve of a job, evaluate it and the straight line, and measure both barriers.

    The plane of the curve is evaluated after them, if the job asks for it.

    Every rank calls it; see `lsengine.engine.evaluate`.

    Args:
        path: The job file; only the coordinator reads it.
        options: Of the evaluation.
        world: The ranks, or None alone.

    Returns:
        The exit code, and on the coordinator a table of both barriers.

    Raises:
        UsageError: If ends, network, data and loss do not go together, the ends are the same,
            or the folder holds another curve.
        Stopped: If a signal asked for it; the same command goes on.
    """
    found: list[Job] = []

    def find(stop: StopRequest) -> list[Job]:
        job = load(path, command="connect")
        trained(job, stop)
        found.extend(ways(job))
        return [*found, *plane(job)]

    code = evaluate_found(find, options, world=world)
    if not found:  # a rank that has read no job
        return code, ""
    return code, table(measured(found))


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
    settings = job.document.curve
    assert settings is not None
    straight = TowardDirection(kind="toward", checkpoint=str(job.path(settings.to)))
    grid = Grid(alpha=(0.0, 1.0, settings.points))
    return [
        _surface(job, "curve", Directions(alpha=_along(job)), grid),
        _surface(job, "line", Directions(alpha=straight), grid),
    ]


def plane(job: Job) -> list[Job]:
    """Return the job of the plane through both ends and the first bend, if it is asked for."""
    settings = job.document.curve
    assert settings is not None
    if settings.plane is None:
        return []
    both = Directions(alpha=_along(job), beta=_along(job))
    alpha, beta = settings.plane
    return [_surface(job, "plane", both, Grid(alpha=("auto", alpha), beta=("auto", beta)))]


def _along(job: Job) -> CurveDirection:
    settings = job.document.curve
    assert settings is not None
    path = job.path(settings.output) / "curve.pt"
    return CurveDirection(kind="curve", path=str(path), shape=settings.kind)


def _surface(job: Job, way: str, directions: Directions, grid: Grid) -> Job:
    """Return the job of a surface of its own, beside that of the curve."""
    document = job.document
    suffix = "" if way == "curve" else f"-{way}"
    output = job.output.with_name(f"{job.output.stem}{suffix}{job.output.suffix}")
    policy = document.batch_norm
    if "batch_norm" not in document.model_fields_set:
        policy = BatchNorm(policy="recalibrated")
    changes = {
        "name": f"{document.name}{suffix}",
        "directions": directions,
        "grid": grid,
        "batch_norm": policy,
        "output": str(output),
        **{"repeats": 1, "trajectory": None},
    }
    return Job(job.source, document.model_copy(update=changes))


def measured(jobs: Sequence[Job]) -> list[Barrier]:
    """Measure both `ways` on their finished surfaces, and note in them what is found."""
    surfaces = [store.read(job.output) for job in jobs]
    for surface in surfaces:
        if not surface.done.all():
            raise CellsFailed(f"{surface.source}: is not complete; its barrier is not known")
    names = [name for name in ("train_loss", "test_loss") if name in surfaces[0].quantities]
    own = _own_losses(jobs[0], surfaces[0].attributes, names)
    found = []
    for way, job, surface in zip(("curve", "line"), jobs, surfaces, strict=True):
        losses = {name: surface.quantities[name] for name in names}
        heights = {n: curve.barrier(v, surface.axes["alpha"]) for n, v in losses.items()}
        noted: dict[str, Any] = {f"{name}_barrier": height for name, height in heights.items()}
        noted |= {f"{name}_ends": ends for name, ends in own.items()}
        known = surface.attributes
        if not all(n in known and np.array_equal(known[n], v) for n, v in noted.items()):
            with lock.held(job.output, lost=lambda: None):
                store.amend(job.output, noted)
        ends = {name: values[[0, -1]] for name, values in losses.items()}
        highest = {name: float(values.max()) for name, values in losses.items()}
        found.append(Barrier(way, job.output, ends, own, highest, heights))
    return found


def _own_losses(
    job: Job, known: Mapping[str, Any], names: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Return the losses of both ends with their own running statistics.

    Args:
        job: Of one of the two surfaces.
        known: The attributes of its file, which may have them from an earlier run.
        names: The losses wanted.
    """
    if all(f"{name}_ends" in known for name in names):
        return {name: known[f"{name}_ends"] for name in names}
    settings = job.document.curve
    assert settings is not None
    with train.undisturbed(job, train.Place(0, len(usable_cores()))):
        loaded = prepare.load(job)
        objective = Objective(
            loaded.model,
            loaded.dataset,
            loss_function(job.document.loss, beside=job.source.parent),
            {},  # no direction: nothing moves
            Settings(
                device=device_of(job.document.device, 0),
                precision=str(known["precision"]),
                batch_size=int(known["batch_size"]),
                channels_last=not job.document.model.is_own,
            ),
        )
        first, other = (
            objective.losses_of(
                partial(checkpoint.fit, checkpoint=checkpoint.load(p, key=k), key=k)
            )
            for p, k in ((job.checkpoint, "model.checkpoint"), (job.path(settings.to), "curve.to"))
        )
    return {name: np.array([first[name], other[name]]) for name in names}


def table(barriers: Sequence[Barrier]) -> str:
    """Return what the ways cost, for a person: a line for each, and one for the ends alone."""
    titles = ("first end", "other end", "highest", "barrier")
    lines = [f"{b.way}: {b.path}" for b in barriers]
    lines.append(" " * 20 + "".join(f"{title:>12}" for title in titles))
    for name, own in barriers[0].own.items():
        rows = {b.way: [*b.ends[name], b.highest[name], b.heights[name]] for b in barriers}
        for way, values in (rows | {"own": [*own]}).items():
            title = f"{name.replace('_', ' ')}, {way}"
            lines.append(f"{title:20}" + "".join(f"{value:12.4g}" for value in values))
    lines.append("own: of both checkpoints, with their own running statistics")
    return "\n".join(lines)


def _identity(job: Job, dataset: data.Dataset) -> dict[str, Any]:
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
        if all(torch.equal(p, end[n]) for n, p in loaded.model.named_parameters()):
            raise UsageError(
                f"curve.to: {other.path} has the same parameters as model.checkpoint; name "
                "another minimum"
            )
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
