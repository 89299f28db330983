"""Units of directions: blocks of a parameter, and factors of a product."""

from __future__ import annotations

import pytest
import torch

from lsengine.geometry.directions import normalized
from lsengine.geometry.units import Block, Pair, Piece, Units


@pytest.mark.parametrize(
    ("block", "shape"),
    [
        (Block(), (3, 4, 2)),
        (Block(0, 1), (6, 4)),
        (Block(0, 3), (6, 4)),
        (Block(1, 2), (3, 4, 2)),
        (Block(2, 2), (1, 1, 6)),
        (Block(0, 2), (6,)),
        (Block(0, 1), (0, 4)),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_rows_are_slices_and_come_back(block, shape, dtype):
    """Row by row the numbers of a slice along the axis; the same tensor again."""
    tensor = torch.randn(shape, dtype=dtype)
    rows = block.rows(tensor)
    assert torch.equal(block.shaped(rows, tensor), tensor)
    size = shape[block.axis] if block.size is None else block.size
    for k in range(shape[block.axis] // size if size else 0):
        part = tensor.narrow(block.axis, k * size, size)
        part = tensor if block.size is None else part
        assert float(rows[k].norm()) == pytest.approx(float(part.norm()))


def _factors(rank, *, rows=4, seed=0):
    """Return two factors of a product of a given rank, a drawn direction, and their units."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weights = {"b": normal(7, rank) @ normal(rank, rows), "a": normal(rows, 5)}
    raw = {"b": normal(7, rows), "a": normal(rows, 5)}
    pair = Pair("b a", (Piece("b", 1, start=0, stop=rows),), (Piece("a", 0, start=0, stop=rows),))
    return weights, raw, Units({}, (pair,))


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_product_moves_as_its_singular_values_say(rank):
    """It is ``(U + x D) S (V + x E)^T``, with drawn rows at length 1 as columns of D and E."""
    weights, raw, units = _factors(rank)
    found = normalized(raw, weights, units)
    u, s, vh = torch.linalg.svd(weights["b"] @ weights["a"])
    u, s, v = u[:, :rank], s[:rank], vh[:rank].T
    signs = torch.stack([c[c.abs().argmax()].sign() for c in u.T])
    d = (raw["b"].T[:rank] / raw["b"].T[:rank].norm(dim=1, keepdim=True)).T
    e = (raw["a"][:rank] / raw["a"][:rank].norm(dim=1, keepdim=True)).T
    for x in (-1.0, 0.3, 2.0):
        moved = (weights["b"] + x * found["b"]) @ (weights["a"] + x * found["a"])
        expected = (u * signs + x * d) @ torch.diag(s) @ (v * signs + x * e).T
        torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-9)


def test_in_the_balanced_gauge_units_have_their_own_norms():
    """They are components of norm ``s^1/2``; these factors have the least sum of squares."""
    weights, raw, units = _factors(4)
    u, s, vh = torch.linalg.svd(weights["b"] @ weights["a"], full_matrices=False)
    root = s[:4].sqrt()
    balanced = {"b": u[:, :4] * root, "a": root[:, None] * vh[:4]}
    found = normalized(raw, balanced, units)
    torch.testing.assert_close(found["b"].norm(dim=0), root)
    torch.testing.assert_close(found["a"].norm(dim=1), root)
    least = sum(float(t.square().sum()) for t in balanced.values())
    assert least < sum(float(t.square().sum()) for t in weights.values())


def test_float32_keeps_its_rank():
    """Rounding of the weights makes no component; a small one that is no rounding moves."""
    weights, raw, units = _factors(2)
    weights = {n: t.float() for n, t in weights.items()}
    found = normalized({n: t.float() for n, t in raw.items()}, weights, units)
    assert found["b"].dtype == torch.float32
    assert int(torch.linalg.matrix_rank(found["b"], rtol=1e-4)) == 2
    scaled = {"b": weights["b"] @ torch.diag(torch.tensor([1, 1e-3, 1, 1])), "a": weights["a"]}
    assert bool(normalized(raw, scaled, units)["b"].isfinite().all())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"b": torch.zeros(7, 4).double()}, "b a: their product is zero, so there is nothing to"),
        ({"a": torch.full((4, 5), torch.nan).double()}, "b a: holds numbers that are not finite"),
    ],
)
def test_a_product_of_nothing_is_refused(change, says):
    """A fresh adapter, and a checkpoint that diverged."""
    weights, raw, units = _factors(2)
    with pytest.raises(ValueError, match=says):
        normalized(raw, weights | change, units)


def test_one_factor_alone_is_refused_and_none_is_fine():
    """Both move, or neither."""
    weights, raw, units = _factors(2)
    with pytest.raises(ValueError, match="both factors of a product have to move, but a stays"):
        normalized({"b": raw["b"]}, {"b": weights["b"]}, units)
    assert normalized({}, {}, units) == {}
