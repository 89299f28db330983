"""From surfaces and records to figures and files."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lsengine import files, wording
from lsengine.errors import UsageError
from lsengine.looks import Look, said
from lsengine.render.request import MOVING, Request, check_output, validated
from lsengine.render.style import COMMON, Style, find

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lsengine.surface import Surface
    from lsengine.surface.records import History, WeightHistograms


_ELSEWHERE = "choose another --output"
_SAVING: Mapping[str, Any] = {
    "pdf.fonttype": 42,  # TrueType: text stays text in an editor
    "svg.fonttype": "none",
    "svg.hashsalt": "lsengine",  # else the ids, and so the bytes, differ each time
    "path.simplify": True,
}
_METADATA: Mapping[str, dict[str, Any]] = {
    ".png": {},
    ".pdf": {"CreationDate": None, "Creator": "lsengine"},
    ".svg": {"Date": None, "Creator": "lsengine"},
}
# The module of each kind but planes seen from above: only one is imported, with what it needs.
_DRAWN_BY = {
    "curve": "lines.curves",
    "curvature": "planes.curvature",
    "curvature along one direction": "lines.curvature",
    "histogram": "lines.histogram",
    "history": "lines.history",
    "lit surface": "landscapes.lit",
    "surface": "landscapes.shaded",
}


def figure(
    surfaces: Sequence[Surface | History | WeightHistograms], *, kind: str, **look: Any
) -> Figure:
    """Draw one or several surfaces as one figure on one scale.

    Args:
        surfaces: Planes for every kind but ``curve``, which wants one direction, ``curvature``,
            which takes either, ``history``, made of histories, and ``histogram``, of weights.
        kind: A key of `KINDS`: ``contour``, ``filled``, ``heatmap``, ``surface``,
            ``trajectory`` (planes with one), ``curve``, ``curvature``, ``histogram``, ``history``;
            for ``html`` see `html_page`.
        look: Titles, labels, limits, camera and more; see `lsengine.looks.Look`.

    Returns:
        A figure of matplotlib's, laid out: titles, labels and legends can be set again.  Its
        ``savefig`` has the style's dots per inch.  Equal arguments give equal pictures.

    Raises:
        UsageError: If the request cannot be met; the message says what can.
        EnvironmentUnfit: If a lit surface is asked for, and VTK or OpenGL is not there.
    """
    request = _request(surfaces, kind, said(look))
    with _settings(request.style):
        if kind == "surface" and request.style.lit:
            kind = "lit surface"
        if kind == "curvature" and not request.surfaces[0].is_plane:
            kind = "curvature along one direction"
        module = import_module(f"lsengine.render.{_DRAWN_BY.get(kind, 'planes.planes')}")
        return cast("Figure", module.draw(request))


def html_page(surfaces: Sequence[Surface], *, reload_s: float | None = None, **look: Any) -> str:
    """Return planes as an interactive page that needs no network; kind ``html``.

    Args:
        surfaces: Planes, side by side under one camera.
        reload_s: Seconds after which the page loads itself anew, while a run is writing.
        look: As for `figure`; the quantity is the one that is shown first.

    Raises:
        UsageError: If the request cannot be met.
        EnvironmentUnfit: If Plotly is not there.
    """
    request = _request(surfaces, "html", said(look))
    from lsengine.render.html import interactive

    return interactive.draw(request, reload_s=reload_s)


def animate(
    surfaces: Sequence[Surface], path: str | Path, *, kind: str = "trajectory", **look: Any
) -> Path:
    """Write an animation, GIF or MP4: trajectories that walk, or lit surfaces that turn.

    Args:
        surfaces: Planes; several move beside one another.
        path: Ends in ``.gif`` or ``.mp4``.
        kind: ``trajectory``, or ``surface`` in a lit style.
        look: As for `figure`.

    Raises:
        UsageError: If the request cannot be met.
        EnvironmentUnfit: If MP4 is asked for and there is no ffmpeg.
    """
    path = check_output(path, kind)
    if kind == "surface" and not find(look.get("style") or "default").lit:
        raise UsageError(f"{path}: only a lit surface turns; add --style lit, or name a .png")
    request = _request(surfaces, kind, said(look))
    with _settings(request.style):
        from lsengine.render import animation

        animation.draw(request, path)
    return path


def write(
    surfaces: Sequence[Any],
    path: str | Path,
    *,
    kind: str,
    reload_s: float | None = None,
    **look: Any,
) -> Path:
    """Draw and write whatever ``kind`` and the extension of ``path`` ask for.

    Raises:
        UsageError: If the request cannot be met.
        EnvironmentUnfit: If a library that it needs is not there, or the file cannot be written.
    """
    path = check_output(path, kind)
    if kind == "html":
        files.write(path, html_page(surfaces, reload_s=reload_s, **look), _ELSEWHERE)
        return path
    if path.suffix.lower() in MOVING:
        return animate(surfaces, path, kind=kind, **look)
    style = find(look.get("style") or "default")
    picture = figure(surfaces, kind=kind, **look)
    return save(picture, path, dpi=style.dpi, transparent=style.transparent)


def _request(things: Sequence[Any], kind: str, look: Look) -> Request:
    """Check a request; what is drawn has different names in it, as far as the files differ."""
    if all(hasattr(thing, "name") for thing in things):  # histograms: one file, without a name
        names = wording.distinct([t.name for t in things], [t.source for t in things])
        things = [t.renamed(name) for t, name in zip(things, names, strict=True)]
    return validated(things, kind, look)


@contextmanager
def _settings(style: Style) -> Iterator[None]:
    """Have matplotlib's own settings and the style's, and nobody else's."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own matplotlibrc must not change the picture
        cast(Any, matplotlib.rcParams).update({**COMMON, **style.rc})
        yield


def save(picture: Figure, path: str | Path, *, dpi: int = 300, transparent: bool = False) -> Path:
    """Write a figure as PNG, PDF or SVG, by the extension of ``path``.

    The file appears whole or not at all, so that a viewer which reloads never sees half a
    picture; equal figures give equal bytes (no dates, no random ids).  ``dpi`` is also of what is
    rasterised in PDF and SVG; ``transparent`` leaves the ground out.

    Raises:
        UsageError: If the extension is unknown, or the folder missing.
        EnvironmentUnfit: If the file cannot be written.
    """
    path = check_output(path)
    import matplotlib

    suffix, buffer = path.suffix.lower(), io.BytesIO()
    with matplotlib.rc_context(cast(Any, dict(_SAVING))):
        look: dict[str, Any] = {"dpi": dpi, "transparent": transparent}
        picture.savefig(buffer, format=suffix[1:], metadata=_METADATA[suffix], **look)
    files.write(path, buffer.getvalue(), _ELSEWHERE)
    return path
