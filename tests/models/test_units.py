"""Units by role: each change that preserves a function, and which surfaces it leaves alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call

from lsengine import models
from lsengine.errors import UsageError
from lsengine.geometry.directions import normalized, orthogonalized
from lsengine.geometry.units import Block
from lsengine.models.units import Words, units_of
from tests.support.attention import HEADS, SIZE, WIDTH, Separate, change

PAGE = Path(__file__).parents[2] / "docs" / "DIRECTIONS.md"
TOKENS = torch.tensor([[0, 1, 2, 3], [3, 3, 1, 4], [2, 0, 4, 4]])
STEPS = (-0.7, 0.0, 0.4)


class Adapted(nn.Module):
    """A frozen layer with an adapter, named as peft names it."""

    def __init__(self, rank=2):
        super().__init__()
        self.base_layer = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(WIDTH, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, WIDTH, bias=False)})

    def forward(self, x):
        """Return ``(W + B A) x + b``."""
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


class Everything(nn.Module):
    """A transformer of one block, with a normalisation of tokens, and an adapter."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, WIDTH)
        self.attention = Separate()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)
        self.adapted, self.head = Adapted(), nn.Linear(WIDTH, 3)

    def forward(self, tokens):
        """Return logits (N, 3)."""
        x = self.embedding(tokens)
        x = x / x.square().mean(-1, keepdim=True).sqrt()
        x = x + self.attention(x)
        x = x + self.down(self.up(self.norm(x)).relu())
        return self.head(self.adapted(x).tanh().mean(1))


def _network():
    torch.manual_seed(3)
    network = Everything().double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.8)
    return network


def surface(network, how, inputs, ignore=("bias", "norm")):
    """Return the outputs in all cells of a plane of two normalised directions, (9, ...)."""
    roles = models.parameter_roles(network)
    stay = set().union(*(roles[word] for word in ignore))
    centre = {n: p.detach() for n, p in network.named_parameters()}
    weights = {n: p for n, p in centre.items() if n not in stay}
    if how in ("head", "balanced"):
        how = units_of(network, Words(attention=how), "directions.alpha.normalize")
    drawn = torch.Generator().manual_seed(11)
    raw = [{n: _normal(p.shape, drawn) for n, p in weights.items()} for _ in range(2)]
    alpha, beta = (normalized(d, weights, how) for d in raw)
    cells = []
    for x in STEPS:
        for y in STEPS:
            moved = {n: p + x * alpha[n] + y * beta[n] for n, p in weights.items()}
            cells.append(functional_call(network, {**centre, **moved}, (inputs,)).detach())
    return torch.stack(cells)


