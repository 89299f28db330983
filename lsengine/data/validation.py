"""What a source gives as inputs and labels: as tensors of the right type, or refused.

Shapes: N samples, C channels, H rows, W columns, K values or labels.
"""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsengine.data.dataset import NO_LABEL, SPLITS, Split, TargetKind
from lsengine.data.nesting import Nested, leaves, lone
from lsengine.errors import UsageError

_LARGEST_LABEL = 1_000_000  # beyond this a label is surely something else
_LARGEST_UINT16 = 65535
_LARGEST_WHOLE = 2**24  # up to it float32 has all


def validated(
    where: str, x_raw: Any, y_raw: Any, *, exact: bool = False, no_label: int | None = None
) -> Split:
    """Return inputs and labels as tensors of the right type, or refuse them.

    With ``exact`` numbers of 64 bits keep them; else they are rounded to 32.  The integer label
    ``no_label`` becomes `NO_LABEL`.
    """
    x, y = _tensor(f"{where} inputs", x_raw), _tensor(f"{where} labels", y_raw)
    if x.ndim < 2 or y.ndim < 1:
        raise UsageError(
            f"{where}: inputs have shape {[*x.shape]}, labels {[*y.shape]}; expected "
            "(samples, ...) with at least two axes, and one label each"
        )
    if len(x) != len(y):
        raise UsageError(f"{where}: {len(x)} inputs, but {len(y)} labels")
    if x.numel() == 0:
        raise UsageError(f"{where}: is empty: inputs have shape {[*x.shape]}")
    if y.numel() == 0:
        raise UsageError(f"{where}: labels have shape {[*y.shape]}; expected one or more each")
    labels = _labels(where, y, exact)
    if no_label is not None and labels.dtype == torch.int64:
        labels = torch.where(labels == no_label, NO_LABEL, labels)
    inputs = _inputs(where, x, exact)
    is_mapped = _is_mapped(x_raw) and inputs.data_ptr() == x_raw.ctypes.data
    return Split(inputs, labels, is_mapped)


def _is_mapped(raw: Any) -> bool:
    """Whether an array is in a file that is mapped into memory, and cannot be written to."""
    if not isinstance(raw, np.ndarray) or raw.flags.writeable:
        return False
    base: Any = raw
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return isinstance(base, mmap.mmap)


