"""The heads of attention in a network: which rows and columns of which weights belong to one.

Known are torch's `nn.MultiheadAttention`, and modules with projections called as in the public
libraries: fused (`qkv` of timm, `c_attn` of GPT-2) or separate (`q_proj`, `query`, `to_q`, `wq`),
with fewer heads of keys and values, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from lsengine.errors import UsageError
from lsengine.geometry.units import Block, Pair, Piece
from lsengine.models.layers import class_name

_Names = re.Pattern[str]


def _names(letter: str, word: str) -> _Names:
    forms = f"{letter}(_proj|_lin)?|{word}(_proj)?|to_{letter}|w_?{letter}|linear_{letter}"
    return re.compile(forms)


_QUERY, _KEY, _VALUE = _names("q", "query"), _names("k", "key"), _names("v", "value")
_KEY_VALUE = re.compile("(to_)?kv(_proj)?")
_FUSED = re.compile("(to_|attn_|w)?qkv(_proj)?|w_pack|c_attn")
_MIXED = re.compile("query_key_value")  # one head after the other, or not
_OUT = re.compile("(c_|o_|out_|output_)?proj|to_out|w_?o|out(_lin)?|linear_out|dense|output|o")
_BESIDE = re.compile("dense")
_COUNTS = (
    *("num_heads", "n_heads", "n_head", "num_attention_heads"),
    *("heads", "nhead", "n_local_heads"),
)
_SIZES = (
    *("head_dim", "attention_head_size", "head_size", "d_head"),
    *("dim_head", "d_kv", "key_value_proj_dim"),
)


@dataclass(frozen=True, slots=True)
class Attention:
    """The heads of one module.

    Attributes:
        label: Where it is in the network.
        blocks: How each parameter is cut into heads.
        pairs: Queries and keys, values and outputs of each head, or of the heads that share keys.
        unpaired: Why there are not both kinds of pairs; else nothing.
    """

    label: str
    blocks: dict[str, Block]
    _: KW_ONLY
    pairs: tuple[Pair, ...] = ()
    unpaired: str = ""


@dataclass(frozen=True, slots=True)
class _Span:
    """The rows of a weight that one projection has, and of its biases: (name, axis, first row)."""

    weight: str
    axis: int
    _: KW_ONLY
    start: int
    rows: int
    biases: tuple[tuple[str, int, int], ...] = ()

    def part(self, first: int, rows: int) -> _Span:
        """Return some of the rows."""
        biases = tuple((name, axis, start + first) for name, axis, start in self.biases)
        return _Span(self.weight, self.axis, start=self.start + first, rows=rows, biases=biases)

    def head(self, number: int, size: int) -> tuple[Piece, ...]:
        """Return the pieces of a head."""
        own = self.part(number * size, size)
        weight = Piece(own.weight, own.axis, start=own.start, stop=own.start + size)
        return weight, *(
            Piece(n, a, start=s, stop=s + size, is_needed=False) for n, a, s in own.biases
        )

    def blocks(self, size: int) -> dict[str, Block]:
        """Return its parameters cut into heads."""
        axes = [(self.weight, self.axis), *((name, axis) for name, axis, _ in self.biases)]
        return {name: Block(axis, size) for name, axis in axes}


@dataclass(frozen=True, slots=True)
class _Projections:
    """Those of one attention: queries, keys and values, or one that is all of them."""

    separate: tuple[_Span, _Span, _Span] | None
    fused: _Span | None
    _: KW_ONLY
    out: _Span | None  # by its inputs, which the heads give
    is_in_order: bool = True  # whether a fused one has first all queries, then keys, then values
    is_one_head: bool = False  # whether the module is one of a list of heads


def attentions(model: nn.Module, key: str, heads: int | None = None) -> list[Attention]:
    """Return the attentions of a network that are known by their types and names.

    ``heads`` is how many those have that do not say it; ``key`` is what messages begin with.

    Raises:
        UsageError: If a number of heads is not known, or does not fit the weights.
    """
    modules = dict(model.named_modules())
    found = []
    for prefix, module in modules.items():
        label, said = prefix or type(module).__name__, _said(module, heads)
        try:
            projections = _projections(modules, prefix, module)
            if projections is not None:
                said = (1, None) if projections.is_one_head else said
                found.append(_cut(label, projections, *said))
        except ValueError as error:
            way_out = "attention: filter" if any(said) else "heads: N, or attention: filter"
            raise UsageError(f"{key}: attention of {label}: {error}; give {way_out}") from None
    return found


def _projections(
    modules: Mapping[str, nn.Module], prefix: str, module: nn.Module
) -> _Projections | None:
    if isinstance(module, nn.MultiheadAttention):
        return _of_torch(prefix, module)

    def child(names: _Names, *, is_out: bool = False) -> _Span | None:
        return next(_spans(modules, prefix, names, is_out=is_out), None)

    query, keys, values = child(_QUERY), child(_KEY), child(_VALUE)
    if query and (both := child(_KEY_VALUE)):
        half = both.rows // 2
        keys, values = both.part(0, half), both.part(half, half)
    fused, mixed = child(_FUSED), child(_MIXED)
    if query and keys and values:
        separate = (query, keys, values)
    elif fused or mixed:
        separate = None
        if query:
            raise ValueError("has a fused projection beside one of queries")
    else:
        return None
    above = prefix.rpartition(".")[0]
    beside = f"{above}.output" if above else "output"  # BERT's, beside that of the queries
    out = child(_OUT, is_out=True) or next(_spans(modules, beside, _BESIDE, is_out=True), None)
    share = None if out or not separate else _share_of_list(modules, prefix, separate[2].rows)
    is_one = share is not None
    return _Projections(
        separate, fused or mixed, out=out or share, is_in_order=mixed is None, is_one_head=is_one
    )


def _share_of_list(modules: Mapping[str, nn.Module], prefix: str, rows: int) -> _Span | None:
    """Return what a head that is a module of its own, one of a list, has of the projection after.

    None if it is no such head.
    """
    above, _, number = prefix.rpartition(".")
    heads = modules.get(above)
    if not (isinstance(heads, nn.ModuleList) and number.isdigit() and len(heads) > 1):
        return None
    out = next(_spans(modules, above.rpartition(".")[0], _OUT, is_out=True), None)
    is_shared = out is not None and out.rows == rows * len(heads)
    return out.part(int(number) * rows, rows) if out is not None and is_shared else None


def _of_torch(prefix: str, module: nn.MultiheadAttention) -> _Projections:
    def name(own: str) -> str:
        return f"{prefix}.{own}" if prefix else own

    width, has_bias = module.embed_dim, module.in_proj_bias is not None
    is_fused = module._qkv_same_embed_dim
    spans = []
    for number, letter in enumerate("qkv"):
        biases = [(name("in_proj_bias"), 0, number * width)] if has_bias else []
        if module.bias_k is not None and letter != "q":  # a key and a value of no token
            biases.append((name(f"bias_{letter}"), 2, 0))
        weight = name("in_proj_weight" if is_fused else f"{letter}_proj_weight")
        spans.append(
            _Span(weight, 0, start=number * width * is_fused, rows=width, biases=tuple(biases))
        )
    out = _Span(name("out_proj.weight"), 1, start=0, rows=width)
    return _Projections((spans[0], spans[1], spans[2]), None, out=out)


def _spans(
    modules: Mapping[str, nn.Module], prefix: str, names: _Names, *, is_out: bool
) -> Iterator[_Span]:
    """Yield the projections among a module's children that have one of these names."""
    module = modules.get(prefix)
    for label, projection in module.named_children() if module is not None else ():
        if not names.fullmatch(label.lower()):
            continue
        path = f"{prefix}.{label}" if prefix else label
        if isinstance(projection, nn.Sequential | nn.ModuleList) and len(projection):
            projection, path = projection[0], f"{path}.0"
        while isinstance(base := getattr(projection, "base_layer", None), nn.Module):
            projection, path = base, f"{path}.base_layer"  # inside an adapter
        axis = _axis_of_outputs(projection)
        weight, bias = (projection._parameters.get(word) for word in ("weight", "bias"))
        if axis is None or weight is None:
            continue
        axis = 1 - axis if is_out else axis
        biases = () if bias is None or is_out else ((f"{path}.bias", 0, 0),)
        yield _Span(f"{path}.weight", axis, start=0, rows=weight.shape[axis], biases=biases)


