"""The bundled digits."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lsengine.data import dataset
from lsengine.data.subset import stratified
from lsengine.errors import EnvironmentUnfit

_DIGITS_MEAN, _DIGITS_STD = 0.3059, 0.3765  # of the training split
_DIGITS_TEST = 360


def load_digits() -> dataset.RawData:
    """Return scikit-learn's 1,797 digits, 1x8x8 in [0, 1], split once and for all."""
    table = torch.from_numpy(_digits_table())
    x = table[:, :-1].reshape(-1, 1, 8, 8).to(torch.float32).div_(16)
    y = table[:, -1].to(torch.int64)
    test = torch.zeros(len(y), dtype=torch.bool)
    test[stratified(y, _DIGITS_TEST, torch.Generator().manual_seed(0))] = True
    splits = {"train": (x[~test], y[~test]), "test": (x[test], y[test])}
    return dataset.RawData(splits, 10, (_DIGITS_MEAN,), (_DIGITS_STD,))


def _digits_table() -> NDArray[np.float64]:
    """Return 64 pixels and a label for each digit, (1797, 65).

    Read from scikit-learn's folder, because to import it takes longer than many a surface.
    """
    found = importlib.util.find_spec("sklearn")
    if found is not None and found.origin is not None:
        file = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if file.exists():
            return np.loadtxt(file, delimiter=",")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise EnvironmentUnfit(
            f"data.dataset: digits come with scikit-learn, which cannot be imported: {error}"
        ) from None
    pixels, labels = load_digits(return_X_y=True)
    return np.column_stack([pixels, labels])
