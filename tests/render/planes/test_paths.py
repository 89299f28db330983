"""Trajectories and trained curves over a plane."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lsengine import render
from lsengine.errors import UsageError
from lsengine.render.planes.paths import RED
from lsengine.render.planes.planes import WIDEST
from lsengine.surface import PlaneCurve
from tests.support.pictures import walked


def _lines(figure, color):
    return [line for line in figure.axes[0].lines if line.get_color() == color]


def test_checkpoints_are_where_they_lie(plane):
    """The path goes through all of them in order; the start and the end say their epochs."""
    surface = walked(plane())
    figure = render.figure([surface], kind="trajectory")
    path = next(line for line in figure.axes[0].lines if len(line.get_xdata()) == 9)
    np.testing.assert_array_equal(path.get_xdata(), surface.trajectory.columns["alpha"])
    np.testing.assert_array_equal(path.get_ydata(), surface.trajectory.columns["beta"])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"epoch 0", "epoch 80"} <= set(texts)


def test_drops_of_the_learning_rate_are_red(plane):
    """The last checkpoint with the higher rate is marked, and the note says what red means."""
    figure = render.figure([walked(plane())], kind="trajectory")
    (red,) = _lines(figure, RED)
    assert red.get_xdata() == pytest.approx([walked(plane()).trajectory.columns["alpha"][4]])
    assert any("red: the learning rate drops" in t.get_text() for t in figure.axes[0].texts)


def test_the_end_is_drawn_over_a_late_drop(plane):
    """The star lies above red dots, however close, and a red dot shows between its points."""
    axes = render.figure([walked(plane())], kind="trajectory").axes[0]
    (star,) = [line for line in axes.lines if line.get_marker() == "*"]
    (red,) = [line for line in axes.lines if line.get_color() == RED]
    assert star.get_zorder() > red.get_zorder()
    inner = 0.381966 * star.get_markersize()  # of the star's notches
    assert inner + star.get_markeredgewidth() < red.get_markersize() < star.get_markersize()


def test_principal_axes_say_what_they_explain(plane):
    """The labels are those of the paper; axes of other directions keep their letters."""
    surface = walked(plane(), explained_variance_ratio=np.array([0.782, 0.113]))
    axes = render.figure([surface], kind="trajectory").axes[0]
    assert axes.get_xlabel() == "1st principal component: 78.2 %"
    assert axes.get_ylabel() == "2nd principal\ncomponent: 11.3 %"
    other = render.figure([walked(plane())], kind="trajectory").axes[0]
    assert other.get_xlabel() == r"$\alpha$"


def test_the_path_alone_is_drawn_before_the_grid_is_evaluated(plane):
    """Without any cell there is no colour, but the path, and the number of missing cells."""
    surface = plane(status=np.zeros((21, 21), np.uint8))
    figure = render.figure([walked(surface)], kind="trajectory")
    assert len(figure.axes) == 1
    assert any("441 of 441 cells missing" in t.get_text() for t in figure.axes[0].texts)


def test_a_surface_without_trajectory_is_refused(plane):
    """The message says how to get one."""
    with pytest.raises(UsageError, match="run lsengine trajectory on it"):
        render.figure([plane()], kind="trajectory")


@pytest.mark.parametrize("style", ["paper", "dark"])
def test_every_style_draws_it_twice_the_same(plane, tmp_path, style):
    """Equal arguments give equal bytes."""
    made = [
        render.save(
            render.figure([walked(plane())], kind="trajectory", style=style), tmp_path / name
        ).read_bytes()
        for name in ("a.png", "b.png")
    ]
    assert made[0] == made[1]


def test_several_trajectories_are_panels_on_one_scale(plane):
    """Each panel has its own path; there is one colour bar."""
    surfaces = [walked(plane()), walked(plane(name="other"))]
    figure = render.figure(surfaces, kind="trajectory")
    assert len(figure.axes) == 3
    for panel in figure.axes[:2]:
        assert any(len(line.get_xdata()) == 9 for line in panel.lines)


def test_runs_of_different_extent_have_panels_of_one_size(plane):
    """Axes are then not to one scale, which is said once; what red means is said once, too."""
    flat = plane(reach=(3.0, 1.0))
    shares = {"explained_variance_ratio": np.array([0.8, 0.1])}
    figure = render.figure(
        [walked(s, **shares) for s in (plane(), flat, flat, plane())] * 2, kind="trajectory"
    )
    figure.canvas.draw()
    panels = figure.axes[:8]
    sizes = np.array([panel.get_window_extent().size for panel in panels])
    assert np.ptp(sizes, axis=0) == pytest.approx(0, abs=0.02 * sizes.max())
    texts = [t.get_text() for panel in panels for t in panel.texts]
    assert sum("red: " in text for text in texts) == 1
    assert sum("not to one scale" in text for text in texts) == 1
    colours = figure.axes[8].get_window_extent()
    for panel in panels:
        name = panel.xaxis.label
        assert name.get_text() == "1st principal component: 80.0 %"
        assert name.get_window_extent().x1 < colours.x0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("reach", [(1.0, 1.0), (4.8, 1.35), (1.0, 4.0)])
@pytest.mark.parametrize("style", ["default", "paper"])
@pytest.mark.parametrize("panels", [1, 2])
def test_a_page_is_filled_whatever_the_shape_of_the_plane(plane, reach, style, panels):
    """A run whose rate never drops fills the page, words included; long planes are pressed."""
    surface = walked(plane(reach=reach), explained_variance_ratio=np.array([0.911, 0.058]))
    columns = {**surface.trajectory.columns, "learning_rate": np.full(9, np.nan)}
    track = replace(surface.trajectory, columns=columns)
    figure = render.figure(
        [replace(surface, trajectory=track)] * panels, kind="trajectory", style=style
    )
    page = figure.bbox
    boxes = [panel.get_window_extent() for panel in figure.axes[:panels]]
    assert sum(box.width * box.height for box in boxes) > page.width * page.height / 3
    for panel in figure.axes:
        for word in (panel.xaxis.label, panel.yaxis.label, *panel.texts):
            if word.get_text():
                box = word.get_window_extent()
                assert min(box.x0, box.y0) >= 0, word
                assert min(page.x1 - box.x1, page.y1 - box.y1) >= 0, word
    said = any("axes not to one scale" in t.get_text() for t in figure.axes[0].texts)
    assert said == (max(reach) / min(reach) > WIDEST)


def _curved(surface, distance=0.0):
    """Return a surface with a quadratic curve from its centre around the point (0.4, 0.5)."""
    controls = np.array([[0.0, 0.0], [0.4, 0.5], [0.8, 0.0]])
    t = np.linspace(0, 1, 21)[:, None]
    points = (1 - t) ** 2 * controls[0] + 2 * t * (1 - t) * controls[1] + t**2 * controls[2]
    return replace(surface, curve=PlaneCurve(points, controls, np.array([0, distance, 0])))


@pytest.mark.parametrize("kind", ["contour", "filled", "heatmap"])
def test_a_trained_curve_is_drawn_in_its_plane(plane, kind):
    """Curve and straight line are where they lie; minima and bend are marked and named."""
    surface = _curved(plane())
    axes = render.figure([surface], kind=kind).axes[0]
    drawn = [np.stack(line.get_data(), axis=1) for line in axes.lines]
    for expected in (surface.curve.points, surface.curve.controls[[0, -1]]):
        assert any(np.array_equal(expected, line) for line in drawn)
    words = {text.get_text() for text in axes.texts}
    assert {"minimum 1", "bend", "minimum 2"} <= words
    assert any("solid: the trained curve" in word for word in words)
    assert not any("off the plane" in word for word in words)
    assert axes.get_xlabel() == "along the line between the minima"


def test_bends_off_the_plane_are_told(plane):
    """A curve of more bends than the plane goes through is a projection, and said to be."""
    axes = render.figure([_curved(plane(), distance=0.2)], kind="filled").axes[0]
    text = " ".join(" ".join(t.get_text() for t in axes.texts).split())
    assert "bends lie off the plane by up to 25 % of the way between the minima" in text
