"""Pictures look as they did when somebody last looked at them.

After an intended change, draw the references anew and look at each:

    LSENGINE_REFERENCES=draw pytest tests/system/test_references.py
"""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lsengine import render
from lsengine.render.style import STYLES
from lsengine.surface import DONE, FAILED, PlaneCurve, Trajectory
from lsengine.surface.records import Bins, History, WeightHistograms
from tests.support.landscapes import cliffs, make_curve, make_plane

FOLDER = Path(__file__).parents[1] / "render" / "references"
DPI = 45
READABLE = {"contour-paper": 90, "surface-paper": 90, "histogram": 60, "connection": 60}
TOLERANCE = 1.5  # of 255, mean; letters and edges may move by a pixel, nothing else may
STRICT = 8.0  # nor may any sixteenth of the picture differ by more


def partial():
    """Return a plane with a corner missing, a failed cell and infinite ones."""
    status = np.full((21, 21), DONE, np.uint8)
    status[:8, 13:] = 0
    status[15, 5] = FAILED
    surface = make_plane(cliffs, status=status, name="partial")
    surface.quantities["train_loss"][19:, :2] = np.inf
    return surface


def walked():
    """Return a plane with a trajectory."""
    along = np.linspace(0, 1, 9)
    columns = {
        "alpha": -0.85 * (1 - along),
        "beta": 0.7 * (1 - along) ** 2,
        "epoch": np.arange(9),
        "learning_rate": np.where(along < 0.5, 0.1, 0.01),
    }
    return replace(make_plane(name="walked"), trajectory=Trajectory(columns))


def curved():
    """Return a plane with eigenvalues, of both signs, some not converged."""
    surface = make_plane(name="curved")
    a, b = np.meshgrid(surface.axes["alpha"], surface.axes["beta"])
    more = {
        "eigenvalue_min": 2 * a - 0.5 + b,
        "eigenvalue_max": 8 - 4 * (a**2 + b**2),
        "eigenvalue_min_residual": np.full(a.shape, 0.05),
        "converged": (a + b < 1.6).astype(float),
    }
    return replace(surface, quantities={**surface.quantities, **more})


def connected():
    """Return a plane with a trained curve between two minima."""
    t = np.linspace(0, 1, 21)[:, None]
    ends, bend = np.array([[-0.7, -0.3], [0.7, -0.3]]), np.array([[0.0, 0.9]])
    points = (1 - t) ** 2 * ends[:1] + 2 * t * (1 - t) * bend + t**2 * ends[1:]
    controls = np.concatenate([ends[:1], bend, ends[1:]])
    return replace(make_plane(name="connected"), curve=PlaneCurve(points, controls, np.zeros(3)))


def trained(name, drop):
    """Return a history whose learning rate drops once."""
    epoch = np.arange(31)
    rate = np.where(epoch <= drop, 0.1, 0.01)
    rate[0] = np.nan
    columns = {
        "epoch": epoch,
        "train_loss": 2.0 * np.exp(-epoch / drop),
        "test_loss": 2.0 * np.exp(-epoch / drop) + 0.1,
        "test_error": 0.9 * np.exp(-epoch / drop) + 0.02,
        "learning_rate": rate,
        "weight_norm": 10 + epoch / 10,
    }
    return History(
        columns=columns,
        parameters=("w",),
        layer_norms=np.ones((31, 1)),
        attributes={"epochs": 30},
        source=f"{name}.h5",
    )


def weighed():
    """Return the weights of two checkpoints, one twice as wide."""
    edges = np.linspace(-2, 2, 41)
    middle = (edges[1:] + edges[:-1]) / 2
    counts = [np.round(1e4 * np.exp(-((middle / w) ** 2)) / w) for w in (0.4, 0.8)]
    counts_KPN, ones = np.array(counts, int)[:, None], np.ones((2, 1), int)
    bins = Bins(
        edges=edges,
        parameters=("w",),
        counts=counts_KPN,
        sizes=ones,
        norms=np.array([[4.0], [8.0]]),
        not_finite=0 * ones,
    )
    return WeightHistograms(
        checkpoints=("before", "after"), groups={"weights": bins}, epochs=(0, 1)
    )