def _axis_of_outputs(module: nn.Module) -> int | None:
    """Return the axis of a weight along which its outputs lie; None if it is no projection."""
    if isinstance(module, nn.Linear):
        return 0
    if class_name(module) == "Conv1D" and hasattr(module, "nf"):
        return 1  # GPT-2's linear layer
    is_dense = isinstance(module, _ConvNd) and module.groups == 1 and not module.transposed
    return 0 if is_dense and set(module.kernel_size) == {1} else None  # type: ignore[arg-type]


def _said(module: nn.Module, heads: int | None) -> tuple[int | None, int | None]:
    """Return how many heads a module says that it has, and of what size each is."""

    def number(names: tuple[str, ...]) -> int | None:
        for owner in (module, getattr(module, "config", None)):
            for name in names:
                value = getattr(owner, name, None)
                if type(value) is int and value > 0:
                    return value
        return None

    count, size = number(_COUNTS), number(_SIZES)
    return (count or heads if size is None else count), size


def _cut(label: str, found: _Projections, count: int | None, size: int | None) -> Attention:
    """Cut projections into heads.

    Raises:
        ValueError: If it is not known how many there are, or weights have no such parts.
    """
    queries = _queries(found, count, size)
    if count is None and size is None:
        raise ValueError("it does not say how many heads it has")
    size = size or queries // (count or 1)
    count = count or queries // size
    if not size or count * size != queries:
        raise ValueError(f"{count} heads of {size} numbers do not make {queries} queries")
    if found.separate:
        return _paired(label, found.separate, found.out, count, size)
    assert found.fused is not None
    return _cut_fused(label, found, found.fused, count, size)


