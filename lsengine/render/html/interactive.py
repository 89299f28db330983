"""The plane as a page to turn and to ask: one HTML file that needs no network.

Python puts every number and every word on the scales into the page; its script, in
``interactive.js``, shows them with plotly.js, which is in the page once, compressed.

Shape suffixes: B betas, A alphas, T checkpoints.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb
from numpy.typing import NDArray

from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.external import installation
from lsengine.render.landscapes.camera import Camera, chosen, direction
from lsengine.render.landscapes.mesh import Ground
from lsengine.render.landscapes.terrain import FADE, Terrain, base, is_to_scale
from lsengine.render.page import page, scales, words
from lsengine.render.page.scales import Scale
from lsengine.render.planes.planes import NOT_TO_SCALE, common_scale
from lsengine.render.request import Request
from lsengine.render.style import Style
from lsengine.surface import MISSING, Surface, cells
from lsengine.surface.cells import Floats, Plane, nearest
from lsengine.surface.quantities import describe

MOST = 12  # surfaces on a page: browsers draw no more scenes at once
TICKS = 8  # numbers on the vertical axis at most
BOX = 1.25  # width of a scene, as the script has it
EYE = 2.25  # from the middle of a scene: its corners and names are in the picture
FARTHEST = 3 * EYE  # in narrow windows; from nearer one sees more of a hollow
COLORS = 33  # of the ramp; between them the browser mixes
LIFT = 0.012  # of the height: paths lie on the surface, not in it
RAISED = 0.04  # of the height: a mark on a slope must not sink into it
_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def draw(request: Request, *, reload_s: float | None = None) -> str:
    """Return the page of a request.

    The request's quantity is shown first.  The page loads itself anew after ``reload_s`` seconds,
    if a run is writing.

    Raises:
        UsageError: If there are too many surfaces.
        EnvironmentUnfit: If Plotly is not there.
    """
    if len(request.surfaces) > MOST:
        raise UsageError(
            f"render: {len(request.surfaces)} surfaces on one page; a browser draws at most "
            f"{MOST} scenes at once; make several pages"
        )
    viewer = base64.b64encode(gzip.compress(_viewer(), mtime=0)).decode("ascii")
    names, style = ", ".join(surface.name for surface in request.surfaces), request.style
    font = f"'{style.rc['font.family']}', 'Helvetica Neue', Arial, sans-serif"
    look = {"ground": style.ground, "ink": style.ink, "faint": style.faint, "font": font}
    css = " ".join(f"--{name}: {value};" for name, value in look.items())
    parts = {
        "TITLE": html.escape(request.look.title or names),
        "STYLE": f":root {{ {css} }}",
        "DATA": json.dumps(_data(request, reload_s), allow_nan=False).replace("<", "\\u003c"),
        "VIEWER": viewer,
        "CODE": _text("interactive.js"),
    }
    # Put together piece by piece: what is put in may itself contain the name of a place.
    pieces = _text("interactive.html").split("@")
    return "".join(parts.get(piece, piece) for piece in pieces)


def _text(name: str) -> str:
    return resources.files("lsengine.render.html").joinpath(name).read_text(encoding="utf-8")


def _viewer() -> bytes:
    try:
        files = resources.files("plotly")
    except ImportError as error:
        raise EnvironmentUnfit(
            f"an interactive page contains Plotly, which is not there ({error}); "
            f"{installation.install('html')}"
        ) from error
    return files.joinpath("package_data", "plotly.min.js").read_bytes()


def _data(request: Request, reload_s: float | None) -> dict[str, Any]:
    """Return everything the script shows, as plain values."""
    style, surfaces = request.style, request.surfaces
    shared = [n for n in surfaces[0].quantities if all(n in s.quantities for s in surfaces)]
    planes = {n: [cells.plane(s, describe(n)) for s in surfaces] for n in shared}
    usable = [name for name in shared if any(plane.finite.size for plane in planes[name])]
    any_missing = any((s.status == MISSING).any() for s in surfaces)
    ramp = colormaps[style.colormap](np.linspace(0, 1, COLORS))
    pale = ramp[:, :3] + FADE * (np.array(to_rgb(style.ground)) - ramp[:, :3])
    camera = _camera(request, planes[request.quantity or usable[0]])
    eye = dict(zip("xyz", EYE * direction(camera), strict=True))
    live = None
    if reload_s is not None:
        done = sum(s.counts()["done"] for s in surfaces)
        text = f"running: {done:,} of {sum(s.status.size for s in surfaces):,} cells"
        live = {"seconds": reload_s, "text": text}
    return {
        "start": request.quantity,
        "style": {name: getattr(style, name) for name in ("ink", "ground", "faint", "bad")}
        | {"font": f"{style.rc['font.family']}, sans-serif"},
        "colors": [[i / (COLORS - 1), to_hex(color)] for i, color in enumerate(ramp)],
        "pale": [[i / (COLORS - 1), to_hex(color)] for i, color in enumerate(pale)],
        "relief": style.relief,
        "camera": {"eye": eye, "center": {"x": 0, "y": 0, "z": -0.25}, "zoom": camera.zoom},
        "live": live,
        **_words(request),
        "notes": _page_notes(surfaces, planes[usable[0]], any_missing),
        "surfaces": [
            _surface(s, planes[usable[0]][i], usable, request.style) | _caption(s, request)
            for i, s in enumerate(surfaces)
        ],
        "quantities": [_quantity(name, planes[name], request) for name in usable],
    }


def _words(request: Request) -> dict[str, Any]:
    """Return title, names of axes and notes that were asked for."""
    look = request.look
    title = words.heading("", [], look) if request.several else ""
    axes = ["\N{GREEK SMALL LETTER ALPHA}", "\N{GREEK SMALL LETTER BETA}"]
    given = zip((look.xlabel, look.ylabel), axes, strict=True)
    names = [name if text is None else text for text, name in given]
    return {"title": title, "axes": names, "said": look.notes}


def _caption(surface: Surface, request: Request) -> dict[str, Any]:
    """Return name and test errors of a surface, or what was said for them."""
    look, facts = request.look, words.errors(surface)
    if request.several:
        return {"name": surface.name, "about": [] if look.subtitle == "" else facts}
    name = surface.name if look.title is None else look.title
    return {"name": name, "about": facts if look.subtitle is None else [look.subtitle]}


def _camera(request: Request, planes: Sequence[Plane]) -> Camera:
    """Return where the page is first seen from."""
    assert request.quantity is not None  # only curves do without
    scale = common_scale(list(planes), describe(request.quantity), request)
    grounds, sights = list[Ground](), list[Floats]()
    for surface, plane in zip(request.surfaces, planes, strict=True):
        if scale is not None and min(plane.values.shape) > 1:
            terrain = Terrain(surface=surface, plane=plane, scale=scale, request=request)
            grounds.append(terrain.ground)
            sights.append(grounds[-1].spots(terrain.sights()))

    def hidden(camera: Camera) -> int:
        count = 0
        for ground, points in zip(grounds, sights, strict=True):
            middle = np.array([ground.x[-1] / 2, ground.y[-1] / 2, request.style.relief / 2])
            eye = middle + FARTHEST / BOX * direction(camera)
            count += int(ground.hides(points, eye).sum())
        return count

    return chosen(request.look, hidden)


def _page_notes(
    surfaces: Sequence[Surface], planes: Sequence[Plane], any_missing: bool
) -> list[str]:
    lines = []
    if any_missing:
        lines.append("lighter: not computed yet, the nearest cell's value stands in")
    if any(cells.tally(s.status, s.quantities.values()).bad for s in surfaces):
        lines.append("\N{MULTIPLICATION SIGN} on the floor: failed, or not a finite number")
    if not all(is_to_scale(plane) for plane in planes if min(plane.values.shape) > 1):
        lines.append(NOT_TO_SCALE)
    return lines


def _surface(surface: Surface, plane: Plane, names: Sequence[str], style: Style) -> dict[str, Any]:
    """Return what belongs to a surface whatever quantity is shown."""
    order = np.ix_(*(np.argsort(surface.axes[name]) for name in ("beta", "alpha")))
    values = {
        name: _packed(np.asarray(surface.quantities[name])[order] * describe(name).factor, "<f8")
        for name in names
    }
    return {
        "alpha": plane.alpha.tolist(),
        "beta": plane.beta.tolist(),
        "range": [_range(plane.alpha, plane.beta), _range(plane.beta, plane.alpha)],
        "base": list(base(plane)) if min(plane.values.shape) > 1 else [1.0, 1.0],
        "status": _packed(surface.status[order], "u1"),
        "missing": bool(plane.missing.any()),
        "values": values,
        "path": _path(surface),
        "marks": _marks(surface, style),
    }


def _range(axis: Floats, other: Floats) -> list[float]:
    edges = cells.edges(axis, other)
    return [float(edges[0]), float(edges[-1])] if axis.size == 1 else [axis[0], axis[-1]]


def _path(surface: Surface) -> dict[str, Any] | None:
    if not surface.has_path:
        return None
    assert surface.trajectory is not None  # it has a path
    columns = surface.trajectory.columns
    rows = [  # JSON has no word for what is not finite
        [name.replace("_", " "), [v if np.isfinite(v) else str(v) for v in column.tolist()]]
        for name, column in columns.items()
        if column.ndim == 1 and column.dtype.kind in "fiu" and name != "status"
    ]
    return {
        "alpha": columns["alpha"].tolist(),
        "beta": columns["beta"].tolist(),
        "drops": surface.trajectory.lr_drops.tolist(),
        "columns": rows,
    }


def _marks(surface: Surface, style: Style) -> list[dict[str, Any]]:
    """Return what is marked: the centre and the other minima that lie on the plane."""
    if not style.marks:
        return []
    alpha, beta = surface.axes["alpha"], surface.axes["beta"]
    return [
        {"name": name, "alpha": a, "beta": b, "symbol": "cross" if name == "centre" else "diamond"}
        for name, (a, b) in page.marked_points(surface).items()
        if alpha.min() <= a <= alpha.max() and beta.min() <= b <= beta.max()
    ]


def _quantity(name: str, planes: Sequence[Plane], request: Request) -> dict[str, Any]:
    quantity = describe(name)
    values = np.concatenate([plane.finite for plane in planes])
    is_first = name == request.quantity
    kind, limits = (request.scale, request.limits) if is_first else ("auto", None)
    auto = scales.choose(values, quantity, kind, request.levels, limits)
    takes_log = not quantity.is_percent and (values > 0).all() and not (limits and limits[0] <= 0)
    offered = {
        kind: scales.choose(values, quantity, kind, request.levels, limits)
        for kind in (["linear", "log"] if takes_log else ["linear"])
    } | {auto.kind: auto}
    shown = {kind: _scale(offered[kind], planes, request) for kind in sorted(offered)}
    label = request.look.zlabel if is_first else None
    shown_label = quantity.label if label is None else label
    return {"name": name, "label": shown_label, "auto": auto.kind, "scales": shown}


def _scale(scale: Scale, planes: Sequence[Plane], request: Request) -> dict[str, Any]:
    low, high = scale.span
    levels = (scale.forward(scale.levels) - low) / (high - low)
    heights, filled, paths, marks, notes = [], [], [], [], list[str]()
    for plane, surface in zip(planes, request.surfaces, strict=True):
        share = np.clip((scale.forward(plane.values) - low) / (high - low), 0.0, 1.0)
        stands_in = _filled(plane, share)
        every = np.where(np.isfinite(share), share, stands_in)
        heights.append(_packed(share, "<f4"))
        filled.append(_packed(stands_in, "<f4") if plane.missing.any() else "")
        paths.append(_over(plane, every, LIFT, *_track(surface)))
        places = [(mark["alpha"], mark["beta"]) for mark in _marks(surface, request.style)]
        marks.append(_over(plane, every, RAISED, *np.reshape(places, (-1, 2)).T))
        about = page.about_cells(plane.tally) + page.about_clipping(plane.finite, scale)
        name = f"{surface.name}: " if len(planes) > 1 else ""
        notes += [f"{name}{plain(line)}" for line in about]
    ticks = scale.labelled(TICKS)
    at = (scale.forward(ticks) - low) / (high - low)
    words = [plain(scale.text(float(tick))) for tick in ticks]
    return {
        "heights": heights,
        "filled": filled,
        "lines": [] if scale.constant else levels[1:-1].tolist(),
        "ticks": [[float(a), word] for a, word in zip(at, words, strict=True)],
        "notes": notes,
        "path": paths,
        "marks": marks,
    }


def _filled(plane: Plane, share_BA: Floats) -> Floats:
    """Return heights of the cells not computed yet: the nearest one's; NaN well inside others."""
    if not plane.missing.any() or not np.isfinite(share_BA).any():
        return np.full_like(share_BA, np.nan)
    rows, columns = plane.missing.shape
    padded = np.pad(plane.missing, 1)
    shifts = [padded[b : b + rows, a : a + columns] for b in range(3) for a in range(3)]
    around = np.any(shifts, axis=0)  # with all eight neighbours
    return np.where(around & ~plane.bad, nearest(plane.alpha, plane.beta, share_BA), np.nan)


