"""Cells on a card by lsengine, and by the ten lines that a user would write, in turns.

The user's loop has its data on the card, normalised, and runs the network as it is, row-major or
channels-last, batch by batch.  It is what lsengine has to beat for every network and precision:
``times as fast`` is the time of the faster of both layouts over lsengine's.  Values are compared,
too: ``loss off`` is how far lsengine's mean loss is from that of the user's float32 loop.

`bench_speed.py --device cuda` runs this for networks of the zoo and of torchvision.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import harness
import torch
import workloads
from torch.nn import functional as F

from lsengine import data, devices
from lsengine.surface.grid import Cell

Figures = dict[str, Any]
PRECISIONS = ("float32", "bfloat16", "tf32", "float16")
SMALL, LARGE = (3, 32, 32), (3, 224, 224)
NETWORKS: tuple[tuple[str, dict[str, object]], ...] = (
    ("resnet20", {}),
    ("vgg9", {}),
    ("mlp", {"hidden": [512, 512]}),
    ("resnet56", {}),
    ("wrn56_2", {}),
    ("densenet121", {}),
    ("resnet18", {}),
    ("torchvision:resnet18", {}),
    ("torchvision:resnet50", {}),
    ("torchvision:vit_b_16", {}),
    ("torchvision:mobilenet_v3_large", {}),
    ("torchvision:convnext_tiny", {}),
    ("torchvision:efficientnet_b0", {}),
    ("torchvision:swin_t", {}),
    ("torchvision:densenet121", {}),
    ("torchvision:vgg16", {}),
)
KINDS = ("ours_ms", "eager_ms", "channels_last_ms")
_FLOP_OF_A_CELL = 2e12  # 0.1 s in float32 on an H200
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


class OwnLoop:
    """A user's loop over the cells of a workload, on one device.

    Args:
        work: Network, data and directions; copied.
        precision: As in a job.
        channels_last: The layout of images and filters; else row-major.
    """

    def __init__(
        self,
        work: workloads.Workload,
        precision: str,
        device: torch.device,
        *,
        channels_last: bool = False,
    ) -> None:
        dtype = _DTYPES.get(precision, torch.float32)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self._tf32 = precision == "tf32"
        split = work.dataset.splits["train"]
        inputs = data.standardized(data.lone(split.x).to(device), work.dataset, dtype)
        size = 1024 if max(inputs.shape[2:]) <= 32 else 128
        self._batches = [x.contiguous(memory_format=layout) for x in inputs.split(size)]
        self._targets = data.lone(split.y).to(device).split(size)
        self._count = len(inputs)
        wide = torch.float64 if precision == "float64" else torch.float32
        network: Any = copy.deepcopy(work.model).to(device, wide).eval()
        self._centre = {n: p.detach().clone() for n, p in network.named_parameters()}
        self._directions = [
            {n: t.to(device, wide) for n, t in work.directions[axis].items()}
            for axis in ("alpha", "beta")
        ]
        self._network = network.to(dtype=dtype, memory_format=layout)

    def loss(self, cell: Cell) -> float:
        """Return the mean loss of a cell."""
        with torch.inference_mode(), devices.tf32(self._tf32):
            for name, parameter in self._network.named_parameters():
                moved = self._centre[name]
                for step, direction in zip((cell.alpha, cell.beta), self._directions, strict=True):
                    if name in direction:
                        moved = moved + step * direction[name]
                parameter.copy_(moved)
            total = torch.zeros((), dtype=torch.float64, device=self._targets[0].device)
            for inputs, targets in zip(self._batches, self._targets, strict=True):
                logits = self._network(inputs)
                logits = logits if logits.dtype == torch.float64 else logits.float()
                total += F.cross_entropy(logits, targets, reduction="sum")
            return float(total) / self._count


def compared(
    work: workloads.Workload,
    precision: str,
    device: torch.device,
    *,
    base: dict[Cell, float],
    end: float,
    turns: int,
) -> Figures:
    """Time a network's cells in one precision by lsengine and by both loops, in turns.

    At least one turn is measured, and no more begin after the time ``end`` (`time.monotonic`).
    ``base`` has the losses of the row-major float32 loop by cell, which the turns in float32 fill.
    """
    forget(device)
    evaluator, first = work.objective(precision, device), workloads.cells(1)[0]
    first_s = timed(partial(evaluator.losses, first), device)  # compiles
    figure: Figures = {"figure": "cell", "network": work.name, "images": work.samples}
    figure |= {"precision": precision, "batch_size": evaluator.batch_size}
    figure |= {"forward": str(evaluator.forward), "first_s": first_s}
    figure["peak_mib"] = peak_mib(device)
    ways: dict[str, Callable[[Cell], float]] = {
        "ours": lambda cell: evaluator.losses(cell)["train_loss"],
        "eager": OwnLoop(work, precision, device).loss,
        "channels_last": OwnLoop(work, precision, device, channels_last=True).loss,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    off = float("nan")
    for turn, cell in enumerate(workloads.cells(turns + 1)):
        losses: dict[str, float] = {}
        for name, way in list(ways.items()):
            try:
                taken = timed(partial(_keep, losses, name, way, cell), device)
            except RuntimeError as error:
                if name == "ours":
                    raise
                # A network may insist on one layout.
                print(f"# {work.name}, {precision}, {name}: {error}", file=sys.stderr)
                del ways[name]
                continue
            if turn:  # the first is for warming up
                seconds[name].append(taken)
        if precision == "float32" and "eager" in losses:
            base[cell] = losses["eager"]
        if cell in base:
            off = max(abs(losses["ours"] / base[cell] - 1), 0.0 if math.isnan(off) else off)
        if turn and time.monotonic() > end:
            break
    del ways
    theirs = [s for name, s in seconds.items() if name != "ours" and s]
    own = [min(pair) for pair in zip(*theirs, strict=True)]
    ratio = [a / b for a, b in zip(own, seconds["ours"], strict=True)]
    ours = harness.summary(seconds["ours"])
    figure |= {f"{name}_ms": in_ms(s) for name, s in seconds.items()}
    figure |= {"ratio": harness.summary(ratio), "off": off}
    figure["tflop_per_s"] = work.flop * work.samples / ours["median"] / 1e12
    return figure


def _keep(losses: dict[str, float], name: str, way: Callable[[Cell], float], cell: Cell) -> None:
    losses[name] = way(cell)


def timed(action: Callable[[], object], device: torch.device) -> float:
    """Return the wall time of an action, with everything on the device done."""
    synchronize(device)
    start = time.perf_counter()
    action()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until everything on a card is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def forget(device: torch.device) -> None:
    """Give back what earlier figures took on the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_mib(device: torch.device) -> float:
    """Return the most that was allocated on a card since `forget`; 0 without card."""
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0.0


