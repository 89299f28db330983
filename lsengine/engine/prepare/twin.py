"""The naive twin of a run: values of a few samples by the plainest path, to check the engine by.

Rank 0 makes it before the first cell, and every worker compares its own values with it before its
first cell.  So it also finds what differs between two processes.

Shape suffix: N samples.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsengine import data
from lsengine.engine.messages import Probe, Twin
from lsengine.engine.prepare import mixing, twin_samples
from lsengine.engine.prepare.directions import cell_steps
from lsengine.engine.prepare.loading import Loaded, failures_named, network
from lsengine.engine.prepare.twin_values import CannotEvaluateError, TwinValues
from lsengine.errors import UsageError
from lsengine.geometry.parameters import real_dtype
from lsengine.job import Job
from lsengine.job.direction_types import CurveDirection
from lsengine.models import checkpoint
from lsengine.objective import naive
from lsengine.objective.device_state import in_precision
from lsengine.surface.grid import Cell, Grid

log = logging.getLogger(__name__)
Stored = Mapping[str, Mapping[str, NDArray[Any]]]
# Rounding that piles up over the layers, in units of the difference between two precisions that
# was seen over the same samples, and of the largest loss.
_TIMES, _RELATIVE = 30.0, 1e-5
_UNLIKE = 0.05
_NUMBERS = 10**7  # of outputs and targets, for which the loss is compared


def make_twin(
    job: Job,
    loaded: Loaded,
    grid: Grid,
    stored: Stored,
    *,
    checkpoints: Sequence[Path] = (),
    tick: Callable[[], None] = lambda: None,
) -> Twin:
    """Evaluate a few samples of every split at the centre, away from it, and at a checkpoint.

    ``stored`` are the directions as the surface file has them.  The loaded model is left as it is.
    ``tick`` is called now and then and may raise to stop.

    Raises:
        UsageError: If what the network or the loss makes of a sample depends on the other samples
            of its batch, on chance, or on what is not in the checkpoint; or if nothing changes
            along the directions.
    """
    try:
        return _made(job, loaded, grid, stored, checkpoints, tick)
    except mixing.NoMeanError as error:
        mixing.take_at_once(job, max(map(len, loaded.dataset.splits.values())), error)
    return _made(job, loaded, grid, stored, checkpoints, tick, of_split=True)


def _made(
    job: Job,
    loaded: Loaded,
    grid: Grid,
    stored: Stored,
    checkpoints: Sequence[Path],
    tick: Callable[[], None],
    *,
    of_split: bool = False,
) -> Twin:
    maker = _Maker(job, loaded, stored, tick, of_split=of_split)
    maker.refuse_other_network()
    maker.widen()
    maker.check_batches()
    probes = [maker.probe(Cell(0.0))]
    if (away := twin_samples.away(grid)) is not None:
        try:
            probes.append(maker.probe(away))
            maker.refuse_flat(away)
            if job.document.model.is_own:
                maker.refuse_stale(away)
        except CannotEvaluateError as error:  # and so will the cells there
            log.info("no sample is compared away from the centre: %s", error)
    probes += [maker.probe_of_checkpoint(path) for path in checkpoints[:1]]
    return Twin(samples=maker.samples, probes=probes, of_split=of_split)


def twin_at_centre(job: Job, loaded: Loaded, tick: Callable[[], None] = lambda: None) -> Twin:
    """Evaluate a few samples of every split at the centre alone; no direction is needed.

    Raises:
        UsageError: As `make_twin`.
    """
    maker = _Maker(job, loaded, {}, tick)
    maker.refuse_other_network()
    maker.widen()
    maker.check_batches()
    return Twin(samples=maker.samples, probes=[maker.probe(Cell(0.0))])


def plain_losses(
    job: Job,
    loaded: Loaded,
    split: str,
    numbers: Mapping[str, Tensor] | None = None,
    *,
    of_split: bool = False,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return the losses of the twin's samples by a network made here, and its numbers by name.

    At the centre, or with other numbers of those names, statistics included.
    """
    maker = _Maker(job, loaded, {}, lambda: None, of_split=of_split)
    return maker.filled(split, numbers)


