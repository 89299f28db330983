"""The units of a network's parameters by role: heads, embeddings, adapters, and all else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace

from torch import Tensor, nn

from lsengine.errors import UsageError
from lsengine.geometry.parameters import can_move
from lsengine.geometry.units import Block, Pair, Piece, Units, of_word
from lsengine.models.attention import Attention, attentions
from lsengine.wording import listed

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_DOWN = re.compile(r"(?<![^._])lora_(embedding_)?([Aa]|down)(?![^._])")


@dataclass(frozen=True, slots=True)
class Words:
    """How each role is cut; None where the user leaves it open.

    Attributes:
        attention: ``head``, ``balanced``, ``filter`` or ``layer``.
        embedding: ``filter``, which is a row, or ``layer``.
        lora: ``product``, ``filter`` or ``layer``.
        other: ``filter`` or ``layer``.
        heads: Of the attentions that do not say how many they have.
    """

    _: KW_ONLY
    attention: str | None = None
    embedding: str | None = None
    lora: str | None = None
    other: str | None = None
    heads: int | None = None


def units_of(model: nn.Module, words: Words, key: str) -> Units:
    """Return the units of a network's parameters and buffers.

    Attention is cut by heads unless it is said otherwise, adapters by their product, and all else
    by filters.  ``key`` is what messages begin with.

    Raises:
        UsageError: If a role is spoken of that the network does not have, heads or ranks
            do not fit the weights, or factors of a product are shared.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    tensors = {name: tensor for name, tensor in tensors.items() if can_move(tensor)}
    blocks = {n: of_word(t, words.other or "filter") for n, t in tensors.items()}
    tables = _embeddings(model)
    blocks |= {n: of_word(tensors[n], words.embedding or "filter") for n in tables}
    pairs: list[Pair] = []
    how = words.attention or "head"
    found = attentions(model, key, words.heads) if how in ("head", "balanced") else None
    for attention in found or ():
        blocks |= attention.blocks
        if how == "balanced":
            pairs += _balanced(attention, key)
    adapters = _adapters(tensors)
    for down, up in adapters:
        if (words.lora or "product") == "product":
            pairs.append(_product(tensors, down, up, key))
        else:
            both = [name for name in (down, up) if name in tensors]
            blocks |= {n: of_word(tensors[n], words.lora or "filter") for n in both}
    has = {"attention": found is None or found, "embedding": tables, "lora": adapters}
    for role, of_role in has.items():
        if getattr(words, role) and not of_role:
            raise UsageError(
                f"{key}: {role} is spoken of, but the network has none that is known by its types "
                "and names; leave it out, or see docs/DIRECTIONS.md for what is known"
            )
    return _named(model, blocks, pairs, key)


def _embeddings(model: nn.Module) -> list[str]:
    """Return the tables of embeddings, also those that are another layer's weight as well."""
    ids = {id(m.weight) for m in model.modules() if isinstance(m, _EMBEDDINGS)}
    return [name for name, tensor in model.named_parameters() if id(tensor) in ids]


def _balanced(attention: Attention, key: str) -> tuple[Pair, ...]:
    if attention.unpaired:
        raise UsageError(
            f"{key}: attention of {attention.label} cannot be balanced: {attention.unpaired}; "
            "give attention: head"
        )
    return attention.pairs


def _adapters(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Return the names of low-rank adapters: of A, to the rank, and of B, from it.

    They differ in one word, as in ``lora_A.default.weight`` and ``lora_B.default.weight``.
    """
    found = []
    for down in tensors:
        if match := _DOWN.search(down):
            *_, word = match.groups()
            other = {"A": "B", "a": "b", "down": "up"}[word]
            found.append((down, down[: match.start(2)] + other + down[match.end(2) :]))
    return found


def _product(tensors: Mapping[str, Tensor], down: str, up: str, key: str) -> Pair:
    """Return an adapter as a pair.

    Raises:
        UsageError: If B is missing, or they have no rank in common.
    """
    if up not in tensors:
        raise UsageError(f"{key}: lora: {down} has no {up} beside it; give lora: filter")
    a, b = tensors[down], tensors[up]
    # A is (rank, inputs) and B (outputs, rank), or both the other way round.
    ways = [(0, 1), (1, 0)] if min(a.ndim, b.ndim) > 1 else []
    if not (axes := [(x, y) for x, y in ways if a.shape[x] == b.shape[y]]):
        shapes = f"{[*a.shape]} and {[*b.shape]}"
        raise UsageError(
            f"{key}: lora: {down} and {up} have no rank in common: {shapes}; give lora: filter"
        )
    of_a, of_b = min(axes, key=lambda pair: a.shape[pair[0]])
    rank = a.shape[of_a]
    return Pair(
        f"{up} and {down}",
        (Piece(up, of_b, start=0, stop=rank),),
        (Piece(down, of_a, start=0, stop=rank),),
    )


def _named(model: nn.Module, blocks: Mapping[str, Block], pairs: list[Pair], key: str) -> Units:
    """Return units by the names that a network's parameters have in a list of them, each once."""
    first = {id(p): n for n, p in model.named_parameters()}
    names = {n: first[id(p)] for n, p in model.named_parameters(remove_duplicate=False)}
    named = [
        replace(
            pair,
            left=tuple(replace(p, name=names[p.name]) for p in pair.left),
            right=tuple(replace(p, name=names[p.name]) for p in pair.right),
        )
        for pair in pairs
    ]
    used = Counter((p.name, p.start) for pair in named for p in pair.pieces if p.is_needed)
    if shared := [name for (name, _), count in used.items() if count > 1]:
        raise UsageError(
            f"{key}: {listed(dict.fromkeys(shared))} is part of several products, which have no "
            "gauge of their own; give attention: head, and lora: filter"
        )
    own = {names.get(name, name): block for name, block in blocks.items()}
    inside = {p.name for pair in named for p in pair.pieces}
    return Units({n: block for n, block in own.items() if n not in inside}, tuple(named))
