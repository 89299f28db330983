"""The bundled digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lsengine.data.dataset import RawData, stratified

_MEAN, _STD = 0.3059, 0.3765  # of the training split
_TEST_SAMPLES = 360


def load_digits() -> RawData:
    """Return 1,797 digits, 1x8x8 in [0, 1], split once and for all."""
    table = torch.from_numpy(digits_table())
    x = table[:, :-1].reshape(-1, 1, 8, 8).to(torch.float32).div_(16)
    y = table[:, -1].to(torch.int64)
    test = torch.zeros(len(y), dtype=torch.bool)
    test[stratified(y, _TEST_SAMPLES, torch.Generator().manual_seed(0))] = True
    splits = {"train": (x[~test], y[~test]), "test": (x[test], y[test])}
    return RawData(splits=splits, classes=10, mean=(_MEAN,), std=(_STD,))


def digits_table() -> NDArray[np.float64]:
    """Return 64 pixels from 0 to 16 and the class of each digit, (1797, 65).

    The file is scikit-learn's; see the licence beside it.
    """
    return np.loadtxt(Path(__file__).with_name("digits.csv.gz"), delimiter=",")
