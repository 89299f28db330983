"""Pictures: what is on them, that they are the same twice, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import QuadMesh

from lsengine import render
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.render.page import page
from lsengine.surface import DONE, FAILED
from tests.support.landscapes import cliffs, make_curve, make_plane
from tests.support.pictures import STRANGE, contours, pixels, words

PLANES = ("contour", "filled", "heatmap", "surface")


@pytest.fixture(autouse=True)
def _no_warning():
    """A warning from matplotlib or NumPy is a defect of the picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_contours_of_a_circular_bowl_are_circles_of_the_right_radius(plane):
    """Every vertex of a line at level v lies at the radius where the bowl is v."""
    drawn = contours(render.figure([plane(alphas=51, betas=51)], kind="contour"))
    assert len(drawn.levels) >= 6
    for level, path in zip(drawn.levels, drawn.get_paths(), strict=True):
        radius = np.hypot(*path.vertices.T)
        np.testing.assert_allclose(radius, np.sqrt((level - 1) / 4), atol=2e-3)


def test_contours_on_a_log_scale_are_at_their_value_too(plane):
    """Interpolation in the logarithm is exact for an exponential bowl."""
    surface = plane(lambda a, b: 10 ** (2 * np.hypot(a, b)), alphas=101, betas=101)
    drawn = contours(render.figure([surface], kind="contour"))
    for scaled, path in zip(drawn.levels, drawn.get_paths(), strict=True):
        np.testing.assert_allclose(np.hypot(*path.vertices.T), scaled / 2, atol=3e-3)


@pytest.mark.parametrize(
    ("kind", "style"),
    [
        *(("contour", "paper"), ("filled", "default"), ("heatmap", "dark")),
        *(("surface", "default"), ("surface", "paper"), ("surface", "lit")),
    ],
)
def test_nothing_leaves_the_page_and_captions_do_not_overlap(plane, kind, style):
    """Everything lies on the page with a margin on all sides, at the style's width."""
    figure = render.figure(
        [plane(cliffs, alphas=31, betas=15, reach=(1, 0.5))], kind=kind, style=style
    )
    box = figure.get_tightbbox(figure.canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert width == render.STYLES[style].width
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) > 0.02
    renderer = figure.canvas.get_renderer()
    captions = [t.get_window_extent(renderer) for t in figure.axes[0].texts if not t.get_rotation()]
    outside = [b for b in captions if b.y0 > figure.axes[0].bbox.y1]
    assert not any(a.overlaps(b) for i, a in enumerate(outside) for b in outside[:i])


@pytest.mark.parametrize("kind", ["filled", "heatmap", "surface"])
def test_panels_share_one_scale(plane, kind):
    """The same value has the same colour in every panel, and there is one colour bar."""
    surfaces = [plane(name="low"), plane(lambda a, b: 3 + 9 * (a**2 + b**2), name="high")]
    figure = render.figure(surfaces, kind=kind)
    assert len(figure.axes) == 3
    one, other = figure.axes[:2]
    if kind == "surface":
        assert one.get_zlim() == other.get_zlim()
    else:
        norms = [
            next(c.norm for c in a.collections if c.get_array() is not None) for a in (one, other)
        ]
        assert (norms[0].vmin, norms[0].vmax) == (norms[1].vmin, norms[1].vmax)
    assert "low" in words(figure)
    assert words(figure).count("test error 7.00 %") == 2


def test_the_same_panel_twice_has_the_same_pixels(plane):
    """Two panels of one surface differ in nothing but their place."""
    figure = render.figure([plane(cliffs), plane(cliffs)], kind="heatmap")
    image = pixels(figure, 100)
    height = image.shape[0]
    parts = []
    for axes in figure.axes[:2]:
        box = axes.bbox.transformed(figure.dpi_scale_trans.inverted())
        x, y = round(100 * box.x0) + 3, height - round(100 * box.y1) + 3
        parts.append(image[y : y + 150, x : x + 150])
    assert np.abs(parts[0] - parts[1]).mean() < 6


@pytest.mark.parametrize("kind", PLANES)
def test_a_note_counts_what_is_not_drawn(plane, kind):
    """Missing, failed, NaN and infinite cells are numbered in the picture."""
    surface = plane(alphas=51, betas=51)
    surface.status[:6, :] = 0
    surface.status[50, :2] = FAILED
    surface.quantities["train_loss"][30, 5:8] = np.nan
    surface.quantities["train_loss"][40, 5:9] = [np.inf, np.inf, -np.inf, np.inf]
    text = words(render.figure([surface], kind=kind))
    assert "306 of 2,601 cells missing" in text
    assert "3 NaN, 4 infinite, 2 failed" in text


