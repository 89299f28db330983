"""How an objective is evaluated."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lsengine.curvature import LanczosOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """How cells are evaluated; all of it is recorded in the surface file.

    Attributes:
        device: Where everything is resident.
        precision: ``float32``, ``float64``, or a faster one: ``tf32`` (CUDA), ``bfloat16``,
            ``float16``.  Weights are then displaced in float32, and rounded.
        batch_size: Samples per forward pass.
        batch_norm: ``frozen``, ``interpolated`` or ``recalibrated``.
        recalibration: Training samples and batch size of ``recalibrated``.
        seed: Of the draw of the recalibration's samples.
        channels_last: Whether images and filters are laid out channels-last and layers fused, which
            is faster; not for a user's own network, whose ``view`` calls may count on the other
            layout, and whose Python code tracing would skip.
        curvature: How to look for extreme eigenvalues; None not to.
        curvature_of_moved: Whether only the parameters that move count, or all.
    """

    device: torch.device
    precision: str
    batch_size: int
    batch_norm: str = "frozen"
    recalibration: tuple[int, int] = (5000, 128)
    seed: int = 0
    channels_last: bool = True
    curvature: LanczosOptions | None = None
    curvature_of_moved: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights, and of data for everything but cells' own forward passes."""
        return torch.float64 if self.precision == "float64" else torch.float32

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of activations in a cell's forward pass."""
        fast = {"bfloat16": torch.bfloat16, "float16": torch.float16}
        return fast.get(self.precision, self.dtype)

    @property
    def is_exact(self) -> bool:
        """Whether cells are evaluated in the precision of the weights."""
        return self.precision in ("float32", "float64")