def _tensor(where: str, raw: Any) -> Tensor:
    """Return an array or tensor as a plain tensor in memory, in the processor's byte order."""
    try:
        if isinstance(raw, Tensor):
            return _plain(raw)
        array = _unmasked(raw)
        array = np.require(array, array.dtype.newbyteorder("="), ["C"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of arrays that cannot be written to
            tensor = torch.from_numpy(array if _is_mapped(raw) else np.require(array, None, ["W"]))
        return _without_wide_unsigned(tensor)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise UsageError(f"{where}: not an array of numbers: {error}") from None


def _unmasked(raw: Any) -> NDArray[Any]:
    if np.ma.is_masked(raw):
        count = int(np.ma.getmaskarray(raw).sum())
        raise ValueError(f"{count:,} numbers are masked; leave their samples out")
    return np.asarray(raw)


def _plain(raw: Tensor) -> Tensor:
    odd = {
        "sparse": not raw.is_nested and raw.layout != torch.strided,
        "quantized": raw.is_quantized,
        "nested": raw.is_nested,
        "meta": raw.is_meta,
    }
    if found := next((kind for kind, is_so in odd.items() if is_so), None):
        raise ValueError(f"a {found} tensor; expected a dense one")
    tensor = raw.detach().cpu().as_subclass(Tensor).resolve_conj().resolve_neg()
    return _without_wide_unsigned(tensor)


def _without_wide_unsigned(tensor: Tensor) -> Tensor:
    """Return unsigned integers of 32 and 64 bits as int64, for which torch has all operations."""
    if tensor.dtype not in (torch.uint32, torch.uint64):
        return tensor
    array = tensor.numpy()
    if array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{int(array.max())} is too large for an integer of 64 bits")
    return torch.from_numpy(array.astype(np.int64))


def _inputs(where: str, x: Tensor, exact: bool) -> Tensor:
    if x.dtype == torch.uint8 or (x.dtype == torch.uint16 and x.ndim == 4):
        _check_images(where, x)
        if x.dtype == torch.uint8:
            return x.contiguous()
        return x.to(torch.float64 if exact else torch.float32).div_(_LARGEST_UINT16).contiguous()
    if not _is_real_or_complex(x):
        return x.to(torch.int64).contiguous()
    rounded = _rounded(x, exact)
    if not _is_finite(rounded):
        bad = (~torch.isfinite(rounded.flatten(1)).all(1)).nonzero().flatten()
        found = f"{len(bad)} of {len(x)} inputs have {_not_finite(x)}"
        raise UsageError(f"{where}: {found}, the first at index {bad[0]}; clean them first")
    if x.dtype == torch.float64 != rounded.dtype and whole_and_beyond(x, _LARGEST_WHOLE):
        raise UsageError(
            f"{where}: some are whole numbers beyond {_LARGEST_WHOLE:,}, which float32 rounds; "
            "store tokens as integers, scale measurements, or use precision: float64"
        )
    return rounded


def _check_images(where: str, x: Tensor) -> None:
    if x.ndim != 4:
        raise UsageError(
            f"{where}: bytes are images (N, C, H, W), but the inputs have shape {[*x.shape]}; "
            "reshape them, or store floats, or int64 for tokens"
        )
    if x.shape[3] in (1, 3, 4) and x.shape[1] >= 8:  # more likely rows than channels
        raise UsageError(
            f"{where}: the inputs have shape {[*x.shape]}, channels last; expected "
            "(N, C, H, W): transpose them"
        )


def _labels(where: str, y: Tensor, exact: bool) -> Tensor:
    if not _is_real_or_complex(y):
        return y.to(torch.int64).contiguous()
    rounded = _rounded(y, exact)
    if not _is_finite(rounded):
        raise UsageError(f"{where}: labels have {_not_finite(y)}")
    return rounded


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite, a few at a time."""
    return all(bool(torch.isfinite(part).all()) for part in tensor.flatten().split(2**24))


def _is_real_or_complex(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _rounded(tensor: Tensor, exact: bool) -> Tensor:
    """Return real or complex numbers with 32 bits each; 64 if they have them and ``exact``."""
    is_wide = exact and tensor.dtype in (torch.float64, torch.complex128)
    real = torch.float64 if is_wide else torch.float32
    return tensor.to(real.to_complex() if tensor.is_complex() else real).contiguous()


def whole_and_beyond(x: Tensor, most: float) -> bool:
    """Whether in one place of all samples there are whole numbers alone, some beyond ``most``."""
    rows = x.reshape(len(x), -1)
    are_whole = torch.ones(rows.shape[1], dtype=torch.bool)
    is_beyond = torch.zeros(rows.shape[1], dtype=torch.bool)
    for part in rows.split(max(1, 2**24 // rows.shape[1])):  # a mapped file may be large
        are_whole &= (part == part.round()).all(0)
        is_beyond |= (part.abs() > most).any(0)
    return bool((are_whole & is_beyond).any())


def _not_finite(tensor: Tensor) -> str:
    if tensor.dtype.itemsize >= 8 and bool(torch.isfinite(tensor).all()):
        return "values beyond float32 (precision: float64 keeps them)"
    return "NaN or infinite values"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def check_alike(splits: Mapping[str, Split], where: str) -> None:
    """Refuse splits whose samples or labels differ in shape or type.

    Numbers of 32 and of 64 bits go together.
    """
    if len(splits) < 2:
        return
    train, test = (splits[name] for name in SPLITS)
    for what, train_part, test_part in (("inputs", train.x, test.x), ("labels", train.y, test.y)):
        mine, others = _by_place(train_part), _by_place(test_part)
        if mine.keys() != others.keys():
            named = [", ".join(part) or "one tensor" for part in (mine, others)]
            raise UsageError(
                f"{where}: the splits differ: train {what} are {named[0]}, test {what} {named[1]}"
            )
        for place, a in mine.items():
            b, named_place = others[place], f"{what} {place}".rstrip()
            if a.shape[1:] != b.shape[1:] or _kind(a) != _kind(b):
                raise UsageError(
                    f"{where}: the splits differ: train {named_place} are {_type(a)} "
                    f"{[*a.shape[1:]]} per sample, test {named_place} {_type(b)} {[*b.shape[1:]]}"
                )


def _by_place(nested: Nested | None) -> dict[str, Tensor]:
    return {} if nested is None else dict(leaves(nested))


def _kind(tensor: Tensor) -> torch.dtype:
    wide = {torch.float64: torch.float32, torch.complex128: torch.complex64}
    return wide.get(tensor.dtype, tensor.dtype)


def described(
    splits: Mapping[str, Split], declared: int | None, where: str
) -> tuple[TargetKind, int | None]:
    """Return what the labels are and the number of classes; see `Dataset`.

    All splits of the source count, asked for or not.
    """
    first = next(iter(splits.values())).y
    if not isinstance(first, Tensor):
        if declared is not None:
            raise UsageError(f"{where}: classes is {declared}, but the labels are no one tensor")
        return ("none" if first is None else "nested"), None
    of_sample = [*first.shape[1:]]
    if first.dtype != torch.int64:
        if declared is not None and first[0].numel() == 1:
            raise UsageError(
                f"{where}: classes is {declared}, but the labels are {_type(first)}; store "
                "integers, or leave classes out where they are values to predict"
            )
        return "values", None
    all_labels = {name: lone(split.y) for name, split in splits.items()}
    labels = {name: y[y != NO_LABEL] for name, y in all_labels.items()}
    if empty := [name for name, y in labels.items() if not y.numel()]:
        raise UsageError(f"{where}: {empty[0]} has no label but {NO_LABEL}, which stands for none")
    largest = max(int(y.max()) for y in labels.values())
    smallest = min(int(y.min()) for y in labels.values())
    is_full = all(y.numel() == all_labels[name].numel() for name, y in labels.items())
    is_binary = is_full and smallest >= 0 and largest <= 1
    if len(of_sample) == 1 and of_sample[0] > 1 and is_binary and declared in (None, of_sample[0]):
        return "labels", of_sample[0]
    allowed = declared if declared is not None else _LARGEST_LABEL
    for name, y in labels.items():
        _check_labels(y, allowed, f"{where}: {name}")
    return ("classes" if first[0].numel() == 1 else "positions"), declared or 1 + largest


def _check_labels(y: Tensor, allowed: int, where: str) -> None:
    smallest, largest = int(y.min()), int(y.max())
    if smallest < 0 or largest >= allowed:
        raise UsageError(
            f"{where} has the label {smallest if smallest < 0 else largest}; expected 0 to "
            f"{allowed - 1}, or {NO_LABEL} for none; if it stands for none, say so by no_label "
            "(docs/JOBS.md); store numbers to predict, such as -1 and 1, as floats"
        )
