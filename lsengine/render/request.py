"""What was asked for, checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lsengine import files
from lsengine.errors import NothingToDraw, UsageError
from lsengine.looks import Look, check_kind, merged, said, suited
from lsengine.render.style import STYLES, Style, find
from lsengine.surface import Surface, cells
from lsengine.surface.quantities import describe, preferred
from lsengine.surface.records import History, WeightHistograms
from lsengine.wording import did_you_mean, short

# Every kind of picture, and what it is made of: surfaces of two directions or one, or records.
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
JOINING = ("contour", "filled", "surface")  # are nothing without neighbours in both directions
# The panels of ``curvature``; the first is what several surfaces are compared by.
CURVATURE = ("ratio", "sign", "eigenvalue_min", "eigenvalue_max")
RECORDS: Mapping[str, type] = {"weights": WeightHistograms, "history": History}
EXTENSIONS = (".png", ".pdf", ".svg")
MOVING = (".gif", ".mp4")  # of animations, which trajectories and lit surfaces can be
PAGE = ".html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A picture that can be drawn: what it is made of fits the kind and has the quantity."""

    kind: str  # a key of `KINDS`
    quantity: str | None  # None only for curves, `curvature` and records
    surfaces: tuple[Surface, ...] = ()  # at least one, unless there are records
    records: tuple[History | WeightHistograms, ...] = ()
    scale: str
    style: Style
    levels: int | tuple[float, ...] | None = None
    limits: tuple[float, float] | None = None
    look: Look  # with what the style says of it

    @property
    def filled(self) -> bool:
        """Whether missing cells have the values of others."""
        return self.look.filled

    @property
    def several(self) -> bool:
        """Whether more than one thing is drawn."""
        return len(self.surfaces) + len(self.records) > 1

    @property
    def is_cut(self) -> bool:
        """Whether less than all cells of planes are drawn, so that paths may leave the panel."""
        return bool(self.look.xlim or self.look.ylim)


def validated(things: Sequence[Any], kind: str, look: Look) -> Request:
    """Check everything about a picture that can be checked without drawing.

    Raises:
        UsageError: With what was found, what is allowed, and what to do.
        NothingToDraw: If all is well, but no cell is done, or none has a finite value.
    """
    _member("kind of picture", kind, KINDS)
    check_kind(look, kind)
    style = find(look.style or "default")
    if style is STYLES["lit"] and kind not in ("surface", "html"):
        style = STYLES["default"]  # what is not a landscape has nothing to be lit
    _fits_curvature(things, kind, look)
    look = merged(look, suited(style.look, kind))
    things = _labelled(things, look)
    scale = look.scale or "auto"
    request = Request(kind=kind, quantity=look.quantity, scale=scale, style=style, look=look)
    if KINDS[kind] in RECORDS:
        return replace(request, records=_records(things, kind))
    if not things:
        raise UsageError("render: no surface given; name at least one surface file")
    for surface in things:
        _fits(surface, kind)
    request = replace(
        request,
        surfaces=tuple(_cut(_drawable(thing), look) for thing in things),
        levels=look.levels,
        # Levels of curvature are those of the loss's lines, and not of the panels' colours.
        limits=look.limits if KINDS[kind] == "either" else _ends(look),
        look=replace(look, filled=look.filled and KINDS[kind] != "either"),
    )
    _ranges(request)
    if KINDS[kind] == "either":
        _curvature(request)
    else:
        request = replace(request, quantity=_quantity(request))
    _has_values(request)
    return request


def _ends(look: Look) -> tuple[float, float] | None:
    """Return where the scale ends, if that is said: by limits, or by the outermost levels."""
    if not isinstance(look.levels, tuple):
        return look.limits
    if look.limits is not None:
        raise UsageError(
            "render: both limits and levels say where the scale ends; leave limits out, or give "
            "the number of levels"
        )
    return look.levels[0], look.levels[-1]


def _labelled(things: Sequence[Any], look: Look) -> Sequence[Any]:
    """Return things under the names that a look has for them."""
    if look.labels is None:
        return things
    if len(look.labels) != len(things):
        raise UsageError(
            f"render: {len(look.labels)} label(s) for {len(things)} file(s); give one for each"
        )
    return [t.renamed(label) for t, label in zip(things, look.labels, strict=True)]


def _cut(surface: Surface, look: Look) -> Surface:
    """Return the part of a plane whose cells lie within the limits of a look."""
    wanted = {"alpha": look.xlim, "beta": look.ylim}
    if not surface.is_plane or not any(wanted.values()):
        return surface
    for name, within in wanted.items():
        if within is None:
            continue
        axis = surface.axes[name]
        slack = 1e-9 * float(np.ptp(axis))
        inside = (axis >= within[0] - slack) & (axis <= within[1] + slack)
        if not inside.any():
            raise UsageError(
                f"{surface.source}: no cell has {name} from {within[0]:g} to {within[1]:g}; its "
                f"cells go from {axis.min():g} to {axis.max():g}"
            )
        surface = surface.part(name, inside)
    return surface


def _drawable(surface: Surface) -> Surface:
    drawn = {name: cells.drawable(values) for name, values in surface.quantities.items()}
    is_same = all(drawn[name] is values for name, values in surface.quantities.items())
    return surface if is_same else replace(surface, quantities=drawn)


