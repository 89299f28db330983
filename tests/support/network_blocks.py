"""The parts of random networks: entries, blocks and exits by shape, and what wraps a network.

``@`` after a name stands for the number of a part, ``{W}`` for the width; ``h`` is what goes
through a network.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

RIGHT, EITHER, REFUSED = "right", "either", "refused"
WORST = (RIGHT, EITHER, REFUSED)


@dataclass(frozen=True)
class Block:
    """A part's text, and what must come of a network that has it.

    Attributes:
        with_curvature: What must come of it if the Hessian is wanted, too.
        smooth: Whether it has second derivatives everywhere.
        plain: Whether it can be scripted, and be in any precision.
        seedable: Whether all its chance is in its making.
    """

    name: str
    init: str = ""
    forward: str = ""
    definitions: str = ""
    methods: str = ""
    expected: str = RIGHT
    with_curvature: str = RIGHT
    smooth: bool = True
    plain: bool = False
    seedable: bool = False

    def numbered(self, number: int, width: int) -> Block:
        """Return it with its number and the width filled in."""

        def filled(text: str) -> str:
            return re.sub(r"(?<=\w)@", str(number), text).replace("{W}", str(width))

        return replace(
            self,
            init=filled(self.init),
            forward=filled(self.forward),
            definitions=filled(self.definitions),
            methods=filled(self.methods),
        )


def _b(name: str, init: str, forward: str, **more: object) -> Block:
    return Block(name, init, forward, **more)  # type: ignore[arg-type]


FUNCTION = """

