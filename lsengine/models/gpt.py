"""A small decoder of tokens (Radford et al. 2019), with pre-norm blocks and a tied embedding.

Shapes: N samples, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsengine.models.transformer import Block, initialise, rotation


class GPT(nn.Module):
    """Predicts for every token the next one, from it and those before it.

    The rows of ``embedding`` are the last layer's weights, too.  Positions are ``rotary``, without
    parameters (Su et al. 2021), or ``learned``: an embedding of so many places as ``context`` says.
    See `Block` for ``residual`` and ``norm``.

    Raises:
        ValueError: If ``width`` cannot be shared out among the heads.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        context: int,
        depth: int,
        width: int,
        heads: int,
        positions: str = "rotary",
        dropout: float = 0.0,
        residual: bool = True,
        norm: bool = True,
    ) -> None:
        super().__init__()
        if positions == "rotary" and width % (2 * heads):
            raise ValueError(
                f"rotary positions need heads of an even width; width {width}, heads {heads}"
            )
        self.context, self.head_width = context, width // heads
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width) if positions == "learned" else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, dropout=dropout, causal=True, residual=residual, norm=norm)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        initialise(self, 2 * depth if residual else 0)

    def forward(self, tokens_NT: Tensor) -> Tensor:
        """Return the logits of every token's next one, (N, T, V).

        Raises:
            ValueError: If there are more tokens than the context has.
        """
        tokens = tokens_NT.shape[1]
        if tokens > self.context:
            raise ValueError(f"got {tokens} tokens; model.args.context is {self.context}")
        x_NTD, turn = self.embedding(tokens_NT), None
        if self.positions is not None:
            x_NTD = x_NTD + self.positions(torch.arange(tokens, device=tokens_NT.device))
        else:
            turn = rotation(tokens, self.head_width, x_NTD)
        x_NTD = self.dropout(x_NTD)
        for block in self.blocks:
            x_NTD = block(x_NTD, turn)
        return F.linear(self.norm(x_NTD), self.embedding.weight)
