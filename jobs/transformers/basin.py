"""How far the basin reaches along most directions, and along the worst: a table and a figure.

    python jobs/transformers/basin.py FIGURE.png [RISE]

A radius is the distance at which the test loss first passes its value at the centre by RISE (0.1
nats), linear between cells.  Distances are Euclidean, of all weights that move.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

import lsengine
from lsengine.render.style import ORDER, find

ROOT = Path(__file__).resolve().parents[2]
SURFACES = ROOT / "surfaces" / "transformers"
CENTRE = ROOT / "checkpoints" / "transformers" / "characters-whole" / "epoch_008.pt"
WORST = {"worst-sharpest": "Hessian eigenvector", "worst-ascent": "steepest ascent"}
Line = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def radius(distance: NDArray[np.float64], loss: NDArray[np.float64], rise: float) -> float:
    """Return where the loss first is ``rise`` above its first value; infinity if nowhere."""
    above = loss - loss[0] - rise
    passed = np.flatnonzero(above > 0)
    if not len(passed):
        return float("inf")
    k = passed[0]
    share = above[k - 1] / (above[k - 1] - above[k])
    return float(distance[k - 1] + share * (distance[k] - distance[k - 1]))


def lines(rise: float) -> dict[str, list[Line]]:
    """Return distance, loss and accuracy by kind of direction, outwards from the centre.

    Of a direction's two ways the worse one is taken, with the smaller radius.
    """
    state = torch.load(CENTRE)["state_dict"].values()
    moved = sum(weight.numel() for weight in state if weight.ndim > 1)
    noise = lsengine.open(SURFACES / "most.h5")
    loss, accuracy = noise.masked("test_loss"), noise.masked("test_accuracy")
    distance = noise.alpha * moved**0.5  # of noise with this standard deviation
    found = {"random": [(distance, *pair) for pair in zip(loss, accuracy, strict=True)]}
    for name, label in WORST.items():
        line = lsengine.open(SURFACES / f"{name}.h5")
        ways = []
        for side in (line.alpha >= 0, line.alpha <= 0):
            order = np.argsort(abs(line.alpha[side]))
            parts = (abs(line.alpha), line.masked("test_loss"), line.masked("test_accuracy"))
            ways.append(tuple(part[side][order] for part in parts))
        found[label] = [min(ways, key=lambda way: radius(way[0], way[1], rise))]
    return found


def drawn(found: dict[str, list[Line]], rise: float) -> Figure:
    """Draw loss and accuracy against the distance."""
    figure = Figure(figsize=(6.9, 2.9), layout="constrained")
    panels: tuple[Axes, Axes] = figure.subplots(1, 2)
    for (label, group), color in zip(found.items(), ORDER, strict=False):
        for axes, part in zip(panels, (1, 2), strict=True):
            for n, line in enumerate(group):
                width = 0.8 if len(group) > 1 else 1.6
                name = label if len(group) == 1 else f"{label}, {len(group)} directions"
                there = line[0] > 0  # the axis is logarithmic
                axes.plot(
                    *(line[0][there], line[part][there]),
                    **{"color": color, "linewidth": width, "label": "" if n else name},
                )
    level = next(iter(found.values()))[0][1][0] + rise
    panels[0].axhline(level, color="#555555", linewidth=0.8, linestyle=(0, (4, 2)))
    panels[0].set_ylabel("test loss (nats per character)")
    panels[1].set_ylabel("test accuracy")
    for axes in panels:
        axes.set(xlabel="distance from the trained weights", xscale="log")
        axes.grid(True, linewidth=0.4, alpha=0.4)
    panels[0].legend(frameon=False)
    return figure


def main(file: Path, rise: float) -> None:
    """Print the radii, and draw."""
    found = lines(rise)
    state = torch.load(CENTRE)["state_dict"].values()
    length = sum(w.square().sum() for w in state if w.ndim > 1).sqrt().item()
    print(f"length of the weights: {length:.2f}; radius at a rise of {rise:g}:")
    for label, group in found.items():
        radii = np.array([radius(line[0], line[1], rise) for line in group])
        share = np.median(radii) / length
        spread = f" ({radii.min():.3f} to {radii.max():.3f})" if len(radii) > 1 else ""
        print(f"  {label}: {np.median(radii):.3f}{spread}, {100 * share:.1f} % of the weights")
    with matplotlib.rc_context(find("paper").rc):
        drawn(found, rise).savefig(file, dpi=200)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.1)
