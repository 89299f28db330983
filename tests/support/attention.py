"""Small attentions in the forms of the public libraries, with views of each head's matrices."""

from __future__ import annotations

import torch
from torch import nn

WIDTH, HEADS, SIZE = 6, 2, 3


def attend(query, key, value):
    """Return what heads gather, by plain matrices; all are (N, H, T, E)."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return scores.softmax(-1) @ value


def cut(x, heads):
    """Return (N, H, T, E) of (N, T, H * E)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


class Separate(nn.Module):
    """Four linear layers; with fewer heads of keys several heads share them."""

    def __init__(self, kv_heads=HEADS, heads=HEADS):
        super().__init__()
        self.num_heads, self.kv_heads = heads, kv_heads
        self.q_proj = nn.Linear(WIDTH, heads * SIZE)
        self.k_proj = nn.Linear(WIDTH, kv_heads * SIZE)
        self.v_proj = nn.Linear(WIDTH, kv_heads * SIZE)
        self.o_proj = nn.Linear(heads * SIZE, WIDTH)

    def forward(self, x):
        """Return (N, T, E)."""
        query = cut(self.q_proj(x), self.num_heads)
        key, value = (cut(p(x), self.kv_heads) for p in (self.k_proj, self.v_proj))
        group = self.num_heads // self.kv_heads
        gathered = attend(query, *(t.repeat_interleave(group, 1) for t in (key, value)))
        return self.o_proj(gathered.transpose(1, 2).flatten(2))

    def head(self, letter, number):
        """Return a head's rows of a projection, or its columns of the last, as rows; its bias."""
        rows = slice(number * SIZE, (number + 1) * SIZE)
        if letter == "o":
            return self.o_proj.weight[:, rows].T, None
        layer = getattr(self, f"{letter}_proj")
        return layer.weight[rows], layer.bias[rows]


class Torch(nn.Module):
    """The layer of torch, with a key and a value of no token."""

    def __init__(self, **options):
        super().__init__()
        self.inner = nn.MultiheadAttention(
            WIDTH, HEADS, batch_first=True, add_bias_kv=True, **options
        )

    def forward(self, x):
        """Return (N, T, E)."""
        keys, values = x[..., : self.inner.kdim], x[..., : self.inner.vdim]
        return self.inner(x, keys, values, need_weights=False)[0]

    def head(self, letter, number):
        """As above; the extra key and value change with the rows, so they are part of the bias."""
        rows = slice(number * SIZE, (number + 1) * SIZE)
        if letter == "o":
            return self.inner.out_proj.weight[:, rows].T, None
        part = "qkv".index(letter)
        if self.inner.in_proj_weight is None:
            weight = getattr(self.inner, f"{letter}_proj_weight")[rows]
        else:
            weight = self.inner.in_proj_weight.unflatten(0, (3, -1))[part, rows]
        return weight, self.inner.in_proj_bias.unflatten(0, (3, -1))[part, rows]

    def more(self, letter, number):
        """Return the head's part of the extra key or value."""
        extra = {"k": self.inner.bias_k, "v": self.inner.bias_v}.get(letter)
        return None if extra is None else extra[0, 0, number * SIZE : (number + 1) * SIZE]


class Conv1D(nn.Module):
    """GPT-2's linear layer, whose weight is transposed."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.nf = outputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        """Return ``x W + b``."""
        return x @ self.weight + self.bias


class Transposed(nn.Module):
    """GPT-2's attention."""

    def __init__(self):
        super().__init__()
        self.config = type("Config", (), {"n_head": HEADS})
        self.c_attn, self.c_proj = Conv1D(WIDTH, 3 * WIDTH), Conv1D(WIDTH, WIDTH)

    def forward(self, x):
        """Return (N, T, E)."""
        parts = self.c_attn(x).split(WIDTH, dim=2)
        gathered = attend(*(cut(part, HEADS) for part in parts))
        return self.c_proj(gathered.transpose(1, 2).flatten(2))

    def head(self, letter, number):
        """As above."""
        if letter == "o":
            return self.c_proj.weight[number * SIZE : (number + 1) * SIZE], None
        start = "qkv".index(letter) * WIDTH + number * SIZE
        columns = slice(start, start + SIZE)
        return self.c_attn.weight[:, columns].T, self.c_attn.bias[columns]


class Fused(nn.Module):
    """The attention of timm, with one head of keys for two of queries if it is ``shared``."""

    def __init__(self, shared=False):
        super().__init__()
        self.num_heads, self.kv = HEADS, 1 if shared else HEADS
        self.qkv = nn.Linear(WIDTH, (HEADS + 2 * self.kv) * SIZE)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        """Return (N, T, E)."""
        sizes = [n * SIZE for n in (HEADS, self.kv, self.kv)]
        query, key, value = self.qkv(x).split(sizes, dim=2)
        group = HEADS // self.kv
        more = (cut(t, self.kv).repeat_interleave(group, 1) for t in (key, value))
        return self.proj(attend(cut(query, HEADS), *more).transpose(1, 2).flatten(2))

    def head(self, letter, number):
        """As above."""
        if letter == "o":
            return self.proj.weight[:, number * SIZE : (number + 1) * SIZE].T, None
        first = {"q": 0, "k": HEADS, "v": HEADS + self.kv}[letter]
        rows = slice((first + number) * SIZE, (first + number + 1) * SIZE)
        return self.qkv.weight[rows], self.qkv.bias[rows]


class Bert(nn.Module):
    """Queries, keys and values in one module, the output's projection in another beside it."""

    def __init__(self):
        super().__init__()
        inner = nn.Module()
        inner.num_attention_heads = HEADS
        inner.query, inner.key, inner.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.self, self.output = inner, nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH)})

    def forward(self, x):
        """Return (N, T, E)."""
        layers = (self.self.query, self.self.key, self.self.value)
        gathered = attend(*(cut(layer(x), HEADS) for layer in layers))
        return self.output["dense"](gathered.transpose(1, 2).flatten(2))

    def head(self, letter, number):
        """As above."""
        rows = slice(number * SIZE, (number + 1) * SIZE)
        if letter == "o":
            return self.output["dense"].weight[:, rows].T, None
        layer = {"q": self.self.query, "k": self.self.key, "v": self.self.value}[letter]
        return layer.weight[rows], layer.bias[rows]


def change(attention, letter, number, matrix):
    """Multiply a head's rows of a projection by a matrix from the left, its biases alike."""
    more = getattr(attention, "more", lambda *_: None)(letter, number)
    with torch.no_grad():
        for rows in (*attention.head(letter, number), more):
            if rows is not None:
                rows.copy_(matrix @ rows)
