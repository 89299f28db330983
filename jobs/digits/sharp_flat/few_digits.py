"""A hard split of the digits: few to train with, the many others to test with."""

from __future__ import annotations

from typing import Any

import numpy as np

from lsengine.data.digits import digits_table


def split(train: int, seed: int = 0) -> dict[str, Any]:
    """Return ``train`` digits to train with and all others, out of 1,797, to test with."""
    table = digits_table()
    x = (table[:, :-1].reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    y = table[:, -1].astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(x))
    arrays: dict[str, Any] = {"classes": 10}
    for name, chosen in (("train", order[:train]), ("test", order[train:])):
        arrays |= {f"x_{name}": x[chosen], f"y_{name}": y[chosen]}
    return arrays