PLANE, OTHER = make_plane(cliffs, name="one"), make_plane(name="two")
PICTURES = {
    "contour": ([PLANE], {"kind": "contour"}),
    "contour-paper": ([PLANE], {"kind": "contour", "style": "paper"}),
    "filled": ([PLANE], {"kind": "filled"}),
    "filled-dark": ([PLANE], {"kind": "filled", "style": "dark"}),
    "filled-quantile": ([PLANE], {"kind": "filled", "scale": "quantile"}),
    "filled-two": ([PLANE, OTHER], {"kind": "filled"}),
    "filled-partial": ([partial()], {"kind": "filled"}),
    "filled-stand-in": ([partial()], {"kind": "filled", "filled": True}),
    "heatmap": ([PLANE], {"kind": "heatmap", "quantity": "test_accuracy"}),
    "heatmap-partial": ([partial()], {"kind": "heatmap"}),
    "surface": ([PLANE], {"kind": "surface"}),
    "surface-paper": ([PLANE], {"kind": "surface", "style": "paper"}),
    "surface-dark": ([OTHER], {"kind": "surface", "style": "dark"}),
    "curvature": ([curved()], {"kind": "curvature"}),
    "connection": ([connected()], {"kind": "contour"}),
    "history": ([trained("slow", 12), trained("quick", 6)], {"kind": "history"}),
    "histogram": ([weighed()], {"kind": "histogram"}),
    "lit": ([PLANE], {"kind": "surface", "style": "lit"}),
    "lit-two": ([PLANE, OTHER], {"kind": "surface", "style": "lit"}),
    "lit-stand-in": ([partial()], {"kind": "surface", "style": "lit", "filled": True}),
    "trajectory": ([walked()], {"kind": "trajectory"}),
    "curve": ([make_curve()], {"kind": "curve"}),
    "curve-repeats": ([make_curve(repeats=5)], {"kind": "curve", "quantity": "train_loss"}),
}


def drawn(name: str) -> Image.Image:
    """Return a small picture."""
    things, look = PICTURES[name]
    buffer = io.BytesIO()
    render.figure(things, **look).savefig(buffer, format="png", dpi=READABLE.get(name, DPI))
    return Image.open(buffer).convert("RGB")


def difference(one: Image.Image, other: Image.Image) -> tuple[float, float]:
    """Return the mean difference of two slightly blurred pictures, and that of the worst part."""
    if max(abs(a - b) for a, b in zip(one.size, other.size, strict=True)) > 3:
        return 255.0, 255.0
    size = min(one.width, other.width), min(one.height, other.height)
    blurred = (
        np.asarray(i.crop((0, 0, *size)).filter(ImageFilter.GaussianBlur(1.5)), float)
        for i in (one, other)
    )
    apart = np.abs(np.subtract(*blurred)).mean(axis=-1)
    parts = [p for row in np.array_split(apart, 4) for p in np.array_split(row, 4, axis=1)]
    return float(apart.mean()), float(max(p.mean() for p in parts))


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setitem(STYLES, "lit", replace(STYLES["lit"], dpi=90))


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_looks_as_it_did(name):
    """It differs from its reference by less than other fonts or drivers would make it."""
    path = FOLDER / f"{name}.png"
    if os.environ.get("LSENGINE_REFERENCES") == "draw":
        FOLDER.mkdir(exist_ok=True)
        drawn(name).save(path, optimize=True)
        pytest.skip("the reference was drawn; look at it")
    mean, worst = difference(drawn(name), Image.open(path).convert("RGB"))
    assert mean < TOLERANCE
    assert worst < STRICT


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("contour", {"levels": 5}),
        ("filled", {"scale": "linear"}),
        ("heatmap", {"quantity": "train_loss"}),
        ("filled-dark", {"style": "default"}),
        ("surface", {"limits": (0.1, 10.0)}),
        ("lit", {"limits": (0.1, 10.0)}),
        ("filled-partial", {"filled": True}),
    ],
)
def test_the_comparison_sees_what_a_reader_would(name, change):
    """Other levels, scales, quantities and clippings are beyond the tolerance."""
    things, look = PICTURES[name]
    buffer = io.BytesIO()
    render.figure(things, **{**look, **change}).savefig(buffer, format="png", dpi=DPI)
    changed = Image.open(buffer).convert("RGB")
    mean, worst = difference(changed, Image.open(FOLDER / f"{name}.png").convert("RGB"))
    assert mean > TOLERANCE or worst > STRICT
