"""The shape of a landscape: a finer mesh through the cells, and what its points see.

Shape suffixes: B betas, A alphas of the cells; Y, X of the finer mesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine.surface.cells import nearest

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
MESH = 220  # quads along an axis after which a finer mesh is not seen
WAYS = 12  # directions in which the horizon is looked for
REACH = 0.35  # of the base: how far away a wall still takes light
STEPS = 400  # of a line of sight over the base
LIFT = 0.004  # of the base: a line of sight begins above the surface, not in it


@dataclass(frozen=True, slots=True)
class LandscapeMesh:
    """A landscape over a base 1 wide, ready to be drawn.

    Attributes:
        x, y: Of the mesh, in the base; (X,), (Y,).
        z: Heights in units of the base, finite everywhere; (Y, X).
        there: Quads whose four cells have values; (Y - 1, X - 1).
        sky: Share of the sky that a point sees, 0 to 1; (Y, X).
    """

    x: Floats
    y: Floats
    z: Floats
    there: Mask
    sky: Floats

    @property
    def drawn(self) -> Floats:
        """Heights, NaN where no quad is drawn; (Y, X)."""
        there = np.pad(self.there, 1)
        corner = there[:-1, :-1] | there[:-1, 1:] | there[1:, 1:] | there[1:, :-1]
        return np.where(corner, self.z, np.nan)


def relief(x: Floats, y: Floats, z_BA: Floats) -> LandscapeMesh:
    """Lay a smooth mesh through cells, without new hills or hollows.

    Piecewise cubics that keep monotone (Fritsch and Butland 1984) go along each axis; a mesh
    through cells overshoots nowhere.  Quads with a corner that has no value stay out.

    Args:
        x: Of the cells, in units of the base, increasing; (A,).
        y: The same; (B,).
        z_BA: Heights, NaN where there is none; (B, A).
    """
    known = np.isfinite(z_BA)
    parts = tuple(max(1, min(8, MESH // max(axis.size - 1, 1))) for axis in (x, y))
    fine_x, fine_y = _split(x, parts[0]), _split(y, parts[1])
    filled = nearest(x, y, z_BA)
    z = _through(y, _through(x, filled, fine_x, axis=1), fine_y, axis=0)
    quads = known[:-1, :-1] & known[:-1, 1:] & known[1:, 1:] & known[1:, :-1]
    there = np.repeat(np.repeat(quads, parts[1], axis=0), parts[0], axis=1)
    return LandscapeMesh(fine_x, fine_y, z, there, _sky(fine_x, fine_y, z))


def _through(at: Floats, values: Floats, fine: Floats, axis: int) -> Floats:
    if fine.size == at.size:
        return values
    rows = np.moveaxis(values, axis, -1)
    return np.moveaxis(monotone(at, rows, fine), -1, axis)


def monotone(at: Floats, values: Floats, fine: Floats) -> Floats:
    """Interpolate by piecewise cubics that keep monotone (Fritsch and Butland 1984).

    What scipy's ``PchipInterpolator`` does, whose import takes longer than the picture's mesh.

    Args:
        at: Increasing; (N,).
        values: (..., N).
        fine: Within the ends of ``at``; (M,).

    Returns:
        (..., M).
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
    first = _end(step[0], step[1], slope[..., 0], slope[..., 1])
    last = _end(step[-1], step[-2], slope[..., -1], slope[..., -2])
    rate = np.concatenate([first[..., None], inner, last[..., None]], axis=-1)
    i = np.clip(np.searchsorted(at, fine, "right") - 1, 0, step.size - 1)
    h, t = step[i], (fine - at[i]) / step[i]
    return np.asarray(
        values[..., i] * (1 + 2 * t) * (1 - t) ** 2
        + values[..., i + 1] * t**2 * (3 - 2 * t)
        + h * (rate[..., i] * t * (1 - t) ** 2 - rate[..., i + 1] * t**2 * (1 - t))
    )


