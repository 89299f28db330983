"""The one table of what may be said of a picture.

A field of `Look` is a keyword in Python.  Its `Option` says how the command line and style files
call it, which values it takes, and which kinds of picture it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lsengine.errors import UsageError
from lsengine.looks import values
from lsengine.looks.values import Check
from lsengine.wording import did_you_mean

LONGEST = 60  # characters of a wrong value in a message
ELSEWHERE = "colour map, font, sizes and dpi are keys of a style file (docs/RENDERING.md)"
RECORDS = ("history", "histogram")
LINES = ("curve", "curvature", *RECORDS)  # have a legend
LANDSCAPES = ("surface", "html")
FLAT = ("contour", "filled", "heatmap", "trajectory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """How one thing is said of a picture.

    Attributes:
        usage: On the command line, as its help shows it.
        help: What it does.
        check: Returns what is allowed if a value is not.
        kinds: The pictures it is for; empty for all.
        table: Of a style file, where the key stands; None if no style file has it.
        type: What the command line makes of each value.
        repeats: Whether it is given once for each surface, and is a list.
    """

    usage: str
    help: str
    check: Check
    kinds: tuple[str, ...] = ()
    table: str | None = ""
    type: Callable[[str], Any] = str
    repeats: bool = False


def _option(usage: str, help: str, check: Check, **more: Any) -> Mapping[str, Option]:
    return {"option": Option(usage=usage, help=help, check=check, **more)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What may be said of a picture beside its kind; None where nothing is said.

    Attributes:
        quantity: A dataset of every surface.  Default: the training loss; for curves losses and
            accuracies together.  Of ``curvature`` one of its panels; default all, of several
            surfaces the first.  Of records a curve or a parameter.
        scale: ``auto``, ``linear``, ``log`` or ``quantile``; ``auto`` takes the logarithm when
            positive values span over 1.5 decades.
        style: ``default``, ``paper`` (one column), ``dark`` (slides), ``lit`` (3D surfaces under
            lamps); or a style file (``.toml``).
        levels: About how many contour levels, which are round numbers; or the levels themselves,
            increasing.  Then the outermost ones are the ends of the scale.
        limits: Ends of the colour (or loss) scale in the unit drawn, percent for accuracies.
        title: Over the picture, for the surface's name; of several over all.  An empty text of
            this and the following leaves out what would be there.
        subtitle: Below the title, for the test error.
        labels: What the surfaces are called, one text for each.
        xlabel: Of the horizontal axes.
        ylabel: Of the vertical axes; of two kinds of them, the first.
        zlabel: Of the colour bar.
        notes: Below the picture, for what it says there.
        panel_letters: The letter of the first panel, from which the others count on: ``(a)``.
        legend: Its place: ``below``, ``right``, ``none``, or one in the panel: ``best``.
        xlim: The part of alpha, or of the horizontal axis, that is drawn; of a plane's cells
            those between.
        ylim: The same of beta, or of the (first) vertical axis.
        azimuth: Degrees about the vertical from which landscapes are seen, from alpha to beta.
        elevation: Degrees above the ground.  What is left open of the two is chosen so that the
            marked points are seen.
        zoom: 1 shows all of a landscape.
        filled: Whether planes' missing cells are drawn with their neighbours' values, marked.
    """

    quantity: str | None = field(
        default=None,
        metadata=_option(
            "--quantity NAME",
            "what to draw (default: train_loss; of curvature ratio, sign, eigenvalue_min and "
            "eigenvalue_max)",
            values.any_word,
            table=None,
        ),
    )
    scale: str | None = field(
        default=None,
        metadata=_option(
            "--scale SCALE",
            "auto, linear, log or quantile (default: auto)",
            values.one_of(*values.SCALES),
        ),
    )
    style: str | Path | None = field(
        default=None,
        metadata=_option(
            "--style STYLE",
            "default, paper, dark, lit (of surfaces), or a style file (.toml)",
            lambda value: "" if isinstance(value, str | Path) else "a name or a file",
            table=None,
        ),
    )
    levels: int | tuple[float, ...] | None = field(
        default=None,
        metadata=_option(
            "--levels N",
            "about how many contour levels, or the levels themselves: 0.1,1,10",
            values.levels,
            kinds=(*FLAT, *LANDSCAPES, "curve", "curvature"),
            type=values.read_levels,
        ),
    )
    limits: tuple[float, float] | None = field(
        default=None,
        metadata=_option(
            "--limits LOW HIGH",
            "limits of the colours",
            values.limits,
            kinds=(*FLAT, *LANDSCAPES, "curve", "curvature"),
            type=float,
        ),
    )
    title: str | None = field(
        default=None,
        metadata=_option(
            "--title TEXT",
            "over the picture, for the surface's name; of several over all.  Here and below, '' "
            "leaves out what would be there, and $...$ is mathematics",
            values.text,
        ),
    )
    subtitle: str | None = field(
        default=None,
        metadata=_option("--subtitle TEXT", "below it, for the test error", values.text),
    )
    labels: tuple[str, ...] | None = field(
        default=None,
        metadata=_option(
            "--label TEXT",
            "what a surface is called; once for each, in order",
            values.texts,
            kinds=(*FLAT, *LANDSCAPES, "curve", "curvature", "history"),
            repeats=True,
        ),
    )
    xlabel: str | None = field(
        default=None, metadata=_option("--xlabel TEXT", "of the horizontal axes", values.text)
    )
    ylabel: str | None = field(
        default=None, metadata=_option("--ylabel TEXT", "of the (first) vertical axes", values.text)
    )
    zlabel: str | None = field(
        default=None,
        metadata=_option(
            "--zlabel --colorbar-label TEXT",
            "of the colour bar",
            values.text,
            kinds=(*FLAT, *LANDSCAPES, "curvature"),
        ),
    )
    notes: str | None = field(
        default=None,
        metadata=_option(
            "--notes TEXT", "below the picture, for what it says of cells and marks", values.text
        ),
    )
    panel_letters: str | None = field(
        default=None,
        metadata=_option(
            "--panel-letters LETTER",
            "the first panel's letter, such as '(a)'; the others count on",
            values.letters,
            kinds=(*FLAT, "surface", *LINES),
        ),
    )
    legend: str | None = field(
        default=None,
        metadata=_option(
            "--legend PLACE",
            "below, right, none, or in the panel: best, 'upper left', ... (default: below)",
            values.one_of(*values.PLACES),
            kinds=LINES,
        ),
    )
    xlim: tuple[float, float] | None = field(
        default=None,
        metadata=_option(
            "--xlim LOW HIGH",
            "the part of alpha, or of the horizontal axis, that is drawn",
            values.limits,
            type=float,
        ),
    )
    ylim: tuple[float, float] | None = field(
        default=None,
        metadata=_option(
            "--ylim LOW HIGH",
            "the part of beta, or of the (first) vertical axis, that is drawn",
            values.limits,
            type=float,
        ),
    )
    azimuth: float | None = field(
        default=None,
        metadata=_option(
            "--azimuth DEGREES",
            "where a landscape is seen from, from alpha towards beta (default: -56, or whence the "
            "minimum is seen)",
            values.number(-360, 360),
            kinds=LANDSCAPES,
            table="camera",
            type=float,
        ),
    )
    elevation: float | None = field(
        default=None,
        metadata=_option(
            "--elevation DEGREES",
            "above the ground, 1 to 89 (default: 32, or whence the minimum is seen)",
            values.number(1, 89),
            kinds=LANDSCAPES,
            table="camera",
            type=float,
        ),
    )
    zoom: float | None = field(
        default=None,
        metadata=_option(
            "--zoom FACTOR",
            "1 shows all of a landscape (default)",
            values.number(0.1, 10),
            kinds=LANDSCAPES,
            table="camera",
            type=float,
        ),
    )
    filled: bool = False


