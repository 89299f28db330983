"""The objective: parameters to metrics, on fixed data, on one device.

Model, data, centre and directions are resident.  A cell is one update of a flat buffer (which
the model's parameters are views of), a forward pass over the data, and one small transfer.

Shape suffixes: N samples, M numbers that move.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from lsengine import data as datasets
from lsengine.curvature import Hessian, Lanczos
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.extremes import CellCurvature
from lsengine.grid import Cell
from lsengine.models import check_fit, external

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
Loss = Callable[[Tensor, Tensor], Tensor]
Metrics = dict[str, float]
Steps = Callable[[Cell], Sequence[float]]
Directions = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How cells are evaluated; all of it is recorded in the surface file.

    Attributes:
        device: Where everything is resident.
        precision: ``float32`` or ``float64``.
        batch_size: Samples per forward pass.
        batch_norm: ``frozen``, ``interpolated`` or ``recalibrated``.
        recalibration: Training samples and batch size of ``recalibrated``.
        seed: Of the draw of the recalibration's samples.
        channels_last: Whether images and filters are laid out channels-last, which is faster; not
            for a user's own network, whose ``view`` calls may count on the other layout.
        curvature: How to look for extreme eigenvalues; None not to.
        curvature_of_moved: Whether only the parameters that move count, or all.
    """

    device: torch.device
    precision: str
    batch_size: int
    batch_norm: str = "frozen"
    recalibration: tuple[int, int] = (5000, 128)
    seed: int = 0
    channels_last: bool = True
    curvature: Lanczos | None = None
    curvature_of_moved: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and data."""
        return {"float32": torch.float32, "float64": torch.float64}[self.precision]


class Objective:
    """Evaluates one model, displaced from its centre along directions, over fixed data.

    Args:
        model: The network with the centre's parameters; taken over and moved to the device.
        dataset: All splits to evaluate.
        loss: From `loss_function`.
        directions: By axis (``alpha``, ``beta``) and parameter name; with repeats each
            tensor has a leading axis.  Names of running statistics are allowed.
        settings: How to evaluate.
        repeats: Whether the directions have a leading axis of repeats.
        steps: How far a cell lies along each direction; alpha and beta by default.
        tick: Called before every mini-batch; may raise to abandon the cell.
        with_reference: Whether to evaluate the model before it is taken over.

    Attributes:
        reference: The checkpoint's own metrics, the oracle of the centre check; empty
            without ``with_reference``.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: datasets.Dataset,
        loss: Loss,
        directions: Directions,
        settings: Settings,
        *,
        repeats: bool = False,
        steps: Steps | None = None,
        tick: Callable[[], None] = lambda: None,
        with_reference: bool = False,
    ) -> None:
        self._settings, self._loss, self._tick = settings, loss, tick
        self.model = model.to(settings.device, settings.dtype).eval().requires_grad_(False)
        self._splits = {name: _Resident(dataset, name, settings) for name in dataset.splits}
        with torch.inference_mode():
            self.reference = self._metrics() if with_reference else {}
        self._flat = _FlatParameters(self.model, directions, settings, repeats)
        if steps is not None:
            self._flat.steps = steps
        self._recalibration = _recalibration(dataset, settings)
        self._curvature = self._make_curvature() if settings.curvature else None

    def evaluate(self, cell: Cell, coarse: Cell | None = None) -> Metrics:
        """Return the metrics of a cell: ``<split>_loss``, ``_accuracy`` and ``_loss_se``.

        Means over all samples of each split; losses are computed from float64 logits and
        accumulated in float64.  With curvature, also `lsengine.extremes.NAMES`.  The result
        depends on the arguments alone.

        Args:
            cell: Where.
            coarse: Its coarse cell; without it curvature starts cold.
        """
        metrics = self.losses(cell)
        if self._curvature is not None:
            metrics |= self._curvature.measure(cell, coarse or cell)
        return metrics

    def hessian(self, cell: Cell, names: Sequence[str] | None = None) -> Hessian:
        """Return the Hessian of the mean training loss at a cell, where the weights are left.

        Args:
            cell: Where.
            names: The parameters to differentiate by; default all.
        """
        self._place(cell)
        batches = [(inputs, targets) for inputs, targets, *_ in self._splits["train"].batches]
        return Hessian(self.model, batches, self._loss, names=names, tick=self._tick)

    def losses(self, cell: Cell) -> Metrics:
        """Return the metrics of a cell without curvature."""
        with torch.inference_mode():
            self._place(cell)
            return self._metrics()

    def losses_of(self, fill: Callable[[nn.Module], None]) -> Metrics:
        """Return the metrics of other weights, without curvature; the model is left as it was.

        Args:
            fill: Puts parameters and running statistics into the model, in place.  With
                recalibration the statistics are then computed anew.
        """
        with torch.inference_mode():
            kept = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            try:
                fill(self.model)
                if self._recalibration:
                    self._recalibrate()
                return self._metrics()
            finally:
                for name, tensor in self.model.state_dict().items():
                    tensor.copy_(kept[name])

    def _place(self, cell: Cell) -> None:
        with torch.inference_mode():
            self._flat.displace(cell)
            if self._recalibration:
                self._recalibrate()

    def _make_curvature(self) -> CellCurvature:
        assert self._settings.curvature is not None
        trainable = dict(self.model.named_parameters())
        moved = [name for name in self._flat.names if name in trainable]
        names = moved if self._settings.curvature_of_moved else None
        return CellCurvature(self.hessian(Cell(0.0), names), self._settings.curvature, self._place)

    def _metrics(self) -> Metrics:
        for split in self._splits.values():
            for inputs, targets, losses_N, hits_N in split.batches:
                self._tick()
                output = self.model(inputs)
                logits = output.to(losses_N.device, torch.float64)
                losses_N.copy_(_per_sample(self._loss(logits, targets), len(losses_N)))
                if hits_N is not None:
                    hits_N.copy_(_hits(logits, targets))
        return {f"{s}_{k}": v for s, split in self._splits.items() for k, v in split.means()}

    def _recalibrate(self) -> None:
        """Set running statistics to the plain average over a fixed list of batches."""
        layers = [m for m in self.model.modules() if isinstance(m, _BatchNorm)]
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # cumulative average
            layer.train()
        for batch in self._recalibration:
            self._tick()
            self.model(batch)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()


