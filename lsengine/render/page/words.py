"""The words of a page, its own and those that were asked for: titles, labels, notes, legends.

Titles and labels are matplotlib's own, so that whoever gets a figure can set them again.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from matplotlib.axes import Axes
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.mathtext import MathTextParser
from matplotlib.text import Annotation

from lsengine.errors import UsageError
from lsengine.looks import Look
from lsengine.looks.values import LETTERS
from lsengine.render.page import page
from lsengine.render.page.page import MARGIN, POINT
from lsengine.render.request import Request
from lsengine.surface import Surface
from lsengine.surface.cells import error_at
from lsengine.surface.records import History
from lsengine.wording import short

TITLE, OVER_ALL, NOTE = 1.08, 1.2, 0.8  # sizes in that of the labels
LINE = 1.25  # from one line of a title to the next, in its size, whatever the font says
WIDE = 0.52  # width of a letter, about, in its size
_IS_NOTE = "note"  # what artists that are notes are marked by


def heading(name: str, facts: Sequence[str], look: Look) -> str:
    """Return title and subtitle: the name of a picture's only thing and facts, or what was said."""
    title = name if look.title is None else _checked("title", look.title)
    below = facts if look.subtitle is None else [_checked("subtitle", look.subtitle)]
    return "\n".join(line for line in [title, *below] if line)


def caption(axes: Axes, surface: Surface, request: Request) -> None:
    """Write a surface's name over its panel, and the test error at its centre below that."""
    name, facts, look = named(surface, request), errors(surface), request.look
    if request.several:
        look = replace(look, title=None, subtitle=look.subtitle and None)  # they are over all
    title(axes, heading(name, facts, look))


def named(thing: Surface | History, request: Request) -> str:
    """Return what a thing is called on the page."""
    own = request.look.labels is not None
    return _checked("labels", thing.name) if own else page.printable(thing.name)


def title(axes: Axes, text: str) -> None:
    """Write a title over axes, in as many lines as it needs."""
    spec = axes.get_subplotspec()
    columns = spec.get_gridspec().ncols if spec else 1
    size = page.letter(axes) * TITLE
    room = page.root(axes).get_figwidth() / columns * 0.96
    axes.set_title(_lines(text, room, size), pad=4.0, fontsize=size, linespacing=LINE)


def over_all(axes: Axes, text: str) -> None:
    """Write a title over all panels of a figure, one of which is ``axes``."""
    figure, size = page.root(axes), page.letter(axes) * OVER_ALL
    if text:
        shown = _lines(text, figure.get_figwidth() * 0.96, size)
        figure.suptitle(shown, fontsize=size, linespacing=LINE)


def below_all(axes: Axes, text: str) -> None:
    """Write sentences below all panels of a figure, one of which is ``axes``."""
    figure, size = page.root(axes), page.letter(axes) * NOTE
    shown = _lines(text, figure.get_figwidth() * 0.92, size)
    figure.supxlabel(shown, fontsize=size, alpha=0.85, linespacing=1.35)


def errors(surface: Surface) -> list[str]:
    """Return what a caption says of test errors: at the centre, and at other minima."""
    points = page.marked_points(surface).items()
    (_, centre), *others = ((name, error_at(surface, *at)) for name, at in points)
    lines = [] if centre is None else [f"test error {centre:.2f} %"]
    if surface.is_plane and lines and others:
        lines[0] += " at the centre"
        texts = [f"{name} {error:.2f} %" for name, error in others if error is not None]
        lines.append(", ".join(texts))
    return [line for line in lines if line]


def note(axes: Axes, lines: Sequence[str], drop: float | None = None) -> None:
    """Put sentences below the axes, each from a line of its own on, wrapped to their width.

    They begin ``drop`` points below the axes' lower edge, by default below their labels.
    """
    if not any(lines):
        return
    size, figure = page.letter(axes) * NOTE, page.root(axes)
    drop = page.letter(axes) * 2.9 + 4.0 if drop is None else drop
    spec = axes.get_subplotspec()
    columns = spec.get_gridspec().ncols if spec else 1
    text = _lines("\n".join(lines), figure.get_figwidth() / columns * 0.86, size)
    look: dict[str, Any] = {"fontsize": size, "alpha": 0.85, "linespacing": 1.35, "gid": _IS_NOTE}
    look |= {"xycoords": "axes fraction", "xytext": (0, -drop), "textcoords": "offset points"}
    look |= {"ha": "center", "va": "top", "annotation_clip": False}
    axes.annotate(text, (0.5, 0.0), **look)