def test_a_heat_map_masks_exactly_the_cells_without_a_value(plane):
    """The drawn mesh has as many open cells as the surface has without a finite result."""
    surface = plane()
    surface.status[3, 4:9] = 0
    surface.quantities["train_loss"][7, 7] = np.nan
    figure = render.figure([surface], kind="heatmap")
    meshes = [c for c in figure.axes[0].collections if isinstance(c, QuadMesh)]
    masked = [int(np.ma.getmaskarray(mesh.get_array()).sum()) for mesh in meshes]
    assert 6 in masked


def test_a_coarse_partial_grid_still_gets_contours_and_says_so(plane):
    """With every second row and column there, the contours are those of the coarse grid."""
    status = np.zeros((21, 21), np.uint8)
    status[::2, ::2] = DONE
    figure = render.figure([plane(status=status)], kind="contour")
    assert "drawn from 11 \N{MULTIPLICATION SIGN} 11 complete cells" in words(figure)
    for level, path in zip(contours(figure).levels, contours(figure).get_paths(), strict=True):
        np.testing.assert_allclose(np.hypot(*path.vertices.T), np.sqrt((level - 1) / 4), atol=0.03)


def test_clipped_cliffs_are_announced(plane):
    """The colour bar has an arrow and the note the number of cells beyond it."""
    surface = plane(lambda a, b: np.where((a > 0.85) & (b > 0.85), 1e6, 1 + a**2 + b**2))
    count = int((surface.quantities["train_loss"] == 1e6).sum())
    figure = render.figure([surface], kind="filled")
    assert contours(figure, filled=True).extend == "max"
    assert f"{count} cells above" in words(figure)


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        *((case, kind) for case in STRANGE for kind in ("filled", "heatmap")),
        *(("zeros", "contour"), ("constant", "contour"), ("largest floats", "contour")),
        *(("one row", "surface"), ("constant", "surface"), ("chequered", "surface")),
        *(("inf outside", "surface"), ("largest floats", "surface"), ("all NaN", "surface")),
        ("three of four", "surface"),
    ],
)
def test_strange_surfaces_give_a_picture_or_a_clear_message(case, kind):
    """Never a traceback, never a warning; what contours cannot show, the heat map can."""
    try:
        figure = render.figure([STRANGE[case]], kind=kind)
    except UsageError as error:
        figure, message = None, str(error)
    if figure is None:
        assert kind != "heatmap"
        assert "use --as heatmap" in message
    else:
        assert pixels(figure, 40).std() > 2, "an empty page"


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("style", ["default", "lit"])
def test_a_landscape_needs_one_whole_square(style, filled):
    """Where every square has an open corner there is no quad, and so no empty picture."""
    with pytest.raises(UsageError, match=r"no square of four neighbouring.*use --as heatmap"):
        render.figure([STRANGE["three of four"]], kind="surface", style=style, filled=filled)


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("kind", ["filled", "surface"])
def test_scale_changes_the_picture(plane, kind, scale):
    """Linear and log pictures of cliffs differ, and auto is the log one."""
    surface = plane(cliffs)
    same = np.array_equal(
        pixels(render.figure([surface], kind=kind)),
        pixels(render.figure([surface], kind=kind, scale=scale)),
    )
    assert same == (scale == "log")


@pytest.mark.parametrize("style", ["default", "lit"])
def test_landscapes_say_when_axes_are_not_to_one_scale(plane, style):
    """A strip of a plane is drawn deeper than it is, and the note says so; a square one not."""
    look = {"kind": "surface", "style": style}
    said = [words(render.figure([plane(reach=(1, y))], **look)) for y in (0.2, 1.0)]
    assert ["axes not to one scale" in text for text in said] == [True, False]


def test_minima_are_marked_at_their_height_and_captioned_with_their_error(plane):
    """A diamond stands where the direction ends, as high as the cell; its error is told."""
    directions = {"alpha": {"kind": "toward", "normalize": "none", "ignore": []}}
    attributes = {"identity": json.dumps({"directions": directions})}
    surface = replace(plane(), attributes=attributes)
    figure = render.figure([surface], kind="surface")
    marks = {line.get_marker(): line.get_data_3d() for line in figure.axes[0].lines}
    np.testing.assert_allclose(np.ravel(marks["D"]), (1.0, 0.0, 5.0))
    np.testing.assert_allclose(np.ravel(marks["+"]), (0.0, 0.0, 1.0))
    error = 100 * (1 - 0.93 * np.exp(-1))
    assert f"other minimum {error:.2f} %" in words(figure)