def _end(near: Any, far: Any, slope: Floats, next_: Floats) -> Floats:
    """Return the rate at an end: a parabola's, held to what keeps monotone."""
    rate = ((2 * near + far) * slope - near * next_) / (near + far)
    rate = np.where(rate * slope <= 0, 0.0, rate)
    steep = (slope * next_ <= 0) & (np.abs(rate) > 3 * np.abs(slope))
    return np.asarray(np.where(steep, 3 * slope, rate))


def _split(axis: Floats, parts: int) -> Floats:
    fine = np.interp(np.arange((axis.size - 1) * parts + 1) / parts, np.arange(axis.size), axis)
    return np.asarray(fine)


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
            there = np.pad(z, [(abs(up),) * 2, (abs(right),) * 2], mode="edge")
            moved = there[abs(up) + up :][:rows, abs(right) + right :][:, :columns]
            way = float(np.hypot(right / per_unit[0], up / per_unit[1]))
            np.maximum(steepest, (moved - z) / way, out=steepest)
        seen += 1.0 - steepest / np.sqrt(1.0 + steepest**2)  # 1 - sine of the horizon
    return seen / WAYS


def above(x: Floats, y: Floats, z: Floats, at: Floats) -> Floats:
    """Return heights over places of the base, bilinearly between points of a mesh.

    Args:
        x: Of the mesh, increasing; (X,).
        y: The same; (Y,).
        z: Heights, NaN where there is none; (Y, X).
        at: (..., 2).

    Returns:
        (...).
    """
    column = np.interp(at[..., 0], x, np.arange(x.size))
    row = np.interp(at[..., 1], y, np.arange(y.size))
    i = np.minimum(column.astype(int), x.size - 2)
    j = np.minimum(row.astype(int), y.size - 2)
    u, v = column - i, row - j
    low = (1 - u) * z[j, i] + u * z[j, i + 1]
    return np.asarray((1 - v) * low + v * ((1 - u) * z[j + 1, i] + u * z[j + 1, i + 1]))


def hidden(x: Floats, y: Floats, z: Floats, points: Floats, eye: Floats) -> Mask:
    """Return which points a surface hides from an eye: the line of sight goes through it.

    Points lie on top of the surface, so that a wall hides what is marked on its other side.

    Args:
        x: Of the mesh, increasing; (X,).
        y: The same; (Y,).
        z: Heights in the same unit, NaN where nothing is drawn; (Y, X).
        points: On the surface or above it; (N, 3).
        eye: Beyond the base or above it; (3,).

    Returns:
        (N,).
    """
    start = points + np.array([0.0, 0.0, LIFT])
    way = eye - start
    ends = np.where(way[:, :2] > 0, (x[-1], y[-1]), (x[0], y[0]))
    with np.errstate(divide="ignore", invalid="ignore"):
        leaves = (ends - start[:, :2]) / way[:, :2]  # the base, as a share of the way
    leaves[way[:, :2] == 0] = 1.0
    last = np.clip(leaves.min(axis=1), 0.0, 1.0)
    along = start + np.linspace(0, 1, STEPS)[:, None, None] * (last[:, None] * way)
    gap = along[..., 2] - above(x, y, z, along[..., :2])
    return np.asarray((gap[:-1] * gap[1:] < 0).any(axis=0))


def clearance(x: Floats, y: Floats, z: Floats, point: Floats, eye: Floats) -> float:
    """Return how high one must go above a hidden point to be seen, at most the surface's top.

    Args:
        x: As for `hidden`.
        y: The same.
        z: The same.
        point: (3,).
        eye: As for `hidden`.
    """
    heights = np.linspace(point[2], np.nanmax(z), 200)
    line = np.column_stack([np.broadcast_to(point[:2], (200, 2)), heights])
    behind = np.flatnonzero(hidden(x, y, z, line, eye))
    return float(heights[min(behind[-1] + 1, 199)]) if behind.size else float(point[2])
