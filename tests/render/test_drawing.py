"""Pictures: what is on them, that they are the same twice, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from lsengine import render
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.surface import FAILED
from tests.support.landscapes import cliffs, make_curve, make_plane
from tests.support.pictures import STRANGE, pixels, words

pytestmark = pytest.mark.usefixtures("no_warning")

PLANES = ("contour", "filled", "heatmap", "surface")


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