def lower_notes(figure: Figure, axes: Sequence[Axes]) -> None:
    """Move notes below all else that hangs from their panel, if it hangs lower than is usual."""
    figure.draw_without_rendering()  # only now landscapes know where their words are
    renderer = cast(Any, figure.canvas).get_renderer()
    for side in axes:
        notes = [cast(Annotation, text) for text in side.texts if text.get_gid() == _IS_NOTE]
        for artist in notes:
            artist.set_visible(False)
        box = side.get_tightbbox(renderer)
        hang = 0.0 if box is None else (side.bbox.y0 - box.y0) * 72.0 / figure.dpi
        for artist in notes:
            artist.set_visible(True)
            artist.xyann = (0.0, min(artist.xyann[1], -hang - 0.3 * page.letter(side)))


def names_of_axes(request: Request) -> tuple[str, str]:
    """Return what the two axes of a plane are called: by their letters, or as was said."""
    look = request.look
    alpha = r"$\alpha$" if look.xlabel is None else _checked("xlabel", look.xlabel)
    return alpha, r"$\beta$" if look.ylabel is None else _checked("ylabel", look.ylabel)


def finish(
    figure: Figure, axes: Sequence[Axes], request: Request, families: Sequence[Axes] = ()
) -> None:
    """Write what was said in the place of what is there, and settle the page.

    Titles of panels are there already (`caption`).

    Args:
        figure: With everything on it.
        axes: Its panels.
        request: What was said.
        families: Axes of lines with different vertical scales; none if one colour bar is theirs.

    Raises:
        UsageError: If a text is no mathematics, or one of several scales is meant.
    """
    look = request.look
    for side in axes:
        if look.xlabel is not None and side.get_xlabel():  # inner panels have none
            side.set_xlabel(_checked("xlabel", look.xlabel))
        if look.ylabel is not None and side.get_ylabel() and not families:
            side.set_ylabel(_checked("ylabel", look.ylabel))
    _name_scales(figure, request, families)
    if look.panel_letters:
        _count_on(axes, look.panel_letters)
    if look.notes is not None:
        _exchange_notes(figure, axes, _checked("notes", look.notes))
    if request.several:
        over_all(axes[0], heading("", [], look))
    settle(figure)


def limit(families: Sequence[Axes], request: Request) -> None:
    """End the axes of lines where it was said, the vertical one of the first family.

    Raises:
        UsageError: If one of several vertical axes is meant, or a limit has no logarithm.
    """
    look = request.look
    _unambiguous("ylim", look.ylim, families)
    for side in families if look.xlim else ():
        side.set_xlim(look.xlim)
    if look.ylim:
        if families[0].get_yscale() == "log" and look.ylim[0] <= 0:
            raise UsageError(
                f"render: ylim starts at {look.ylim[0]:g}, which a log scale cannot show; give a "
                "positive lower limit or use --scale linear"
            )
        families[0].set_ylim(look.ylim)


def legend(
    axes: Axes, handles: list[Line2D], place: str, *, keys: int = 0, title: str = ""
) -> None:
    """Put a legend on the page.

    Args:
        axes: The first panel.
        handles: Labelled lines.
        place: Where, as a `Look` says it.
        keys: How many of the last handles explain looks, not things; they start a column.
        title: Above the labels: what the numbers in them are.
    """
    size, figure = page.letter(axes) * 0.88, page.root(axes)
    look: dict[str, Any] = {"handlelength": 2.4, "title": title or None, "title_fontsize": size}
    if place == "below":
        width = figure.get_figwidth() / (size * POINT)
        handles, columns = _in_columns(handles, keys, width)
        look |= {"ncols": columns, "borderaxespad": 0.4, "borderpad": 0.1}
        figure.legend(handles=handles, loc="outside lower center", **look)
    elif place == "right":
        figure.legend(handles=handles, loc="outside right upper", **look)
    elif place != "none":
        look |= {"frameon": True, "framealpha": 0.85, "edgecolor": "none"}
        alike = [side for side in figure.axes if side.get_subplotspec() is axes.get_subplotspec()]
        alike[-1].legend(handles=handles, loc=cast(Any, place), **look)  # over the lines of all


