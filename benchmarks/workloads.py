"""Networks with random weights on random images, of CIFAR's shape by default, to be timed."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reference
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lsengine import data, devices, models
from lsengine import objective as objectives
from lsengine.geometry import directions
from lsengine.job.schema import ModelSpec
from lsengine.objective import losses
from lsengine.surface.grid import Cell

SHAPE = (3, 32, 32)


@dataclass(frozen=True)
class Workload:
    """A network and its data.

    Attributes:
        name: As in a job.
        args: Likewise.
        model: On the CPU, in evaluation mode, with running statistics that fit.
        dataset: One split of random images.
        flop: Operations of one image in convolutions and matrix products (two per MAC).
        directions: Random, normalised filter by filter.
    """

    name: str
    args: dict[str, object]
    model: nn.Module
    dataset: data.Dataset
    flop: float
    directions: dict[str, dict[str, Tensor]]

    @property
    def samples(self) -> int:
        """Images of a cell."""
        return len(self.dataset.splits["train"])

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image."""
        return tuple(data.lone(self.dataset.splits["train"].x).shape[1:])

    def objective(
        self, precision: str, device: torch.device, batch_size: int = 0, **more: Any
    ) -> objectives.Objective:
        """Return what evaluates cells, as a worker makes it; a batch size of 0 is automatic.

        ``more`` are other fields of `EvaluationSettings`.
        """
        settings = objectives.EvaluationSettings(
            device=device,
            precision=precision,
            batch_size=batch_size
            or devices.automatic_batch_size(self.shape, device.type, devices.memory_of(device)),
            **more,
        )
        loss = losses.loss_function("cross_entropy", job_folder=Path())
        model = copy.deepcopy(self.model)
        return objectives.Objective(model, self.dataset, loss, self.directions, settings)

    def naive(self) -> reference.Loop:
        """Return the reference loop over the same cells."""
        split = self.dataset.splits["train"]
        pair = [self.directions[axis] for axis in ("alpha", "beta")]
        return reference.Loop(
            copy.deepcopy(self.model),
            reference.Images(data.lone(split.x), data.lone(split.y)),
            pair,
        )


def make(
    arch: str,
    samples: int,
    args: dict[str, object] | None = None,
    shape: tuple[int, int, int] = SHAPE,
) -> Workload:
    """Return a network that a job may name, and so many images (C, H, W), from fixed seeds."""
    torch.manual_seed(0)
    spec = ModelSpec(arch=arch, args=args or {})
    model = models.build(spec, channels=shape[0], classes=10, size=shape[1:], job_folder=Path())
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (samples, *shape), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, 10, (samples,), generator=generator)
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (reference.MEAN, reference.STD))
    dataset = data.Dataset(splits={"train": data.Split(x, y)}, mean=mean, std=std, classes=10)
    few = data.standardized(x[: 32 if shape == SHAPE else 4], dataset, torch.float32)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(few)
    with torch.no_grad():
        model.train()(few)  # running statistics of something like these activations
    centre = {n: p.detach() for n, p in model.named_parameters() if p.ndim > 1}
    drawn = {
        axis: directions.normalized(directions.draw(centre, seed=1, axis=number), centre, "filter")
        for number, axis in enumerate(("alpha", "beta"))
    }
    flop = counter.get_total_flops() / len(few)
    return Workload(arch, args or {}, model.eval(), dataset, flop, drawn)


def cells(count: int) -> list[Cell]:
    """Return cells near the centre, each one different."""
    return [Cell(0.01 * (i + 1), -0.01 * i) for i in range(count)]