def test_a_colour_bar_takes_out_what_long_numbers_share(plane):
    """Of values that differ in the seventh digit no number has seven."""
    surface = plane(lambda a, b: 0.0138939 + 1e-7 * a)
    bar = render.figure([surface], kind="heatmap").axes[-1]
    bar.figure.canvas.draw()
    shown = [re.sub(r"[^\d.]", "", t.get_text()) for t in bar.get_yticklabels()]
    assert 3 <= max(map(len, shown)) <= 5
    assert "1.389" in bar.yaxis.get_offset_text().get_text()


def test_accuracy_is_drawn_in_percent(plane):
    """The colour bar says percent and reaches the accuracy of the centre."""
    figure = render.figure([plane()], kind="filled", quantity="test_accuracy")
    assert "test accuracy (%)" in words(figure)
    assert "highest cell, 93 %" in words(figure)


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        *(("contour", ".svg"), ("filled", ".pdf"), ("heatmap", ".png")),
        *(("surface", ".pdf"), ("surface", ".svg"), ("curve", ".svg")),
    ],
)
def test_equal_figures_give_equal_bytes(tmp_path, kind, suffix):
    """No date, no random id, no memory of earlier figures is in the file."""
    surface = make_curve() if kind == "curve" else make_plane(cliffs)
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        render.save(render.figure([surface], kind=kind), path, dpi=80)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert not list(tmp_path.glob(".*")), "a partial file was left"


def test_pdf_keeps_text_and_rasterises_the_landscape(tmp_path, plane):
    """Text is embedded as TrueType, the shaded mesh as one image; the height is named once."""
    figure = render.figure([plane(cliffs, 51, 51)], kind="surface")
    assert words(figure).count("training loss") == 1
    data = render.save(figure, tmp_path / "a.pdf").read_bytes()
    assert b"/CIDFontType2" in data or b"/TrueType" in data or b"/Type42" in data
    assert b"/Subtype /Image" in data
    assert b"CreationDate" not in data
    assert len(data) < 1_500_000


def test_curve_has_losses_left_and_accuracies_right(curve):
    """The left axis holds both losses, the right both accuracies, test dashed."""
    surface = curve()
    figure = render.figure([surface], kind="curve")
    left, right = figure.axes
    assert left.get_yscale() == "log"
    np.testing.assert_array_equal(left.lines[0].get_ydata(), surface.quantities["train_loss"])
    np.testing.assert_allclose(
        right.lines[1].get_ydata(), 100 * surface.quantities["test_accuracy"]
    )
    assert [line.is_dashed() for line in left.lines] == [False, True]


def test_repeats_are_overlaid_with_their_median_and_spread(curve):
    """Ten thin lines, one bold median, and a band between the quartiles."""
    surface = curve(repeats=10)
    axes = render.figure([surface], kind="curve", quantity="train_loss").axes[0]
    thin = [line for line in axes.lines if line.get_linewidth() < 1]
    bold = [line for line in axes.lines if line.get_linewidth() > 1]
    assert (len(thin), len(bold)) == (10, 1)
    loss = surface.quantities["train_loss"]
    np.testing.assert_allclose(bold[0].get_ydata(), np.median(loss, axis=0))
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(np.quantile(loss, 0.75, axis=0).max())


def test_splits_of_repeats_are_told_apart(curve):
    """Of one surface the bands of train and test have different colours, and a legend entry."""
    figure = render.figure([curve(repeats=10)], kind="curve")
    losses = figure.axes[0]
    bold = {line.get_color(): line.is_dashed() for line in losses.lines if line.get_linewidth() > 1}
    assert sorted(bold.values()) == [False, True]
    bands = {tuple(band.get_facecolor()[0][:3]) for band in losses.collections}
    assert len(bands) == 2
    legend = {h.get_label(): h.get_color() for h in figure.legends[0].legend_handles}
    assert {legend["train"], legend["test"]} == set(bold)