def _queries(found: _Projections, count: int | None, size: int | None) -> int:
    """Return how many rows are of queries."""
    if found.separate:
        return found.separate[0].rows
    assert found.fused is not None
    if found.out is not None:
        return found.out.rows
    return count * size if count and size else found.fused.rows // 3


def _cut_fused(label: str, found: _Projections, fused: _Span, count: int, size: int) -> Attention:
    shared, rest = divmod(fused.rows - count * size, 2 * size)  # heads of keys
    if rest or shared < 1 or count % shared:
        raise ValueError(f"{count} heads of {size} numbers do not fit its {fused.rows} rows")
    if not found.is_in_order:
        blocks = fused.blocks(size) | (found.out.blocks(size) if found.out else {})
        return Attention(label, blocks, unpaired="the order of its rows is not known")
    query = fused.part(0, count * size)
    keys = fused.part(count * size, shared * size)
    values = fused.part((count + shared) * size, shared * size)
    return _paired(label, (query, keys, values), found.out, count, size)


def _paired(
    label: str, spans: tuple[_Span, _Span, _Span], out: _Span | None, count: int, size: int
) -> Attention:
    """Return the heads of queries, keys and values, where several heads may share keys."""
    query, keys, values = spans
    shared = keys.rows // size
    if not shared or shared * size != keys.rows or count % shared or values.rows % shared:
        rows = f"{query.rows}, {keys.rows} and {values.rows} rows"
        raise ValueError(f"{count} heads of {size} numbers do not fit {rows} of its projections")
    wide, group = values.rows // shared, count // shared
    if out is not None and out.rows != count * wide:
        raise ValueError(f"its output projection has {out.rows} inputs, not {count} times {wide}")
    blocks = query.blocks(size) | keys.blocks(size)
    blocks |= {name: block for name, block in values.blocks(wide).items() if name not in blocks}
    pairs = []
    for number in range(shared):
        of_group = range(number * group, (number + 1) * group)
        which = f"head {number}" if group == 1 else f"heads {of_group[0]} to {of_group[-1]}"
        left = tuple(piece for h in of_group for piece in query.head(h, size))
        name = f"{label}: queries and keys of {which}"
        pairs.append(Pair(name, left, keys.head(number, size)))
        if out is not None:
            left = tuple(piece for h in of_group for piece in out.head(h, wide))
            name = f"{label}: outputs and values of {which}"
            pairs.append(Pair(name, left, values.head(number, wide)))
    if out is None:
        return Attention(
            label, blocks, pairs=tuple(pairs), unpaired="its output projection is not known"
        )
    return Attention(label, blocks | out.blocks(wide), pairs=tuple(pairs))
