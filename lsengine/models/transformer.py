"""What transformers are made of: attention with heads, a feed-forward part, blocks of both.

Shapes: N samples, T tokens, D width, H heads, E width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_STD = 0.02  # of GPT-2's initial weights
_BASE = 10000.0  # of the wavelengths of rotary positions


class Attention(nn.Module):
    """Scaled dot-product attention (Vaswani et al. 2017), with a projection for each part.

    Output channel ``h * E + e`` of a projection belongs to head h.  With ``causal`` a token looks
    at itself and those before it.
    """

    def __init__(self, width: int, num_heads: int, *, dropout: float, causal: bool) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} is no multiple of heads {num_heads}")
        self.num_heads, self.dropout, self.causal = num_heads, dropout, causal
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x_NTD: Tensor, turn: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return what each token gathers, (N, T, D); ``turn`` is from `rotation`."""
        query, key, value = (
            layer(x_NTD).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        if turn is not None:
            query, key = rotated(query, turn), rotated(key, turn)
        out_NHTE = F.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal,
        )
        gathered: Tensor = self.output(out_NHTE.transpose(1, 2).flatten(2))
        return gathered


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x_NTD: Tensor) -> Tensor:
        """Return a new vector for each token by itself, (N, T, D)."""
        out: Tensor = self.down(F.gelu(self.up(x_NTD)))
        return out


class Block(nn.Module):
    """Attention, then the feed-forward part, each behind its layer normalisation (pre-norm).

    Without ``residual`` the inputs of both parts are not added to their outputs.  Without ``norm``
    there is no normalisation.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        dropout: float,
        causal: bool = False,
        residual: bool = True,
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.norm1 = nn.LayerNorm(width) if norm else nn.Identity()
        self.attention = Attention(width, num_heads, dropout=dropout, causal=causal)
        self.norm2 = nn.LayerNorm(width) if norm else nn.Identity()
        self.mlp = FeedForward(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_NTD: Tensor, turn: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return the tokens after the block, (N, T, D)."""
        out = self.dropout(self.attention(self.norm1(x_NTD), turn))
        x_NTD = x_NTD + out if self.residual else out
        out = self.dropout(self.mlp(self.norm2(x_NTD)))
        after: Tensor = x_NTD + out if self.residual else out
        return after


def rotation(tokens: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the angle of each token and pair of channels, (T, E / 2) each.

    The angle of pair i at token t is ``t * 10000 ** (-2 i / E)`` (Su et al. 2021).  It is computed
    in float64 where the device has it, and rounded to the dtype of ``like``.
    """
    device = like.device
    wide = torch.float32 if device.type == "mps" else torch.float64
    pairs = torch.arange(0, width, 2, dtype=wide, device=device)
    places = torch.arange(tokens, dtype=wide, device=device)
    angles_TE = places[:, None] * torch.exp(pairs * (-math.log(_BASE) / width))
    return angles_TE.cos().to(like.dtype), angles_TE.sin().to(like.dtype)


def rotated(x_NHTE: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Return queries or keys turned by their places: channel i goes with channel i + E / 2."""
    cos, sin = turn
    first, second = x_NHTE.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def initialise(network: nn.Module, residual_sums: int) -> None:
    """Draw weights as GPT-2 does: normal numbers, standard deviation 0.02; biases are zero.

    Layers that end in one of so many residual sums get smaller ones, by the root of their number.
    Without such sums the weights have standard deviation 1 / sqrt(inputs): a signal that goes
    through every layer would fade.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            ends_in_sum = name.endswith((".attention.output", ".mlp.down"))
            std = _STD / math.sqrt(residual_sums) if ends_in_sum and residual_sums else _STD
            nn.init.normal_(module.weight, std=std if residual_sums else module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            width = module.embedding_dim
            nn.init.normal_(module.weight, std=_STD if residual_sums else width**-0.5)
