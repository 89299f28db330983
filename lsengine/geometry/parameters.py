"""Parameters: mappings from names to tensors, taken as one long vector.

Sums go over the names in the order of the first argument and are added up in float64, so their
bits depend on the arguments alone.  Results are on the CPU.  A complex number is a pair of real
ones everywhere: its real and its imaginary part.

Shape suffix: P numbers of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsengine.wording import listed

Parameters = Mapping[str, Tensor]
Floats = NDArray[np.float64]
_CHUNK = 2**13  # numbers taken to float64 at once: a block of them stays in the cache


def can_move(tensor: Tensor) -> bool:
    """Whether a tensor holds real or complex numbers, and not counters or masks."""
    return tensor.is_floating_point() or tensor.is_complex()


def as_real(tensor: Tensor) -> Tensor:
    """View a complex tensor as pairs of real numbers, (..., 2); any other as it is."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def like_kind(real: Tensor, like: Tensor) -> Tensor:
    """View numbers that `as_real` gave in the shape of ``like``, complex if that is complex."""
    if not like.is_complex():
        return real.reshape(like.shape)
    return torch.view_as_complex(real.reshape(*like.shape, 2))


def dtype_like(tensor: Tensor, real: torch.dtype) -> torch.dtype:
    """Return a real dtype, or for a complex tensor the complex one of that precision."""
    return real.to_complex() if tensor.is_complex() else real


def real_dtype(tensors: Iterable[Tensor]) -> torch.dtype:
    """Return the precision of the first tensor that can move; float32 if there is none."""
    return next((t.dtype.to_real() for t in tensors if can_move(t)), torch.float32)


def dot(a: Parameters, b: Parameters) -> float:
    """Return the inner product; a name that only one side has counts as zero there."""
    pairs = ((as_real(t).double(), as_real(b[n]).double()) for n, t in a.items() if n in b)
    return sum((float((x * y).sum()) for x, y in pairs), 0.0)


def norm(a: Parameters) -> float:
    """Return the Euclidean length."""
    return math.sqrt(dot(a, a))


def minus(a: Parameters, b: Parameters, scale: float = 1.0) -> dict[str, Tensor]:
    """Return ``a - scale * b`` in float64; names that ``b`` lacks stay as they are."""
    wide = {name: in_float64(tensor) for name, tensor in a.items()}
    return {n: t - scale * in_float64(b[n]) if n in b else t for n, t in wide.items()}


def in_float64(tensor: Tensor) -> Tensor:
    """Return a tensor's values on the CPU in float64, without its history of gradients."""
    return tensor.detach().cpu().to(dtype_like(tensor, torch.float64))


def in_precision_of(a: Parameters, like: Parameters) -> dict[str, Tensor]:
    """Return parameters in the precision in which directions from ``like`` are kept.

    That is float32, and float64 for those of a network in float64.
    """

    def kept(tensor: Tensor, other: Tensor) -> Tensor:
        is_wide = other.dtype in (torch.float64, torch.complex128)
        return tensor.to(dtype_like(tensor, torch.float64 if is_wide else torch.float32))

    return {name: kept(tensor, like[name]) for name, tensor in a.items()}


def sign(vector_P: Tensor) -> float:
    """Return the sign, 1 or -1, of the number of largest modulus, the first of several.

    An eigenvector is one up to its sign.  Multiplied by this one it is the same everywhere:
    its number of largest modulus is positive, as in scikit-learn's PCA since 1.5.

    Example:
        >>> sign(torch.tensor([1.0, -3.0, 3.0]))
        -1.0
    """
    low, high = int(vector_P.argmin()), int(vector_P.argmax())
    excess = float(vector_P[high]) + float(vector_P[low])
    return -1.0 if excess < 0 or (excess == 0 and low < high) else 1.0