def in_ms(seconds: Sequence[float]) -> dict[str, float] | None:
    """Return a summary in milliseconds; None of nothing."""
    return harness.summary([s * 1e3 for s in seconds]) if seconds else None


def tell(figure: Figures) -> None:
    """Print a figure as a line of JSON, for programs that wait for it."""
    print(json.dumps(harness.rounded(figure)), flush=True)


def images_for(flop: float) -> int:
    """Return how many images make a cell of about 0.1 s of arithmetic, a power of two."""
    return max(128, min(8192, 1 << int(math.log2(max(1.0, _FLOP_OF_A_CELL / flop)))))


def device_of(kind: str) -> torch.device:
    """Return the device to measure; end the program if it is not there."""
    if kind == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda, but torch sees no such device here")
    if kind == "cuda":
        torch.cuda.init()  # the counters of memory are not there before
        return torch.device("cuda", 0)
    return torch.device(kind)


def measure(
    device: torch.device, names: Sequence[str], limit_s: float, *, quick: bool
) -> list[Figures]:
    """Compare networks, the precisions that matter most first; tell each figure, and return all."""
    end, figures = time.monotonic() + limit_s, []
    made: dict[str, tuple[workloads.Workload, dict[Cell, float]]] = {}
    late: list[str] = []
    chosen = [(n, a) for n, a in NETWORKS if not names or n in names]
    groups = (PRECISIONS[:2], PRECISIONS[2:])
    for precisions in groups:
        for name, args in chosen:
            for precision in precisions:
                if time.monotonic() > end:
                    late.append(f"{name} {precision}")
                    continue
                try:
                    if name not in made:
                        made[name] = _make(name, args, quick), {}
                    work, base = made[name]
                    figure = compared(
                        work, precision, device, base=base, end=end, turns=1 if quick else 5
                    )
                except Exception as error:
                    # One network must not cost the others their figures.
                    figure = {"figure": "failure", "network": name, "precision": precision}
                    figure["error"] = f"{type(error).__name__}: {error}"
                figures.append(figure)
                tell(figure)
    slower = [
        f"{f['network']} {f['precision']}"
        for f in figures
        if f["figure"] == "cell" and f["ratio"]["median"] < 1
    ]
    tell(note(f"Slower than the user's own loop: {', '.join(slower) or 'none'}."))
    if late:
        tell(note(f"No time was left for {', '.join(late)}."))
    return figures


def note(text: str) -> Figures:
    """Return a sentence as a figure."""
    return {"figure": "note", "text": text}


def _make(name: str, args: dict[str, object], quick: bool) -> workloads.Workload:
    shape = LARGE if name.startswith("torchvision:") else SMALL
    if quick:
        return workloads.make(name, 2, args, shape)
    return workloads.make(name, images_for(workloads.make(name, 8, args, shape).flop), args, shape)


def main() -> int:
    """Print a table and lines of JSON; return 1 if a network failed."""
    parser = harness.arguments(__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--only", default="", help="some networks, with commas between")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds; the rest is left out")
    options, _ = parser.parse_known_args()
    load = os.getloadavg()[0]
    device = device_of(options.device)
    only = [name for name in options.only.split(",") if name]
    if options.quick and not only:
        only = ["mlp", "torchvision:resnet18"]
    figures = measure(device, only, options.limit, quick=options.quick)
    cells = [f for f in figures if f["figure"] == "cell"]
    rows = [
        [
            *(f["network"], str(f["images"]), f["precision"], f["forward"]),
            *(harness.shown(f[k], ".4g") if f[k] else "-" for k in KINDS),
            *(harness.shown(f["ratio"], ".2f"), f"{f['off']:.1e}"),
        ]
        for f in cells
    ]
    failures = [f for f in figures if f["figure"] == "failure"]
    notes = [f"{f['network']}, {f['precision']}: {f['error']}" for f in failures]
    header = ["network", "images", "precision", "forward", "ours, ms", "own loop, ms"]
    header += ["channels-last, ms", "times as fast", "loss off"]
    record = {"context": harness.context(load, device=name_of(device)), "results": figures}
    harness.print_report("bench_speed --device cuda", header, rows, notes, record)
    return int(bool(failures))


def name_of(device: torch.device) -> str:
    """Return what the device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
