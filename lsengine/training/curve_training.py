"""The training of a curve between two minima, resumable after every epoch."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lsengine import data, models
from lsengine.data.nesting import Nested, count, mapped
from lsengine.devices import device_of
from lsengine.errors import UsageError
from lsengine.geometry.parameters import can_move, real_dtype
from lsengine.job import Job
from lsengine.job.schema import CurveSpec
from lsengine.log import Progress
from lsengine.models import checkpoint, sealed
from lsengine.objective.batches import Batches
from lsengine.objective.criterion import Criterion, OwnObjective
from lsengine.ranks import StopRequest
from lsengine.surface.identity import read_identity
from lsengine.surface.parts import Selection
from lsengine.training import curve_learner, recipe
from lsengine.training.resumable import ResumableTraining, identity_of, refuse_other
from lsengine.wording import listed

log = logging.getLogger(__name__)
_IGNORED = ("to", "output", "points", "plane")  # do not change the training


def curve_identity(job: Job, dataset: data.Dataset) -> dict[str, Any]:
    """Return what decides a curve, as plain JSON values."""
    assert job.document.curve is not None
    paths = {"checkpoint": job.checkpoint, "to": job.path(job.document.curve.to)}
    digests = {key: checkpoint.digest(path) for key, path in paths.items()} | {
        "data": dataset.sha256
    }
    identity = identity_of(job, "curve", ignored=_IGNORED)
    return identity | {"model": job.network_identity(), "digests": digests}


def is_trained(file: Path, identity: Mapping[str, Any]) -> bool:
    """Whether the finished curve is there.

    Raises:
        UsageError: If the file holds another curve, or none.
    """
    if not file.exists():
        return False
    content = sealed.read(file, key="curve.output")
    earlier = read_identity(content)
    if earlier is None:
        raise UsageError(f"curve.output: {file} is no curve of lsengine's")
    refuse_other(identity, earlier, f"curve.output: {file} is another curve")
    log.info("%s: trained earlier", file)
    return True


class CurveTraining(ResumableTraining):
    """The training of a curve, whose progress is kept beside it.

    Args:
        job: Loaded for ``connect``.
        model: The network at the first end; taken over.
        dataset: Has to have a training split.
        criterion: By which batches are judged.
        identity: From `curve_identity`.
        file: Where the curve goes.
        stop: Asked between batches.

    Raises:
        UsageError: If an end does not fit the model, both are the same, the training split
            is missing, or the state of an earlier run is damaged.
    """

    def __init__(
        self,
        job: Job,
        model: nn.Module,
        dataset: data.Dataset,
        criterion: Criterion,
        identity: Mapping[str, Any],
        file: Path,
        stop: StopRequest,
    ) -> None:
        settings = job.document.curve
        assert settings is not None
        super().__init__(file, file.with_name("resume.pt"), settings.epochs, stop)
        self._settings, self._file = settings, file
        self._identity = json.dumps(identity, sort_keys=True)
        self._device = device_of(job.document.device, 0)
        start = {n: t.clone() for n, t in model.state_dict().items()}
        other = checkpoint.load(job.path(settings.to), key="curve.to", spec=job.document.model)
        end = checkpoint.fitted(model, other, key="curve.to")
        if all(torch.equal(p, end[n]) for n, p in model.named_parameters()):
            raise UsageError(
                f"curve.to: {other.path} has the same parameters as model.checkpoint; name "
                "another minimum"
            )
        names = _names_on_curve(model, settings)
        _refuse_other_differences(model, end, names)
        if "train" not in dataset.splits:
            raise UsageError("data.splits: a curve needs the train split")
        if isinstance(model, torch.jit.ScriptModule):
            raise UsageError(
                "model.arch: the weights of a TorchScript network cannot be put on a curve; let "
                "the factory return the network that was scripted or traced"
            )
        self._model = model.to(self._device)
        for parameter in self._model.parameters():
            parameter.requires_grad_(can_move(parameter))
        dtype = real_dtype(self._model.parameters())
        split, is_own = dataset.splits["train"], isinstance(criterion, OwnObjective)
        batches = Batches.of(dataset, whole=is_own)
        self._x = mapped(self._on_device, batches.ready(batches.raw(split), dtype))
        targets = None if is_own else split.y
        self._y = None if targets is None else mapped(self._on_device, targets)
        self._trainer = curve_learner.CurveTrainer(
            self._model, (start, end), criterion, settings, names
        )
        if self._resume_file.exists():
            self._take_up()

    def finish(self) -> None:
        """Train the epochs that are left and write the curve.

        Raises:
            Stopped: If asked to, between two batches.
            UsageError: If the loss ceases to be finite.
        """
        report = Progress("curve: epoch", total=self.epochs, done=self.epoch, style="lines")
        while self.epoch < self.epochs:
            number = self.epoch + 1
            try:
                loss = self._trainer.epoch(number, self._batches(number), self._stop_if_asked)
            except FloatingPointError as error:
                raise UsageError(f"curve.lr: {error}") from None
            self.epoch = number
            self._save_if_due()
            report.advance(values=f"loss={loss:.4g}")
        self._write_curve()
        self._resume_file.unlink(missing_ok=True)

    def _on_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device)

    def _batches(self, number: int) -> Iterator[tuple[Nested, Nested | None]]:
        generator = recipe.generator_of(self._settings.seed, f"curve, epoch {number}")
        for chosen in recipe.batches(count(self._x), self._settings.batch_size, generator):
            indices = chosen.to(self._device)
            targets = None if self._y is None else _part(self._y, indices)
            yield _part(self._x, indices), targets

    def _take_up(self) -> None:
        """Go on from the saved state, unless it is of another curve."""
        state = sealed.read(self._resume_file, key="curve.output")
        with self._refused_if_damaged("curve.output"):
            if state.get("identity") != self._identity:
                return
            self._trainer.load_state_dict(state["trainer"])
            self.epoch = state["epoch"]
        log.info("curve: going on after epoch %d of %d", self.epoch, self.epochs)

    def _write_state(self) -> None:
        content = {"trainer": self._trainer.state_dict(), "epoch": self.epoch}
        sealed.write(self._resume_file, content | {"identity": self._identity})

    def _write_curve(self) -> None:
        controls = [{n: t.cpu() for n, t in c.items()} for c in self._trainer.controls]
        for number, bend in enumerate(controls[1:-1], 1):
            with torch.no_grad():
                for name, parameter in self._model.named_parameters():
                    if name in bend:
                        parameter.copy_(bend[name])
            checkpoint.save(self._file.with_name(f"bend_{number}.pt"), self._model)
        sealed.write(self._file, {"controls": controls, "identity": self._identity})


def _part(nested: Nested, indices: Tensor) -> Nested:
    return mapped(lambda tensor: tensor[indices], nested)


def _names_on_curve(model: nn.Module, settings: CurveSpec) -> list[str] | None:
    """Return the parameters that ``only`` and ``ignore`` put on the curve; None without either.

    Raises:
        UsageError: If they leave none.
    """
    if not (settings.only or settings.ignore):
        return None
    selection = Selection.said(settings.only, settings.ignore)
    movable = [name for name, p in model.named_parameters() if can_move(p)]
    names = selection.of(movable, models.parameter_roles(model))
    if not names:
        raise UsageError("curve: only and ignore leave no parameter; give other patterns")
    return names


def _refuse_other_differences(
    model: nn.Module, end: Mapping[str, Tensor], names: Collection[str] | None
) -> None:
    """Refuse ends that differ in what is not on the curve, which would not arrive at the other."""
    if names is None:
        return
    others = {n: p for n, p in model.named_parameters() if n not in names}
    if differ := [n for n, p in others.items() if not torch.equal(p, end[n])]:
        raise UsageError(
            f"curve.to: {listed(differ)} differ between the ends, but curve.only and curve.ignore "
            "leave them off the curve; choose them, too, or name an end that has the same ones"
        )
