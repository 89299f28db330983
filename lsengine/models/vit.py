"""A small vision transformer (Dosovitskiy et al. 2021; the mean over tokens as Beyer et al. 2022).

Shapes: N samples, C channels, H rows, W columns, T patches, D width, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from lsengine.models.transformer import Block, initialise


class VisionTransformer(nn.Module):
    """Patches as tokens with learned positions, pre-norm blocks, their mean, a linear layer.

    Raises:
        ValueError: If patches of ``patch`` x ``patch`` pixels do not tile the image, or ``width``
            cannot be shared out among the heads.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        size: tuple[int, int],
        patch: int,
        depth: int,
        width: int,
        heads: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        height, breadth = size
        if height % patch or breadth % patch:
            raise ValueError(f"patches of {patch}x{patch} do not tile images of {height}x{breadth}")
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Embedding((height // patch) * (breadth // patch), width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        initialise(self, 2 * depth)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        x_NTD = self.patches(x_NCHW).flatten(2).transpose(1, 2) + self.positions.weight
        x_NTD = self.dropout(x_NTD)
        for block in self.blocks:
            x_NTD = block(x_NTD)
        logits_NK: Tensor = self.head(self.norm(x_NTD).mean(1))
        return logits_NK