class _FlatParameters:
    """All numbers that move, as one vector the model's parameters are views of."""

    def __init__(
        self, model: nn.Module, directions: Directions, settings: Settings, repeats: bool
    ) -> None:
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        moved = {name for d in directions.values() for name in d}
        self.names = names = [name for name in tensors if name in moved]
        self.centre_M = _flatten([tensors[n] for n in names], settings)
        self._moved_M = self.centre_M.clone()
        start = 0
        for name in names:
            tensor = tensors[name]
            view = self._moved_M[start : start + tensor.numel()]
            tensor.data = _unflatten(view, tensor.shape, settings)
            start += tensor.numel()
        count = next(len(t) for t in directions["alpha"].values()) if repeats else 1
        self.steps: Steps = lambda cell: (cell.alpha, cell.beta)
        self._directions: list[list[Tensor]] = []
        for repeat in range(count):
            pieces = [
                [_component(d, n, tensors[n], repeat if repeats else None) for n in names]
                for d in directions.values()
            ]
            self._directions.append([_flatten(p, settings) for p in pieces])

    def displace(self, cell: Cell) -> None:
        """Set the parameters to ``centre + alpha * d1 + beta * d2``, or by other steps."""
        self._moved_M.copy_(self.centre_M)
        pairs = zip(self.steps(cell), self._directions[cell.repeat], strict=False)
        for step, direction_M in pairs:
            if step:  # an infinite weight times a zero step would be NaN
                self._moved_M.add_(direction_M, alpha=step)


