"""What is asked for, checked before anything is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine import render
from lsengine.errors import UsageError
from tests.support.landscapes import make_curve, make_plane

pytestmark = pytest.mark.usefixtures("no_warning")


@pytest.mark.parametrize(
    ("surface", "asked", "message"),
    [
        (make_plane(), {"kind": "contuor"}, r"unknown kind of picture.*did you mean \"contour\""),
        (make_plane(), {"kind": "curve"}, r"plane.h5: has two directions.*use --as contour"),
        (make_curve(), {"kind": "filled"}, r"curve.h5: has one direction.*use --as curve"),
        (make_plane(), {"kind": "filled", "quantity": "tets_accuracy"}, r"test_accuracy.*mean"),
        (
            make_plane(),
            {"kind": "filled", "scale": "lgo"},
            r"scale: got 'lgo'; expected auto, linear, log",
        ),
        (make_plane(), {"kind": "filled", "style": "papper"}, r"unknown style.*mean \"paper\""),
        (
            make_plane(),
            {"kind": "filled", "levels": 1},
            r"levels: got 1; expected an integer from 2 to 100",
        ),
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