def misfit(found: Parameters, expected: Parameters) -> str:
    """Return which names and shapes are not those of a model's parameters; empty if all are.

    Example:
        >>> misfit({"a": torch.zeros(2, 3)}, {"a": torch.zeros(4), "b": torch.zeros(1)})
        'missing: b; of another shape: a (2x3, in the model 4)'
    """

    def shape(tensor: Tensor) -> str:
        return "x".join(map(str, tensor.shape)) or "scalar"

    differences = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": [
            f"{name} ({shape(found[name])}, in the model {shape(tensor)})"
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


class CheckpointVectors:
    """Reads checkpoints one by one as vectors (P,) of the same parameters in the same order.

    Nothing is kept: every call reads the checkpoint again.

    Args:
        load: Index to parameters, 0 the first and ``count - 1`` the final checkpoint; more
            than ``names`` may be there.
        count: Number of checkpoints, at least one.
        names: The parameters that count.
        label: Index to what messages call a checkpoint.

    Raises:
        ValueError: If there is no checkpoint or no name.  Later, if a checkpoint lacks a
            parameter, has one of another shape or one that is not finite; it is named.
    """

    def __init__(
        self,
        load: Callable[[int], Parameters],
        count: int,
        names: Sequence[str],
        label: Callable[[int], str] = "checkpoint {}".format,
    ) -> None:
        if count < 1:
            raise ValueError(f"the number of checkpoints is at least 1; got {count}")
        if not names:
            raise ValueError("no parameter is left to compare checkpoints by")
        self.count, self.label = count, label
        self._load, self._names = load, tuple(names)
        self._like: dict[str, Tensor] = {}  # shape and kind of each, without numbers

    def __call__(self, index: int) -> Tensor:
        """Read one checkpoint."""
        return self.flat(self._load(index), self.label(index))

    def flat(self, parameters: Parameters, what: str) -> Tensor:
        """Copy the parameters into one real vector, in their own precision, on the CPU."""
        if missing := [n for n in self._names if n not in parameters]:
            raise ValueError(f"{what} lacks {listed(missing)}")
        if not self._like:
            self._like = {n: parameters[n].detach().to("meta") for n in self._names}
        for name, like in self._like.items():
            if parameters[name].shape != like.shape:
                shapes = f"{[*parameters[name].shape]}, elsewhere {[*like.shape]}"
                raise ValueError(f"{what}: {name} has shape {shapes}")
        real = [as_real(parameters[n].detach().cpu().resolve_conj()) for n in self._names]
        flat_P = torch.cat([tensor.reshape(-1) for tensor in real])
        flat_P = flat_P if flat_P.is_floating_point() else flat_P.double()
        if not bool(flat_P.sum().isfinite()):  # quick to tell; may also be an overflow
            for name in self._names:
                if not bool(parameters[name].isfinite().all()):
                    raise ValueError(f"{what}: {name} holds numbers that are not finite")
        return flat_P

    def sparse(self, direction: Parameters, what: str) -> Tensor:
        """Return a direction as a vector, zero where it does not move."""
        if odd := sorted(direction.keys() - set(self._names)):
            raise ValueError(f"{what} moves {odd[0]}, which is not among the parameters compared")
        some = next(iter(direction.values()), torch.zeros(0))
        still = {
            n: torch.zeros(like.shape, dtype=dtype_like(like, some.dtype.to_real()))
            for n, like in self._like.items()
            if n not in direction
        }
        return self.flat({**direction, **still}, what)

    def named(self, vector_P: Tensor) -> dict[str, Tensor]:
        """Cut a vector into float32 parameters."""
        likes = self._like.values()
        pieces = vector_P.float().split([x.numel() * (2 if x.is_complex() else 1) for x in likes])
        items = zip(self._like.items(), pieces, strict=True)
        return {name: like_kind(piece, like) for (name, like), piece in items}


def chunks(size: int) -> Iterator[slice]:
    """Yield the slices of a vector that are taken to float64 one after the other."""
    for start in range(0, size, _CHUNK):
        yield slice(start, start + _CHUNK)