def _component(
    direction: Mapping[str, Tensor], name: str, like: Tensor, repeat: int | None
) -> Tensor:
    if name not in direction:
        return torch.zeros_like(like, device="cpu", dtype=torch.float32)
    return direction[name] if repeat is None else direction[name][repeat]


def _flatten(tensors: Sequence[Tensor], settings: Settings) -> Tensor:
    """Join tensors, in the order in memory that `_unflatten` expects."""
    last = settings.channels_last
    pieces = [t.permute(0, 2, 3, 1) if t.ndim == 4 and last else t for t in tensors]
    flat = [p.reshape(-1).to(settings.device, settings.dtype) for p in pieces]
    return torch.cat(flat) if flat else torch.zeros(0, device=settings.device)


def _unflatten(view: Tensor, shape: torch.Size, settings: Settings) -> Tensor:
    if len(shape) != 4 or not settings.channels_last:
        return view.view(shape)
    filters, channels, height, width = shape
    return view.view(filters, height, width, channels).permute(0, 3, 1, 2)


class _Resident:
    """One split on the device, cut into batches, with room for each sample's loss."""

    def __init__(self, dataset: datasets.Dataset, name: str, settings: Settings) -> None:
        inputs = datasets.normalized(dataset, name, settings.dtype).to(settings.device)
        if inputs.ndim == 4 and settings.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        # MPS has no float64: there, losses are computed on the host.
        where = torch.device("cpu") if settings.device.type == "mps" else settings.device
        targets = dataset.splits[name].y.to(where)
        if targets.is_floating_point():
            targets = targets.double()
        self._losses_N = torch.empty(len(inputs), dtype=torch.float64, device=where)
        is_class = dataset.classes is not None
        self._hits_N = torch.empty_like(self._losses_N) if is_class else None
        size = settings.batch_size
        hits = self._hits_N.split(size) if self._hits_N is not None else None
        pieces = (inputs.split(size), targets.split(size), self._losses_N.split(size))
        self.batches = [
            (x, y, loss, hits[i] if hits else None)
            for i, (x, y, loss) in enumerate(zip(*pieces, strict=True))
        ]

    def means(self) -> list[tuple[str, float]]:
        """Return loss, its standard error and accuracy; the cell's one transfer."""
        count = len(self._losses_N)
        mean = _sum(self._losses_N) / count
        spread = _sum((self._losses_N - mean).square())
        rows = [mean, (spread / max(1, count - 1) / count).sqrt()]
        if self._hits_N is not None:
            rows.append(_sum(self._hits_N) / count)
        names = ("loss", "loss_se", "accuracy")
        return list(zip(names, torch.stack(rows).tolist(), strict=False))


def _sum(values_N: Tensor) -> Tensor:
    """Sum in blocks of fixed size, so that the number of threads cannot change a bit."""
    padding = -len(values_N) % 1024
    return F.pad(values_N, (0, padding)).view(-1, 1024).sum(0).sum()


def _recalibration(dataset: datasets.Dataset, settings: Settings) -> list[Tensor]:
    """Draw the batches that recalibrate running statistics; none for other policies."""
    if settings.batch_norm != "recalibrated":
        return []
    if "train" not in dataset.splits:
        raise UsageError("batch_norm: recalibrated needs the train split in data.splits")
    inputs = datasets.normalized(dataset, "train", settings.dtype)
    samples, batch_size = settings.recalibration
    generator = torch.Generator().manual_seed(settings.seed)
    chosen = torch.randperm(len(inputs), generator=generator)[:samples]
    batches = inputs[chosen].split(batch_size)
    if len(batches) > 1 and len(batches[-1]) < batch_size:
        batches = batches[:-1]  # a small rest would weigh as much as a whole batch
    return [b.to(settings.device) for b in batches]


def _per_sample(loss: Tensor, samples: int) -> Tensor:
    """Reduce a loss to one number per sample; a plain mean is everyone's."""
    if loss.ndim == 0:
        return loss.expand(samples)
    return loss.flatten(1).mean(1) if loss.ndim > 1 else loss