def _drawable_record(record: History | WeightHistograms) -> History | WeightHistograms:
    if isinstance(record, History):
        columns = {
            name: values if name == "epoch" else cells.drawable(values)
            for name, values in record.columns.items()
        }
        norms = cells.drawable(record.layer_norms)
        return replace(record, columns=columns, layer_norms=norms)
    groups = {
        name: replace(bins, norms=cells.drawable(bins.norms), edges=cells.drawable(bins.edges))
        for name, bins in record.groups.items()
    }
    return replace(record, groups=groups)


def _records(things: Sequence[Any], kind: str) -> tuple[Any, ...]:
    if not things or not all(isinstance(thing, RECORDS[KINDS[kind]]) for thing in things):
        raise UsageError(f"render: a {kind} is made of {KINDS[kind]} files only; name some")
    return tuple(map(_drawable_record, things))


def check_look(kind: str, **words: Any) -> None:
    """Refuse words that no surface could make right; call before waiting for one.

    Raises:
        UsageError: If there is no such kind, or no such look of it.
    """
    _member("kind of picture", kind, KINDS)
    look = said(words)
    check_kind(look, kind)
    find(look.style or "default")


def check_output(path: str | Path, kind: str = "") -> Path:
    """Return ``path`` if a picture can be written there; call before the hard work.

    Trajectories and lit surfaces may be animations.

    Raises:
        UsageError: If it is no name of one file, the extension is unknown, or the folder missing.
    """
    if not isinstance(path, str | Path):
        raise UsageError(
            f"render: output: got {short(path)}; expected the name of one file: draw once "
            "for each file"
        )
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
            f"{path.suffix or '(none)'!r}; allowed: {', '.join(e[1:] for e in allowed)}"
            f"{did_you_mean(path.suffix.lower(), allowed)}"
        )
    if files.special(path) == "a directory":
        raise UsageError(f"{path}: is a folder; name a file in it, such as {path / 'a.png'}")
    files.check_target(path)
    if not files.is_folder(path.parent):
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


def _has_values(request: Request) -> None:
    """Refuse what has not begun, and pages and curves of a quantity without values.

    Other kinds look at the cells.
    """
    quantity, kind = request.quantity, request.kind
    for surface in request.surfaces:
        if not surface.done.any() and kind != "trajectory":  # whose path is there
            counts = surface.counts()
            raise NothingToDraw(
                f"{surface.source}: none of {surface.status.size:,} cells is done "
                f"({counts['missing']:,} missing, {counts['failed']:,} failed); "
                "run lsengine eval on its job first"
            )
    if quantity is None or kind not in ("html", "curve"):
        return
    tallies = [cells.tally(s.status, [s.quantities[quantity]]) for s in request.surfaces]
    empty = [t.missing + t.bad == t.cells for t in tallies]
    if all(empty) or (any(empty) and kind == "curve"):
        first = empty.index(True)
        remedy = "--as heatmap, which shows each cell" if kind == "html" else "another --quantity"
        raise NothingToDraw(
            f"{request.surfaces[first].source}: {quantity} has no finite value to draw "
            f"({tallies[first].reasons()}); use {remedy}"
        )


def _fits_curvature(things: Sequence[Any], kind: str, look: Look) -> None:
    """Refuse what only the other sort of curvature has: maps have colour bars, lines a legend."""
    if kind != "curvature":
        return
    is_map = any(isinstance(thing, Surface) and thing.is_plane for thing in things)
    idle, of = ("legend", "of planes") if is_map else ("zlabel", "along one direction")
    if getattr(look, idle) is not None:
        raise UsageError(f"render: curvature {of} has no {idle}; leave --{idle} out")


def _curvature(request: Request) -> None:
    """Refuse what has no eigenvalues, and panels that do not go together."""
    surfaces, quantity = request.surfaces, request.quantity
    if quantity is not None:
        _member("quantity of curvature", quantity, CURVATURE)
    if request.limits is not None and quantity is None and len(surfaces) == 1:
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


def _quantity(request: Request) -> str | None:
    """Return the quantity to draw, that every surface has; None for the usual ones of curves."""
    surfaces, quantity = request.surfaces, request.quantity
    if quantity is None:
        if KINDS[request.kind] == "curve":
            return None
        shared = set.intersection(*(set(s.quantities) for s in surfaces))
        if not shared:
            held = "; ".join(f"{s.source}: {', '.join(sorted(s.quantities))}" for s in surfaces)
            raise UsageError(f"render: the surfaces have no quantity in common ({held})")
        quantity = preferred(shared)
    for surface in surfaces:
        if quantity not in surface.quantities:
            names = sorted(surface.quantities)
            raise UsageError(
                f"{surface.source}: has no quantity {quantity!r}; it has: {', '.join(names)}"
                f"{did_you_mean(quantity, names)}"
            )
    if request.scale == "log" and describe(quantity).is_percent:
        raise UsageError(
            f"render: scale log asked for {quantity}; accuracies are drawn in percent on a "
            "linear scale; use --scale auto or another quantity"
        )
    return quantity


def _ranges(request: Request) -> None:
    """Refuse limits that no logarithm can have."""
    low = request.limits[0] if request.limits else 1.0
    if request.scale == "log" and low <= 0:
        raise UsageError(
            f"render: the scale starts at {low:g}, which a log scale cannot show; give a "
            "positive lower limit or level, or use --scale linear"
        )
