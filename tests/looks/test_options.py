"""One table of options: the command line, style files and Python hear the same words."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from lsengine.cli import build_parser
from lsengine.errors import UsageError
from lsengine.looks import OPTIONS, Look, check_kind, merged, said, suited
from lsengine.render.style import find

WRITTEN = {  # as typed, as in a style file, as a value
    "quantity": (["--quantity", "test_loss"], None, "test_loss"),
    "scale": (["--scale", "log"], '"log"', "log"),
    "style": (["--style", "paper"], None, "paper"),
    "levels": (["--levels", "7"], "7", 7),
    "limits": (["--limits", "0.5", "2"], "[0.5, 2]", (0.5, 2.0)),
    "title": (["--title", "$x$"], '"$x$"', "$x$"),
    "subtitle": (["--subtitle", ""], '""', ""),
    "labels": (["--label", "a", "--label", "b"], '["a", "b"]', ("a", "b")),
    "xlabel": (["--xlabel", "x"], '"x"', "x"),
    "ylabel": (["--ylabel", "y"], '"y"', "y"),
    "zlabel": (["--colorbar-label", "z"], '"z"', "z"),
    "notes": (["--notes", "n"], '"n"', "n"),
    "panel_letters": (["--panel-letters", "(a)"], '"(a)"', "(a)"),
    "legend": (["--legend", "upper left"], '"upper left"', "upper left"),
    "xlim": (["--xlim", "-1", "0.5"], "[-1, 0.5]", (-1.0, 0.5)),
    "ylim": (["--ylim", "-2", "3"], "[-2, 3]", (-2.0, 3.0)),
    "azimuth": (["--azimuth", "-20"], "camera", -20.0),
    "elevation": (["--elevation", "40"], "camera", 40.0),
    "zoom": (["--zoom", "1.5"], "camera", 1.5),
}


@pytest.mark.parametrize(
    ("typed", "value"), [("0.1,0.6,2e0", (0.1, 0.6, 2.0)), ("-1,1", (-1.0, 1.0)), ("12", 12)]
)
def test_levels_are_a_number_or_a_list(typed, value, tmp_path):
    """The command line has commas, a style file brackets."""
    parsed = build_parser().parse_args(["render", "a.h5", f"--levels={typed}"])
    assert said({"levels": parsed.levels}) == Look(levels=value)
    path = tmp_path / "a.toml"
    path.write_text(f"levels = {typed if typed.isdigit() else f'[{typed}]'}\n")
    assert find(path).look.levels == value


@pytest.mark.parametrize(
    "typed", ["1", "101", "2.5", "1,", "1,1", "2,1", "1,nan", "1,inf", "a,b", "all", ""]
)
def test_other_levels_are_refused(typed):
    """With both forms that there are."""
    parsed = build_parser().parse_args(["render", "a.h5", f"--levels={typed}"])
    with pytest.raises(UsageError, match=r"levels: got .*an integer from 2 to 100, or that many"):
        said({"levels": parsed.levels})


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_heard_in_three_places(name, tmp_path):
    """The same value comes from the command line, a style file and a keyword."""
    typed, in_file, value = WRITTEN[name]
    parsed = build_parser().parse_args(["render", "a.h5", *typed])
    assert said({name: getattr(parsed, name)}) == Look(**{name: value})
    path = tmp_path / "a.toml"
    if in_file == "camera":
        path.write_text(f"[camera]\n{name} = {value}\n")
    elif in_file is not None:
        path.write_text(f"{name} = {in_file}\n")
    if in_file is not None:
        assert getattr(find(path).look, name) == value
    else:
        assert OPTIONS[name].table is None


def test_every_field_but_one_has_an_option():
    """Whether missing cells are filled is decided by who watches a run."""
    assert {each.name for each in fields(Look)} - OPTIONS.keys() == {"filled"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"titel": "x"}, r"unknown option 'titel'; did you mean \"title\""),
        ({"title": 3}, r"title: got 3; expected a text"),
        ({"title": "a\x1b[2J"}, r"title: got .* none of the characters a control"),
        ({"title": "x" * 1001}, r"got 'x{59}\.\.\.; expected a text of at most 1,000 characters"),
        ({"panel_letters": "aa"}, r"panel letters: got 'aa'; expected the first panel's letter"),
        ({"legend": "rihgt"}, r"legend: got 'rihgt'; expected below.*did you mean \"right\""),
        ({"xlim": (1, 0)}, r"xlim: got \(1, 0\); expected two numbers, the lower first"),
        ({"ylim": (0, float("inf"))}, r"ylim: .*two numbers"),
        ({"elevation": 90}, r"elevation: got 90; expected a number from 1 to 89"),
        ({"labels": "ab"}, r"labels: .*a list of texts"),
        ({"zoom": True, "levels": 2.5}, r"zoom: .*; levels: got 2.5; expected an integer"),
    ],
)
def test_wrong_words_are_refused_all_at_once(words, message):
    """With what was said and what is allowed; a slip is guessed."""
    with pytest.raises(UsageError, match=message):
        said(words)


def test_numbers_and_lists_of_numpy_are_numbers_and_lists():
    """Arrays, lists and tuples say the same."""
    look = said({"xlim": np.array([-1, 2]), "levels": np.int64(5), "labels": ["a"]})
    assert look == Look(xlim=(-1, 2), levels=5, labels=("a",))


def test_what_a_picture_has_not_is_refused_if_asked_for_and_ignored_in_a_style():
    """A style file serves every kind; a slip of the command is told with the kinds."""
    look = Look(legend="none", title="t")
    with pytest.raises(
        UsageError, match=r"a picture as filled has no legend; leave --legend out .*curve"
    ):
        check_kind(look, "filled")
    assert suited(look, "filled") == Look(title="t")
    assert suited(look, "curve") == look


def test_what_is_said_is_stronger_than_what_is_below():
    """An empty text is something said."""
    below = Look(title="style", xlabel="style", scale="log")
    assert merged(Look(title=""), below) == Look(title="", xlabel="style", scale="log")
