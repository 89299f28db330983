"""What shaded and lit landscapes have in common: heights, base, marks and notes.

Shape suffixes: B betas, A alphas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lsengine.render.landscapes.mesh import Ground
from lsengine.render.page import page, words
from lsengine.render.page.scales import Scale
from lsengine.render.planes.planes import NOT_TO_SCALE, STANDS_IN, check, common_scale
from lsengine.render.request import Request
from lsengine.surface import Surface, cells
from lsengine.surface.cells import Floats, Plane
from lsengine.surface.quantities import describe

FADE = 0.62  # of the way to the ground's colour, where a value stands in for another
LEAST = 0.35  # of a base's width its depth, and the other way round
PALE = 0.5  # how opaque a mark is that the surface hides
BEHIND = "pale marks lie behind the surface, below their dotted lines"


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """A point of a landscape that is marked."""

    place: Floats  # alpha, beta and scaled height; (3,)
    name: str  # empty where the centre is alone
    symbol: str  # as matplotlib has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Terrain:
    """A surface as a landscape: heights on a scale, over a base whose longer side is 1."""

    surface: Surface
    plane: Plane  # what has heights
    scale: Scale  # of all landscapes of a picture
    request: Request

    @property
    def heights(self) -> Floats:
        """Scaled heights, held to the scale; NaN where nothing is drawn; (B, A)."""
        return np.asarray(np.clip(self.uncut, *self.scale.span))

    @property
    def uncut(self) -> Floats:
        """Scaled heights up to one span beyond the scale; NaN where nothing is drawn; (B, A).

        A finer mesh goes through these before it is cut, so that a slope leaves the scale where it
        meets its end, and not at the next cell: edges of what is cut are then no staircases.
        """
        values = self.plane.filled if self.request.filled else self.plane.values
        low, high = self.scale.span
        room = high - low
        return np.asarray(np.clip(self.scale.forward(values), low - room, high + room))

    @property
    def ground(self) -> Ground:
        """The heights of the cells in units of the base."""
        alpha_beta = np.meshgrid(self.plane.alpha, self.plane.beta)
        grid = self.to_base(np.stack([*alpha_beta, self.heights], -1))
        return Ground(x=grid[0, :, 0], y=grid[:, 0, 1], z=grid[..., 2])

    @property
    def sight_line(self) -> dict[str, Any]:
        """The look of the line from a hidden mark up to where it leaves the surface."""
        style = self.request.style
        look = {"color": style.ink, "path_effects": page.halo(style.ground, 2.4)}
        return {**look, "linestyle": (0, (1.5, 2.0)), "linewidth": 1.1, "alpha": PALE, "zorder": 5}

    def to_base(self, points: Floats) -> Floats:
        """Return points (..., 3) of alpha, beta and scaled height in units of the base."""
        (alpha, beta), (low, high) = self.plane.whole, self.scale.span
        start = np.array([alpha[0], beta[0], low])
        reach = np.array([alpha[-1], beta[-1], high]) - start
        return np.asarray((points - start) / reach * (*base(self.plane), self.request.style.relief))

    def markers(self) -> list[Marker]:
        """Return what is marked: nothing if the style marks nothing."""
        return self._points() if self.request.style.marks else []

    def _points(self) -> list[Marker]:
        """Return the centre and the other minima that lie on the landscape.

        Names are given where there is more than the centre.
        """
        plane, points = self.plane, page.marked_points(self.surface)
        places = np.array(list(points.values()))
        heights = cells.at_place(plane, self.heights, *places.T)
        (left, right), (near, far) = plane.alpha[[0, -1]], plane.beta[[0, -1]]
        names = [*points] if len(points) > 1 else [""]
        return [
            Marker(place=np.array([a, b, z]), name=name, symbol="+" if name == names[0] else "D")
            for (a, b), z, name in zip(places, heights, names, strict=True)
            if left <= a <= right and near <= b <= far and np.isfinite(z)
        ]

    def sights(self) -> Floats:
        """Return what should be seen: centre, minima and the best cell; (N, 3) in the base."""
        assert self.request.quantity is not None  # only curves do without
        places = [point.place for point in self._points()]
        best = self.plane.best(describe(self.request.quantity).best)
        if best is not None:
            height = np.clip(self.scale.forward(np.array(best[2])), *self.scale.span)
            places.append(np.array([*best[:2], float(height)]))
        return self.to_base(np.reshape(places, (-1, 3)))

    def notes(self, *, hides_marks: bool) -> list[str]:
        """Return what a reader must know to take the picture for what it is."""
        missing = STANDS_IN if self.request.filled else self.plane.coarse or "left open"
        lines = page.about_cells(self.plane.tally, hatched=missing, bad="left open")
        lines += [] if is_to_scale(self.plane) else [NOT_TO_SCALE]
        lines += page.about_clipping(self.plane.finite, self.scale)
        return lines + ([BEHIND] if hides_marks else [])


def terrains(request: Request) -> list[Terrain]:
    """Return the landscapes of a request, on one scale.

    Raises:
        UsageError: If there is nothing to join into a landscape.
    """
    assert request.quantity is not None  # only curves do without
    quantity = describe(request.quantity)
    planes = []
    for surface in request.surfaces:
        plane = cells.plane(surface, quantity)
        planes.append(plane if request.filled else cells.joined(plane))
        check(surface.source, planes[-1], request)
    scale = common_scale(planes, quantity, request)
    assert scale is not None  # `check` found finite cells
    return [
        Terrain(surface=surface, plane=plane, scale=scale, request=request)
        for surface, plane in zip(request.surfaces, planes, strict=True)
    ]


def bar(figure: Figure, axes: list[Axes], terrain: Terrain, *, shrink: float, pad: float) -> Axes:
    """Add the colour bar of all landscapes; return its axes."""
    request = terrain.request
    assert request.quantity is not None  # only curves do without
    colors, quantity = page.ramp(terrain.scale, request.style), describe(request.quantity)
    scale = terrain.scale
    return page.bar(figure, colors, axes, scale, quantity, shrink=shrink, pad=pad, most=8).ax


def cut(terrain: Terrain) -> str:
    """Return what a reader must know of a landscape that is larger than its picture."""
    names = words.names_of_axes(terrain.request)
    pairs = zip(names, terrain.plane.whole, strict=True)
    ends = [f"{name} from {axis[0]:.3g} to {axis[-1]:.3g}" for name, axis in pairs]
    return f"the frame cuts the landscape (zoom), which has {' and '.join(ends)}"


def frame(axes: Axes, color: str) -> None:
    """Draw the edge of a picture that does not show all."""
    look: dict[str, Any] = {"fill": False, "edgecolor": color, "linewidth": 0.7, "zorder": 5}
    edge = Rectangle((0, 0), 1, 1, transform=axes.transAxes, **look)
    page.root(axes).add_artist(edge)  # a scene draws over its own


def base(plane: Plane) -> tuple[float, float]:
    """Return width and depth of a landscape's base, the longer of them 1."""
    share = float(np.clip(_depth(plane), LEAST, 1 / LEAST))
    return (1.0, share) if share <= 1 else (1.0 / share, 1.0)


def _depth(plane: Plane) -> float:
    alpha, beta = plane.whole
    return float((beta[-1] - beta[0]) / (alpha[-1] - alpha[0]))


def is_to_scale(plane: Plane) -> bool:
    """Whether alpha and beta have one scale on the base, which is never a mere strip."""
    return LEAST <= _depth(plane) <= 1 / LEAST