class Tanh@(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        {keep}
        return y

    @staticmethod{decorator}
    def backward(ctx, g):
        {take}
"""
SAVING = FUNCTION.format(
    keep="ctx.save_for_backward(x)\n        y = torch.tanh(x)",
    decorator="",
    take="(x,) = ctx.saved_tensors\n        return g * (1 - torch.tanh(x) ** 2)",
)
SAVING_RESULT = FUNCTION.format(
    keep="y = torch.tanh(x)\n        ctx.save_for_backward(y)",
    decorator="",
    take="(y,) = ctx.saved_tensors\n        return g * (1 - y ** 2)",
)
ONCE = FUNCTION.format(
    keep="ctx.save_for_backward(x)\n        y = torch.tanh(x)",
    decorator="\n    @torch.autograd.function.once_differentiable",
    take="(x,) = ctx.saved_tensors\n        return g * (1 - torch.tanh(x) ** 2)",
)
ON_CTX = FUNCTION.format(
    keep="ctx.y = y = torch.tanh(x)", decorator="", take="return g * (1 - ctx.y ** 2)"
)
NUMPY = FUNCTION.format(
    keep="ctx.y = y = torch.from_numpy(__import__('numpy').tanh(x.detach().numpy()))",
    decorator="",
    take="return g * (1 - ctx.y ** 2)",
)
LIN = "self.b@ = nn.Linear({W}, {W})"
TANH = "h = torch.tanh(self.b@(h))"
DERIVE = """

    def u@(self, z):
        return torch.tanh(self.b@(z)).sum(-1)

"""
CHECKPOINT = "__import__('torch.utils.checkpoint').utils.checkpoint.checkpoint"
ODD: dict[str, object] = {"with_curvature": EITHER}
CHANCE: dict[str, object] = {"expected": REFUSED, "with_curvature": REFUSED}
DRAWN: dict[str, object] = {**CHANCE, "seedable": True}
BENT: dict[str, object] = {"smooth": False}
EASY: dict[str, object] = {"plain": True}

# Of any shape whose last axis has the width.
LAST = (
    _b("linear", LIN, "h = F.silu(self.b@(h))", **EASY),
    _b("residual", LIN, "h = h + F.gelu(self.b@(h))", **EASY),
    _b("gate", LIN, "h = h * torch.sigmoid(self.b@(h))", **EASY),
    _b("relu", LIN, "h = F.leaky_relu(self.b@(h))", plain=True, smooth=False),
    _b("bilinear", "self.b@ = nn.Bilinear({W}, {W}, {W})", "h = torch.tanh(self.b@(h, h))", **EASY),
    _b("parameter", "self.p@ = nn.Parameter(torch.randn({W}, {W}))", "h = torch.tanh(h @ self.p@)"),
    _b(
        "strided parameter",
        "self.p@ = nn.Parameter(torch.randn({W}, {W}).t())",
        "h = torch.tanh(h @ self.p@)",
    ),
    _b("scalar parameter", "self.p@ = nn.Parameter(torch.tensor(1.3))", "h = self.p@ * h"),
    _b("unused parameter", "self.p@ = nn.Parameter(torch.randn(3))", "h = torch.tanh(h)"),
    _b("empty parameter", "self.p@ = nn.Parameter(torch.zeros(0))", "h = torch.tanh(h)"),
    _b(
        "integer parameter",
        "self.p@ = nn.Parameter(torch.arange({W}).flip(0), requires_grad=False)\n" + LIN,
        "h = torch.tanh(self.b@(h[..., self.p@]))",
    ),
    _b(
        "list of parameters",
        "self.p@ = nn.ParameterList([torch.randn({W}, {W}), torch.randn({W})])",
        "h = torch.tanh(h @ self.p@[0] + self.p@[1])",
    ),
    _b("layer norm", "self.b@ = nn.LayerNorm({W})", "h = self.b@(h)", **EASY),
    _b("rms norm", "self.b@ = nn.RMSNorm({W})", "h = self.b@(h)"),
    _b(
        "weight norm",
        "self.b@ = torch.nn.utils.parametrizations.weight_norm(nn.Linear({W}, {W}))",
        TANH,
    ),
    _b("old weight norm", "self.b@ = torch.nn.utils.weight_norm(nn.Linear({W}, {W}))", TANH),
    _b(
        "spectral norm",
        "self.b@ = torch.nn.utils.parametrizations.spectral_norm(nn.Linear({W}, {W}))",
        TANH,
    ),
    _b("old spectral norm", "self.b@ = torch.nn.utils.spectral_norm(nn.Linear({W}, {W}))", TANH),
    _b(
        "orthogonal",
        "self.b@ = torch.nn.utils.parametrizations.orthogonal(nn.Linear({W}, {W}))",
        TANH,
        **ODD,
    ),
    _b(
        "pruned",
        LIN + "\ntorch.nn.utils.prune.l1_unstructured(self.b@, 'weight', 0.3)",
        TANH,
        definitions="\nimport torch.nn.utils.prune\n",
    ),
    _b("layer twice", LIN, TANH + "\n" + TANH),
    _b(
        "tied",
        LIN + "\nself.c@ = nn.Linear({W}, {W})\nself.c@.weight = self.b@.weight",
        TANH + "\nh = self.c@(h)",
    ),
    _b(
        "tied transposed",
        LIN,
        "h = torch.tanh(self.b@(h)) @ self.b@.weight",
    ),
    _b("frozen", LIN + "\nself.b@.requires_grad_(False)", TANH),
    _b("frozen bias", LIN + "\nself.b@.bias.requires_grad_(False)", TANH),
    _b("checkpoint", LIN, f"h = torch.tanh({CHECKPOINT}(self.b@, h, use_reentrant=False))", **ODD),
    _b(
        "reentrant checkpoint",
        LIN,
        f"h = torch.tanh({CHECKPOINT}(self.b@, h, use_reentrant=True))",
        **ODD,
    ),
    _b("in place", LIN, "h = self.b@(h)\nh = F.silu(h, inplace=True)"),
    _b("in place operator", LIN, "h = self.b@(h)\nh += 0.5\nh = h.tanh_()"),
    _b("function", LIN, "h = Tanh@.apply(self.b@(h))", definitions=SAVING, **ODD),
    _b(
        "function of its result",
        LIN,
        "h = Tanh@.apply(self.b@(h))",
        definitions=SAVING_RESULT,
        **ODD,
    ),
    _b("once differentiable", LIN, "h = Tanh@.apply(self.b@(h))", definitions=ONCE, **ODD),
    _b("result on ctx", LIN, "h = Tanh@.apply(self.b@(h))", definitions=ON_CTX, **ODD),
    _b("numpy", LIN, "h = Tanh@.apply(self.b@(h))", definitions=NUMPY, **ODD),
    _b("buffer", "self.register_buffer('s@', torch.rand({W}) + 0.5)", "h = self.s@ * h"),
    _b(
        "temporary buffer",
        "self.register_buffer('s@', torch.linspace(0.5, 1.5, {W}), persistent=False)",
        "h = self.s@ * h",
    ),
    _b(
        "random temporary buffer",
        "self.register_buffer('s@', torch.rand({W}) + 0.5, persistent=False)",
        "h = self.s@ * h",
        **DRAWN,
    ),
    _b("random attribute", "self.s@ = 0.5 + torch.rand(()).item()", "h = self.s@ * h", **DRAWN),
    _b(
        "counter",
        "self.register_buffer('n@', torch.tensor(0))",
        "self.n@ += 1\nh = torch.tanh(h)",
        expected=EITHER,
        with_curvature=EITHER,
    ),
    _b(
        "counter that counts",
        "self.register_buffer('n@', torch.tensor(0.0))",
        "self.n@ += 1\nh = h * self.n@",
        **CHANCE,
    ),
    _b("dropout", "self.b@ = nn.Dropout(0.4)", "h = self.b@(h)", **EASY),
    _b("dropout left on", "", "h = F.dropout(h, 0.4, True)", **CHANCE),
    _b("noise", "", "h = h + 0.1 * torch.randn_like(h)", **CHANCE),
    _b("statistics of the batch", "", "h = h - h.mean(0, keepdim=True)", **CHANCE),
    _b("scaled by the batch", "", "h = h / (1 + h.detach().abs().max())", **CHANCE),
    _b("training only", LIN, "h = torch.tanh(self.b@(h)) * (2.0 if self.training else 1.0)"),
    _b(
        "hook",
        LIN + "\nself.b@.register_forward_hook(lambda m, i, o: torch.tanh(o))",
        "h = self.b@(h)",
    ),
    _b("normalised weights", LIN, "h = F.linear(h, F.normalize(self.b@.weight, dim=1))"),
    _b("routing", LIN, "h = torch.where(self.b@(h) > 0, h, 0.3 * h)", **BENT),
    _b("sort", LIN, "h = self.b@(h).sort(-1).values", **BENT),
    _b(
        "complex",
        "self.p@ = nn.Parameter(torch.randn({W}, {W}, dtype=torch.cfloat))",
        "z = h.to(self.p@.dtype) @ self.p@\nh = torch.tanh(z.real * z.imag)",
        **ODD,
    ),
    _b(
        "complex linear",
        "self.b@ = nn.Linear({W}, {W}, dtype=torch.cfloat)",
        "z = self.b@(h.to(self.b@.weight.dtype))\nh = torch.tanh(z.real + z.imag ** 2)",
        **ODD,
    ),
    _b(
        "complex buffer",
        "self.register_buffer('s@', torch.polar(torch.ones({W}), torch.arange({W}) / 3.0), False)",
        "h = (h * self.s@).real + (h * self.s@).imag ** 2",
    ),
    _b(
        "differentiates by its input",
        LIN,
        "z = h if h.requires_grad else h.detach().requires_grad_()\n"
        "h = h + torch.autograd.grad(self.u@(z).sum(), z, create_graph=True)[0]",
        methods=DERIVE,
        **ODD,
    ),
    _b(
        "differentiates with gradients on",
        LIN,
        "with torch.enable_grad():\n"
        "    z = h if h.requires_grad else h.detach().requires_grad_()\n"
        "    h = h + torch.autograd.grad(self.u@(z).sum(), z, create_graph=True)[0]",
        methods=DERIVE,
        **ODD,
    ),
    _b(
        "torch.func",
        LIN,
        "h = h + torch.func.grad(lambda z: self.u@(z).sum())(h)",
        methods=DERIVE,
        **ODD,
    ),
    _b(
        "autograd.functional",
        LIN,
        "u = lambda z: self.u@(z).sum()\n"
        "h = h + torch.autograd.functional.vjp(u, h, create_graph=True)[1]",
        methods=DERIVE,
        **ODD,
    ),
    _b(
        "jvp",
        LIN,
        "h = torch.func.jvp(lambda z: torch.tanh(self.b@(z)), (h,), (torch.ones_like(h),))[1]",
        **ODD,
    ),
)
VECTOR = (
    _b("batch norm", "self.b@ = nn.BatchNorm1d({W})", "h = self.b@(h)", **EASY),
    _b("group norm", "self.b@ = nn.GroupNorm(2, {W})", "h = self.b@(h)", **EASY),
    _b(
        "batch norm without statistics",
        "self.b@ = nn.BatchNorm1d({W}, track_running_stats=False)",
        "h = self.b@(h)",
        **CHANCE,
    ),
    _b(
        "batch norm left in training",
        "self.b@ = nn.BatchNorm1d({W})",
        "self.b@.train()\nh = self.b@(h)",
        **CHANCE,
    ),
)
SEQUENCE = (
    _b(
        "attention",
        "self.b@ = nn.MultiheadAttention({W}, 2, batch_first=True)",
        "h = h + self.b@(h, h, h, need_weights=False)[0]",
        **ODD,
    ),
    _b(
        "attention with weights",
        "self.b@ = nn.MultiheadAttention({W}, 1, batch_first=True)",
        "h = h + self.b@(h, h, h)[0]",
        **ODD,
    ),
    _b(
        "own attention",
        "self.b@ = nn.Linear({W}, 3 * {W})",
        "q, k, v = self.b@(h).unsqueeze(1).chunk(3, -1)\n"
        "h = h + F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0]",
        **ODD,
    ),
    _b(
        "attention with a mask",
        "self.b@ = nn.Linear({W}, 3 * {W})\n"
        "self.register_buffer('m@', torch.full((4, 4), float('-inf')).triu(1))",
        "q, k, v = self.b@(h).chunk(3, -1)\nh = (q @ k.transpose(1, 2) + self.m@).softmax(-1) @ v",
    ),
    _b(
        "transformer layer",
        "self.b@ = nn.TransformerEncoderLayer({W}, 2, 6, batch_first=True, activation='gelu')",
        "h = self.b@(h)",
        **ODD,
    ),
    *(
        _b(
            f"{kind} {more}",
            f"self.b@ = nn.{kind}({{W}}, {w}, batch_first=True{more})",
            "h = self.b@(h)[0]",
            **ODD,
        )
        for kind in ("RNN", "LSTM", "GRU")
        for w, more in (("{W}", ""), ("{W} // 2", ", bidirectional=True"))
    ),
    _b("positions", "self.p@ = nn.Parameter(torch.randn(4, {W}))", "h = h + self.p@"),
    _b(
        "rotary",
        "self.register_buffer('r@', torch.polar(torch.ones(4, {W} // 2), torch.rand(4, {W} // 2)))",
        "z = torch.view_as_complex(h.reshape(*h.shape[:-1], -1, 2).contiguous())\n"
        "h = torch.view_as_real(z * self.r@).flatten(-2)",
        **ODD,
    ),
    _b("length-first", LIN, "h = torch.tanh(self.b@(h.transpose(0, 1))).transpose(0, 1)"),
)
SIGNAL = (
    _b("conv", "self.b@ = nn.Conv1d({W}, {W}, 3, padding=1)", "h = F.silu(self.b@(h))", **EASY),
    _b(
        "circular conv",
        "self.b@ = nn.Conv1d({W}, {W}, 3, padding=1, padding_mode='circular')",
        "h = F.silu(self.b@(h))",
    ),
    _b(
        "dilated conv",
        "self.b@ = nn.Conv1d({W}, {W}, 2, dilation=2, padding='same', groups=2, bias=False)",
        TANH,
    ),
    _b("transposed conv", "self.b@ = nn.ConvTranspose1d({W}, {W}, 3, padding=1)", TANH, **EASY),
    _b("batch norm", "self.b@ = nn.BatchNorm1d({W})", "h = self.b@(h)", **EASY),
    _b("instance norm", "self.b@ = nn.InstanceNorm1d({W}, affine=True)", "h = self.b@(h)"),
    _b(
        "instance norm with statistics",
        "self.b@ = nn.InstanceNorm1d({W}, track_running_stats=True)",
        "h = self.b@(h)",
    ),
    _b("group norm", "self.b@ = nn.GroupNorm(1, {W})", "h = self.b@(h)", **EASY),
    _b("max pool", "", "h = F.max_pool1d(h, 3, 1, 1)", **BENT),
    _b(
        "Fourier",
        "self.p@ = nn.Parameter(torch.randn({W}, {W}, 3, dtype=torch.cfloat) / 2)",
        "z = torch.einsum('ncl,cdl->ndl', torch.fft.rfft(h)[..., :3], self.p@)\n"
        "h = h + torch.fft.irfft(z, n=h.shape[-1])",
        **ODD,
    ),
    _b(
        "weight norm",
        "self.b@ = torch.nn.utils.parametrizations.weight_norm(nn.Conv1d({W}, {W}, 1))",
        TANH,
    ),
)
IMAGE = (
    _b("conv", "self.b@ = nn.Conv2d({W}, {W}, 3, padding=1)", "h = F.silu(self.b@(h))", **EASY),
    _b(
        "conv, norm, relu",
        "self.b@ = nn.Conv2d({W}, {W}, 3, bias=False)\nself.n@ = nn.BatchNorm2d({W})",
        "h = F.pad(torch.relu_(self.n@(self.b@(h))), (1, 1, 1, 1))",
        **BENT,
    ),
    _b("depthwise", "self.b@ = nn.Conv2d({W}, {W}, 3, padding=1, groups={W})", TANH, **EASY),
    _b("transposed conv", "self.b@ = nn.ConvTranspose2d({W}, {W}, 3, padding=1)", TANH),
    _b("batch norm", "self.b@ = nn.BatchNorm2d({W})", "h = self.b@(h)", **EASY),
    _b("plain batch norm", "self.b@ = nn.BatchNorm2d({W}, affine=False)", "h = self.b@(h)"),
    _b("instance norm", "self.b@ = nn.InstanceNorm2d({W})", "h = self.b@(h)"),
    _b(
        "instance norm with statistics",
        "self.b@ = nn.InstanceNorm2d({W}, affine=True, track_running_stats=True)",
        "h = self.b@(h)",
    ),
    _b("group norm", "self.b@ = nn.GroupNorm(2, {W})", "h = self.b@(h)", **EASY),
    _b("response norm", "self.b@ = nn.LocalResponseNorm(2)", "h = self.b@(h)"),
    _b("channels last", "", "h = torch.tanh(h.contiguous(memory_format=torch.channels_last))"),
    _b("view", "", "h = torch.tanh(h.contiguous().view(h.shape[0], -1)).view(h.shape)"),
    _b("max pool", "", "h = F.max_pool2d(h, 3, 1, 1)", **BENT),
    _b(
        "layer scale",
        "self.p@ = nn.Parameter(0.5 * torch.ones({W}, 1, 1))",
        "h = h + self.p@ * torch.tanh(h)",
    ),
    _b(
        "Fourier",
        "self.p@ = nn.Parameter(torch.randn({W}, 5, 3, dtype=torch.cfloat) / 2)",
        "h = h + torch.fft.irfft2(torch.fft.rfft2(h) * self.p@, s=(5, 5))",
        **ODD,
    ),
)
BY_SHAPE = {
    "vector": VECTOR,
    "sequence": SEQUENCE,
    "signal": SIGNAL,
    "image": IMAGE,
}
PLAINS = {"vector": LAST, "sequence": LAST, "signal": (), "image": ()}
RARE = 0.2  # how often what cannot be right is kept when it is drawn


def entry(kind: str, width: int, rng: np.random.Generator) -> Block:
    """Return what takes the inputs, by itself or with something in place."""
    made = {
        "vector": ("nn.Linear(5, {W})", "nn.LazyLinear({W})"),
        "sequence": ("nn.Linear(5, {W})", "nn.LazyLinear({W})"),
        "tokens": ("nn.Embedding(7, {W})", "nn.Embedding(7, {W}, padding_idx=0)"),
        "signal": ("nn.Conv1d(2, {W}, 3, padding=1)", "nn.LazyConv1d({W}, 3, padding=1)"),
        "image": ("nn.Conv2d(3, {W}, 3, padding=1)", "nn.LazyConv2d({W}, 3, padding=1)"),
        "bytes": ("nn.Conv2d(3, {W}, 3, padding=1)", "nn.LazyConv2d({W}, 3, padding=1)"),
    }[kind]
    is_lazy = rng.random() < 0.15
    before = "x.mul_(0.7)\n" if kind != "tokens" and rng.random() < 0.15 else ""
    name = f"{kind}{' lazy' if is_lazy else ''}{' written' if before else ''}"
    plain = not is_lazy and not before
    block = Block(name, f"self.entry = {made[is_lazy]}", f"{before}h = self.entry(x)", plain=plain)
    return block.numbered(0, width)


def body(
    shape: str, width: int, rng: np.random.Generator, *, smooth: bool, most: int = 3
) -> list[Block]:
    """Return some blocks of a shape."""
    from_shape = BY_SHAPE[shape]
    parts: list[Block] = []
    while len(parts) < 1 or (len(parts) < most and rng.random() < 0.6):
        source = PLAINS[shape] if PLAINS[shape] and rng.random() < 0.6 else from_shape
        block = source[rng.integers(len(source))]
        if (smooth and not block.smooth) or (block.expected == REFUSED and rng.random() > RARE):
            continue
        number = (10 if most == 1 else 1) + len(parts)
        parts.append(block.numbered(number, width))
    return parts


def leave(shape: str, width: int, rng: np.random.Generator) -> Block:
    """Return what makes vectors of a shape."""
    ways = {
        "vector": ["h = torch.tanh(h)"],
        "sequence": ["h = h.mean(1)", "h = h[:, -1]", "h = h[:, 0] + h[:, 1:].sum(1)"],
        "signal": ["h = h[..., 0] + h.mean(2)", "h = h.flatten(1)[:, :{W}] + h.sum(2)"],
        "image": [
            "h = h[..., 2, 2] + h.mean((2, 3))",
            "h = F.adaptive_avg_pool2d(h, 2)[..., 0, 1]",
        ],
    }[shape]
    return Block("exit", "", str(rng.choice(ways)), plain=True).numbered(0, width)


def wrapper(parts: Sequence[Block], rng: np.random.Generator) -> Block:
    """Return how the factory gives the network."""
    ways = [Block("", forward="Net()")] * 3
    ways += [
        Block("sequential", forward="nn.Sequential(Net(), nn.Identity())"),
        Block("data parallel", forward="nn.DataParallel(Net())"),
        Block("in training", forward="Net().train()"),
        Block("seeded", "torch.manual_seed(3)", "Net()"),
    ]
    if all(p.plain for p in parts):
        ways += [
            Block("double", forward="Net().double()"),
            Block("half", forward="Net().half()"),
            Block("bfloat16", forward="Net().bfloat16()"),
            Block("scripted", forward="torch.jit.script(Net())", with_curvature=EITHER),
            Block("deep copy", "import copy", "copy.deepcopy(Net())"),
            Block("frozen body", "net = Net()\nnet.entry.requires_grad_(False)", "net"),
        ]
    return ways[rng.integers(len(ways))]