def _normal(shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _gauge(size, seed=0):
    return _normal((size, size), torch.Generator().manual_seed(seed)) + 2 * torch.eye(size)


def _pairs_by(letters, matrices, network):
    """Change queries and keys (or others) of each head by a matrix, the partner by its inverse."""
    for number, matrix in enumerate(matrices):
        change(network.attention, letters[0], number, matrix)
        change(network.attention, letters[1], number, torch.linalg.inv(matrix).T)


def _scales(size=SIZE):
    return [s * torch.eye(size, dtype=torch.float64) for s in (3.0, 0.2)]


def _relu_layer(n):
    n.up.weight *= 3
    n.up.bias *= 3
    n.down.weight /= 3


def _relu_unit(n):
    n.up.weight[2] *= 7
    n.up.bias[2] *= 7
    n.down.weight[:, 2] /= 7


def _normalisation(n, channels=slice(None)):
    n.norm.weight[channels] *= 5
    n.norm.bias[channels] *= 5
    n.up.weight[:, channels] /= 5


def _token(n):
    n.embedding.weight[3] *= 6


def _adapter(n, matrix=None):
    matrix = 4 * torch.eye(2, dtype=torch.float64) if matrix is None else matrix
    a, b = n.adapted.lora_A["default"].weight, n.adapted.lora_B["default"].weight
    b.copy_(b @ matrix)
    a.copy_(torch.linalg.inv(matrix) @ a)


def _order(n):
    for letter in "qkvo":
        (a, a_bias), (b, b_bias) = (n.attention.head(letter, h) for h in (0, 1))
        for one, other in ((a, b), (a_bias, b_bias)):
            if one is not None:
                kept = one.clone()
                one.copy_(other)
                other.copy_(kept)


ROWS = [torch.diag(torch.tensor([4.0, 0.5, 1.0], dtype=torch.float64))] * HEADS
GAUGES = [_gauge(SIZE, seed) for seed in range(HEADS)]
CHANGES = {
    "ReLU layer": _relu_layer,
    "ReLU unit": _relu_unit,
    "normalisation": _normalisation,
    "channel of a normalisation": lambda n: _normalisation(n, 1),
    "token": _token,
    "queries and keys": lambda n: _pairs_by("qk", _scales(), n),
    "one row of queries and keys": lambda n: _pairs_by("qk", ROWS, n),
    "queries and keys by -1": lambda n: _pairs_by("qk", [-m / m[0, 0] for m in _scales()], n),
    "queries and keys, any gauge": lambda n: _pairs_by("qk", GAUGES, n),
    "values and outputs": lambda n: _pairs_by("vo", _scales(), n),
    "values and outputs, any gauge": lambda n: _pairs_by("vo", GAUGES, n),
    "adapter": _adapter,
    "rank of an adapter": lambda n: _adapter(n, torch.diag(torch.tensor([5.0, 0.5]).double())),
    "adapter, any gauge": lambda n: _adapter(n, _gauge(2)),
    "order": _order,
}


def _table():
    """Return what the page says, line by line: (change, units, whether the surface is the same)."""
    lines = PAGE.read_text().partition("\n## What each is invariant under")[2].splitlines()
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    units = [word.strip("`") for word in rows[0][1:]]
    return [
        (row[0].partition(":")[0], unit, {"yes": True, "no": False}[said])
        for row in rows[2:]
        for unit, said in zip(units, row[1:], strict=True)
    ]


def test_the_page_speaks_of_every_change():
    """A line for each, with all units, and none that is not tried."""
    assert {change for change, _, _ in _table()} == CHANGES.keys()
    assert {unit for _, unit, _ in _table()} == {"layer", "filter", "weight", "head", "balanced"}


def _twin(network, edit):
    twin = copy.deepcopy(network)
    with torch.no_grad():
        edit(twin)
    return twin


def _distance(one, other):
    return float(((one - other).abs().max() / one.abs().max()).detach())


@pytest.mark.parametrize(("name", "unit", "is_same"), _table())
def test_a_line_of_the_page(name, unit, is_same):
    """The network and its twin have the same centre, and as it says the same surface or not."""
    network = _network()
    twin = _twin(network, CHANGES[name])
    assert _distance(network(TOKENS), twin(TOKENS)) < 1e-12
    assert not all(map(torch.equal, network.parameters(), twin.parameters()))
    distance = _distance(surface(network, unit, TOKENS), surface(twin, unit, TOKENS))
    assert distance < 1e-10 if is_same else distance > 1e-3


@pytest.mark.parametrize("unit", ["head", "balanced"])
@pytest.mark.parametrize("name", ["queries and keys", "values and outputs"])
def test_biases_that_move_belong_to_their_head(name, unit):
    """A head's part of a bias goes with its rows; for filters the whole bias is one unit."""
    network = _network()
    twin = _twin(network, CHANGES[name])
    both = [surface(n, unit, TOKENS, ignore=()) for n in (network, twin)]
    assert _distance(*both) < 1e-10
    filters = [surface(n, "filter", TOKENS, ignore=()) for n in (network, twin)]
    assert _distance(*filters) > 1e-3


def test_units_have_the_norms_of_the_weights():
    """Each head and row by a loop over slices; an embedding as a whole if that is asked for."""
    network = _network()
    weights = {n: p.detach() for n, p in network.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    raw = {n: _normal(p.shape, generator) for n, p in weights.items()}
    words = Words(attention="head", embedding="layer", lora="layer", other="filter")
    found = normalized(raw, weights, units_of(network, words, "k"))

    def check(name, *cuts):
        for at in cuts:
            expected = raw[name][at] * (weights[name][at].norm() / raw[name][at].norm())
            torch.testing.assert_close(found[name][at], expected)

    heads = [slice(h * SIZE, (h + 1) * SIZE) for h in range(HEADS)]
    for letter in "qkv":
        check(f"attention.{letter}_proj.weight", *heads)
        check(f"attention.{letter}_proj.bias", *heads)
    check("attention.o_proj.weight", *((slice(None), head) for head in heads))
    check("attention.o_proj.bias", ...)
    check("embedding.weight", ...)
    check("adapted.lora_A.default.weight", ...)
    check("up.weight", *range(8))
    check("norm.weight", ...)


def test_orthogonal_directions_stay_so_unit_by_unit():
    """The angle of each head is right after normalising, too; products are refused."""
    network = _network()
    weights = {n: p.detach() for n, p in network.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    first, second = ({n: _normal(p.shape, generator) for n, p in weights.items()} for _ in "ab")
    units = units_of(network, Words(attention="head", lora="filter"), "k")
    alpha = normalized(first, weights, units)
    beta = normalized(orthogonalized(second, alpha, units), weights, units)
    for at in (slice(0, SIZE), slice(SIZE, 2 * SIZE)):
        a, b = (d["attention.o_proj.weight"][:, at] for d in (alpha, beta))
        assert abs(float((a * b).sum())) < 1e-12 * float(a.norm() * b.norm())
    with pytest.raises(ValueError, match="angles between two factors depend on their gauge"):
        orthogonalized(second, alpha, units_of(network, Words(attention="balanced"), "k"))


class Own(nn.Module):
    """An adapter of the user's, as two parameters in either orientation."""

    def __init__(self, a, b):
        super().__init__()
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(a)), nn.Parameter(torch.randn(b))


@pytest.mark.parametrize(
    ("a", "b", "axes"),
    [((2, 6), (5, 2), (0, 1)), ((6, 2), (2, 5), (1, 0)), ((6, 2), (2, 6), (1, 0))],
)
def test_the_rank_is_the_axis_that_both_have(a, b, axes):
    """The smaller one, if both could be it."""
    ((pair,),) = [units_of(Own(a, b), Words(), "k").pairs]
    assert (pair.right[0].axis, pair.left[0].axis) == axes
    assert (pair.right[0].stop, pair.left[0].stop) == (2, 2)


def test_a_tied_table_is_an_embedding():
    """By whichever name the network lists it."""
    network = nn.ModuleDict({"out": nn.Linear(4, 7, bias=False), "table": nn.Embedding(7, 4)})
    network["table"].weight = network["out"].weight
    assert units_of(network, Words(embedding="layer"), "k").blocks == {"out.weight": Block()}


@pytest.mark.parametrize(
    ("make", "words", "says"),
    [
        (lambda: nn.Linear(2, 2), {"attention": "head"}, "k: attention is spoken of, but the netw"),
        (lambda: nn.Linear(2, 2), {"lora": "product"}, "k: lora is spoken of"),
        (lambda: Own((3, 6), (5, 2)), {}, r"have no rank in common: \[3, 6\] and \[5, 2\]"),
        (
            lambda: nn.ParameterDict({"lora_A": torch.zeros(2, 3)}),
            {},
            "lora_A has no lora_B beside it; give lora: filter",
        ),
    ],
)
def test_roles_that_are_not_there_are_refused(make, words, says):
    """With the key and the way out."""
    with pytest.raises(UsageError, match=says):
        units_of(make(), Words(**words), "k")


def test_a_factor_that_is_used_twice_has_no_gauge():
    """Keys tied to queries are refused for the balanced choice, and heads for all others."""
    network = Separate()
    network.k_proj.weight = network.q_proj.weight
    assert units_of(network, Words(attention="head"), "k").pairs == ()
    with pytest.raises(UsageError, match=r"q_proj\.weight is part of several products"):
        units_of(network, Words(attention="balanced"), "k")