def test_clipped_curves_say_how_much_is_beyond_the_axis(curve):
    """With limits a note counts the values that they cut off; without, a log axis has all."""
    surface = curve()
    losses = np.concatenate([surface.quantities[f"{s}_loss"] for s in ("train", "test")])
    figure = render.figure([surface], kind="curve", limits=(0.05, 5.0))
    above, below = (losses > 5).sum(), (losses < 0.05).sum()
    said = f"{above} of 102 values above 5, {below} of 102 values below 0.05, beyond the axis"
    assert said in " ".join(words(figure).split())
    figure = render.figure([surface], kind="curve")
    assert "beyond the axis" not in words(figure)
    low, high = figure.axes[0].get_ylim()
    assert low < losses.min() < losses.max() < high


def test_a_line_between_minima_has_both_test_errors(curve):
    """The legend gives the error at 0 and at 1 where the direction leads to a checkpoint."""
    directions = {"alpha": {"kind": "toward", "normalize": "none", "ignore": []}}
    attributes = {"identity": json.dumps({"directions": directions})}
    two = [replace(curve(name=n), attributes=attributes) for n in ("one", "two")]
    accuracy = two[0].quantities["test_accuracy"]
    ends = [100 * (1 - accuracy[i]) for i in (25, 50)]
    said = words(render.figure(two, kind="curve"))
    assert f"one ({ends[0]:.2f} % \N{RIGHTWARDS ARROW} {ends[1]:.2f} %)" in said


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1e-5, 20.0, ["$10^{-4}$", "$10^{0}$"]),
        (4e-4, 3e4, ["0.001", "1", "1000"]),
        (0.002, 900.0, ["0.01", "100"]),
        (0.12, 0.9, ["0.2", "0.5"]),
        (1.01, 1.4, []),
    ],
)
def test_a_log_axis_has_numbers_of_one_manner(low, high, said):
    """All plain or all powers of ten, and two of them at least, however short the axis."""
    figure, (axes,) = page.sheet(1, render.STYLES["default"], 0.7)
    page.log_axis(axes, low, high)
    figure.draw_without_rendering()
    shown = [
        label.get_text()
        for label, at in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
        if low <= at <= high and label.get_text()
    ]
    assert len(shown) >= 2
    assert set(said) <= set(shown)
    assert len({text.startswith("$") for text in shown}) == 1


def test_curve_runs_on_over_missing_cells_and_breaks_at_bad_ones(curve):
    """A coarse curve is a joined line with its points; a failed cell is a gap; both noted."""
    status = np.zeros(51, np.uint8)
    status[::5] = DONE
    status[20] = FAILED
    figure = render.figure([curve(status=status)], kind="curve", quantity="train_loss")
    line = figure.axes[0].lines[0]
    assert line.get_marker() == "o"
    assert np.isnan(line.get_ydata()).sum() == 1
    assert len(line.get_ydata()) == 11
    assert "40 of 51 cells missing" in words(figure)
    assert "1 failed" in words(figure)


@pytest.mark.parametrize("style", render.STYLES)
@pytest.mark.parametrize("count", [1, 2, 9])
def test_curves_and_their_legend_stay_on_the_page(style, count):
    """With one or nine surfaces the legend is whole and names each."""
    surfaces = [make_curve(name=f"network {i}") for i in range(count)]
    figure = render.figure(surfaces, kind="curve", style=style)
    box = figure.get_tightbbox(figure.canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) > 0.02
    assert all(f"network {i}" in words(figure) for i in range(count))
    if count > 1:
        assert len({line.get_color() for line in figure.axes[0].lines}) == count