OPTIONS: Mapping[str, Option] = {
    each.name: each.metadata["option"] for each in fields(Look) if each.metadata
}


def said(words: Mapping[str, Any]) -> Look:
    """Return a look from Python's keywords, each with a value that its option takes.

    Raises:
        UsageError: If there is no such keyword, or a value is not allowed; lists all.
    """
    problems, known = [], [each.name for each in fields(Look)]
    plain = {name: _plain(value) for name, value in words.items()}
    for name, value in plain.items():
        if name not in known:
            hint = did_you_mean(name, known) or f"; allowed: {', '.join(known)}; {ELSEWHERE}"
            problems.append(f"unknown option {name!r}{hint}")
        elif name in OPTIONS and value is not None and (allowed := OPTIONS[name].check(value)):
            found = repr(value) if len(repr(value)) <= LONGEST else f"{repr(value)[:LONGEST]}..."
            problems.append(f"{name.replace('_', ' ')}: got {found}; expected {allowed}")
    if problems:
        raise UsageError(f"render: {'; '.join(problems)}")
    return Look(**plain)


def _plain(value: Any) -> Any:
    """Return a value of Python's own for one of NumPy's, and a tuple for a list."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def stated(look: Look) -> Iterator[tuple[str, Any]]:
    """Yield names and values of what is said."""
    pairs = ((name, getattr(look, name)) for name in OPTIONS)
    return ((name, value) for name, value in pairs if value is not None)


def merged(look: Look, under: Look) -> Look:
    """Return a look that says of what is left open what another says.

    Limits and levels of one's own both say where a scale ends: one of them leaves nothing open.
    """
    if isinstance(look.levels, tuple):
        under = replace(under, limits=None)
    elif look.limits is not None and isinstance(under.levels, tuple):
        under = replace(under, levels=None)
    return replace(under, **dict(stated(look)), filled=look.filled)


def check_kind(look: Look, kind: str) -> None:
    """Refuse what a kind of picture has not.

    Raises:
        UsageError: With the option, and what it is for.
    """
    for name, _ in stated(look):
        option = OPTIONS[name]
        if option.kinds and kind not in option.kinds:
            raise UsageError(
                f"render: a picture as {kind} has no {name.replace('_', ' ')}; leave "
                f"{option.usage.split()[0]} out (it is for {', '.join(option.kinds)})"
            )


def suited(look: Look, kind: str) -> Look:
    """Return a look without what a kind of picture has not: a style serves many kinds."""
    idle = [n for n, option in OPTIONS.items() if option.kinds and kind not in option.kinds]
    nothing: dict[str, Any] = dict.fromkeys(idle)
    return replace(look, **nothing)
