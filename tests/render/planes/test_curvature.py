"""Pictures of curvature: the ratio, the signs, the eigenvalues, and what is not to be trusted."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import PatchCollection, QuadMesh
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.contour import QuadContourSet
from matplotlib.patheffects import withStroke

from lsengine import render
from lsengine.errors import UsageError
from lsengine.surface import FAILED
from tests.support.landscapes import cliffs, make_curve, make_plane
from tests.support.pictures import words


@pytest.fixture(autouse=True)
def _no_warning():
    """A warning from matplotlib or NumPy is a defect of the picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def curved(surface, low=None, high=None, **more):
    """Give a surface eigenvalues: the ratio is half the squared distance from the centre."""
    axes = [surface.axes[n] for n in surface.axes if n != "repeat"]
    square = sum(np.asarray(g) ** 2 for g in np.meshgrid(*axes, indexing="ij"))
    square = np.broadcast_to(square, surface.status.shape)
    high = np.full(square.shape, 40.0) if high is None else high
    made = {
        "eigenvalue_min": (-20.0 * square if low is None else low).copy(),
        "eigenvalue_max": high.copy(),
        "eigenvalue_min_residual": np.full(square.shape, 0.1),
        "converged": np.ones(square.shape),
    }
    return replace(surface, quantities={**surface.quantities, **made, **more})


def draw(*surfaces, **asked):
    """Draw curvature."""
    return render.figure(surfaces, kind="curvature", **asked)


def mesh(axes):
    """Return the coloured cells of a panel."""
    return next(
        c for c in axes.collections if isinstance(c, QuadMesh) and np.ptp(c.get_clim()) > 0.2
    )


def hatched(axes):
    """Return how many cells are hatched one by one, by hatch."""
    found = [c for c in axes.collections if isinstance(c, PatchCollection)]
    hatches = {c.get_hatch() for c in found}
    return {h: sum(len(c.get_paths()) for c in found if c.get_hatch() == h) for h in hatches}


def luminance(color):
    """Return the relative luminance of a colour, as WCAG 2 has it."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one, other):
    """Return the ratio of contrast of two colours, as WCAG 2 has it."""
    low, high = sorted(luminance(color) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def test_the_map_is_the_ratio_of_the_eigenvalues():
    """Cell by cell, on a linear scale from 0, so that convex cells look alike everywhere."""
    surface = curved(make_plane())
    figure = draw(surface, quantity="ratio")
    a, b = np.meshgrid(surface.axes["alpha"], surface.axes["beta"])
    drawn = mesh(figure.axes[0])
    np.testing.assert_allclose(drawn.get_array().reshape(a.shape), (a**2 + b**2) / 2, atol=1e-12)
    assert drawn.norm.vmin == 0
    assert drawn.norm.vmax == pytest.approx(1.0)


def test_one_surface_gets_all_panels_each_with_its_scale():
    """Ratio, sign, smallest and largest: four maps and four bars, under the surface's name."""
    figure = draw(curved(make_plane(name="net")))
    assert len(figure.axes) == 8
    said = words(figure)
    assert "net test error 7.00 %" in said
    for label in ("lambda", "sign of the smallest", "smallest Hessian", "largest Hessian"):
        assert label in said


def test_several_surfaces_get_the_ratio_on_one_scale():
    """Side by side as in the paper, with one bar."""
    flat, wild = curved(make_plane(name="flat")), curved(make_plane(name="wild"))
    wild.quantities["eigenvalue_min"][:] *= 3
    figure = draw(flat, wild)
    assert len(figure.axes) == 3
    limits = {mesh(axes).get_clim() for axes in figure.axes[:2]}
    assert len(limits) == 1
    assert max(limits)[1] >= 3


@pytest.mark.parametrize("quantity", ["ratio", "sign"])
def test_the_loss_lies_over_every_map(quantity):
    """Its contours are the circles that they are without curvature."""
    axes = draw(curved(make_plane(alphas=41, betas=41)), quantity=quantity).axes[0]
    drawn = next(c for c in axes.collections if isinstance(c, QuadContourSet))
    assert len(drawn.levels) >= 3
    for level, path in zip(drawn.levels, drawn.get_paths(), strict=True):
        np.testing.assert_allclose(np.hypot(*path.vertices.T), np.sqrt((level - 1) / 4), atol=5e-3)


@pytest.mark.parametrize("quantity", [None, "ratio"])
def test_levels_of_ones_own_are_those_of_the_losses_lines(quantity):
    """The colours of the maps keep their own scale."""
    surface = curved(make_plane(alphas=41, betas=41))
    axes = draw(surface, quantity=quantity, levels=(1.5, 2.0, 4.0)).axes[0]
    drawn = next(c for c in axes.collections if isinstance(c, QuadContourSet))
    assert tuple(drawn.levels) == (1.5, 2.0, 4.0)
    assert mesh(axes).get_clim() == mesh(draw(surface, quantity=quantity).axes[0]).get_clim()


