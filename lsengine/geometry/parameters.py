"""Arithmetic with parameters: mappings from names to tensors, taken as one long vector.

Sums go over the names in the order of the first argument and are added up in float64, so their
bits depend on the arguments alone.  Results are on the CPU.

Shape suffix: P numbers of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lsengine.wording import listed

Parameters = Mapping[str, Tensor]
Floats = NDArray[np.float64]


def dot(a: Parameters, b: Parameters) -> float:
    """Return the inner product; a name that only one side has counts as zero there."""
    return sum((float((t.double() * b[n].double()).sum()) for n, t in a.items() if n in b), 0.0)


def norm(a: Parameters) -> float:
    """Return the Euclidean length."""
    return math.sqrt(dot(a, a))


def minus(a: Parameters, b: Parameters, scale: float = 1.0) -> dict[str, Tensor]:
    """Return ``a - scale * b`` in float64; names that ``b`` lacks stay as they are."""
    wide = {name: in_float64(tensor) for name, tensor in a.items()}
    return {n: t - scale * in_float64(b[n]) if n in b else t for n, t in wide.items()}


def in_float64(tensor: Tensor) -> Tensor:
    """Return a tensor's values on the CPU in float64, without its history of gradients."""
    return tensor.detach().cpu().double()


def in_float32(a: Parameters) -> dict[str, Tensor]:
    """Return parameters in the precision in which directions are kept."""
    return {name: tensor.float() for name, tensor in a.items()}


def sign(vector_P: Tensor) -> float:
    """Return the sign, 1 or -1, of the number of largest modulus, the first of several.

    An eigenvector is one up to its sign.  Multiplied by this one it is the same everywhere:
    its number of largest modulus is positive, as in scikit-learn's PCA since 1.5.

    Example:
        >>> import torch
        >>> sign(torch.tensor([1.0, -3.0, 3.0]))
        -1.0
    """
    low, high = int(vector_P.argmin()), int(vector_P.argmax())
    excess = float(vector_P[high]) + float(vector_P[low])
    return -1.0 if excess < 0 or (excess == 0 and low < high) else 1.0


def misfit(found: Parameters, expected: Parameters) -> str:
    """Return which names and shapes are not those of a model's parameters; empty if all are.

    Args:
        found: The parameters to check.
        expected: Those of the model.

    Example:
        >>> import torch
        >>> misfit({"a": torch.zeros(2, 3)}, {"a": torch.zeros(4), "b": torch.zeros(1)})
        'missing: b; of another shape: a (2x3, in the model 4)'
    """
    differences = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": [
            f"{name} ({_shape(found[name])}, in the model {_shape(tensor)})"
            for name, tensor in expected.items()
            if name in found and found[name].shape != tensor.shape
        ],
    }
    return "; ".join(f"{what}: {listed(names)}" for what, names in differences.items() if names)


def require_same(found: Parameters, expected: Parameters, what: str) -> None:
    """Refuse parameters that are not named and shaped like the model's.

    Raises:
        ValueError: With ``what`` they are, and what differs.
    """
    if differences := misfit(found, expected):
        raise ValueError(f"{what} does not fit the model: {differences}")


def selected(a: Parameters, names: Collection[str]) -> dict[str, Tensor]:
    """Return the parameters with these names, in their order, as far as they are there."""
    return {name: a[name] for name in names if name in a}


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
