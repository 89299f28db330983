"""Data in memory: a loader, a data set, tensors or batches, as one split.

Shape suffixes: B samples of a batch.
"""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lsengine.data.dataset import Split
from lsengine.data.naming import Choice, is_several, pair
from lsengine.data.nesting import Nested, leaves, lone
from lsengine.data.padding import fill, is_mask
from lsengine.data.validation import as_tensor
from lsengine.errors import UsageError

log = logging.getLogger(__name__)


def from_memory(
    source: Any, *, with_targets: bool = True, pad: float | None = None, where: str = "data"
) -> Split:
    """Return all samples of a source in memory as one split.

    Sources are: a `DataLoader`, gone through once, in the order in which it gives its batches; a
    data set of torch's, its samples in order; a list or an iterator of batches; one batch of all
    samples.  A batch is a tensor, an array, or a mapping, a data class, a named tuple (these three
    by names), a tuple or a list of such.  Samples of a data set may hold numbers and lists of
    numbers.  What a loader draws by chance, such as augmentations, is kept as it was drawn.
    Random states of torch, NumPy and Python are afterwards what they were.

    Of a pair the second is targets.  Of more the last is, if there is a need ``with_targets``; of
    names it is then the first of ``y``, ``labels``, ``label``, ``target`` and ``targets``.
    Without need all else is inputs.

    Batches that are padded to lengths of their own are padded further at the end: masks with 0,
    targets with -100, which stands for no label, everything else with ``pad``.  A network that
    does not leave padding out, by a mask or by lengths, has other outputs then.

    The tensors are on the CPU, of the types that they have; `lsengine.data.load` rounds them.

    Raises:
        UsageError: If there are no samples or targets, batches differ, or lengths do and there
            is no ``pad``.
    """
    choice = Choice(needs_targets=with_targets)
    with _random_states_kept(source):
        parts = list(_parts(source, where))
    if not parts:
        raise UsageError(f"{where}: {type(source).__name__} has no batches; is it used up?")
    pairs = [pair(part, choice, where, "") for part in parts]
    x = _joined([x for x, _ in pairs], "inputs", where, pad)
    _warn_of_padding([x for x, _ in pairs], where)
    if pairs[0][1] is None:
        return Split(x, None)
    return Split(x, _joined([y for _, y in pairs], "targets", where, pad))


def _parts(source: Any, where: str) -> Iterator[Nested]:
    """Yield batches: those of a source, or each sample of a data set as a batch of one."""
    is_given = isinstance(source, TensorDataset | DataLoader | list | Mapping)
    if isinstance(source, IterableDataset):
        yield from (_of_one(sample, where) for sample in source)
    elif not is_given and (isinstance(source, Dataset) or _is_like_one(source)):
        yield from (_of_one(source[i], where) for i in range(len(source)))
    else:
        yield from (_nested(batch, where) for batch in _batches(source, where))


def _is_like_one(source: Any) -> bool:
    """Whether it has samples by their numbers, as Hugging Face's data sets do."""
    is_batch = isinstance(source, Tensor | np.ndarray | tuple) or _has_fields(source)
    return hasattr(source, "__getitem__") and hasattr(source, "__len__") and not is_batch


def _batches(source: Any, where: str) -> Iterator[Any]:
    """Yield the batches of a source."""
    if isinstance(source, TensorDataset):
        yield source.tensors
    elif isinstance(source, DataLoader):
        yield from source
    elif isinstance(source, Tensor | np.ndarray | Mapping | tuple) or _has_fields(source):
        yield source
    elif isinstance(source, list):
        if any(isinstance(item, Mapping | tuple | list) or _has_fields(item) for item in source):
            yield from source
        elif source:
            yield tuple(source)
    elif isinstance(source, Iterable):
        yield from source
    else:
        raise UsageError(
            f"{where}: got {type(source).__name__}; expected a DataLoader, a Dataset, batches, or "
            "tensors"
        )


def _has_fields(batch: Any) -> bool:
    return dataclasses.is_dataclass(batch) and not isinstance(batch, type)


def _by_name(batch: Any) -> Mapping[str, Any] | None:
    """Return a mapping, a data class or a named tuple as a mapping, anything else as None."""
    if isinstance(batch, Mapping):
        return batch
    if _has_fields(batch):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return batch._asdict() if isinstance(batch, tuple) and hasattr(batch, "_asdict") else None


def _nested(batch: Any, where: str) -> Nested:
    """Return a batch as a nesting of tensors."""
    named = _by_name(batch)
    if named is not None:
        for key, value in named.items():
            if isinstance(value, list) and len(value) > 1 and all(map(_is_column, value)):
                raise UsageError(
                    f"{where}: {key} is a list of {len(value)} tensors, one for each place: that "
                    "is what torch's collation makes of lists of numbers; let the data set give "
                    "tensors (of Hugging Face: with_format('torch'))"
                )
        return {key: _nested(value, f"{where}: {key}") for key, value in named.items()}
    if is_several(batch) or (isinstance(batch, tuple) and any(map(_has_fields, batch))):
        return tuple(_nested(value, f"{where}: {i}") for i, value in enumerate(batch))
    return as_tensor(where, batch)


