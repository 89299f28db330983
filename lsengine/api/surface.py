"""Surfaces that can show themselves: as figures, pages, and in the cells of a notebook."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lsengine import files, surface
from lsengine.errors import LsengineError
from lsengine.report import inputs
from lsengine.surface.cells import value_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SCREEN_DPI = 96


class Surface(surface.Surface):
    """Quantities over a grid, as `lsengine.surface.Surface` describes them, and how they look."""

    __slots__ = ()

    @classmethod
    def of(cls, values: surface.Surface) -> Surface:
        """Return the same surface, with looks."""
        return cls(**{field.name: getattr(values, field.name) for field in fields(values)})

    def plot(self, kind: str | None = None, **look: Any) -> Figure:
        """Draw the surface as a figure of matplotlib's, which `pyplot` does not know of.

        Args:
            kind: ``filled``, ``contour``, ``heatmap``, ``surface``, ``trajectory``, ``curve`` or
                ``curvature``; default: what suits the surface.
            look: Titles, labels, limits, camera and more; see `lsengine.looks.Look`.

        Raises:
            UsageError: If there is no such picture of it.
            EnvironmentUnfit: If a library that the picture needs is missing.
        """
        from lsengine import render  # who only reads needs no matplotlib

        chosen = kind or inputs.kind_of_surface(self, str(look.get("style") or "default"))
        drawn: Any = render.figure([self], kind=chosen, **look)
        # Without pyplot a notebook does not know how to show a figure.
        drawn._repr_png_ = lambda: _png(drawn)
        return drawn  # type: ignore[no-any-return]

    def page(self, **look: Any) -> Page:
        """Return a plane as an interactive page, which a notebook shows in the cell.

        ``look`` is that of `plot`.

        Raises:
            UsageError: If the surface is no plane.
            EnvironmentUnfit: If Plotly is missing.
        """
        from lsengine import render

        return Page(render.html_page([self], **look))

    def _repr_html_(self) -> str:
        """Return a picture and a table, for a notebook."""
        counts = self.counts()
        others = [f"{counts[state]:,} {state}" for state in ("missing", "failed") if counts[state]]
        said = ", ".join([f"{counts['done']:,} of {self.status.size:,} cells done", *others])
        rows: list[tuple[str, ...]] = [("", "centre", "lowest", "highest")]
        for name, values in self.quantities.items():
            finite = values[self.done & np.isfinite(values)]
            ends = (finite.min(), finite.max()) if finite.size else (np.nan, np.nan)
            centre = value_at(self, name)
            shown = ["" if v is None or np.isnan(v) else f"{v:.4g}" for v in (centre, *ends)]
            rows.append((name, *shown))
        lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
        table = f"<table><tr>{'</tr><tr>'.join(lines)}</tr></table>"
        return f"<p><b>{html.escape(self.name)}</b>: {said}</p>{self._image()}{table}"

    def _image(self) -> str:
        try:
            encoded = base64.b64encode(_png(self.plot())).decode()
        except LsengineError:  # nothing to draw yet
            return ""
        return f'<img alt="" src="data:image/png;base64,{encoded}"/>'


class Page:
    """An interactive page: its ``html`` as text, which needs no network."""

    def __init__(self, html: str) -> None:
        self.html = html

    def save(self, path: str | Path) -> Path:
        """Write the page as a file, whole or not at all.

        Raises:
            EnvironmentUnfit: If the file cannot be written.
        """
        files.write(Path(path), self.html)
        return Path(path)

    def _repr_html_(self) -> str:
        style = "width: 100%; height: 640px; border: 0"
        return f'<iframe style="{style}" srcdoc="{html.escape(self.html)}"></iframe>'


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Whoever sets a longer title sees all of it.
    figure.savefig(buffer, format="png", dpi=_SCREEN_DPI, bbox_inches="tight")
    return buffer.getvalue()
