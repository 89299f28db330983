"""Units of a direction: what gets the norm of the same part of the weights.

A unit is a filter, a whole parameter, a head of attention, or a component of the product of two
matrices that only occur as a product.  `docs/DIRECTIONS.md` has the formulas and the invariances.

Shape suffixes: F units, K numbers of a unit; H numbers of a head or ranks of an adapter, M and N
columns of the two factors, R components.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from lsengine.geometry.parameters import Parameters, as_real, like_kind, sign
from lsengine.wording import listed


@dataclass(frozen=True, slots=True)
class Block:
    """Units of one parameter: so many indices of an axis each, or without a size the whole.

    Example:
        >>> Block(axis=1, size=2).rows(torch.arange(8).reshape(2, 4)).tolist()
        [[0.0, 4.0, 1.0, 5.0], [2.0, 6.0, 3.0, 7.0]]
    """

    axis: int = 0
    size: int | None = None

    def rows(self, tensor: Tensor) -> Tensor:
        """View a parameter as (F, K) real numbers in float64: one row per unit."""
        real = as_real(tensor)
        if self.size is None:
            return real.reshape(1, -1).double()
        flat = real.movedim(self.axis, 0).flatten(1) if real.ndim > 1 else real[:, None]
        return flat.reshape(len(flat) // self.size, self.size * flat.shape[1]).double()

    def shaped(self, rows_FK: Tensor, like: Tensor) -> Tensor:
        """Return numbers that `rows` gave in the shape, kind and precision of a tensor."""
        if self.size is not None and self.axis:
            real = as_real(like).movedim(self.axis, 0)
            rows_FK = rows_FK.reshape(real.shape).movedim(0, self.axis).contiguous()
        return like_kind(rows_FK, like).to(like.dtype)


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a parameter: some indices of the axis over which a product is summed."""

    name: str
    axis: int
    _: KW_ONLY
    start: int
    stop: int
    is_needed: bool = True  # else it goes along if it moves, as a bias does

    def matrix(self, tensor: Tensor) -> Tensor:
        """Return it as a matrix in float64 with that axis first, (H, ...)."""
        return self.view(tensor).flatten(1).double()

    def view(self, tensor: Tensor) -> Tensor:
        """View it with that axis first, the other axes in their order."""
        moved = tensor.movedim(self.axis, 0)[self.start : self.stop]
        return moved[:, None] if moved.ndim == 1 else moved


@dataclass(frozen=True, slots=True)
class Pair:
    """Two factors that only their product matters of, ``left^T right``.

    Both are put together from pieces, side by side: ``left`` is (H, M), ``right`` (H, N).
    """

    label: str
    left: tuple[Piece, ...]
    right: tuple[Piece, ...]

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All pieces of both factors."""
        return *self.left, *self.right


@dataclass(frozen=True, slots=True)
class Units:
    """The units of a network's parameters by name; those in pairs are no blocks."""

    blocks: Mapping[str, Block]
    pairs: tuple[Pair, ...] = ()

    def text(self, tensors: Parameters) -> str:
        """Return how many units of each kind there are among some tensors.

        Example:
            >>> both = {"q": torch.zeros(4, 3), "bias": torch.zeros(4)}
            >>> Units({"q": Block(axis=0, size=2), "bias": Block()}).text(both)
            '2 heads, 1 whole parameter'
        """
        counts = Counter[str]()
        for name, block in self.blocks.items():
            if name in tensors:
                if block.size is None:
                    counts["whole parameter"] += 1
                else:
                    kind = "filter" if (block.axis, block.size) == (0, 1) else "head"
                    counts[kind] += tensors[name].shape[block.axis] // block.size
        counts["product"] = len(self.pairs_in(tensors))
        words = [f"{n:,} {kind}{'s' * (n != 1)}" for kind, n in counts.items() if n]
        return ", ".join(words)

    def pairs_in(self, direction: Parameters) -> list[Pair]:
        """Return the pairs that a direction moves.

        Raises:
            ValueError: If it moves one factor and not the other.
        """
        moved = []
        for pair in self.pairs:
            if not any(piece.name in direction for piece in pair.pieces):
                continue
            still = [p.name for p in pair.pieces if p.is_needed and p.name not in direction]
            if still:
                raise ValueError(
                    f"{pair.label}: both factors of a product have to move, but "
                    f"{listed(dict.fromkeys(still))} stays; let both move, or none, or give "
                    "a unit that is no product"
                )
            moved.append(pair)
        return moved