def _is_column(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 1


def _of_one(sample: Any, where: str) -> Nested:
    """Return a sample as a batch of one; in it a tuple is no array, but a list of numbers is."""
    if isinstance(sample, Tensor):  # checked when all are there
        return sample.detach().cpu()[None]
    named = _by_name(sample)
    if named is not None:
        return {key: _of_one(value, f"{where}: {key}") for key, value in named.items()}
    if isinstance(sample, tuple) or is_several(sample):
        return tuple(_of_one(value, f"{where}: {i}") for i, value in enumerate(sample))
    if not isinstance(sample, np.ndarray | np.generic | int | float | complex | list):
        raise UsageError(
            f"{where}: a sample holds {type(sample).__name__}; expected tensors, arrays or "
            "numbers: give the data set a transform that makes them"
        )
    return as_tensor(where, sample)[None]


def _joined(parts: Sequence[Nested], place: str, where: str, pad: float | None) -> Nested:
    """Return the samples of all batches; ``place`` begins with inputs or targets."""
    first = parts[0]
    shapes = [_names(part) for part in parts]
    if other := [names for names in shapes if names != shapes[0]]:
        raise UsageError(
            f"{where}: the batches differ: {place} of one are {shapes[0]}, of another {other[0]}"
        )
    if isinstance(first, dict):
        return {
            key: _joined(
                [cast(dict[str, Nested], p)[key] for p in parts], f"{place}.{key}", where, pad
            )
            for key in first
        }
    if isinstance(first, tuple):
        columns = zip(*(tuple(part) for part in parts), strict=True)
        return tuple(
            _joined(column, f"{place}.{i}", where, pad) for i, column in enumerate(columns)
        )
    return _concatenated([lone(part) for part in parts], place, where, pad)


def _warn_of_padding(parts: Sequence[Nested], where: str) -> None:
    """Say that a network may read what batches are filled up with, if there is no mask."""
    lengths = {tuple(tensor.shape[1:] for _, tensor in leaves(part)) for part in parts}
    has_mask = any(is_mask(place.rpartition(".")[2]) for place, _ in leaves(parts[0]))
    if len(lengths) > 1 and not has_mask:
        log.warning(
            "%s: batches of %d lengths are filled up to one; a network that reads what they are "
            "filled up with has other outputs than for each batch as it came",
            where,
            len(lengths),
        )


def _names(nested: Nested) -> str:
    """Return what a nesting has at its top, in words."""
    if isinstance(nested, dict):
        return ", ".join(sorted(nested)) or "nothing"
    return f"{len(nested)} in a tuple" if isinstance(nested, tuple) else "one tensor"


def _concatenated(parts: Sequence[Tensor], place: str, where: str, pad: float | None) -> Tensor:
    """Return tensors (B, ...) of one type as one, padded at the end to the longest of each axis."""
    if any(part.ndim == 0 for part in parts):
        raise UsageError(
            f"{where}: {place} of a batch is one number; expected (samples, ...): every array has "
            "the samples on its first axis; samples one by one are a torch Dataset's"
        )
    kinds = {(part.dtype, part.ndim): part for part in parts}
    if len(kinds) > 1:
        found = [f"{part.dtype} {[*part.shape]}" for part in kinds.values()]
        raise UsageError(
            f"{where}: the batches differ: {place} of one are {found[0]}, of another {found[1]}"
        )
    shapes = {part.shape[1:]: part for part in parts}
    if len(shapes) == 1:
        return torch.cat(list(parts))
    if pad is None:
        found = [str([*part.shape]) for part in shapes.values()]
        raise UsageError(
            f"{where}: {place} have shapes {found[0]} and {found[1]} in two batches; pad all to "
            "one length (a tokenizer: padding='max_length'); or say pad=0, "
            "if the network leaves padding out, by a mask or by lengths"
        )
    name, is_target = place.rpartition(".")[2], place.startswith("targets")
    is_target = is_target or Choice().is_target(name)
    value = fill(name, parts[0].dtype, pad, is_target=is_target, where=where)
    longest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    out = parts[0].new_full([sum(map(len, parts)), *longest], value)
    for room, part in zip(out.split([len(part) for part in parts]), parts, strict=True):
        room[(slice(None), *(slice(size) for size in part.shape[1:]))] = part
    return out


@contextmanager
def _random_states_kept(source: Any) -> Iterator[None]:
    """Put the random states back that a loader and a data set draw from."""
    generators = [getattr(source, "generator", None)]
    generators.append(getattr(getattr(source, "sampler", None), "generator", None))
    known = [(g, g.get_state()) for g in generators if isinstance(g, torch.Generator)]
    of_torch, of_numpy, of_python = (
        torch.get_rng_state(),
        np.random.get_state(),
        random.getstate(),
    )
    try:
        yield
    finally:
        for generator, state in known:
            generator.set_state(state)
        torch.set_rng_state(of_torch)
        np.random.set_state(of_numpy)
        random.setstate(of_python)
