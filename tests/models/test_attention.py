"""Heads in the attentions of the public libraries."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lsengine.errors import UsageError
from lsengine.geometry.units import Block
from lsengine.models.attention import attentions
from lsengine.models.transformer import Attention, rotation
from tests.models.test_units import surface
from tests.support.attention import (
    HEADS,
    SIZE,
    WIDTH,
    Bert,
    Fused,
    Separate,
    Torch,
    Transposed,
    change,
)

FORMS = {
    "separate": (Separate, HEADS),
    "shared keys": (lambda: Separate(kv_heads=1), 1),
    "shared keys of groups": (lambda: Separate(kv_heads=2, heads=4), 2),
    "torch": (Torch, HEADS),
    "torch, of other widths": (lambda: Torch(kdim=4, vdim=5), HEADS),
    "transposed": (Transposed, HEADS),
    "fused": (Fused, HEADS),
    "fused, shared keys": (lambda: Fused(shared=True), 1),
    "beside": (Bert, HEADS),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("letters", ["qk", "ov"])
@pytest.mark.parametrize(("unit", "is_general"), [("head", False), ("balanced", True)])
def test_heads_are_those_that_the_network_computes_with(form, letters, unit, is_general):
    """Each head may be rescaled, or changed by any matrix, and the surface is the same.

    Biases move, too.  Heads that share keys change together.  Other units show the change.
    """
    make, shared = FORMS[form]
    torch.manual_seed(1)
    network = make().double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.7)
    twin, inputs = copy.deepcopy(network), torch.randn(2, 4, WIDTH, dtype=torch.float64)
    group = getattr(network, "num_heads", HEADS) // shared
    for number in range(shared):
        matrix = torch.randn(SIZE, SIZE, dtype=torch.float64) + 2 * torch.eye(SIZE)
        matrix = matrix if is_general else (3.0 - 2 * number) * torch.eye(SIZE).double()
        for head in range(number * group, (number + 1) * group):
            change(twin, letters[0], head, matrix)
        change(twin, letters[1], number, torch.linalg.inv(matrix).T)
    torch.testing.assert_close(network(inputs), twin(inputs), rtol=1e-10, atol=1e-10)
    one, other = (surface(n, unit, inputs, ignore=()) for n in (network, twin))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    if shared > 1 or is_general:  # else all of a layer is multiplied by one number
        one, other = (surface(n, "layer", inputs, ignore=()) for n in (network, twin))
        assert not torch.allclose(one, other, rtol=1e-3, atol=1e-3)


class Turned(nn.Module):
    """The attention of the built-in transformers, with rotary positions."""

    def __init__(self):
        super().__init__()
        self.attention = Attention(8, 2, dropout=0.0, causal=True)

    def forward(self, x):
        """Return (N, T, 8)."""
        return self.attention(x, rotation(x.shape[1], 4, x))


def test_rotary_positions_leave_a_gauge_that_the_balanced_choice_follows():
    """A complex number for each pair of channels commutes with the turns; other matrices do not."""
    torch.manual_seed(1)
    network, inputs = Turned().double(), torch.randn(2, 4, 8, dtype=torch.float64)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.7)
    twin, other = copy.deepcopy(network), copy.deepcopy(network)
    a, b = (torch.diag(torch.tensor(part).double()) for part in ([2.0, -0.5], [1.0, 3.0]))
    complex_numbers = torch.cat([torch.cat([a, -b], 1), torch.cat([b, a], 1)])
    for changed, matrix in ((twin, complex_numbers), (other, torch.randn(4, 4).double())):
        with torch.no_grad():
            for layer, gauge in (("query", matrix), ("key", torch.linalg.inv(matrix).T)):
                projection = getattr(changed.attention, layer)
                projection.weight[:4] = gauge @ projection.weight[:4]
                projection.bias[:4] = gauge @ projection.bias[:4]
    torch.testing.assert_close(network(inputs), twin(inputs), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(network(inputs), other(inputs), rtol=1e-3, atol=1e-3)
    for unit, is_same in (("balanced", True), ("head", False)):
        surfaces = (surface(n, unit, inputs, ignore=()) for n in (network, twin))
        assert torch.allclose(*surfaces, rtol=1e-9, atol=1e-9) == is_same


class Head(nn.Module):
    """One head, as a module of its own."""

    def __init__(self):
        super().__init__()
        self.key, self.query = nn.Linear(WIDTH, SIZE), nn.Linear(WIDTH, SIZE)
        self.value = nn.Linear(WIDTH, SIZE)


def test_heads_in_a_list_are_one_each():
    """Each has its columns of the projection behind the list, and needs no number."""
    block = nn.ModuleDict({"heads": nn.ModuleList([Head(), Head()]), "proj": nn.Linear(6, WIDTH)})
    first, second = attentions(nn.ModuleDict({"block": block}), "k")
    assert (first.label, second.label) == ("block.heads.0", "block.heads.1")
    assert second.blocks["block.heads.1.key.weight"] == Block(0, SIZE)
    assert second.blocks["block.proj.weight"] == Block(1, SIZE)
    (piece,) = second.pairs[1].left
    assert (piece.name, piece.axis, piece.start, piece.stop) == ("block.proj.weight", 1, 3, 6)
    layers = nn.ModuleDict({"heads": nn.ModuleList([Head(), Head()]), "proj": nn.Linear(3, 2)})
    with pytest.raises(UsageError, match="does not say how many heads it has"):
        attentions(layers, "k")


def test_keys_and_values_may_be_one_projection():
    """First all keys, then all values."""
    network = Separate()
    network.to_kv, network.q = nn.Linear(WIDTH, 2 * WIDTH), network.q_proj
    del network.k_proj, network.v_proj
    (found,) = attentions(network, "k")
    keys, values = (pair.right[0] for pair in found.pairs[2:])
    assert (keys.name, keys.start, keys.stop) == ("to_kv.weight", SIZE, 2 * SIZE)
    assert (values.name, values.start, values.stop) == ("to_kv.weight", 3 * SIZE, 4 * SIZE)
    assert found.blocks["to_kv.bias"] == Block(0, SIZE)


def _without_heads():
    network = Separate()
    del network.num_heads
    return network


def test_a_number_that_the_network_does_not_say_is_asked_for():
    """The key, the module and the way out; with the number it is as if the network said it."""
    network = nn.ModuleDict({"block": _without_heads()})
    says = r"k: attention of block: it does not say how many heads it has; give heads: N, or"
    with pytest.raises(UsageError, match=says):
        attentions(network, "k")
    assert attentions(network, "k", 2) == attentions(nn.ModuleDict({"block": Separate()}), "k")


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ({"num_heads": 4}, "4 heads of 1 numbers do not make 6 queries"),
        ({"head_dim": 4}, "2 heads of 4 numbers do not make 6 queries"),
        ({"k_proj": nn.Linear(WIDTH, 4)}, ".* do not fit 6, 4 and 6 rows of its projections"),
        ({"o_proj": nn.Linear(4, WIDTH)}, "its output projection has 4 inputs, not 2 times 3"),
        (
            {"q_proj": nn.Identity(), "qkv": nn.Linear(WIDTH, 14)},
            "2 heads of 3 numbers do not fit its 14 rows",
        ),
        ({"qkv": nn.Linear(WIDTH, 18), "k_proj": None}, "has a fused projection beside one of qu"),
    ],
    ids=str,
)
def test_heads_that_do_not_fit_are_refused(edit, says):
    """With the numbers that were found."""
    network = Separate()
    for name, value in edit.items():
        setattr(network, name, value)
    with pytest.raises(UsageError, match=f"attention of Separate: {says}"):
        attentions(network, "k")


def test_an_order_of_rows_that_is_not_known_has_heads_and_no_pairs():
    """Blocks of the size of a head are heads in any order."""
    network = nn.Module()
    network.num_heads = HEADS
    network.query_key_value, network.dense = nn.Linear(WIDTH, 18), nn.Linear(WIDTH, WIDTH)
    (found,) = attentions(network, "k")
    assert found.pairs == ()
    assert found.unpaired == "the order of its rows is not known"
    sizes = {name: (block.axis, block.size) for name, block in found.blocks.items()}
    assert sizes == {
        "query_key_value.weight": (0, SIZE),
        "query_key_value.bias": (0, SIZE),
        "dense.weight": (1, SIZE),
    }


def test_projections_inside_adapters_and_lists_are_found():
    """The layer that an adapter wraps, and the first of a list; what is no projection is none."""
    network = Separate()
    wrapped = nn.Module()
    wrapped.base_layer = network.q_proj
    network.q_proj, network.o_proj = wrapped, nn.ModuleList([network.o_proj, nn.Dropout()])
    (found,) = attentions(network, "k")
    assert {"q_proj.base_layer.weight", "o_proj.0.weight"} <= found.blocks.keys()
    network.v_proj = nn.ReLU()
    assert attentions(network, "k") == []
