"""ResNet-110 on a card: cells in every precision, against the card's limits and a user's loop.

A residual network of CIFAR is bound by memory, not by arithmetic: layer by layer, ResNet-110
reads and writes about 5 MB of activations per image in bfloat16, and twice that in float32.  What
the measured copy bandwidth would allow for that is the roofline.

Also: what the size of batches and the place of the data do to a cell, and Hessian-vector products
of ResNet-20, whose numbers are compared with a product in float64 by two backward passes.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import bench_residence
import harness
import own_loop
import torch
import workloads
from own_loop import Figures, tell
from torch import Tensor
from torch.nn import functional as F

from lsengine import data, devices
from lsengine import objective as objectives
from lsengine.objective.residence import RESIDENCES
from lsengine.surface.grid import Cell

IMAGES, CELLS = 50_000, 51 * 51
BYTES_PER_IMAGE = 5.1e6  # of 16-bit numbers
PRECISIONS = ("float32", "bfloat16", "tf32", "float16")
GOALS_MS = {
    "float32": (850, 400),
    "tf32": (420, 250),
    "float16": (190, 115),
    "bfloat16": (190, 115),
    "product": (160, 60),
}
"""What a cell of ResNet-110 must take on an H200, and what is aimed at."""


class Table:
    """All figures of a device, each told when it is there.

    Args:
        device: To measure.
        limit_s: Seconds, after which no more figures are begun.
        small: Whether few images of a small network are enough.
    """

    def __init__(self, device: torch.device, limit_s: float, *, small: bool) -> None:
        self._device, self._small = device, small
        self._start, self._limit_s = time.monotonic(), limit_s
        self._arch, self._images = ("resnet20", 8) if small else ("resnet110", IMAGES)
        self._gb_per_s = float("nan")

    def measure(self) -> int:
        """Tell all figures for which there is time; return how many failed."""
        failed, first = 0, (self._machine, self._cells, self._product)
        for step in (*first, self._batches, self._residences):
            try:
                for figure in step():
                    tell(figure)
            except Exception:
                # One kind of figures must not cost the others.
                traceback.print_exc()
                tell(own_loop.note(f"Failed: {traceback.format_exc().splitlines()[-1]}"))
                failed += 1
        return failed

    def _until(self, share: float) -> float:
        return self._start + share * self._limit_s

    def _machine(self) -> Iterator[Figures]:
        size = 64 if self._small else 8192
        self._gb_per_s = copy_bandwidth(self._device, 2**16 if self._small else 2**28) / 1e9
        a, b = (torch.randn(size, size, device=self._device).bfloat16() for _ in range(2))
        rate = 10 * 2 * size**3 / self._best(lambda: [a @ b for _ in range(10)]) / 1e12
        figure: Figures = {"figure": "machine", "network": self._arch, "images": self._images}
        yield figure | {"gb_per_s": self._gb_per_s, "tflop_per_s": rate}

    def _best(self, action: Callable[[], object]) -> float:
        """Return the least of some wall times, after one that does not count."""
        times = [own_loop.timed(action, self._device) for _ in range(4)]
        return min(times[1:])

    def _cells(self) -> Iterator[Figures]:
        work, base = workloads.make(self._arch, self._images), dict[Cell, float]()
        for number, precision in enumerate(PRECISIONS):
            if time.monotonic() > self._until(0.85):
                yield own_loop.note(f"No time was left for cells in {precision}.")
                continue
            figure = own_loop.compared(
                work,
                precision,
                self._device,
                base=base,
                end=self._until(0.7 * (number + 1) / len(PRECISIONS)),
                turns=1 if self._small else 5,
            )
            size = BYTES_PER_IMAGE * (1 if precision in ("bfloat16", "float16") else 2)
            bound_ms = self._images * size / self._gb_per_s / 1e6
            ours = figure["ours_ms"]
            figure["roofline"] = {k: bound_ms / ours[k] for k in ("median", "low", "high")}
            figure["plane_min"] = ours["median"] * CELLS * IMAGES / self._images / 6e4
            yield figure | self._goals(precision)

    def _goals(self, name: str) -> Figures:
        if self._small:
            return {}
        must, aim = GOALS_MS[name]
        return {"must_ms": must, "aim_ms": aim}

    def _batches(self) -> Iterator[Figures]:
        images, sizes = (8, (4, 8)) if self._small else (16_384, (256, 1024, 4096, 8192))
        work = workloads.make(self._arch, images)
        for precision in ("bfloat16", "float32"):
            for size in sizes:
                if time.monotonic() > self._until(1):
                    yield own_loop.note(f"No time was left for {precision} by {size}.")
                    continue
                own_loop.forget(self._device)
                evaluator = work.objective(precision, self._device, size)
                seconds = [
                    own_loop.timed(partial(evaluator.losses, cell), self._device)
                    for cell in workloads.cells(4)
                ][1:]
                figure: Figures = {"figure": "batch", "network": self._arch, "images": images}
                figure |= {"precision": precision, "batch_size": evaluator.batch_size}
                yield figure | {"ours_ms": own_loop.in_ms(seconds)}

    def _residences(self) -> Iterator[Figures]:
        if time.monotonic() > self._until(1):
            yield own_loop.note("No time was left for the places of data.")
            return
        images, side = (8, 32) if self._small else (2048, 224)
        own_loop.forget(self._device)
        with tempfile.TemporaryDirectory() as folder:
            stored = bench_residence.drawn(Path(folder) / "images.npy", images, side)
            found: dict[str, objectives.Objective] = {
                place: bench_residence.evaluated(stored, self._device, "bfloat16", place)
                for place in RESIDENCES
            }
            rows = bench_residence.measured(found, repeats=2)  # raises if values differ
        for place, row in rows.items():
            figure: Figures = {"figure": "residence", "network": "resnet20", "place": place}
            yield figure | {"images": images, "size": side, "ours_ms": row["cell_ms"]}

    def _product(self) -> Iterator[Figures]:
        work = workloads.make("resnet20", 8 if self._small else 4096)
        own_loop.forget(self._device)
        devices.use_deterministic_kernels()
        cell = workloads.cells(1)[0]
        exact = OwnProduct(work, self._device, cell, torch.float64)
        own = OwnProduct(work, self._device, cell, torch.float32)
        vector = torch.randn(exact.size, generator=torch.Generator().manual_seed(0))
        vector = (vector / vector.norm()).to(self._device)
        expected = exact(vector.double())
        ways: dict[str, Callable[[Tensor], Tensor]] = {"two backward passes, eager, float32": own}
        for precision in ("float32", "tf32"):
            rounds = precision == "tf32"
            evaluator = work.objective("float32", self._device, tf32_products=rounds)
            ways[f"lsengine, {precision}"] = evaluator.hessian(cell)
        for way, product in ways.items():
            found, seconds = [product(vector)], []
            for _ in range(2 if self._small else 5):
                seconds.append(own_loop.timed(partial(_keep, found, product, vector), self._device))
            off = float((found[0].double() - expected).norm() / expected.norm())
            figure: Figures = {"figure": "product", "images": work.samples, "way": way}
            figure |= {"ms": own_loop.in_ms(seconds), "off": f"{off:.1e}"}
            figure["same_bytes"] = all(torch.equal(f, found[0]) for f in found)
            yield figure | (self._goals("product") if way == "lsengine, float32" else {})
        devices.use_deterministic_kernels(False)


def _keep(found: list[Tensor], product: Callable[[Tensor], Tensor], vector: Tensor) -> None:
    found.append(product(vector))


class OwnProduct:
    """Products with the Hessian of the mean loss at a cell, by two backward passes.

    Row-major, eager, without TF32, by all parameters in the network's order, of which there are
    ``size`` numbers.
    """

    def __init__(
        self, work: workloads.Workload, device: torch.device, cell: Cell, dtype: torch.dtype
    ) -> None:
        self._network = copy.deepcopy(work.model).to(device, dtype).eval()
        with torch.no_grad():
            for name, parameter in self._network.named_parameters():
                for step, axis in ((cell.alpha, "alpha"), (cell.beta, "beta")):
                    if name in work.directions[axis]:
                        parameter.add_(step * work.directions[axis][name].to(device, dtype))
        split = work.dataset.splits["train"]
        self.size = sum(p.numel() for p in self._network.parameters())
        self._inputs = data.standardized(data.lone(split.x).to(device), work.dataset, dtype).split(
            1024
        )
        self._targets, self._count = data.lone(split.y).to(device).split(1024), len(split)

    def __call__(self, vector_P: Tensor) -> Tensor:
        """Return the product with a vector."""
        parameters = list(self._network.parameters())
        total_P = torch.zeros_like(vector_P)
        with devices.tf32(False):
            for inputs, targets in zip(self._inputs, self._targets, strict=True):
                loss = F.cross_entropy(self._network(inputs), targets, reduction="sum")
                gradient = torch.autograd.grad(loss / self._count, parameters, create_graph=True)
                along = torch.cat([g.flatten() for g in gradient]) @ vector_P
                product = torch.autograd.grad(along, parameters)
                total_P.add_(torch.cat([p.flatten() for p in product]))
        return total_P


def copy_bandwidth(device: torch.device, numbers: int) -> float:
    """Return bytes read and written per second by copies of float32 numbers; the best of some."""
    source = torch.empty(numbers, device=device)
    target = torch.empty_like(source)

    def copy_often() -> None:
        for _ in range(20):
            target.copy_(source)

    seconds = [own_loop.timed(copy_often, device) for _ in range(6)]
    return 20 * 2 * source.numel() * source.element_size() / min(seconds[1:])


def main() -> int:
    """Print all figures as lines of JSON; return 1 if some failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="a small network: a smoke test")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds; the rest is left out")
    options = parser.parse_args()
    table = Table(own_loop.device_of(options.device), options.limit, small=options.quick)
    return int(table.measure() > 0)


if __name__ == "__main__":
    assert harness.ROOT  # imported first: MPI before HDF5
    sys.exit(main())