@pytest.mark.parametrize("kind", ["curvature", "filled"])
def test_lines_of_losses_below_1_are_solid_too(kind):
    """Their logarithms are negative, which matplotlib would dash."""
    surface = curved(make_plane(lambda a, b: 1e-3 * 10 ** (4 * np.hypot(a, b))))
    quantity = "ratio" if kind == "curvature" else None
    axes = render.figure([surface], kind=kind, quantity=quantity).axes[0]
    drawn = next(c for c in axes.collections if isinstance(c, QuadContourSet) and not c.filled)
    assert min(drawn.levels) < 0
    assert all(dashes is None for _, dashes in drawn.get_linestyle())


def test_a_map_without_a_loss_has_no_lines():
    """Curvature alone can be drawn."""
    whole = curved(make_plane())
    kept = {n: v for n, v in whole.quantities.items() if "loss" not in n}
    figure = draw(replace(whole, quantities=kept), quantity="ratio")
    assert not any(isinstance(c, QuadContourSet) for c in figure.axes[0].collections)
    assert "equal" not in words(figure)


def test_a_sign_within_its_residual_is_left_open():
    """Minus, plus, and neither, each counted."""
    low = np.full((21, 21), -5.0)
    low[:2], low[2:4] = 3.0, 0.05
    figure = draw(curved(make_plane(), low=low), quantity="sign")
    values = mesh(figure.axes[0]).get_array().reshape(21, 21)
    np.testing.assert_array_equal(values[[0, 2, 10], 5], [1, 0, -1])
    said = words(figure)
    assert "below 0 in 357 cells, above in 42, within its residual in 42" in said


def test_cells_that_did_not_converge_are_hatched_and_counted():
    """In every panel, over the colour that they have."""
    surface = curved(make_plane())
    surface.quantities["converged"][3, 4:9] = 0
    figure = draw(surface)
    for axes in figure.axes[:4]:
        assert sorted(hatched(axes).values()) == [5]
    assert "5 of 441 cells not converged" in words(figure)


@pytest.mark.parametrize("style", ["default", "paper", "dark"])
@pytest.mark.parametrize("quantity", ["ratio", "sign", "eigenvalue_max"])
def test_hatches_show_on_every_colour(style, quantity):
    """Dark ones on light cells, light ones on dark cells: a contrast of 3 at least."""
    surface = curved(make_plane(), high=np.geomspace(1.0, 100.0, 441).reshape(21, 21))
    surface.quantities["converged"][:] = 0
    axes = draw(surface, style=style, quantity=quantity).axes[0]
    painted = mesh(axes)
    colors = painted.to_rgba(painted.get_array()).reshape(21, 21, 4)
    alpha, beta = surface.axes["alpha"], surface.axes["beta"]
    seen = 0
    for hatches in (c for c in axes.collections if isinstance(c, PatchCollection)):
        for path in hatches.get_paths():
            a, b = path.vertices[:4].mean(0)
            cell = colors[np.abs(beta - b).argmin(), np.abs(alpha - a).argmin()]
            assert contrast(tuple(hatches.get_edgecolor()[0][:3]), tuple(cell[:3])) >= 3
            seen += 1
    assert seen == 441


@pytest.mark.parametrize("style", ["default", "paper", "dark"])
def test_lines_of_the_loss_lie_in_a_bed_that_hides_the_map(style):
    """Line and bed differ in any case; the bed is opaque, and seen on both sides of the line."""
    axes = draw(curved(make_plane()), style=style, quantity="ratio").axes[0]
    drawn = next(c for c in axes.collections if isinstance(c, QuadContourSet))
    (bed,) = [e for e in drawn.get_path_effects() if isinstance(e, withStroke)]
    foreground, width = bed._gc["foreground"], bed._gc["linewidth"]
    assert to_rgba(foreground)[3] == 1
    assert contrast(foreground, tuple(drawn.get_edgecolor()[0][:3])) >= 7
    assert width >= drawn.get_linewidths()[0] + 1


def test_cells_without_positive_curvature_have_no_ratio():
    """They are dotted and counted, neither coloured nor called failed."""
    high = np.full((21, 21), 40.0)
    high[5, 5:8], high[5, 8] = -1.0, 0.0
    figure = draw(curved(make_plane(), high=high), quantity="ratio")
    axes = figure.axes[0]
    assert list(hatched(axes).values()) == [4]
    assert np.ma.getmaskarray(mesh(axes).get_array()).sum() == 4
    said = words(figure)
    assert "4 cells curved down only: no ratio" in said
    assert "not drawn" not in said


def test_missing_failed_and_non_finite_cells_are_told_apart():
    """As in the other pictures; an unconverged mark on a missing cell means nothing."""
    surface = curved(make_plane())
    surface.status[:2] = 0
    surface.quantities["converged"][:2] = np.nan
    surface.status[10, 0] = FAILED
    for name in ("eigenvalue_min", "eigenvalue_max"):
        surface.quantities[name][12, 3] = np.nan
    said = words(draw(surface, quantity="ratio"))
    assert "42 of 441 cells missing" in said
    assert "1 NaN, 1 failed" in said
    assert "not converged" not in said


