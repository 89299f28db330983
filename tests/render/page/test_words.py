"""Words that were asked for: titles, labels, letters, legends, notes and limits."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text

from lsengine import render
from lsengine.errors import UsageError
from lsengine.surface import Trajectory
from tests.support.landscapes import bowl, cliffs, make_curve, make_plane
from tests.support.pictures import pixels, words

pytestmark = pytest.mark.usefixtures("no_warning")
PLANES = ("contour", "filled", "heatmap", "surface")


def test_nothing_said_is_name_and_test_error():
    """The title is matplotlib's own, with the surface's name and the error below it."""
    figure = render.figure([make_plane(name="mine")], kind="filled")
    assert figure.axes[0].get_title() == "mine\ntest error 7.00 %"


@pytest.mark.parametrize(("kind", "style"), [*((k, "default") for k in PLANES), ("surface", "lit")])
def test_everything_said_of_a_plane_is_on_it_and_nothing_else(kind, style):
    """Title, subtitle, axes, colour bar and note, in the place of what would be there."""
    said = {"title": "T $x_1$", "subtitle": "S", "xlabel": "X", "ylabel": "Y", "zlabel": "Z"}
    look = {**said, "notes": "N", "panel_letters": "(c)"}
    figure = render.figure([make_plane(name="mine")], kind=kind, style=style, **look)
    axes, text = figure.axes[0], words(figure)
    texts = [part.get_text() for part in figure.findobj(Text)]
    assert axes.get_title() == "T $x_1$\nS"
    assert axes.get_title(loc="left") == "(c)"
    assert {"X", "Y", "N"} <= set(texts)
    assert (kind == "contour") or "Z" in [bar.get_ylabel() for bar in figure.axes[1:]]
    for gone in ("mine", "test error", "training loss", r"$\alpha$", r"$\beta$", "centre"):
        assert gone not in text


@pytest.mark.parametrize("kind", ["filled", "surface"])
def test_empty_texts_leave_everything_out(kind):
    """No title, no labels, no notes."""
    names = ("title", "subtitle", "xlabel", "ylabel", "zlabel", "notes")
    figure = render.figure([make_plane(name="mine")], kind=kind, **dict.fromkeys(names, ""))
    assert figure.axes[0].get_title() == ""
    said = words(figure).replace("mathdefault", "")
    assert not any(character.isalpha() for character in said)


def test_of_several_the_title_is_over_all_and_labels_over_each():
    """Letters count on; errors stay, unless the subtitle is empty."""
    planes = [make_plane(name="a"), make_plane(name="b")]
    figure = render.figure(
        planes, kind="filled", title="T", subtitle="S", labels=["one", "$y$"], panel_letters="Y"
    )
    assert figure.get_suptitle() == "T\nS"
    titles = [axes.get_title() for axes in figure.axes[:2]]
    assert titles == ["one\ntest error 7.00 %", "$y$\ntest error 7.00 %"]
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["Y", "Z"]
    bare = render.figure(planes, kind="filled", subtitle="")
    assert [axes.get_title() for axes in bare.axes[:2]] == ["a", "b"]


def test_labels_are_one_for_each():
    """Fewer or more are refused."""
    with pytest.raises(UsageError, match=r"1 label\(s\) for 2 file\(s\); give one for each"):
        render.figure([make_plane(), make_plane()], kind="filled", labels=["a"])


@pytest.mark.parametrize(
    ("surface", "kind", "style"),
    [
        *((make_plane(), kind, "paper") for kind in PLANES),
        (make_plane(), "surface", "lit"),
        (make_curve(), "curve", "default"),
        (replace(make_curve(), axes={"alpha": np.linspace(-0.5, 1.5, 51)}), "curve", "default"),
    ],
)
def test_a_title_set_later_is_kept_when_saved(surface, kind, style, tmp_path):
    """`set_title` changes the picture and no more; what it was is gone, and all of it is seen."""
    directions = {"alpha": {"kind": "toward", "normalize": "none", "ignore": []}}
    attributes = {"identity": json.dumps({"directions": directions})} if kind == "curve" else {}
    figure = render.figure([replace(surface, attributes=attributes)], kind=kind, style=style)
    before, axes = pixels(figure, 60), figure.axes[0]
    axes.set_title("set later")
    assert "set later" in words(figure)
    assert "test error" not in words(figure)
    render.save(figure, tmp_path / "a.svg", dpi=40)
    assert ">set later</text>" in (tmp_path / "a.svg").read_text()
    after = pixels(figure, 60)
    assert after.shape == before.shape
    box = axes.title.get_window_extent(figure.canvas.get_renderer())
    assert box.y1 <= figure.bbox.y1
    for other in axes.child_axes:  # names of minima stand there
        assert not any(box.overlaps(label.get_window_extent()) for label in other.get_xticklabels())


def test_labels_set_later_are_kept(tmp_path):
    """Axes and colour bar are plain, too."""
    figure = render.figure([make_plane()], kind="filled")
    figure.axes[0].set_xlabel("X later")
    figure.axes[1].set_ylabel("Z later")
    render.save(figure, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert "X later" in text
    assert "Z later" in text


@pytest.mark.parametrize("place", ["below", "right", "none", "upper left"])
def test_a_legend_is_where_it_was_asked_for(place):
    """Outside the panel on either side, in it, or nowhere."""
    figure = render.figure([make_curve()], kind="curve", legend=place)
    figure.draw_without_rendering()
    inside = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert (len(figure.legends), len(inside)) == {
        "none": (0, 0),
        "upper left": (0, 1),
    }.get(place, (1, 0))
    panel = figure.axes[0].get_window_extent()
    for legend in [*figure.legends, *inside]:
        box = legend.get_window_extent()
        assert (box.y1 < panel.y0) == (place == "below")
        assert (box.x0 > panel.x1) == (place == "right")


def test_lines_end_where_it_was_said_and_are_counted():
    """Both axes have the limits; values beyond the vertical one are in the note."""
    curve = make_curve()
    figure = render.figure([curve], kind="curve", xlim=(-0.5, 0.25), ylim=(0.01, 1.0))
    assert figure.axes[0].get_xlim() == (-0.5, 0.25)
    assert figure.axes[0].get_ylim() == (0.01, 1.0)
    losses = np.concatenate([curve.quantities["train_loss"], curve.quantities["test_loss"]])
    assert f"{(losses > 1).sum()} of {losses.size} values above 1" in words(figure)


def test_of_two_vertical_axes_the_first_is_named():
    """The other says what it is of; with one quantity there is one."""
    figure = render.figure([make_curve()], kind="curve", ylabel="Y")
    assert [axes.get_ylabel() for axes in figure.axes] == ["Y", "accuracy (%)"]
    figure = render.figure([make_curve()], kind="curve", ylabel="Y", quantity="test_accuracy")
    assert [axes.get_ylabel() for axes in figure.axes] == ["Y"]


@pytest.mark.parametrize(
    ("surface", "look", "message"),
    [
        (make_curve(), {"kind": "curve", "ylim": (-1, 1)}, "log scale cannot show"),
        (make_plane(), {"kind": "filled", "title": r"$\frac$"}, r"title: .*is no mathematics"),
        (make_plane(), {"kind": "filled", "zlabel": r"$\hspace{9}x$"}, "hspace is not taken"),
        (make_plane(), {"kind": "surface", "xlabel": "$x_$"}, "xlabel: .*is no mathematics"),
        (make_plane(), {"kind": "heatmap", "xlim": (3, 4)}, "no cell has alpha from 3 to 4"),
        (make_plane(), {"kind": "filled", "ylim": (0.01, 0.02)}, "no cell has beta"),
    ],
)
def test_what_cannot_be_written_or_shown_is_refused(surface, look, message):
    """One message each, before anything is drawn on."""
    with pytest.raises(UsageError, match=message):
        render.figure([surface], **look)


def test_dollar_signs_in_names_of_files_are_no_mathematics():
    """They are drawn as they are, in captions and in legends."""
    curves = [make_curve(name=r"cost $\frac$"), make_curve(name="b")]
    assert r"cost \$\frac\$" in words(render.figure(curves, kind="curve"))
    figure = render.figure([make_plane(name=r"cost $\frac$")], kind="filled")
    assert figure.axes[0].get_title().startswith(r"cost \$\frac\$")


@pytest.mark.parametrize("kind", PLANES)
def test_limits_cut_a_plane(kind):
    """The cells between are drawn, and what is counted and scaled is of them."""
    whole, part = make_plane(cliffs), (slice(6, 17), slice(10, 21))
    figure = render.figure([whole], kind=kind, xlim=(-0.0, 1), ylim=(-0.4, 0.6 + 1e-12))
    cut = replace(
        whole,
        axes={"beta": whole.axes["beta"][part[0]], "alpha": whole.axes["alpha"][part[1]]},
        quantities={name: values[part] for name, values in whole.quantities.items()},
        status=whole.status[part],
    )
    np.testing.assert_array_equal(pixels(figure), pixels(render.figure([cut], kind=kind)))


def test_a_path_ends_at_the_limits():
    """Checkpoints beyond them are not drawn over the page."""
    columns = {"alpha": np.array([0.9, 0.1]), "beta": np.zeros(2), "epoch": np.arange(2)}
    surface = replace(make_plane(), trajectory=Trajectory(columns=columns))
    figure = render.figure([surface], kind="trajectory", xlim=(-0.5, 0.5))
    assert figure.axes[0].get_xlim() == (-0.5, 0.5)
    assert all(line.get_clip_on() for line in figure.axes[0].lines)


def test_the_band_beside_grey_cells_is_explained():
    """Contours do not reach cells that are not finite; heat maps do, and have none."""
    surface = make_plane(bowl)
    surface.quantities["train_loss"][5, 5] = np.nan
    for kind in ("filled", "heatmap"):
        text = words(render.figure([surface], kind=kind))
        assert ("(grey) blank beside grey, where" in text) == (kind == "filled")


def test_pictures_with_several_scales_want_to_know_which():
    """A colour bar's label or a vertical axis' limits are of one."""
    low = -np.ones((5, 5))
    surface = make_plane(alphas=5, betas=5)
    quantities = {**surface.quantities, "eigenvalue_min": low, "eigenvalue_max": 2 - low}
    surface = replace(surface, quantities=quantities)
    with pytest.raises(UsageError, match=r"zlabel is of one scale.*has 4; choose one with --quant"):
        render.figure([surface], kind="curvature", zlabel="Z")
    with pytest.raises(UsageError, match="curvature of planes has no legend; leave --legend out"):
        render.figure([surface], kind="curvature", legend="none")
    figure = render.figure([surface], kind="curvature", zlabel="Z", quantity="eigenvalue_max")
    assert figure.axes[1].get_ylabel() == "Z"
