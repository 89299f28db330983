"""Looks: page sizes, fonts and colours, each a plain value.

A style fixes everything that makes two figures look like one family.  Imports no
matplotlib, so that the command line can list the names cheaply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Okabe and Ito's colour-blind-safe colours, arranged for lines, with two fillers.
ORDER = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B4C9A", "#555555")
DARK = ["#56B4E9", "#FF8C42", "#3DCB9A", "#E8A0C8", "#F0C040", "#9AD0F5", "#B79CE0", "#BBBBBB"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """Where landscapes are seen from."""

    azimuth: float = -56.0  # degrees about the vertical, from alpha towards beta
    elevation: float = 32.0  # degrees above the ground
    zoom: float = 1.0  # 1 shows all of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Turntable:
    """How an animated landscape turns: once around, in so many pictures and seconds."""

    frames: int = 72
    seconds: float = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """One look."""

    name: str  # what the user calls it
    width: float  # inches of a figure with one panel
    wide: float  # inches of a figure with several panels
    height: float  # inches of a curve's panel, legend included
    rc: Mapping[str, Any]  # matplotlib settings on top of `COMMON`
    colors: tuple[str, ...] = ORDER  # of lines, in order
    colormap: str = "viridis"  # perceptually uniform and safe for colour-blind readers
    # The part of the colour map that thin lines on this ground can use.
    line_range: tuple[float, float] = (0.0, 0.82)
    ink: str = "#1a1a1a"  # of text
    ground: str = "#ffffff"  # background
    faint: str = "#b8b8b8"  # what should stand back
    bad: str = "#8f8f8f"  # fill of cells that failed or are not finite
    transparent: bool = False  # whether nothing is drawn where the ground is
    dpi: int = 300  # dots per inch of PNG pictures and of what is rasterised in PDF and SVG
    scale: str = "auto"  # with levels and limits: if the command does not say
    levels: int | None = None
    limits: tuple[float, float] | None = None
    lit: bool = False  # whether landscapes are lit scenes, drawn by VTK
    camera: Camera = Camera()  # of landscapes
    relief: float = 0.62  # height of a landscape, its base being 1 wide
    # Where a lit landscape has contour lines: `surface`, `floor`, `both`, `none`.
    lines: str = "surface"
    turntable: Turntable = Turntable()  # of animations


def rgba(shares: NDArray[np.float64], style: str = "default") -> NDArray[np.uint8]:
    """Return sRGB colours and opacity for numbers from 0 to 1 of any shape; (..., 4)."""
    from matplotlib import colormaps

    colors: NDArray[np.uint8] = colormaps[STYLES[style].colormap](shares, bytes=True)
    return colors


def fonts(size: float, family: str, mathtext: str) -> dict[str, Any]:
    """Return matplotlib's settings for one family of letters, ``size`` points in labels."""
    return {
        "font.family": family,
        "mathtext.fontset": mathtext,
        "font.size": size,
        "axes.labelsize": size,
        "axes.titlesize": size * 1.08,
        "xtick.labelsize": size * 0.88,
        "ytick.labelsize": size * 0.88,
        "legend.fontsize": size * 0.88,
    }


def inks(ink: str, ground: str, edge: str) -> dict[str, Any]:
    """Return matplotlib's settings for colours of words, page and axes."""
    keys = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor")
    edges = ("axes.edgecolor", "xtick.color", "ytick.color")
    grounds = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    return (
        dict.fromkeys((*keys, "ytick.labelcolor"), ink)
        | dict.fromkeys(edges, edge)
        | dict.fromkeys(grounds, ground)
    )


COMMON: Mapping[str, Any] = {
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "axes.labelpad": 3.0,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": True,
    "legend.frameon": False,
    "hatch.linewidth": 0.5,
    "path.simplify": True,
}
_DEFAULT = Style(
    name="default",
    width=5.2,
    wide=9.6,
    height=3.6,
    rc=fonts(10.0, "DejaVu Sans", "dejavusans") | inks("#1a1a1a", "#ffffff", "#4d4d4d"),
)
STYLES: Mapping[str, Style] = {
    style.name: style
    for style in (
        _DEFAULT,
        Style(
            name="paper",
            width=3.3,
            wide=6.9,
            height=2.4,
            rc=fonts(8.0, "STIXGeneral", "stix")
            | inks("#000000", "#ffffff", "#333333")
            | {"axes.linewidth": 0.5, "xtick.major.width": 0.5, "ytick.major.width": 0.5},
            ink="#000000",
        ),
        Style(
            name="dark",
            width=6.4,
            wide=12.0,
            height=4.4,
            rc=fonts(13.0, "DejaVu Sans", "dejavusans") | inks("#e8e8e8", "#14171c", "#8a919c"),
            colors=tuple(DARK),
            line_range=(0.3, 1.0),
            ink="#e8e8e8",
            ground="#14171c",
            faint="#5a626e",
            bad="#7a7a7a",
        ),
        replace(_DEFAULT, name="lit", colormap="coolwarm", line_range=(0.0, 1.0), lit=True),
    )
}