def test_ratios_beyond_the_scale_are_counted():
    """A few cells of hardly any positive curvature must not bleach the others."""
    high = np.full((21, 21), 40.0)
    high[0, :3] = 1e-6
    figure = draw(curved(make_plane(), high=high), quantity="ratio")
    assert mesh(figure.axes[0]).get_clim()[1] < 10
    assert "3 cells above" in words(figure)


@pytest.mark.parametrize(("style", "count"), [("default", 1), ("paper", 3), ("dark", 2)])
def test_everything_stays_on_the_page(style, count):
    """Names, bars and notes, at the style's width."""
    surfaces = [curved(make_plane(cliffs, 15, 15, name=f"net {i}")) for i in range(count)]
    surfaces[0].quantities["converged"][:3] = 0
    figure = draw(*surfaces, style=style)
    box = figure.get_tightbbox(figure.canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert width == render.STYLES[style].wide
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) > 0.01


@pytest.mark.parametrize(
    "surface",
    [
        curved(make_plane(alphas=1, betas=1, reach=(0, 0))),
        curved(make_plane(alphas=7, betas=1, reach=(1, 0))),
        curved(make_plane(), low=np.full((21, 21), np.nan), high=np.full((21, 21), np.nan)),
        curved(make_plane(), low=np.full((21, 21), -2.0), high=np.full((21, 21), -1.0)),
        curved(make_plane(), low=np.zeros((21, 21)), high=np.zeros((21, 21))),
        curved(make_plane(status=np.eye(21, dtype=np.uint8))),
        curved(make_plane(lambda a, b: a * np.nan)),
        curved(make_curve(alphas=1)),
        curved(make_curve(), low=np.full(51, np.nan), high=np.full(51, np.nan)),
    ],
)
def test_strange_surfaces_give_a_picture(surface):
    """One cell, one row, nothing finite, nothing convex, hardly anything: never a traceback."""
    for quantity in ("ratio", "sign"):
        figure = draw(surface, quantity=quantity)
        figure.canvas.draw()
        assert words(figure)


def test_lines_along_one_direction():
    """Both eigenvalues in one panel, their ratio in the other."""
    surface = curved(make_curve())
    surface.quantities["converged"][4:7] = 0
    surface.quantities["eigenvalue_max"][20] = -1.0
    figure = draw(surface)
    left, right = figure.axes
    for line, end in zip(left.lines[::2], ("max", "min"), strict=False):
        np.testing.assert_array_equal(line.get_ydata(), surface.quantities[f"eigenvalue_{end}"])
    ratio = right.lines[0].get_ydata()
    assert np.isnan(ratio[20])
    np.testing.assert_allclose(ratio[:20], surface.axes["alpha"][:20] ** 2 / 2)
    circles = [line for line in left.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in circles] == [3, 3]
    said = words(figure)
    assert "3 of 51 cells not converged (open circles)" in said
    assert "1 cell curved down only" in said


def test_lines_of_several_surfaces_and_of_repeats_are_named():
    """Surfaces by colour, the smaller eigenvalue dashed."""
    surfaces = [curved(make_curve(5, name="five")), curved(make_curve(name="single"))]
    figure = draw(*surfaces)
    said = words(figure)
    assert "five" in said
    assert "single" in said
    single = draw(*surfaces, quantity="eigenvalue_max")
    assert len(single.axes) == 1
    assert "largest Hessian eigenvalue" in words(single)


@pytest.mark.parametrize(
    ("surfaces", "asked", "message"),
    [
        ([make_plane()], {}, "holds no eigenvalues.*quantities"),
        ([curved(make_plane()), curved(make_curve())], {}, "planes and curves apart"),
        ([curved(make_plane())], {"quantity": "rato"}, 'did you mean "ratio"'),
        ([curved(make_plane())], {"limits": (0.0, 1.0)}, "choose a panel with --quantity"),
        ([curved(make_plane(status=np.zeros((21, 21), np.uint8)))], {}, "none of 441 cells"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_remedy(surfaces, asked, message):
    """Messages say what was found and what to do."""
    with pytest.raises(UsageError, match=message):
        draw(*surfaces, **asked)


def test_limits_and_levels_are_obeyed():
    """Limits are of the panel asked for, levels of the loss."""
    figure = draw(curved(make_plane()), quantity="ratio", limits=(0.0, 0.5), levels=3)
    assert mesh(figure.axes[0]).get_clim() == (0.0, 0.5)
    lines = next(c for c in figure.axes[0].collections if isinstance(c, QuadContourSet))
    assert 1 <= len(lines.levels) <= 4


def test_equal_figures_give_equal_bytes(tmp_path):
    """Hatches and halos included."""
    surface = curved(make_plane(cliffs, 11, 11))
    surface.quantities["converged"][0] = 0
    paths = [tmp_path / f"{name}.pdf" for name in "ab"]
    for path in paths:
        render.save(draw(surface, quantity="ratio"), path, dpi=60)
    assert paths[0].read_bytes() == paths[1].read_bytes()