def of_word(tensor: Tensor, word: str) -> Block:
    """Return the units of a parameter by ``filter`` or ``layer``; one with one axis is one unit."""
    return Block() if word == "layer" or tensor.ndim < 2 else Block(axis=0, size=1)


def rescaled(d: Tensor, w: Tensor, block: Block) -> Tensor:
    """Return a direction whose units have the norms of the weights' units."""
    d_FK, w_FK = block.rows(d), block.rows(w)
    norm_F = d_FK.norm(dim=1)
    scale_F = torch.where(norm_F > 0, w_FK.norm(dim=1) / norm_F, 0.0)
    return block.shaped(scale_F[:, None] * d_FK, d)


def without(d: Tensor, a: Tensor, block: Block) -> Tensor:
    """Return a direction without its component along another, unit by unit.

    Units of one number are left as they are.
    """
    d_FK, a_FK = block.rows(d), block.rows(a)
    if d_FK.shape[1] < 2:
        return d.clone()
    length_F = a_FK.square().sum(1)
    scale_F = torch.where(length_F > 0, (d_FK * a_FK).sum(1) / length_F, 0.0)
    return block.shaped(d_FK - scale_F[:, None] * a_FK, d)


def balance(direction: dict[str, Tensor], weights: Parameters, pair: Pair) -> None:
    """Put a drawn direction of two factors in the place where the factors are balanced.

    Of the product ``left^T right = U S V^T`` the balanced factors are ``S^1/2 U^T`` and
    ``S^1/2 V^T``: those of smallest norm.  There a unit is a component, a row of norm
    ``s^1/2``, and the drawn rows get these norms.  Led back by the matrix that makes the factors of
    the balanced ones, they are ``left U D^T`` and ``right V E^T``, where rows of ``D^T``
    and ``E^T`` are the drawn ones at length 1.  Along the direction the product is
    ``(U + alpha D) S (V + alpha E)^T``, so it depends on the product alone: a change of gauge,
    ``left`` by any invertible ``G`` and ``right`` by its inverse transpose, changes nothing.

    The largest number of a column of U in modulus is positive.  Equal singular values leave U and V
    open within their space.  Components of a singular value of zero, but for rounding,
    do not move.

    Raises:
        ValueError: If the product is zero or not finite.
    """
    left, right = ([p for p in s if p.name in direction] for s in (pair.left, pair.right))
    left_HM, right_HN = _joined(left, weights), _joined(right, weights)
    if not bool(left_HM.isfinite().all() and right_HN.isfinite().all()):
        raise ValueError(f"{pair.label}: holds numbers that are not finite")
    columns_M, upper_left = torch.linalg.qr(left_HM.T)
    _, upper_right = torch.linalg.qr(right_HN.T)
    u, s_R, v = torch.linalg.svd(upper_left @ upper_right.T, full_matrices=False)
    eps = max(  # what rounding of the weights, and of the product, makes of a zero
        torch.finfo(weights[left[0].name].dtype).eps,
        4 * len(left_HM) * torch.finfo(torch.float64).eps,
    )
    largest = torch.linalg.matrix_norm(upper_left, 2) * torch.linalg.matrix_norm(upper_right, 2)
    rank = int((s_R > eps * largest).sum())
    if not rank:
        raise ValueError(
            f"{pair.label}: their product is zero, so there is nothing to normalise by; take a "
            "trained checkpoint (a new adapter has B = 0), or a unit that is no product"
        )
    signs_R = torch.tensor([sign(columns_M @ u[:, k]) for k in range(rank)], dtype=u.dtype)
    for pieces, gauge_HR in (
        (left, upper_left.T @ (u[:, :rank] * signs_R)),
        (right, upper_right.T @ (v[:rank].T * signs_R)),
    ):
        drawn = _joined(pieces, direction)[:rank]
        unit = drawn / drawn.norm(dim=1, keepdim=True).clamp_min(torch.finfo(drawn.dtype).tiny)
        _put(direction, pieces, gauge_HR @ unit)


def _joined(pieces: Sequence[Piece], tensors: Parameters) -> Tensor:
    return torch.cat([piece.matrix(tensors[piece.name]) for piece in pieces], dim=1)


def _put(direction: dict[str, Tensor], pieces: Sequence[Piece], values: Tensor) -> None:
    """Write the columns of a matrix into the pieces that they are of."""
    views = [piece.view(direction[piece.name]) for piece in pieces]
    columns = values.split([view[0].numel() for view in views], dim=1)
    for view, part in zip(views, columns, strict=True):
        view.copy_(part.reshape(view.shape))
