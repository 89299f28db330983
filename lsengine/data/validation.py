"""What a source gives as inputs and labels: as tensors of the right type, or refused.

Shapes: N samples, C channels, H rows, W columns, K values or labels.
"""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsengine.data.dataset import NO_LABEL, SPLITS, Split, TargetKind
from lsengine.data.naming import is_several
from lsengine.data.nesting import Nested, leaves, lone
from lsengine.data.padding import check_masks
from lsengine.errors import UsageError

_LARGEST_LABEL = 1_000_000  # beyond this a label is surely something else
_LARGEST_UINT16 = 65535
_LARGEST_WHOLE = 2**24  # up to it float32 has all


def validated(
    where: str,
    x_raw: Any,
    y_raw: Any,
    *,
    exact: bool = False,
    no_label: int | None = None,
    needs_targets: bool = True,
) -> Split:
    """Return inputs and labels as tensors of the right type, or refuse them.

    Each is an array, a mapping or a tuple with arrays; labels may be None.  With ``exact`` numbers
    of 64 bits keep them; else they are rounded to 32.  The integer label ``no_label`` becomes
    `NO_LABEL`.  Samples of one input alone have an axis at least, unless there is no need of
    targets.
    """
    x = _tensors(f"{where} inputs", x_raw)
    y = None if y_raw is None else _tensors(f"{where} labels", y_raw)
    _check_samples(where, x, y, least=2 if needs_targets else 1)
    if isinstance(x, Tensor):
        inputs: Nested = _inputs(where, x, exact)
    else:
        inputs = _each(f"{where} inputs", x, exact)
        check_masks(where, inputs)
    labels = None if y is None else _targets(where, y, exact, no_label)
    pairs = zip(_arrays(x_raw), leaves(inputs), strict=True)
    is_mapped = any(_is_mapped(raw) and raw.ctypes.data == t.data_ptr() for raw, (_, t) in pairs)
    return Split(inputs, labels, is_mapped)


def _targets(where: str, y: Nested, exact: bool, no_label: int | None) -> Nested:
    if not isinstance(y, Tensor):
        if no_label is not None:
            raise UsageError(f"{where}: no_label is {no_label}, but the labels are several arrays")
        return _each(f"{where} labels", y, exact)
    labels = _labels(where, y, exact)
    if no_label is not None and labels.dtype == torch.int64:
        return torch.where(labels == no_label, NO_LABEL, labels)
    return labels


def _check_samples(where: str, x: Nested, y: Nested | None, *, least: int) -> None:
    """Refuse inputs and labels that are not one of each per sample."""
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        if x.ndim < least or y.ndim < 1:
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
        return
    tensors = {place or "inputs": tensor for place, tensor in leaves(x)}
    if y is not None:
        tensors |= {place or "labels": tensor for place, tensor in leaves(y)}
    for place, tensor in tensors.items():
        if tensor.ndim < 1:
            raise UsageError(
                f"{where}: {place} is one number; expected (samples, ...): every array has the "
                "samples on its first axis"
            )
        if tensor.numel() == 0:
            raise UsageError(f"{where}: is empty: {place} has shape {[*tensor.shape]}")
    first = next(iter(tensors))
    for place, tensor in tensors.items():
        if len(tensor) != len(tensors[first]):
            raise UsageError(
                f"{where}: {place} has {len(tensor)} samples, {first} {len(tensors[first])}; all "
                "need one first axis, that of the samples"
            )


def _tensors(where: str, raw: Any) -> Nested:
    """Return arrays as tensors, in the nesting that they have."""
    if isinstance(raw, Mapping):
        for key in raw:
            if not isinstance(key, str) or not key.isidentifier():
                raise UsageError(
                    f"{where}: {key!r} is a key; expected names that Python can pass, such as mask"
                )
        parts: Nested = {key: _tensors(f"{where} {key}", value) for key, value in raw.items()}
    elif isinstance(raw, tuple) and (not raw or is_several(raw)):
        parts = tuple(_tensors(f"{where} {i}", value) for i, value in enumerate(raw))
    else:
        return as_tensor(where, raw)
    if not raw:
        raise UsageError(f"{where}: {type(raw).__name__} without arrays")
    return parts


def _arrays(raw: Any) -> Iterator[Any]:
    """Yield what `_tensors` makes tensors of, in order."""
    if isinstance(raw, Mapping):
        for value in raw.values():
            yield from _arrays(value)
    elif isinstance(raw, tuple) and is_several(raw):
        for value in raw:
            yield from _arrays(value)
    else:
        yield raw


def _each(where: str, nested: Nested, exact: bool) -> Nested:
    """Return the tensors as they are: integers as int64, truth values as bool.

    No byte is scaled, since nothing says which of them are images.
    """
    if isinstance(nested, dict):
        return {key: _each(f"{where} {key}", value, exact) for key, value in nested.items()}
    if isinstance(nested, tuple):
        return tuple(_each(f"{where} {i}", value, exact) for i, value in enumerate(nested))
    if nested.dtype == torch.bool:
        return nested.contiguous()
    return _numbers(where, nested, exact)


def _is_mapped(raw: Any) -> bool:
    """Whether an array is in a file that is mapped into memory, and cannot be written to."""
    if not isinstance(raw, np.ndarray) or raw.flags.writeable:
        return False
    base: Any = raw
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return isinstance(base, mmap.mmap)


def as_tensor(where: str, raw: Any) -> Tensor:
    """Return an array or tensor as a plain tensor in memory, in the processor's byte order.

    Raises:
        UsageError: If it is none of numbers.
    """
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
    return _numbers(where, x, exact)


def _numbers(where: str, x: Tensor, exact: bool) -> Tensor:
    if not _is_real_or_complex(x):
        return x.to(torch.int64).contiguous()
    rounded = _rounded(x, exact)
    if not _is_finite(rounded):
        bad = (~torch.isfinite(rounded.reshape(len(x), -1)).all(1)).nonzero().flatten()
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
            named = [
                ", ".join(place or "one array" for place in part) or "none"
                for part in (mine, others)
            ]
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
    splits: Mapping[str, Split], declared: int | None, where: str, *, needs_targets: bool = True
) -> tuple[TargetKind, int | None]:
    """Return what the labels are and the number of classes; see `Dataset`.

    All splits of the source count, asked for or not.  Without need of targets those that are no
    classes may be any numbers.
    """
    if needs_targets or declared is not None:
        return _described(splits, declared, where)
    try:
        return _described(splits, None, where)
    except UsageError:
        return "values", None


def _described(
    splits: Mapping[str, Split], declared: int | None, where: str
) -> tuple[TargetKind, int | None]:
    first = next(iter(splits.values())).y
    if not isinstance(first, Tensor):
        if declared is not None:
            found = "no labels" if first is None else "labels of several arrays"
            raise UsageError(f"{where}: classes is {declared}, but there are {found}")
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
            "(docs/howto/data.md); store numbers to predict, such as -1 and 1, as floats"
        )
