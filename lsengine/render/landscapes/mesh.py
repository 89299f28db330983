"""The shape of a landscape: a finer mesh through the cells, and what its points see.

Shape suffixes: B betas, A alphas of the cells; Y, X of the finer mesh.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lsengine.surface.cells import Floats, Mask, corners, nearest

MESH = 220  # quads along an axis after which a finer mesh is not seen
WAYS = 12  # directions in which the horizon is looked for
REACH = 0.35  # of the base: how far away a wall still takes light
STEPS = 400  # of a line of sight over the base
AROUND = 0.025  # of the base: so much beside a point should be seen, too
LIFT = 0.004  # of the base: a line of sight begins above the surface, not in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Heights over a grid of the base, on which one can stand and which can hide things."""

    x: Floats  # of the grid, increasing; (X,)
    y: Floats  # the same; (Y,)
    z: Floats  # in the same unit, NaN where nothing is drawn; (Y, X)

    def above(self, places: Floats) -> Floats:
        """Return heights over places of the base, (..., 2), bilinearly between points; (...)."""
        column = np.interp(places[..., 0], self.x, np.arange(self.x.size))
        row = np.interp(places[..., 1], self.y, np.arange(self.y.size))
        i = np.minimum(column.astype(int), self.x.size - 2)
        j = np.minimum(row.astype(int), self.y.size - 2)
        u, v, z = column - i, row - j, self.z
        low = (1 - u) * z[j, i] + u * z[j, i + 1]
        return np.asarray((1 - v) * low + v * ((1 - u) * z[j + 1, i] + u * z[j + 1, i + 1]))

    def hides(self, points: Floats, eye: Floats) -> Mask:
        """Return which points are hidden from an eye: the line of sight goes through the ground.

        Points lie on top of it, so that a wall hides what is marked on its other side.

        Args:
            points: On the ground or above it; (N, 3).
            eye: Beyond the base or above it; (3,).
        """
        start = points + np.array([0.0, 0.0, LIFT])
        way = eye - start
        ends = np.where(way[:, :2] > 0, (self.x[-1], self.y[-1]), (self.x[0], self.y[0]))
        with np.errstate(divide="ignore", invalid="ignore"):
            leaves = (ends - start[:, :2]) / way[:, :2]  # the base, as a share of the way
        leaves[way[:, :2] == 0] = 1.0
        last = np.clip(leaves.min(axis=1), 0.0, 1.0)
        along = start + np.linspace(0, 1, STEPS)[:, None, None] * (last[:, None] * way)
        gap = along[..., 2] - self.above(along[..., :2])
        return np.asarray((gap[:-1] * gap[1:] < 0).any(axis=0))

    def on_top(self, points: Floats) -> Floats:
        """Return points, (..., 3), put on the ground where there is any."""
        heights = self.above(points[..., :2])
        z = np.where(np.isfinite(heights), heights, points[..., 2])
        return np.concatenate([points[..., :2], z[..., None]], axis=-1)

    def spots(self, points: Floats) -> Floats:
        """Return points, (N, 3), put on the ground, and four close by each; (5 N, 3)."""
        beside = AROUND * np.array([(0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0)])
        return self.on_top((points[:, None] + beside).reshape(-1, 3))

    def clearance(self, point: Floats, eye: Floats) -> float:
        """Return the height above a point, (3,), that an eye sees; at most the ground's top."""
        heights = np.linspace(point[2], np.nanmax(self.z), 200)
        line = np.column_stack([np.broadcast_to(point[:2], (200, 2)), heights])
        behind = np.flatnonzero(self.hides(line, eye))
        return float(heights[min(behind[-1] + 1, 199)]) if behind.size else float(point[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class LandscapeMesh:
    """A landscape over a base 1 wide, ready to be drawn."""

    x: Floats  # of the mesh, in the base; (X,)
    y: Floats  # the same; (Y,)
    z: Floats  # heights in units of the base, finite everywhere; (Y, X)
    is_drawn: Mask  # quads whose four cells have values; (Y - 1, X - 1)
    sky: Floats  # share of the sky that a point sees, 0 to 1; (Y, X)

    @property
    def ground(self) -> Ground:
        """The part that is drawn."""
        has_quad = corners(np.pad(self.is_drawn, 1)).any(axis=-1)
        return Ground(x=self.x, y=self.y, z=np.where(has_quad, self.z, np.nan))


def smooth_mesh(
    x: Floats, y: Floats, z_BA: Floats, ends: tuple[float, float] = (-np.inf, np.inf)
) -> LandscapeMesh:
    """Lay a smooth mesh through cells, without new hills or hollows.

    Piecewise cubics that keep monotone (Fritsch and Butland 1984) go along each axis; a mesh
    through cells overshoots nowhere.  Then it is cut at both ``ends``.  Quads with a corner that
    has no value stay out.

    The cells are at ``x``, (A,), and ``y``, (B,), increasing; heights may be NaN; all in units of
    the base.
    """
    columns, rows = (max(1, min(8, MESH // max(axis.size - 1, 1))) for axis in (x, y))
    fine_x, fine_y = split(x, columns), split(y, rows)
    z = nearest(x, y, z_BA)
    if columns > 1:
        z = monotone(x, z, fine_x)
    if rows > 1:
        z = monotone(y, z.T, fine_y).T
    z = np.clip(z, *ends)
    has_quad = corners(np.isfinite(z_BA)).all(axis=-1)
    is_drawn = np.repeat(np.repeat(has_quad, rows, axis=0), columns, axis=1)
    sky = _sky(fine_x, fine_y, z)
    return LandscapeMesh(x=fine_x, y=fine_y, z=z, is_drawn=is_drawn, sky=sky)


def monotone(at: Floats, values: Floats, fine: Floats) -> Floats:
    """Interpolate by piecewise cubics that keep monotone (Fritsch and Butland 1984).

    scipy's ``PchipInterpolator`` does the same, but for the last bits, and its import takes longer
    than the whole mesh.

    From ``values``, (..., N), at increasing places, (N,), to ``fine`` ones between: (..., M).
    """
    step = np.diff(at)
    slope = np.diff(values, axis=-1) / step
    if at.size < 3:  # a straight line is all there is
        return np.asarray(values[..., :1] + slope * (fine - at[0]))
    left, right = slope[..., :-1], slope[..., 1:]
    weight = (2 * step[1:] + step[:-1], step[1:] + 2 * step[:-1])
    turns = left * right <= 0
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = np.where(turns, 0.0, sum(weight) / (weight[0] / left + weight[1] / right))
    first = _rate_at_end(step[:2], slope[..., :2])
    last = _rate_at_end(step[-1:-3:-1], slope[..., -1:-3:-1])
    rate = np.concatenate([first[..., None], inner, last[..., None]], axis=-1)
    i = np.clip(np.searchsorted(at, fine, "right") - 1, 0, step.size - 1)
    h, t = step[i], (fine - at[i]) / step[i]
    return np.asarray(
        values[..., i] * (1 + 2 * t) * (1 - t) ** 2
        + values[..., i + 1] * t**2 * (3 - 2 * t)
        + h * (rate[..., i] * t * (1 - t) ** 2 - rate[..., i + 1] * t**2 * (1 - t))
    )


def _rate_at_end(step: Floats, slope: Floats) -> Floats:
    """Return the rate at an end, from the two steps there: a parabola's, held to be monotone."""
    (near, far), outer, inner = step, slope[..., 0], slope[..., 1]
    rate = ((2 * near + far) * outer - near * inner) / (near + far)
    rate = np.where(rate * outer <= 0, 0.0, rate)
    is_steep = (outer * inner <= 0) & (np.abs(rate) > 3 * np.abs(outer))
    return np.asarray(np.where(is_steep, 3 * outer, rate))


def split(axis: Floats, parts: int) -> Floats:
    """Return an axis with each of its steps cut into so many parts."""
    fine = np.arange((axis.size - 1) * parts + 1) / parts
    return np.asarray(np.interp(fine, np.arange(axis.size), axis))


def _sky(x: Floats, y: Floats, z: Floats) -> Floats:
    """Return how much sky is above the horizon, averaged over `WAYS` directions; (Y, X)."""
    rows, columns = z.shape
    per_unit = (columns - 1) / (x[-1] - x[0]), (rows - 1) / (y[-1] - y[0])
    seen = np.zeros_like(z)
    for angle in np.arange(WAYS) * 2 * np.pi / WAYS:
        steepest = np.zeros_like(z)
        for distance in REACH * np.geomspace(0.03, 1.0, 10):
            right = round(float(distance * np.cos(angle) * per_unit[0]))
            up = round(float(distance * np.sin(angle) * per_unit[1]))
            if not (right or up):
                continue
            padded = np.pad(z, [(abs(up),) * 2, (abs(right),) * 2], mode="edge")
            moved = padded[abs(up) + up :][:rows, abs(right) + right :][:, :columns]
            way = float(np.hypot(right / per_unit[0], up / per_unit[1]))
            np.maximum(steepest, (moved - z) / way, out=steepest)
        seen += 1.0 - steepest / np.sqrt(1.0 + steepest**2)  # 1 - sine of the horizon
    return seen / WAYS
