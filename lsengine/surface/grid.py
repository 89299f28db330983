"""The grid: its axes, its cells, and the order in which they are visited.

A cell is named by its flat index in C order over the shape of the surface: (A,) for a curve,
(R, A) with repeats, (B, A) for a plane.

Shape suffixes: A alphas, B betas, R repeats, C cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the grid: where it lies, and which repeat of the directions it uses."""

    alpha: float
    beta: float = 0.0
    repeat: int = 0


@dataclass(frozen=True, slots=True)
class Grid:
    """Coordinates by axis name, in the order of the axes of the surface's arrays."""

    axes: Mapping[str, NDArray[np.float64]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of every quantity: (A,), (R, A) or (B, A)."""
        return tuple(len(coordinates) for coordinates in self.axes.values())

    @property
    def size(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)

    def cell(self, index: int) -> Cell:
        """Return the cell at a flat index."""
        position = np.unravel_index(index, self.shape)
        at = {axis: c[i] for (axis, c), i in zip(self.axes.items(), position, strict=True)}
        alpha, beta = float(at["alpha"]), float(at.get("beta", 0.0))
        return Cell(alpha, beta, repeat=int(at.get("repeat", 0)))

    def describe(self, cell: Cell) -> str:
        """Return where a cell is, by the axes that there are: ``alpha=0.5 beta=0``."""
        return " ".join(f"{axis}={getattr(cell, axis):g}" for axis in sorted(self.axes))

    def visiting_order(self) -> Cells:
        """Return all cells (C,), coarse sub-grids first, the centre of the grid first of all.

        A cell's level is the largest power of two that divides its distance, in cells, from
        the middle of every axis, so that any leading part covers the whole extent evenly.
        Repeats are not refined: each level takes all of them.
        """
        sizes = {axis: len(coordinates) for axis, coordinates in self.axes.items()}
        levels = [np.full(n, 62) if a == "repeat" else _levels(n) for a, n in sizes.items()]
        level_C = np.min(np.meshgrid(*levels, indexing="ij"), axis=0).ravel()
        return np.argsort(-level_C, kind="stable").astype(np.int64)

    def pass_groups(self, size: int) -> Cells:
        """Return, for every cell (C,), the number of its group of ``size`` in the visiting order.

        Example:
            >>> make_grid([-1, 1, 5]).pass_groups(2).tolist()
            [0, 1, 0, 2, 1]
        """
        group_C = np.empty(self.size, np.int64)
        group_C[self.visiting_order()] = np.arange(self.size) // size
        return group_C

    def warm_start_cells(self) -> Cells:
        """Return, for every cell (C,), the cell of the coarse sub-grid nearest to it.

        It takes every fourth point of each axis but repeats, counted from the middle.
        """
        sizes = {axis: len(coordinates) for axis, coordinates in self.axes.items()}
        nearest = [np.arange(n) if a == "repeat" else _nearest_coarse(n) for a, n in sizes.items()]
        positions = np.meshgrid(*nearest, indexing="ij")
        return np.ravel_multi_index(positions, self.shape).ravel().astype(np.int64)

    def visiting_order_by_blocks(self) -> Cells:
        """Return all cells (C,): the coarse sub-grid first, then block by block around it.

        Who works on a block needs the vectors of its coarse cell once.
        """
        order, coarse_C = self.visiting_order(), self.warm_start_cells()
        is_fine = coarse_C[order] != order
        fine = order[is_fine]
        rank_of = np.empty(self.size, np.int64)
        rank_of[order] = np.arange(self.size)
        by_block = np.argsort(rank_of[coarse_C[fine]], kind="stable")
        return np.concatenate([order[~is_fine], fine[by_block]])


def make_grid(
    alpha: Sequence[float], beta: Sequence[float] | None = None, repeats: int = 1
) -> Grid:
    """Return the grid of ``[start, stop, points]`` axes; see `coordinates`."""
    axes: dict[str, NDArray[np.float64]] = {}
    if beta is not None:
        axes["beta"] = coordinates(*beta)
    elif repeats > 1:
        axes["repeat"] = np.arange(repeats, dtype=np.float64)
    axes["alpha"] = coordinates(*alpha)
    return Grid(axes)


def coordinates(start: float, stop: float, points: float) -> NDArray[np.float64]:
    """Return equally spaced coordinates (points,), 0.0 where rounding left 1e-17 for the centre.

    Example:
        >>> coordinates(-1, 1, 5).tolist()
        [-1.0, -0.5, 0.0, 0.5, 1.0]
    """
    values = np.linspace(start, stop, int(points), dtype=np.float64)
    values[np.abs(values) < 1e-12 * max(abs(start), abs(stop))] = 0.0
    return values


def _nearest_coarse(points: int) -> NDArray[np.int64]:
    """Return, per index of an axis, the nearest index a multiple of 4 from the middle."""
    middle = points // 2
    offset = np.arange(points) - middle
    # ties go toward the middle, so that no index leaves the axis for the sake of a tie
    steps = np.sign(offset) * ((np.abs(offset) + 1) // 4)
    limits = -(middle // 4), (points - 1 - middle) // 4
    return np.asarray(middle + 4 * np.clip(steps, *limits), np.int64)


def _levels(points: int) -> NDArray[np.int64]:
    """Return, per index of an axis, the exponent of two in its distance from the middle."""
    distance = np.abs(np.arange(points) - points // 2)
    lowest_bit = distance & -distance
    lowest_bit[distance == 0] = 2**62
    return np.log2(lowest_bit.astype(np.float64)).astype(np.int64)
