"""Pictures of surfaces and trainings: ``figure`` draws, ``save`` writes.

Only values of `lsengine.surface` and `lsengine.records` come in: no file is read here, and
neither torch nor MPI is needed.  matplotlib is imported when the first picture is drawn, not
before, and always through its object interface: no window, no global figure.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lsengine.errors import UsageError
from lsengine.render.request import (
    EXTENSIONS,
    KINDS,
    RECORDS,
    SCALES,
    RecordsRequest,
    Request,
    check_output,
    validated,
    validated_records,
)
from lsengine.render.styles import COMMON, STYLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lsengine.records import History, Weights
    from lsengine.surface import Surface

__all__ = ["EXTENSIONS", "KINDS", "SCALES", "STYLES", "check_output", "figure", "save"]

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
    surfaces: Sequence[Surface | History | Weights],
    *,
    kind: str,
    quantity: str | None = None,
    scale: str = "auto",
    style: str = "default",
    levels: int | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Draw one or several surfaces as one figure on one scale.

    Args:
        surfaces: Planes for every kind but ``curve``, which wants one direction, ``curvature``,
            which takes either, ``history``, made of histories, and ``histogram``, of weights.
        kind: A key of `KINDS`: ``contour``, ``filled``, ``heatmap``, ``surface``,
            ``trajectory`` (planes with one), ``curve``, ``curvature``, ``histogram``, ``history``.
        quantity: A dataset of every surface.  Default: the training loss; for curves losses
            and accuracies together.  Of ``curvature`` one of its panels: ``ratio``, ``sign``,
            ``eigenvalue_min``, ``eigenvalue_max``; default all, of several surfaces the first.
        scale: ``auto`` takes the logarithm when positive values span over 1.5 decades.
        style: A key of `STYLES`: ``default``, ``paper`` (one column), ``dark`` (slides).
        levels: About how many contour levels; they are round numbers.
        limits: Ends of the colour (or loss) scale in the unit drawn, percent for accuracies.

    Returns:
        A matplotlib figure, laid out.  Equal arguments give equal pictures.

    Raises:
        UsageError: If the request cannot be met; the message says what can.
    """
    check = validated_records if KINDS.get(kind) in RECORDS else validated
    request = check(cast(Any, surfaces), kind, quantity, (scale, style), (levels, limits))
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own matplotlibrc must not change the picture
        cast(Any, matplotlib.rcParams).update({**COMMON, **request.style.rc})
        return _drawn(request)


def _drawn(request: Request | RecordsRequest) -> Figure:
    """Import and call the one module that draws this kind."""
    if isinstance(request, RecordsRequest):
        if request.kind == "history":
            from lsengine.render.histories import draw as draw_histories

            return draw_histories(request)
        from lsengine.render.histograms import draw as draw_histograms

        return draw_histograms(request)
    if request.kind == "curvature" and not request.surfaces[0].is_plane:
        from lsengine.render.curvature_lines import draw as draw_curvature_lines

        return draw_curvature_lines(request)
    if request.kind == "curvature":
        from lsengine.render.curvature import draw as draw_curvature

        return draw_curvature(request)
    if KINDS[request.kind] == "curve":
        from lsengine.render.curves import draw as draw_curves

        return draw_curves(request)
    if request.kind == "surface":
        from lsengine.render.surface3d import draw as draw_surface

        return draw_surface(request)
    from lsengine.render.planes import draw as draw_planes

    return draw_planes(request)


def save(picture: Figure, path: str | Path, *, dpi: int = 300) -> Path:
    """Write a figure as PNG, PDF or SVG, by the extension of ``path``.

    The file appears whole or not at all, so that a viewer which reloads never sees half a
    picture; equal figures give equal bytes (no dates, no random ids).

    Raises:
        UsageError: If the extension is unknown or the file cannot be written.
    """
    path = check_output(path)
    import matplotlib

    suffix, buffer = path.suffix.lower(), io.BytesIO()
    with matplotlib.rc_context(cast(Any, dict(_SAVING))):
        picture.savefig(buffer, format=suffix[1:], dpi=dpi, metadata=_METADATA[suffix])
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(buffer.getvalue())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(
            f"{path}: cannot be written ({error.strerror}); choose another --output"
        ) from error
    return path
