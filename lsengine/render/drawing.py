"""From surfaces and records to figures and files."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lsengine import wording
from lsengine.errors import UsageError
from lsengine.render.request import (
    KINDS,
    MOVING,
    RECORDS,
    RecordsRequest,
    Request,
    check_output,
    validated,
    validated_records,
)
from lsengine.render.style.files import find
from lsengine.render.style.styles import COMMON, Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lsengine.surface import Surface
    from lsengine.surface.records import History, WeightHistograms


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


def figure(
    surfaces: Sequence[Surface | History | WeightHistograms],
    *,
    kind: str,
    quantity: str | None = None,
    scale: str | None = None,
    style: str | Path = "default",
    levels: int | None = None,
    limits: tuple[float, float] | None = None,
    filled: bool = False,
) -> Figure:
    """Draw one or several surfaces as one figure on one scale.

    Args:
        surfaces: Planes for every kind but ``curve``, which wants one direction, ``curvature``,
            which takes either, ``history``, made of histories, and ``histogram``, of weights.
        kind: A key of `KINDS`: ``contour``, ``filled``, ``heatmap``, ``surface``,
            ``trajectory`` (planes with one), ``curve``, ``curvature``, ``histogram``, ``history``;
            for ``html`` see `html_page`.
        quantity: A dataset of every surface.  Default: the training loss; for curves losses
            and accuracies together.  Of ``curvature`` one of its panels: ``ratio``, ``sign``,
            ``eigenvalue_min``, ``eigenvalue_max``; default all, of several surfaces the first.
        scale: A member of `SCALES`; ``auto`` takes the logarithm when positive values span over
            1.5 decades.  Default: the style's.
        style: A key of `STYLES`: ``default``, ``paper`` (one column), ``dark`` (slides), ``lit``
            (3D surfaces under lamps); or a style file (``.toml``).
        levels: About how many contour levels; they are round numbers.  Default: the style's.
        limits: Ends of the colour (or loss) scale in the unit drawn, percent for accuracies.
        filled: Draw planes' missing cells with their neighbours' values, marked.

    Returns:
        A matplotlib figure, laid out.  Equal arguments give equal pictures.

    Raises:
        UsageError: If the request cannot be met; the message says what can.
        EnvironmentUnfit: If a lit surface is asked for, and VTK or OpenGL is not there.
    """
    request = _request(surfaces, kind, quantity, scale, style, levels, limits, filled)
    with _settings(request.style):
        return _drawn(request)


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
    request = _request(surfaces, "html", **look)
    assert isinstance(request, Request)  # of planes
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
    if kind == "surface" and not find(look.get("style", "default")).lit:
        raise UsageError(f"{path}: only a lit surface turns; add --style lit, or name a .png")
    request = _request(surfaces, kind, **look)
    assert isinstance(request, Request)  # `check_output` refused the kinds that are not
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
        UsageError: If the request cannot be met, or the file not be written.
        EnvironmentUnfit: If a library that it needs is not there.
    """
    path = check_output(path, kind)
    if kind == "html":
        return _put(html_page(surfaces, reload_s=reload_s, **look).encode(), path)
    if path.suffix.lower() in MOVING:
        return animate(surfaces, path, kind=kind, **look)
    style = find(look.get("style", "default"))
    return save(
        figure(surfaces, kind=kind, **look), path, dpi=style.dpi, transparent=style.transparent
    )


def _request(
    things: Sequence[Any],
    kind: str,
    quantity: str | None = None,
    scale: str | None = None,
    style: str | Path = "default",
    levels: int | None = None,
    limits: tuple[float, float] | None = None,
    filled: bool = False,
) -> Request | RecordsRequest:
    things = _told_apart(things)
    if KINDS.get(kind) in RECORDS:
        return validated_records(things, kind, quantity, (scale, style), (levels, limits))
    return validated(things, kind, quantity, (scale, style), (levels, limits), filled=filled)


@contextmanager
def _settings(style: Style) -> Iterator[None]:
    """Have matplotlib's own settings and the style's, and nobody else's."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own matplotlibrc must not change the picture
        cast(Any, matplotlib.rcParams).update({**COMMON, **style.rc})
        yield


def _told_apart(things: Sequence[Any]) -> list[Any]:
    """Return what is drawn with different names, as far as the files differ."""
    if not all(hasattr(thing, "name") for thing in things):
        return list(things)  # histograms: one file, whose checkpoints have names of their own
    names = wording.distinct([t.name for t in things], [t.source for t in things])
    return [t.renamed(name) for t, name in zip(things, names, strict=True)]


def _drawn(request: Request | RecordsRequest) -> Figure:
    """Import and call the one module that draws this kind."""
    if isinstance(request, RecordsRequest):
        if request.kind == "history":
            from lsengine.render.lines.history import draw as draw_histories

            return draw_histories(request)
        from lsengine.render.lines.histogram import draw as draw_histograms

        return draw_histograms(request)
    if request.kind == "curvature" and not request.surfaces[0].is_plane:
        from lsengine.render.lines.curvature import draw as draw_curvature_lines

        return draw_curvature_lines(request)
    if request.kind == "curvature":
        from lsengine.render.planes.curvature import draw as draw_curvature

        return draw_curvature(request)
    if KINDS[request.kind] == "curve":
        from lsengine.render.lines.curves import draw as draw_curves

        return draw_curves(request)
    if request.kind == "surface" and request.style.lit:
        from lsengine.render.landscapes.lit import draw as draw_lit

        return draw_lit(request)
    if request.kind == "surface":
        from lsengine.render.landscapes.shaded import draw as draw_surface

        return draw_surface(request)
    from lsengine.render.planes import draw as draw_planes

    return draw_planes(request)


def save(picture: Figure, path: str | Path, *, dpi: int = 300, transparent: bool = False) -> Path:
    """Write a figure as PNG, PDF or SVG, by the extension of ``path``.

    The file appears whole or not at all, so that a viewer which reloads never sees half a
    picture; equal figures give equal bytes (no dates, no random ids).

    Args:
        picture: The figure.
        path: Where it goes.
        dpi: Dots per inch, of what is rasterised in PDF and SVG, too.
        transparent: Leave the ground out.

    Raises:
        UsageError: If the extension is unknown or the file cannot be written.
    """
    path = check_output(path)
    import matplotlib

    suffix, buffer = path.suffix.lower(), io.BytesIO()
    with matplotlib.rc_context(cast(Any, dict(_SAVING))):
        picture.savefig(
            buffer,
            format=suffix[1:],
            dpi=dpi,
            metadata=_METADATA[suffix],
            transparent=transparent,
        )
    return _put(buffer.getvalue(), path)


def _put(content: bytes, path: Path) -> Path:
    """Put a whole new file in place."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(
            f"{path}: cannot be written ({error.strerror}); choose another --output"
        ) from error
    return path
