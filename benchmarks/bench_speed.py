"""How near one thread's cells come to what this machine can do, against what one writes first.

- fraction of peak: operations per second of whole cells (`Objective.losses`: displacement,
  folding, forward pass, losses, reduction) over those of this machine's best 3x3 convolution in
  the same precision, run in the same turn.
- overhead: a cell whose forward pass takes no time, i.e. everything else.
- precision error: of the mean loss, relative to the network's own float32.
- reference: a data loader, PIL, `load_state_dict` per cell, eager float32, see `reference.py`.
- ranks and start: whole runs of `lsengine eval`, alone and under mpirun, from their files.

All times but those of whole runs are processor times of this one thread; all variants take turns.
With `--device cuda` it compares networks of the zoo and of torchvision with a user's own loop on
the card instead, in all precisions, see `own_loop.py`; `roofline.py` has ResNet-110.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import harness  # first: it imports MPI before HDF5
import launches
import own_loop
import torch
import workloads
from torch import Tensor
from torch.nn import functional as F

from lsengine import devices, objective
from lsengine.objective.forward import ForwardPass
from lsengine.surface.grid import Cell

CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NETWORKS: tuple[tuple[str, int, dict[str, object]], ...] = (
    ("resnet20", 512, {}),
    ("resnet56", 256, {}),
    ("resnet110", 128, {}),
    ("vgg9", 256, {}),
    ("wrn56_2", 64, {}),
    ("densenet121", 64, {}),
    ("mlp", 8192, {"hidden": [512, 512]}),
)
PEAK_SHAPES = ((64, 8, 64), (64, 8, 256), (64, 16, 64), (128, 8, 64), (256, 8, 64))
"""Channels, height and width, images."""
TARGETS = {"float32": 0.88, "bfloat16": 0.82}
TARGETED = ("resnet20", "resnet56")
SPEEDUPS = {"float32": 1.6, "bfloat16": 3.2}
OVERHEAD_S = 1e-3  # 1 % of a cell of 100 ms


def main() -> None:
    """Print the tables and a line of JSON."""
    parser = harness.arguments(__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--only", default="", help="some networks, with commas between")
    parser.add_argument("--no-runs", action="store_true", help="no runs of lsengine eval")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds, with --device cuda")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    if options.device == "cuda":
        sys.exit(own_loop.main())
    torch.set_num_threads(1)
    devices.tune_malloc()
    repeats = 2 if options.quick else options.repeats
    chosen = options.only.split(",") if options.only else [name for name, *_ in NETWORKS]
    share = 16 if options.quick else 1
    sizes = {name: max(8, count // share) for name, count, _ in NETWORKS if name in chosen}
    precisions = [p for p in DTYPES if p == "float32" or p in devices.fast_precisions(CPU)]
    peaks = {p: best_convolution(DTYPES[p], repeats) for p in precisions}
    results = []
    for name, _, args in NETWORKS:
        if name in sizes:
            work = workloads.make(name, sizes[name], args)
            results.append(network_figures(work, peaks, repeats))
            print(f"# {name} done", file=sys.stderr, flush=True)
    over = overhead(repeats * 2)
    small = 5000 // (share * 4 if options.quick else 1)
    naive = against_reference(small, precisions, 1 if options.quick else max(3, repeats // 3))
    runs = [] if options.no_runs else launches.measured(quick=options.quick)
    facts = harness.context(load, threads=1, networks=sizes, reference_images=small)
    record = {
        "context": facts,
        "peak": {p: {"shape": peak[1], **peak[2]} for p, peak in peaks.items()},
        "networks": results,
        "overhead": over,
        "reference": naive,
        "runs": runs,
    }
    header = ["network", "images", "MFLOP/image"]
    for p in precisions:
        header += [f"{p}, GFLOP/s", "of the peak"]
    header += ["error of bfloat16", "peak memory, MiB"]
    notes = [_peak_note(p, peak) for p, peak in peaks.items()]
    notes += [*_overhead_notes(over), *_reference_notes(naive), *_target_notes(results, precisions)]
    notes += [launches.note(run) for run in runs]
    rows = [_row(result, precisions) for result in results]
    harness.print_report("bench_speed", header, rows, notes, record)


Peak = tuple[Callable[[], object], tuple[int, int, int], dict[str, float], float]
"""The convolution, its shape, GFLOP/s, and its operations."""


def best_convolution(dtype: torch.dtype, repeats: int) -> Peak:
    """Return the fastest of some 3x3 convolutions, channels-last, repeated for about 20 ms."""
    found = []
    for channels, side, images in PEAK_SHAPES:
        x, weight = (
            torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)
            for shape in ((images, channels, side, side), (channels, channels, 3, 3))
        )
        bias = torch.randn(channels).to(dtype)
        flop = 2 * 9 * channels**2 * images * side**2
        rounds = max(1, int(2e9 / flop))

        def convolve(x: Tensor = x, w: Tensor = weight, b: Tensor = bias, n: int = rounds) -> None:
            with torch.inference_mode():
                for _ in range(n):
                    F.conv2d(x, w, b, padding=1)

        convolve()
        seconds = [cpu_s(convolve) for _ in range(max(5, repeats))]
        figures = harness.summary([flop * rounds / s / 1e9 for s in seconds])
        found.append((convolve, (channels, side, images), figures, float(flop * rounds)))
    return max(found, key=lambda peak: peak[2]["median"])


def network_figures(
    work: workloads.Workload, peaks: dict[str, Peak], repeats: int
) -> dict[str, Any]:
    """Time a network's cells in all precisions and the peaks' convolutions in turns."""
    _forget_peak_memory()
    before_mib = _peak_memory_mib()
    evaluators = {p: work.objective(p, CPU) for p in peaks}
    flop = work.flop * work.samples
    rates: dict[str, list[float]] = {p: [] for p in peaks}
    fractions: dict[str, list[float]] = {p: [] for p in peaks}
    for turn, cell in enumerate(workloads.cells(repeats + 1)):
        for p, evaluator in evaluators.items():
            convolve, _, _, peak_flop = peaks[p]
            around = [cpu_s(convolve)]
            seconds = cpu_s(partial(evaluator.losses, cell))
            around.append(cpu_s(convolve))
            if turn:  # the first is for warming up
                rates[p].append(flop / seconds / 1e9)
                fractions[p].append(rates[p][-1] / (peak_flop / (sum(around) / 2) / 1e9))
    result: dict[str, Any] = {
        "network": work.name,
        "samples": work.samples,
        "batch_size": {p: e.batch_size for p, e in evaluators.items()},
        "flop_per_image": work.flop,
        "gflop_per_s": {p: harness.summary(r) for p, r in rates.items()},
        "fraction": {p: harness.summary(f) for p, f in fractions.items()},
        "peak_mib": _peak_memory_mib(),
        "peak_mib_before": before_mib,
    }
    if "bfloat16" in evaluators:
        result["bfloat16_error"] = precision_error(evaluators["bfloat16"])
    return result


def precision_error(evaluator: objective.Objective) -> float:
    """Return the largest relative error of the mean loss at the centre and away from it."""
    errors = []
    for cell in (Cell(0.0), Cell(0.5, 0.5)):
        exact, fast = evaluator.exact_losses(cell), evaluator.losses(cell)
        errors.append(abs(fast["train_loss"] / exact["train_loss"] - 1))
    return max(errors)


class _Instant(ForwardPass):
    """A network that has its answers ready, so that the rest of a cell can be timed."""

    def __init__(self, forward: ForwardPass) -> None:
        self._forward = forward
        self._logits: dict[int, Tensor] = {}

    def __call__(self, inputs: Tensor) -> Tensor:
        count = len(inputs)
        if count not in self._logits:
            self._logits[count] = self._forward(inputs)
        return self._logits[count]


def overhead(repeats: int) -> dict[str, Any]:
    """Time everything but the forward pass of cells that take about 100 ms."""
    found: dict[str, Any] = {}
    for p, images in (("float32", 128), ("bfloat16", 256)):
        if p != "float32" and p not in devices.fast_precisions(CPU):
            continue
        work = workloads.make("resnet20", images)
        evaluator, bare = work.objective(p, CPU), work.objective(p, CPU)
        bare.losses(Cell(0.0))
        bare._network.forward = _Instant(bare._network.forward)
        whole, rest = [], []
        for turn, cell in enumerate(workloads.cells(repeats + 1)):
            both = [cpu_s(partial(e.losses, cell)) for e in (evaluator, bare)]
            if turn:
                whole.append(both[0])
                rest.append(both[1])
        found[p] = {
            "images": images,
            "cell_s": harness.summary(whole),
            "overhead_s": harness.summary(rest),
        }
    return found


def against_reference(images: int, precisions: list[str], repeats: int) -> dict[str, Any]:
    """Time cells of ResNet-20 in turns with the reference loop's; and compare the values."""
    work = workloads.make("resnet20", images)
    naive = work.naive()
    evaluators = {p: work.objective(p, CPU) for p in precisions}
    seconds: dict[str, list[float]] = {name: [] for name in ("reference", *precisions)}
    off = 0.0
    for p, evaluator in evaluators.items():
        seconds[p].append(cpu_s(partial(evaluator.losses, Cell(0.0))))  # warm
        seconds[p].clear()
    for cell in workloads.cells(repeats):
        values: list[float] = []
        start = time.process_time()
        values.append(naive.evaluate(cell.alpha, cell.beta)[0])
        seconds["reference"].append(time.process_time() - start)
        for p, evaluator in evaluators.items():
            start = time.process_time()
            metrics = evaluator.losses(cell)
            seconds[p].append(time.process_time() - start)
            if p == "float32":
                values.append(metrics["train_loss"])
        off = max(off, abs(values[1] / values[0] - 1))
    pairs = {p: zip(seconds["reference"], seconds[p], strict=True) for p in precisions}
    return {
        "images": images,
        "cell_s": {name: harness.summary(s) for name, s in seconds.items()},
        "speedup": {p: harness.summary([a / b for a, b in pair]) for p, pair in pairs.items()},
        "float32_off": off,
    }


