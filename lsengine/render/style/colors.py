"""The colours of a style as numbers, for whoever colours something other than a figure."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from lsengine.render.style.styles import STYLES

_LUMA = (0.2126, 0.7152, 0.0722)  # of linear red, green, blue; WCAG 2, as `contrast` is


def rgba(shares: NDArray[np.float64], style: str = "default") -> NDArray[np.uint8]:
    """Return sRGB colours and opacity for numbers from 0 to 1 of any shape; (..., 4)."""
    return np.asarray(colormaps[STYLES[style].colormap](shares, bytes=True))


def contrast(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how well colours tell from each other, from 1 to 21; of shape (..., 3), 0 to 1."""
    lights = [np.asarray(c) for c in (one, other)]
    lights = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in lights]
    first, second = (light @ np.array(_LUMA) + 0.05 for light in lights)
    return np.asarray(np.maximum(first, second) / np.minimum(first, second))
