"""Looks: page sizes, fonts and colours, each a plain value; built in, or from a style file.

A style fixes everything that makes two figures look like one family.  Style files are a few lines
of TOML that start from a named style and say what differs.  Every wrong line is reported at once,
with its key, what was found, and what is allowed.

Imports no matplotlib, so that the command line can list the names cheaply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsengine.errors import UsageError
from lsengine.files import is_regular, read_toml
from lsengine.looks import OPTIONS, Look, merged, said, values
from lsengine.looks.values import Check
from lsengine.wording import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIX = ".toml"
_MOST_LINES = 50  # of a message
_LONGEST = 200  # characters of a key or a value in messages
_MOST_DOTS = 15_000  # along one side; a square of those takes 0.9 GiB
LINES = ("surface", "floor", "both", "none")
SCALES = values.SCALES
# Okabe and Ito's colour-blind-safe colours, arranged for lines, with two fillers.
ORDER = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B4C9A", "#555555")
DARK = ["#56B4E9", "#FF8C42", "#3DCB9A", "#E8A0C8", "#F0C040", "#9AD0F5", "#B79CE0", "#BBBBBB"]


_UNSAID = Look()


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
    look: Look = _UNSAID  # what is not said of a picture itself
    lit: bool = False  # whether landscapes are lit scenes, drawn by VTK
    relief: float = 0.62  # height of a landscape, its base being 1 wide
    # Where a lit landscape has contour lines: `surface`, `floor`, `both`, `none`.
    lines: str = "surface"
    marks: bool = True  # whether the centre, the best cell and other minima are marked
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


def find(named: str | Path) -> Style:
    """Return a style by its name in `STYLES`, or from a style file, ``.toml``.

    Raises:
        UsageError: If there is no such style or file, or the file is wrong; lists all problems.
    """
    if str(named) in STYLES:
        return STYLES[str(named)]
    path = Path(named)
    if path.suffix.lower() != SUFFIX:
        raise UsageError(
            f"render: unknown style {str(named)!r}; allowed: {', '.join(STYLES)}, or a style file "
            f"(*{SUFFIX}){did_you_mean(named, STYLES)}"
        )
    is_regular(path, expected="a style file")
    try:
        raw = read_toml(path)
    except OSError as error:
        raise UsageError(f"{path}: the style cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UsageError(f"{path}: is no TOML ({error})") from error
    if problems := list(_problems(raw, _KEYS, "")):
        more = len(problems) - _MOST_LINES
        shown = [*problems[:_MOST_LINES], *([f"and {more:,} more"] if more > 0 else [])]
        raise UsageError("\n  ".join([f"{path}: {len(problems)} problem(s)", *shown]))
    style = _style(raw, path.stem)
    dots = style.dpi * max(style.width, style.wide, style.height)
    if dots > _MOST_DOTS:
        raise UsageError(
            f"{path}: dpi {style.dpi} makes pictures of {dots:,.0f} dots; allowed are "
            f"{_MOST_DOTS:,} along the longest side: lower dpi, width, wide or height"
        )
    return style


def _style(raw: Mapping[str, Any], name: str) -> Style:
    base = STYLES[raw.get("base", "default")]
    direct = {field.name for field in fields(Style)}
    changes: dict[str, Any] = {key: value for key, value in raw.items() if key in direct}
    tables = {"": raw, "camera": raw.get("camera", {})}
    look = {
        name: tables[option.table][name]
        for name, option in OPTIONS.items()
        if option.table is not None and name in tables[option.table]
    }
    changes["look"] = merged(said(look), base.look)
    rc = dict(base.rc)
    if {"font", "font_size"} & raw.keys():
        family = raw.get("font", rc["font.family"])
        mathtext = rc["mathtext.fontset"] if "font" not in raw else _mathtext(family)
        rc |= fonts(float(raw.get("font_size", rc["font.size"])), family, mathtext)
    ink, ground = raw.get("ink", base.ink), raw.get("background", base.ground)
    if {"ink", "background"} & raw.keys():
        rc |= inks(ink, ground, ink if "ink" in raw else rc["axes.edgecolor"])
    if "width" in raw and "wide" not in raw:
        changes["wide"] = base.wide / base.width * raw["width"]
    changes["turntable"] = replace(base.turntable, **raw.get("turntable", {}))
    return replace(base, **{**changes, "name": name, "rc": rc, "ink": ink, "ground": ground})


def _mathtext(family: str) -> str:
    """Return the set of mathematical letters that goes with a font."""
    plain = ("dejavusans", "dejavuserif", "stix", "cm")
    words = family.lower().replace(" ", "")
    if words in plain:
        return words
    serif = any(word in words for word in ("serif", "stix", "times", "roman", "cm"))
    return "stix" if serif and "sans" not in words else "stixsans"


def _problems(raw: Mapping[str, Any], keys: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in raw.items():
        check = keys.get(key)
        if check is None:
            allowed = f"; allowed: {', '.join(keys)}"
            yield f"{prefix}{key[:_LONGEST]}: unknown key{did_you_mean(key, keys) or allowed}"
        elif isinstance(check, Mapping):
            if isinstance(value, Mapping):
                yield from _problems(value, check, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}: got {_cut(value)}; expected a table with {', '.join(check)}"
        elif allowed := check(value):
            yield f"{prefix}{key}: got {_cut(value)}; expected {allowed}"


def _cut(value: Any) -> str:
    return repr(value)[:_LONGEST]


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "true or false"


def _colormap(value: Any) -> str:
    from matplotlib import colormaps

    if isinstance(value, str) and value in colormaps:
        return ""
    return f"the name of a colour map of matplotlib's{did_you_mean(value, colormaps)}"


def _color(value: Any) -> str:
    from matplotlib.colors import is_color_like

    right = isinstance(value, str) and value != "none" and is_color_like(value)
    return "" if right else 'a colour, such as "#1a1a1a" or "white"'


def _font(value: Any) -> str:
    from matplotlib.font_manager import FontProperties, findfont, get_font_names

    try:
        findfont(FontProperties(family=value), fallback_to_default=False)
    except (ValueError, TypeError):
        return f"a font that is installed{did_you_mean(value, get_font_names())}"
    return ""


def _of_looks(table: str) -> dict[str, Check]:
    return {name: option.check for name, option in OPTIONS.items() if option.table == table}


_KEYS: Mapping[str, Check | Mapping[str, Check]] = {
    "base": values.one_of(*STYLES),
    "colormap": _colormap,
    "width": values.number(1, 40),
    "wide": values.number(1, 40),
    "height": values.number(0.5, 40),
    "dpi": values.number(20, 1200, whole=True),
    "font": _font,
    "font_size": values.number(3, 60),
    "ink": _color,
    "background": _color,
    "transparent": _flag,
    "lit": _flag,
    "relief": values.number(0.05, 3),
    "lines": values.one_of(*LINES),
    "marks": _flag,
    **_of_looks(""),
    "camera": _of_looks("camera"),
    "turntable": {
        "frames": values.number(2, 720, whole=True),
        "seconds": values.number(0.2, 120),
    },
}
