from __future__ import annotations

import pytest
import torch

from lsengine.data import nesting
from lsengine.errors import UsageError

X_N = torch.arange(5)
NESTED = {"ids": X_N, "pair": (X_N * 2, {"mask": X_N.bool()})}


def test_every_tensor_has_a_place() -> None:
    """Places join keys and positions by dots; a tensor alone has an empty one."""
    assert [name for name, _ in nesting.leaves(NESTED)] == ["ids", "pair.0", "pair.1.mask"]
    assert [name for name, _ in nesting.leaves(X_N)] == [""]


def test_a_function_is_applied_to_every_tensor_and_the_nesting_stays() -> None:
    """`mapped` keeps dicts and tuples as they are."""
    out = nesting.mapped(lambda t: t[:2], NESTED)
    assert isinstance(out, dict)
    assert isinstance(out["pair"], tuple)
    assert [t.tolist() for _, t in nesting.leaves(out)] == [[0, 1], [0, 2], [False, True]]
    assert nesting.count(NESTED) == 5


def test_parts_are_those_of_each_tensor() -> None:
    """`split` cuts all tensors at the same places, by one size or by a list of them."""
    for sizes in (2, [2, 2, 1]):
        parts = nesting.split(NESTED, sizes)
        assert [nesting.count(part) for part in parts] == [2, 2, 1]
        for (_, whole), *pieces in zip(
            nesting.leaves(NESTED), *map(nesting.leaves, parts), strict=True
        ):
            assert torch.equal(torch.cat([piece for _, piece in pieces]), whole)


def test_one_tensor_is_taken_where_one_is_needed() -> None:
    """Of several the message says which there are."""
    assert nesting.lone(X_N) is X_N
    with pytest.raises(
        UsageError, match=r"the data have: ids, pair\.0, pair\.1\.mask; of a file .*inputs: ids"
    ):
        nesting.lone(NESTED)
    with pytest.raises(UsageError, match="the data have: none"):
        nesting.lone(None)