def _in_columns(handles: list[Line2D], keys: int, width: float) -> tuple[list[Line2D], int]:
    """Return handles as they fill columns, and how many columns a page so many letters wide has."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    entry = 0.5 * longest + 4.4  # letters, the line and the gaps included
    most = max(1, min(len(handles), 4, int(width / entry)))
    things, rows, fewest = len(handles) - keys, 1, -(-len(handles) // most)
    while rows < len(handles) and -(-things // rows) + -(-keys // rows) > most:
        rows += 1
    if rows > fewest + 1:  # a column of its own for one key would make the others towers
        rows = fewest
    elif things and keys and most > 1:  # matplotlib makes columns equally long
        blank = Line2D([], [], linestyle="none", label=" ")
        tail = [blank] * (-keys % rows)
        handles = [*handles[:things], *[blank] * (-things % rows), *handles[things:], *tail]
    return handles, -(-len(handles) // rows)  # no lonely last row


def settle(figure: Figure) -> None:
    """Lay the page out, trim its height to what is on it, and fix every position.

    Nothing may move afterwards: contour labels cut gaps that are computed from positions.
    """
    engine = figure.get_layout_engine()
    assert engine is not None  # `sheet` gave it one
    for _ in range(2):
        engine.execute(figure)
        renderer = cast(Any, figure.canvas).get_renderer()
        box = figure.get_tightbbox(renderer)
        wanted = box.height + 2 * MARGIN * POINT
        if abs(wanted - figure.get_figheight()) < 0.02:
            break
        figure.set_figheight(wanted)
    else:
        engine.execute(figure)
    figure.set_layout_engine("none")


def _name_scales(figure: Figure, request: Request, families: Sequence[Axes]) -> None:
    """Name colour bars or the vertical axes of families."""
    look = request.look
    bars = [side for side in figure.axes if hasattr(side, "_colorbar")]
    _unambiguous("zlabel", look.zlabel, bars)
    for bar in bars if look.zlabel is not None else ():
        bar.set_ylabel(_checked("zlabel", look.zlabel or ""))
    if families:
        _unambiguous("ylabel", look.ylabel, families)
    if families and look.ylabel is not None:
        families[0].set_ylabel(_checked("ylabel", look.ylabel))


def _unambiguous(name: str, value: Any, scales: Sequence[Axes]) -> None:
    """Refuse what is said of one scale of many; of two vertical axes the first is meant."""
    most = 1 if name == "zlabel" else 2
    if value is not None and len(scales) > most:
        raise UsageError(
            f"render: {name} is of one scale, and this picture has {len(scales)}; choose one "
            "with --quantity"
        )


def _checked(name: str, text: str) -> str:
    """Return a text; refuse what matplotlib cannot read as mathematics."""
    for line in text.split("\n"):
        try:
            _parse(line)
        except (ValueError, RecursionError) as error:
            reason = str(error).strip().splitlines()[-1] if str(error) else "nested too deep"
            raise UsageError(
                f"render: {name}: {short(line)} is no mathematics that can be read ({reason}); "
                r"write a dollar sign as \$"
            ) from error
    return text


def _parse(line: str) -> None:
    if not is_math_text(line):
        return
    if r"\hspace" in line:  # would put letters where nothing can be drawn
        raise ValueError(r"\hspace is not taken")
    MathTextParser("path").parse(line)


def _count_on(axes: Sequence[Axes], first: str) -> None:
    """Write the letters of panels at their upper left."""
    letter = LETTERS.fullmatch(first)
    assert letter is not None  # the look was checked
    base = ord("a") if letter[1].islower() else ord("A")
    for number, side in enumerate(axes):
        this = chr(base + (ord(letter[1]) - base + number) % 26)
        text = first[: letter.start(1)] + this + first[letter.end(1) :]
        size = page.letter(side) * TITLE
        side.set_title(text, loc="left", pad=4.0, fontsize=size, fontweight="bold")


def _exchange_notes(figure: Figure, axes: Sequence[Axes], text: str) -> None:
    """Write one note where there were others, below the only panel or all of them."""
    old = [words for side in axes for words in side.texts if words.get_gid() == _IS_NOTE]
    for words in old:
        words.remove()
    if len(axes) > 1:
        below_all(axes[0], text)
    else:
        note(axes[0], [text], -cast(Annotation, old[0]).xyann[1] if old else None)


def _lines(text: str, room: float, size: float) -> str:
    """Return a text with its lines broken where so many inches of letters of a size end."""
    width = max(int(room / (size * WIDE * POINT)), 20)
    return "\n".join(part for line in text.split("\n") for part in _wrapped(line, width))


def _wrapped(line: str, width: int) -> list[str]:
    """Wrap a line whose numbers in math text are shorter to see than to write."""
    math = re.findall(r"\$[^$]*\$", line)
    for index, text in enumerate(math):
        plain = re.sub(r"\\[a-z]+", "x", text.replace("\\mathrm", ""))
        seen = len(re.sub(r"[${}^_\\]", "", plain))
        line = line.replace(text, chr(0xE000 + index) * seen, 1)
    parts = textwrap.wrap(line, width)
    for index, text in enumerate(math):
        parts = [re.sub(f"{chr(0xE000 + index)}+", lambda _, t=text: t, part) for part in parts]  # type: ignore[misc]
    return parts