def cpu_s(action: Callable[[], object]) -> float:
    """Return the processor time of this process for an action."""
    start = time.process_time()
    action()
    return time.process_time() - start


def _row(result: dict[str, Any], precisions: list[str]) -> list[str]:
    row = [result["network"], str(result["samples"]), f"{result['flop_per_image'] / 1e6:.1f}"]
    for p in precisions:
        row.append(harness.shown(result["gflop_per_s"][p], ".0f"))
        row.append(harness.shown(result["fraction"][p], ".2f"))
    error = result.get("bfloat16_error")
    return [*row, "-" if error is None else f"{error:.1e}", f"{result['peak_mib']:.0f}"]


def _peak_note(precision: str, peak: Peak) -> str:
    channels, side, images = peak[1]
    return (
        f"peak, {precision}: {harness.shown(peak[2], '.0f')} GFLOP/s, 3x3 convolution of "
        f"{channels} channels at {side}x{side}, {images} images"
    )


def _overhead_notes(found: dict[str, Any]) -> list[str]:
    return [
        f"outside the forward pass, {p}: {harness.shown(f['overhead_s'], '.2f', 1e3)} ms of a cell "
        f"of {f['cell_s']['median'] * 1e3:.0f} ms; target {OVERHEAD_S * 1e3:g} ms: "
        f"{_verdict(f['overhead_s']['median'] <= OVERHEAD_S)}"
        for p, f in found.items()
    ]


def _reference_notes(found: dict[str, Any]) -> list[str]:
    cell_s = found["cell_s"]
    return [
        f"reference: {harness.shown(cell_s['reference'], '.2f')} s per cell of {found['images']} "
        f"images, ResNet-20; float32 values differ by {found['float32_off']:.1e}",
        *(
            f"  {p}: {harness.shown(cell_s[p], '.2f')} s, {harness.shown(ratio, '.2f')} times as "
            f"fast; target {SPEEDUPS[p]}: {_verdict(ratio['median'] >= SPEEDUPS[p])}"
            for p, ratio in found["speedup"].items()
        ),
    ]


def _target_notes(results: list[dict[str, Any]], precisions: list[str]) -> list[str]:
    return [
        f"{result['network']}, {p}: {result['fraction'][p]['median']:.3f} of the peak; target "
        f"{TARGETS[p]}: {_verdict(result['fraction'][p]['median'] >= TARGETS[p])}"
        for result in results
        for p in precisions
        if result["network"] in TARGETED
    ]


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _forget_peak_memory() -> None:
    """Let Linux count the peak anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mib() -> float:
    """Return the largest resident size since it was forgotten; NaN where it is not known."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 2**10
    return float("nan")


if __name__ == "__main__":
    main()