@pytest.mark.parametrize(
    ("surface", "asked", "message"),
    [
        (make_plane(), {"kind": "contuor"}, r"unknown kind of picture.*did you mean \"contour\""),
        (make_plane(), {"kind": "curve"}, r"plane.h5: has two directions.*use --as contour"),
        (make_curve(), {"kind": "filled"}, r"curve.h5: has one direction.*use --as curve"),
        (make_plane(), {"kind": "filled", "quantity": "tets_accuracy"}, r"test_accuracy.*mean"),
        (make_plane(), {"kind": "filled", "scale": "lgo"}, r"unknown scale.*auto, linear, log"),
        (make_plane(), {"kind": "filled", "style": "papper"}, r"unknown style.*mean \"paper\""),
        (make_plane(), {"kind": "filled", "levels": 1}, r"levels is 1; allowed: 2 to 100"),
        (make_plane(), {"kind": "filled", "limits": (2.0, 1.0)}, r"the lower first"),
        (
            make_plane(),
            {"kind": "filled", "scale": "log", "limits": (0.0, 1.0)},
            r"positive lower limit",
        ),
        (
            make_plane(),
            {"kind": "filled", "scale": "log", "quantity": "test_accuracy"},
            r"accuracies are drawn in percent",
        ),
        (
            make_plane(betas=1, reach=(1, 0), status=np.zeros((1, 21), np.uint8)),
            {"kind": "contour"},
            r"has 21 x 1 cells .alpha x beta.*use --as heatmap",
        ),
        (
            make_plane(status=np.zeros((21, 21), np.uint8)),
            {"kind": "heatmap"},
            r"none of 441 cells is done.*lsengine eval",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_remedy(surface, asked, message):
    """Messages say where, what was found, what is allowed and what to do."""
    with pytest.raises(UsageError, match=message):
        render.figure([surface], **asked)


def test_no_surface_is_refused():
    """An empty list is a usage error."""
    with pytest.raises(UsageError, match="no surface given"):
        render.figure([], kind="filled")


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.jpg", "allowed: png, pdf, svg"), ("a", "allowed"), ("no/a.png", "there is no folder")],
)
def test_unusable_outputs_are_refused(tmp_path, name, message):
    """An unknown extension or a missing folder is said before anything is drawn."""
    with pytest.raises(UsageError, match=message):
        render.check_output(tmp_path / name)


def test_a_failed_write_leaves_the_old_picture(tmp_path, plane, monkeypatch):
    """When the disk is full, the picture that was there stays whole."""
    path = tmp_path / "a.svg"
    path.write_text("old")

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", full)
    with pytest.raises(EnvironmentUnfit, match="No space left on device; choose another --output"):
        render.save(render.figure([plane()], kind="heatmap"), path)
    assert path.read_text() == "old"


def test_the_users_own_matplotlib_settings_do_not_change_the_picture(plane):
    """A picture made under an odd rc file equals one made under none, and rc is restored."""
    import matplotlib

    before = pixels(render.figure([plane()], kind="contour"))
    with matplotlib.rc_context({"font.size": 30, "contour.corner_mask": False}):
        after = pixels(render.figure([plane()], kind="contour"))
        assert matplotlib.rcParams["font.size"] == 30
    np.testing.assert_array_equal(before, after)


def test_names_are_printable(plane):
    """Control characters, unknown glyphs and great length do not reach the caption."""
    assert page.printable("a\nb\tc") == "a b c"
    assert page.printable("\u65e5") == "?"
    assert len(page.printable("x" * 500)) <= page.LONGEST_NAME


def test_the_package_hands_on_what_scripts_use():
    """Functions and the names of kinds, scales, styles and extensions are in `lsengine.render`."""
    functions = ("animate", "check_look", "check_output", "figure", "html_page", "save", "write")
    assert all(callable(getattr(render, name)) for name in functions)
    for name, member in (
        ("EXTENSIONS", ".png"),
        ("KINDS", "contour"),
        ("MOVING", ".gif"),
        ("SCALES", "log"),
        ("STYLES", "paper"),
    ):
        assert member in getattr(render, name)


def test_a_cold_start_loads_only_what_it_needs(tmp_path):
    """Importing loads no matplotlib, and drawing neither torch nor MPI nor a window system."""
    code = (
        "import sys, numpy as np\n"
        "from lsengine import render\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from lsengine.surface import Surface\n"
        "x = np.linspace(-1, 1, 51); v = 0.1 + np.add.outer(x**2, x**2)\n"
        "axes, done = {'beta': x, 'alpha': x}, np.ones(v.shape, 'u1')\n"
        "q = {'train_loss': v}\n"
        "s = Surface(name='s', source='s.h5', axes=axes, quantities=q, status=done)\n"
        f"render.save(render.figure([s], kind='contour'), {str(tmp_path / 'a.png')!r})\n"
        "bad = {'torch', 'mpi4py', 'h5py', 'matplotlib.pyplot', 'pyvista'} & set(sys.modules)\n"
        "assert not bad, bad\n"
        f"render.write([s], {str(tmp_path / 'b.png')!r}, kind='surface', style='lit')\n"
        f"render.write([s], {str(tmp_path / 'c.html')!r}, kind='html')\n"
        "bad = {'torch', 'mpi4py', 'h5py'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