def _hits(logits: Tensor, targets: Tensor) -> Tensor:
    hits = (logits.argmax(1) == targets).double()
    return hits.flatten(1).mean(1) if hits.ndim > 1 else hits


def loss_function(name: str, *, beside: Path) -> Loss:
    """Return the loss of a job: (N, ...) float64 outputs and targets to (N,) losses.

    Args:
        name: ``cross_entropy``; ``mse`` (mean over outputs; integer targets are taken as
            one-hot vectors); or ``module:function``, called as ``function(output, target)``,
            which returns one loss per sample or their mean (then without an error bar).
        beside: Folder of the job file, searched after PYTHONPATH.

    Raises:
        UsageError: If a ``module:function`` cannot be imported.
    """
    if name == "cross_entropy":
        return lambda output, target: F.cross_entropy(output, target, reduction="none")
    if name == "mse":
        return _mse
    return external.lookup(name, key="loss", beside=beside)


def _mse(output: Tensor, target: Tensor) -> Tensor:
    if not target.is_floating_point():
        target = F.one_hot(target, output.shape[1]).to(output.dtype)
    return (output - target.view_as(output)).square()


def automatic_batch_size(sample_shape: Sequence[int], device: str) -> int:
    """Return a batch size from the shape of a sample (C, ...) and the kind of device.

    Arithmetic, not a stopwatch, so that it is the same in every run.  On a CPU a batch's
    activations should stay in the cache: 64 images of 32x32 or 512 of 8x8 were the fastest
    on one core.  A GPU wants a million positions at once.
    """
    positions = math.prod(sample_shape[1:]) or 1
    if len(sample_shape) < 3:
        positions = math.prod(sample_shape)
    budget, largest = (2**16, 512) if device == "cpu" else (2**20, 4096)
    power = int(math.log2(max(1, budget / positions)))
    return max(16, min(largest, 1 << power))


def check_fits(model: nn.Module, dataset: datasets.Dataset, loss: Loss, name: str) -> None:
    """Run two samples through model and loss, so that misfits show before any work.

    Args:
        model: The network, on the CPU.
        dataset: The data it is evaluated on.
        loss: From `loss_function`.
        name: What the job calls the loss, for messages.

    Raises:
        UsageError: If the network does not take the data, or the loss its output.
    """
    split = next(iter(dataset.splits))
    inputs = datasets.normalized(dataset, split, torch.float32)[:2]
    targets = dataset.splits[split].y[:2]
    check_fit(model, inputs, dataset.classes)
    try:
        with torch.inference_mode():
            output = model.eval()(inputs).double()
            targets = targets.double() if targets.is_floating_point() else targets
            torch.empty(len(targets)).copy_(_per_sample(loss(output, targets), len(targets)))
    except Exception as error:
        raise UsageError(
            f"loss: {name} refuses the network's output of shape {[*output.shape]} with targets "
            f"of shape {[*targets.shape]}: {type(error).__name__}: {error}"
        ) from error


def keep_freed_memory() -> None:
    """Let the C library reuse the memory of activations instead of returning it to the system.

    By default glibc maps and unmaps large blocks one by one, which on a CPU costs a page fault
    per 4 KiB of every layer's output: a quarter of the time of a small network's forward pass,
    see ``benchmarks/results``.  Does nothing where the C library is another.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 512 << 20)


def device_of(kind: str, slot: int) -> torch.device:
    """Return the device of the ``slot``-th worker that sees the same devices.

    Args:
        kind: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        slot: Number of the worker on its host, among those that see the same devices.

    Raises:
        EnvironmentUnfit: If a kind is asked for that this machine does not have.
    """
    if kind in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", slot % torch.cuda.device_count())
    if kind in ("auto", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    if kind in ("auto", "cpu"):
        return torch.device("cpu")
    raise EnvironmentUnfit(
        f"device: {kind} is asked for, but torch {torch.__version__} sees none here; use auto "
        "or cpu"
    )
