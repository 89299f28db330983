"""What was asked for, checked before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lsengine.errors import NothingToDraw, UsageError
from lsengine.render.style.files import SCALES, find
from lsengine.render.style.styles import STYLES, Style
from lsengine.surface import Surface, cells
from lsengine.surface.quantities import describe, preferred
from lsengine.surface.records import History, WeightHistograms
from lsengine.wording import did_you_mean

KINDS = {
    "contour": "plane",
    "filled": "plane",
    "heatmap": "plane",
    "surface": "plane",
    "html": "plane",
    "trajectory": "plane",
    "curve": "curve",
    "curvature": "either",
    "histogram": "weights",
    "history": "history",
}


"""Every kind of picture, and what it is made of: surfaces of two directions or one, or records."""


JOINING = ("contour", "filled", "surface")


"""Kinds that are nothing without neighbours in both directions."""


CURVATURE = ("ratio", "sign", "eigenvalue_min", "eigenvalue_max")


"""The panels of ``curvature``; the first is what several surfaces are compared by."""


RECORDS: Mapping[str, type[History] | type[WeightHistograms]] = {
    "weights": WeightHistograms,
    "history": History,
}
EXTENSIONS = (".png", ".pdf", ".svg")
MOVING = (".gif", ".mp4")


"""Of animations, which trajectories and lit surfaces can be."""


PAGE = ".html"


@dataclass(frozen=True, slots=True)
class Request:
    """A picture that can be drawn: every surface fits the kind and has the quantity.

    Attributes:
        surfaces: At least one.
        kind: A key of `KINDS`.
        quantity: The dataset; None only for curves, which then show losses and accuracies, and
            for ``curvature``, of which it is one of `CURVATURE` or all.
        scale: A member of `SCALES`.
        style: The look.
        levels: About how many contour levels; None for a good number.
        limits: Lowest and highest value of the colour or loss axis, in the unit drawn.
        filled: Whether cells not computed yet are drawn, marked, with their neighbour's value.
    """

    surfaces: tuple[Surface, ...]
    kind: str
    quantity: str | None
    scale: str
    style: Style
    levels: int | None
    limits: tuple[float, float] | None
    filled: bool = False


@dataclass(frozen=True, slots=True)
class RecordsRequest:
    """A picture of histories or of weights that can be drawn.

    Attributes:
        records: At least one; all of the class that the kind is made of.
        kind: A key of `KINDS`.
        quantity: A curve of a history, or a parameter of either; None for the usual ones.
        scale: A member of `SCALES`, of losses and of counts.
        style: The look.
    """

    records: tuple[History | WeightHistograms, ...]
    kind: str
    quantity: str | None
    scale: str
    style: Style


def validated_records(
    records: Sequence[object],
    kind: str,
    quantity: str | None,
    look: tuple[str | None, str | Path],
    ranges: tuple[int | None, tuple[float, float] | None],
) -> RecordsRequest:
    """Check a request for a picture of records, as `validated` does for surfaces.

    Raises:
        UsageError: With what was found, what is allowed, and what to do.
    """
    style = _flat(find(look[1]), kind)
    scale = look[0] or style.scale
    _member("scale", scale, SCALES)
    for name, value in zip(("levels", "limits"), ranges, strict=True):
        if value is not None:
            raise UsageError(f"render: a {kind} has no {name}; leave --{name} out")
    kept = tuple(r for r in records if isinstance(r, RECORDS[KINDS[kind]]))
    if not records or len(kept) < len(records):
        raise UsageError(f"render: a {kind} is made of {KINDS[kind]} files only; name some")
    return RecordsRequest(kept, kind, quantity, scale, style)


def validated(
    surfaces: Sequence[Surface],
    kind: str,
    quantity: str | None,
    look: tuple[str | None, str | Path],
    ranges: tuple[int | None, tuple[float, float] | None],
    *,
    filled: bool = False,
) -> Request:
    """Check everything that can be checked without drawing.

    Args:
        surfaces: What to draw.
        kind: See `KINDS`.
        quantity: A dataset name or None.
        look: Scale by name, None for the style's, and style, by name or its file.
        ranges: Number of levels and limits; None for the style's.
        filled: See `Request`.

    Raises:
        UsageError: With what was found, what is allowed, and what to do.
        NothingToDraw: If all is well, but no cell is done, or none has a finite value.
    """
    _member("kind of picture", kind, KINDS)
    style = _flat(find(look[1]), kind)
    scale = look[0] or style.scale
    levels = style.levels if ranges[0] is None else ranges[0]
    limits = style.limits if ranges[1] is None else ranges[1]
    _member("scale", scale, SCALES)
    if not surfaces:
        raise UsageError("render: no surface given; name at least one surface file")
    for surface in surfaces:
        _fits(surface, kind)
    _ranges(levels, limits, scale)
    if KINDS[kind] == "either":
        _curvature(surfaces, quantity, limits)
        _has_begun(surfaces, kind)
        return Request(tuple(surfaces), kind, quantity, scale, style, levels, limits)
    chosen = _quantity(surfaces, kind, quantity)
    if scale == "log" and chosen is not None and describe(chosen).is_percent:
        raise UsageError(
            f"render: scale log asked for {chosen}; accuracies are drawn in percent on a "
            "linear scale; use --scale auto or another quantity"
        )
    _has_begun(surfaces, kind)
    _has_values(surfaces, kind, chosen)
    return Request(tuple(surfaces), kind, chosen, scale, style, levels, limits, filled)


def _flat(style: Style, kind: str) -> Style:
    """Return the style for a kind: what is not a landscape has nothing to be lit."""
    return (
        STYLES["default"] if style is STYLES["lit"] and kind not in ("surface", "html") else style
    )


def check_look(kind: str, scale: str | None = None, style: str | Path = "default") -> None:
    """Refuse words that no surface could make right; call before waiting for one.

    Raises:
        UsageError: If there is no such kind, scale or style.
    """
    _member("kind of picture", kind, KINDS)
    _member("scale", scale or find(style).scale, SCALES)


def check_output(path: str | Path, kind: str = "") -> Path:
    """Return ``path`` if a picture can be written there; call before the hard work.

    Args:
        path: The file.
        kind: A key of `KINDS`; trajectories and lit surfaces may be animations.

    Raises:
        UsageError: If the extension is unknown, or the folder missing.
    """
    path = Path(path)
    moves = kind in ("trajectory", "surface")
    allowed = (PAGE,) if kind == "html" else EXTENSIONS + (MOVING if moves else ())
    if path.suffix.lower() in MOVING and not moves:
        raise UsageError(
            f"{path}: only a trajectory and a lit surface move; use --as trajectory, or "
            "--as surface --style lit, or name a .png"
        )
    if path.suffix.lower() not in allowed:
        raise UsageError(
            f"{path}: cannot write {kind or 'a picture'} with the extension "
            f"{path.suffix or '(none)'!r}; "
            f"allowed: {', '.join(e[1:] for e in allowed)}"
            f"{did_you_mean(path.suffix.lower(), allowed)}"
        )
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file in it, such as {path / 'a.png'}")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; make it first")
    return path


def _member(what: str, found: str, allowed: Collection[str]) -> None:
    if found not in allowed:
        hint = did_you_mean(found, allowed)
        raise UsageError(f"render: unknown {what} {found!r}; allowed: {', '.join(allowed)}{hint}")


def _fits(surface: Surface, kind: str) -> None:
    planes = [name for name, axes in KINDS.items() if axes == "plane"]
    if KINDS[kind] == "plane" and not surface.is_plane:
        raise UsageError(
            f"{surface.source}: has one direction ({', '.join(surface.axes)}), but a {kind} "
            "needs two (alpha and beta); use --as curve"
        )
    if KINDS[kind] == "curve" and surface.is_plane:
        raise UsageError(
            f"{surface.source}: has two directions (alpha and beta), but a curve is drawn "
            f"along one; use --as {', '.join(planes[:-1])} or {planes[-1]}"
        )
    if kind == "trajectory" and not surface.has_path:
        raise UsageError(
            f"{surface.source}: holds no trajectory; give its job principal directions or a "
            "trajectory section, and run lsengine trajectory on it"
        )
    if not surface.quantities:
        raise UsageError(f"{surface.source}: holds no quantity to draw")
    joins = kind in JOINING or (kind == "trajectory" and surface.done.any())
    if joins and min(surface.status.shape) < 2:
        betas, alphas = surface.status.shape
        raise UsageError(
            f"{surface.source}: has {alphas} x {betas} cells (alpha x beta), but kind "
            f"{kind!r} joins at least 2 x 2; use --as heatmap"
        )


def _has_begun(surfaces: Sequence[Surface], kind: str) -> None:
    for surface in surfaces:
        if not surface.done.any() and kind != "trajectory":  # whose path is there
            counts = surface.counts()
            raise NothingToDraw(
                f"{surface.source}: none of {surface.status.size:,} cells is done "
                f"({counts['missing']:,} missing, {counts['failed']:,} failed); "
                "run lsengine eval on its job first"
            )


def _has_values(surfaces: Sequence[Surface], kind: str, chosen: str | None) -> None:
    """Refuse pages and curves of a quantity without values; other kinds look at the cells."""
    if chosen is None or kind not in ("html", "curve"):
        return
    tallies = [cells.tally(s.status, [s.quantities[chosen]]) for s in surfaces]
    empty = [t.missing + t.bad == t.cells for t in tallies]
    if all(empty) or (any(empty) and kind == "curve"):
        first = empty.index(True)
        remedy = "--as heatmap, which shows each cell" if kind == "html" else "another --quantity"
        raise NothingToDraw(
            f"{surfaces[first].source}: {chosen} has no finite value to draw "
            f"({tallies[first].reasons()}); use {remedy}"
        )


def _curvature(
    surfaces: Sequence[Surface], quantity: str | None, limits: tuple[float, float] | None
) -> None:
    """Refuse what has no eigenvalues, and panels that do not go together."""
    if quantity is not None:
        _member("quantity of curvature", quantity, CURVATURE)
    if limits is not None and quantity is None and len(surfaces) == 1:
        raise UsageError(
            "render: limits are of one scale, and a page of curvature has several; choose a panel "
            f"with --quantity {', '.join(CURVATURE)}"
        )
    for surface in surfaces:
        if not {"eigenvalue_min", "eigenvalue_max"} <= surface.quantities.keys():
            raise UsageError(
                f"{surface.source}: holds no eigenvalues; run lsengine eval on a job with "
                "quantities: [loss, curvature]"
            )
        if surface.is_plane != surfaces[0].is_plane:
            raise UsageError(
                f"{surfaces[0].source}, {surface.source}: one has two directions, the other one; "
                "draw planes and curves apart"
            )


def _quantity(surfaces: Sequence[Surface], kind: str, quantity: str | None) -> str | None:
    if quantity is None:
        if KINDS[kind] == "curve":
            return None
        shared = set.intersection(*(set(s.quantities) for s in surfaces))
        if not shared:
            held = "; ".join(f"{s.source}: {', '.join(sorted(s.quantities))}" for s in surfaces)
            raise UsageError(f"render: the surfaces have no quantity in common ({held})")
        return preferred(shared)
    for surface in surfaces:
        if quantity not in surface.quantities:
            names = sorted(surface.quantities)
            raise UsageError(
                f"{surface.source}: has no quantity {quantity!r}; it has: {', '.join(names)}"
                f"{did_you_mean(quantity, names)}"
            )
    return quantity


def _ranges(levels: int | None, limits: tuple[float, float] | None, scale: str) -> None:
    if levels is not None and not 2 <= levels <= 100:
        raise UsageError(f"render: levels is {levels}; allowed: 2 to 100")
    if limits is None:
        return
    low, high = limits
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(
            f"render: limits are {low:g}, {high:g}; two finite numbers are needed, the lower first"
        )
    if scale == "log" and low <= 0:
        raise UsageError(
            f"render: limits start at {low:g}, which a log scale cannot show; give a "
            "positive lower limit or use --scale linear"
        )