def _track(surface: Surface) -> tuple[Floats, Floats]:
    columns = surface.trajectory.columns if surface.has_path and surface.trajectory else {}
    alpha_T, beta_T = (np.asarray(columns.get(name, ()), float) for name in ("alpha", "beta"))
    return alpha_T, beta_T


def _over(
    plane: Plane, share_BA: Floats, lift: float, alpha_T: Floats, beta_T: Floats
) -> list[float | None]:
    """Return heights a little above the surface at some places; None where there is none."""
    if not alpha_T.size or not np.isfinite(share_BA).any():
        return [None] * alpha_T.size
    known_BA = nearest(plane.alpha, plane.beta, share_BA)
    if min(known_BA.shape) < 2:
        return [float(np.nanmax(known_BA)) + lift] * alpha_T.size
    heights: list[float | None] = (cells.at_place(plane, known_BA, alpha_T, beta_T) + lift).tolist()
    return heights


def _packed(values: NDArray[Any], dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode("ascii")


def plain(text: str) -> str:
    r"""Return a label without markup: ``$-2\times10^{-5}$`` as it would be typeset."""
    if "$" not in text:
        return text
    head, _, tail = text.partition("^{")
    power, _, remainder = tail.partition("}")
    head = head.replace(r"\times", "\N{MULTIPLICATION SIGN}").replace("-", "\N{MINUS SIGN}")
    return (head + power.translate(_SUPERSCRIPTS) + plain(remainder)).replace("$", "")