class _Maker:
    """The network of the twin, in the precision that it came in and, where it can, in float64."""

    def __init__(
        self,
        job: Job,
        loaded: Loaded,
        stored: Stored,
        tick: Callable[[], None],
        *,
        of_split: bool = False,
    ) -> None:
        self._job, self._loaded, self._tick = job, loaded, tick
        dataset = loaded.dataset
        along, self._steps = cell_steps(job, stored) if stored else ([], lambda _: ())
        if (
            isinstance(spec := job.directions.get("alpha"), CurveDirection)
            and not job.is_curve_plane
        ):
            count = len(along) + 1  # control points, of which the first is the centre
            self._steps = lambda cell: naive.curve_weights(spec.shape, count, cell.alpha)[1:]
        self._is_dependent = False  # an output on the rest of its batch, which is meant
        repeats = job.document.repeats > 1
        self._directions = [{n: d[0] if repeats else d for n, d in a.items()} for a in along]
        self._native = naive.NaiveNetwork(lambda: network(job, dataset))
        self._wide: naive.NaiveNetwork | None = None
        self._dtype = real_dtype(self._native.model.parameters())
        self._values = TwinValues(job, loaded, self._native.model, tick, of_split=of_split)

    @property
    def samples(self) -> Mapping[str, NDArray[np.int64]]:
        """Indices of the samples, by split."""
        return self._values.samples

    def widen(self) -> None:
        """Make the network in float64 too, unless its code insists on a dtype."""
        try:
            wide = functools.partial(network, self._job, self._loaded.dataset, wide=True)
            self._wide = naive.NaiveNetwork(wide)
            if not self._loaded.is_wide:
                self._require_alike()
        except (RuntimeError, TypeError, ValueError, UsageError):
            self._wide = None

    def _require_alike(self) -> None:
        """Refuse a network that is another one in float64, beyond rounding."""
        assert self._wide is not None
        split = next(iter(self.samples))
        wide = self._values.of(self._wide, split, torch.float64).losses
        if naive.distance(
            self._values.of(self._native, split, self._dtype).losses, wide
        ) > _UNLIKE * (naive.largest(wide)):
            raise UsageError("its losses in float64 are others")

    def check_batches(self) -> None:
        """Take whole batches as samples where an objective depends on them; see `TwinValues`."""
        self._values.check_batches(self._native, self._wide, self._dtype, self._rounding)

    def filled(
        self, split: str, numbers: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return losses and numbers as `plain_losses` does."""
        own = self._native.fill(numbers or {})
        if numbers is None:
            self._values.measure_statistics(self._native, self._dtype)
        return self._values.of(self._native, split, self._dtype).losses, own

    def probe(self, cell: Cell) -> Probe:
        """Return the values at a cell."""
        for net in self._networks():
            net.displace(self._steps(cell), self._directions)
        return self._probed(cell)

    def probe_of_checkpoint(self, path: Path) -> Probe:
        """Return the values of a checkpoint of the trajectory."""
        assert self._job.trajectory is not None
        spec = self._job.document.model
        content = checkpoint.load(path, key=self._job.trajectory[0], spec=spec)
        for net in self._networks():
            checkpoint.fit(net.model, content, key=self._job.trajectory[0])
        return self._probed(Cell(0.0), path)

    def refuse_other_network(self) -> None:
        """Refuse a factory that gives another function when it is called again.

        Raises:
            UsageError: If the loaded network's losses at the centre are others.
        """
        own, wide = naive.NaiveNetwork(lambda: self._loaded.model), self._loaded.is_wide
        dtype = torch.float64 if wide else self._dtype
        again = self._native
        if wide:
            again = naive.NaiveNetwork(lambda: network(self._job, self._loaded.dataset, wide=True))
        for split in self.samples:
            first, other = (self._values.of(net, split, dtype) for net in (own, again))
            if not _is_same(first, other):
                self._refuse_chance(first, self._values.of(own, split, dtype))
                raise UsageError(
                    f"model.arch: two calls of {self._job.document.model.arch} give networks "
                    f"whose {split} losses differ with the same checkpoint ({first.loss:.6g} and "
                    f"{other.loss:.6g}); it has a state that is not in the checkpoint: make it "
                    "a parameter or a persistent buffer, or give it by model.args"
                )

    def _refuse_chance(self, first: naive.Values, repeated: naive.Values) -> None:
        """Refuse a network or a loss that gives something else when it is called again."""
        if _is_same(first, repeated):
            return
        if torch.equal(first.outputs.nan_to_num(), repeated.outputs.nan_to_num()):
            raise UsageError(
                f"loss: two calls of {self._job.document.loss_spec.name} for the same outputs and "
                "targets differ; is there noise, or does it keep something between calls?"
            )
        raise UsageError(
            "model.arch: two evaluations of the same weights differ; is there dropout or noise "
            "that evaluation mode does not switch off?"
        )

    def refuse_flat(self, away: Cell) -> None:
        """Refuse directions along which no output changes.

        Raises:
            UsageError: For every axis by itself.
        """
        axes = {"alpha": Cell(away.alpha)} | ({"beta": Cell(0.0, away.beta)} if away.beta else {})
        split, net = next(iter(self.samples)), self._native
        values, has_moved = {}, {}
        for axis, cell in {"": Cell(0.0), **axes}.items():
            has_moved[axis] = net.displace(self._steps(cell), self._directions)
            self._values.measure_statistics(net, self._dtype)
            values[axis] = self._values.of(net, split, self._dtype)
        if self._values.own is not None and naive.is_stepped(values[""].outputs):
            return  # returns, or answers that are right: they change at few places
        for axis, cell in axes.items():
            is_same = torch.equal(values[""].outputs, values[axis].outputs)
            if is_same and has_moved[axis] and torch.equal(values[""].losses, values[axis].losses):
                raise UsageError(
                    f"directions.{axis}: no output of {len(self.samples[split])} samples changes "
                    f"at {axis}={getattr(cell, axis):g}: the parameters that move are not used "
                    "in evaluation mode, or multiplied by 0 (were adapters merged into the weights "
                    "by eval()? are those untrained, with B = 0?)"
                )

    def refuse_stale(self, away: Cell) -> None:
        """Refuse a network that evaluates what it has made of the centre's weights earlier.

        Raises:
            UsageError: If one that is displaced before its first use, and before it comes to
                evaluation mode, has other losses.
        """
        split = next(iter(self.samples))
        fresh = naive.NaiveNetwork(lambda: network(self._job, self._loaded.dataset))
        fresh.model.train()
        values = []
        for net in (fresh, self._native):
            net.displace(self._steps(away), self._directions)
            net.model.eval()
            self._values.measure_statistics(net, self._dtype)
            values.append(self._values.of(net, split, self._dtype).losses)
        if naive.distance(*values) > self._rounding(values[0], values[0]):
            first, kept = (float(v.mean()) for v in values)
            raise UsageError(
                f"model.arch: displaced to alpha={away.alpha:g} beta={away.beta:g}, its {split} "
                f"losses are {kept:.6g} on average, but {first:.6g} if it is displaced before its "
                "first use: it keeps something that it has made of its weights (a copy, adapters "
                "merged by eval()); make it anew in every forward"
            )

    def _networks(self) -> list[naive.NaiveNetwork]:
        return [self._native] if self._wide is None else [self._native, self._wide]

    def _probed(self, cell: Cell, path: Path | None = None) -> Probe:
        losses, hits, allowed, metrics = {}, {}, {}, {}
        for net in self._networks():
            dtype = torch.float64 if net is self._wide else self._dtype
            self._values.measure_statistics(net, dtype)
        for split in self.samples:
            self._tick()
            full = self._values.of(self._native, split, self._dtype)
            exact = full
            if self._wide is not None:
                exact = self._values.of(self._wide, split, torch.float64)
            allowed[split] = self._allowed(full.losses, exact.losses)
            if path is None:
                self._check_batches(cell, split, full, exact)
            losses[split] = exact.losses.numpy()
            if exact.hits is not None and self._loaded.dataset.classes is not None:
                hits[split] = exact.hits.numpy()
            metrics[split] = {
                name: (values.numpy(), self._allowed(full.metrics[name], values))
                for name, values in exact.metrics.items()
            }
        return Probe(
            cell=cell,
            checkpoint=path,
            losses=losses,
            hits=hits,
            allowed=allowed,
            metrics=metrics,
        )

    def _allowed(self, native: Tensor, exact: Tensor) -> float:
        """Return how far a value of the engine may be off: the rounding of its precision."""
        if self._loaded.is_wide:
            return 1e-6 * naive.distance(native, exact) + 1e-9 * naive.largest(exact)
        return self._rounding(native, exact)

    def _rounding(self, native: Tensor, exact: Tensor) -> float:
        """Return how far values in float32, or what the network came in, may be off."""
        # Neither a network in float64 nor one that insists on a dtype shows how float32 rounds.
        relative = _RELATIVE if self._wide is not None and self._dtype != torch.float64 else 2e-4
        return _TIMES * naive.distance(native, exact) + relative * naive.largest(exact)

    def _check_batches(
        self, cell: Cell, split: str, full: naive.Values, exact: naive.Values
    ) -> None:
        """Compare values with those in batches of other sizes."""
        if self._values.own is not None:
            return  # has been done
        sizes = self._values.pieces(split)
        pieces = self._values.of(self._native, split, self._dtype, sizes)
        rounding = self._rounding(full.outputs, exact.outputs)
        if naive.distance(full.outputs, pieces.outputs) > rounding:
            if not self._is_dependent:
                where = f" at alpha={cell.alpha:g} beta={cell.beta:g}" if cell != Cell(0.0) else ""
                mixing.refuse_dependent_outputs(self._job, split, sizes, where)
            self._is_dependent = True
            return
        if self._values.of_split:
            return
        y, allowed = self._values.targets(split), self._rounding(full.losses, exact.losses)
        cut = " and ".join(map(str, sizes))
        of_samples = (self._job, split, full, pieces, y, self._values.loss())
        mixing.refuse_no_mean(*of_samples, sizes=cut, allowed=allowed)
        if self._job.document.loss_spec.is_own and len(full.outputs) and not full.is_nested:
            mixing.refuse_no_mean_of_others(
                self._job, split, full.outputs, y, self._values.loss(), sizes
            )
            self._check_all_targets(split, full.outputs)

    def _check_all_targets(self, split: str, outputs: Tensor) -> None:
        """Compare the loss of all targets with that in batches: a rare label may be among them.

        The outputs are those of the samples, again and again.
        """
        y, wanted = data.lone(self._loaded.dataset.splits[split].y), self._job.document.batch_size
        y = y[: max(len(outputs), _NUMBERS // (outputs[0].numel() + y[0].numel()))]
        size = max(1, len(y) // 7) if wanted == "auto" else wanted
        repeated = outputs[torch.arange(len(y)) % len(outputs)]
        y, loss = in_precision(y, torch.float64), self._values.loss()
        with failures_named(self._job, "for the centre's outputs"):
            whole, pieces = (
                naive.values_of(list(zip(repeated.split(n), y.split(n), strict=True)), loss)
                for n in (len(y), size)
            )
        allowed = _RELATIVE * max(naive.largest(whole.losses), abs(whole.loss))
        of_samples = (self._job, split, whole, pieces, y, loss)
        mixing.refuse_no_mean(*of_samples, sizes=str(size), allowed=allowed)


def _is_same(a: naive.Values, b: naive.Values) -> bool:
    return torch.equal(a.losses.nan_to_num(), b.losses.nan_to_num())
