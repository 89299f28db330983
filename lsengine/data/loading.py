"""From a job's section to a data set, whatever its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lsengine.data import array_files, image_folder, known, naming, text, tokens
from lsengine.data.dataset import (
    SPLITS,
    Dataset,
    RawData,
    Split,
    draw_subset,
)
from lsengine.data.digits import load_digits
from lsengine.data.nesting import Nested
from lsengine.data.validation import check_alike, described, validated
from lsengine.errors import UsageError
from lsengine.external import user_code
from lsengine.job import schema

_ARGUMENTS = {
    "arrays": ("classes", "no_label", "inputs", "targets", "pad"),
    "image_folder": image_folder.ARGUMENTS,
    "text": (*text.ARGUMENTS, *tokens.ARGUMENTS),
}


def load(
    spec: schema.DataSpec,
    *,
    root: Path | None,
    job_folder: Path,
    seed: int,
    exact: bool = False,
    needs_targets: bool = True,
    keeps_targets: bool = False,
    ignored: int | None = None,
) -> Dataset:
    """Load the splits that a job asks for.

    The root is absolute: the folder, or a file.  A subset has at most ``spec.subset`` samples of
    each split, drawn by the seed, the classes in the proportions of the whole up to rounding, in
    the file's order.  With ``exact`` inputs and values to predict of 64
    bits keep them; else they are rounded to float32.  Without ``needs_targets``, for an objective,
    there may be none.  With ``keeps_targets`` those of several arrays are inputs, too.  An
    ``ignored`` label stands for none.

    Raises:
        UsageError: If data are missing, damaged, empty, not finite or shaped wrongly.
        EnvironmentUnfit: If a library that the data set needs is not installed.
    """
    needs = naming.Choice(needs_targets=needs_targets, keeps_targets=keeps_targets)
    raw = _read(spec, root, job_folder, needs)
    if ignored is not None:
        raw = _without(raw, ignored)
    in_root = root is not None and spec.dataset in (*_ARGUMENTS, *schema.KNOWN)
    where = f"data.root: {root}" if in_root else f"data.dataset: {spec.dataset}"
    for name in spec.splits:
        if name not in raw.splits:
            found = f"{where} has: {', '.join(raw.splits) or 'none'}"
            raise UsageError(f"data.splits: {name} is asked for, but {found}; ask for those only")
    check = partial(validated, exact=exact, no_label=raw.no_label, needs_targets=needs_targets)
    checked = {
        name: check(f"{where}: {name}", *raw.splits[name]) for name in SPLITS if name in raw.splits
    }
    if keeps_targets:
        checked = {name: _alike(split, *raw.splits[name]) for name, split in checked.items()}
    check_alike(checked, where)
    kind, classes = described(checked, raw.classes, where, needs_targets=needs_targets)
    splits: dict[str, Split] = {name: checked[name] for name in SPLITS if name in spec.splits}
    if spec.subset is not None:
        splits = {name: draw_subset(s, spec.subset, seed, name) for name, s in splits.items()}
    mean, std = raw.mean, raw.std
    if spec.normalize is not None:
        mean, std = spec.normalize.mean, spec.normalize.std
        _check_normalize(next(iter(splits.values())).x, mean)
    moments = _constants(mean), _constants(std)
    return Dataset(
        splits=splits,
        mean=moments[0],
        std=moments[1],
        classes=classes,
        target_kind=kind,
        vocabulary=raw.vocabulary,
    )


def _check_normalize(x: Nested, mean: Sequence[float]) -> None:
    """Refuse a normalisation of inputs that have no channels, or others."""
    if not isinstance(x, Tensor):
        raise UsageError(
            "data.normalize: the inputs are several arrays, which are taken as they are; "
            "normalise them in the file, or leave normalize out"
        )
    if x.dtype == torch.int64:
        raise UsageError(
            "data.normalize: the inputs are integers, which are taken as they are; store "
            "floats, or leave normalize out"
        )
    channels = x.shape[1] if x.ndim > 1 else 1
    if len(mean) not in (1, channels):
        raise UsageError(
            f"data.normalize: mean has {len(mean)} values; the data have {channels} "
            "channels, so give as many, or one for all"
        )


def _without(raw: RawData, ignored: int) -> RawData:
    if raw.no_label not in (None, ignored):
        raise UsageError(
            f"loss.ignore_index: got {ignored}, but the label for none of these data (no_label) is "
            f"{raw.no_label}; leave one of the two out"
        )
    return replace(raw, no_label=ignored)


def _alike(split: Split, x_raw: Any, y_raw: Any) -> Split:
    """Return a split whose targets are the same tensor where they are inputs."""
    if not isinstance(x_raw, Mapping) or not isinstance(split.x, dict) or split.y is None:
        return split
    x = {name: split.y if x_raw[name] is y_raw else value for name, value in split.x.items()}
    return replace(split, x=x)


def _constants(values: Sequence[float] | None) -> Tensor | None:
    return None if values is None else torch.tensor(list(values), dtype=torch.float64)


def _read(
    spec: schema.DataSpec, root: Path | None, job_folder: Path, needs: naming.Choice
) -> RawData:
    if ":" in spec.dataset:
        arrays = user_code.call(spec.dataset, spec.args, key="data.dataset", job_folder=job_folder)
        where = f"data.dataset: {spec.dataset}"
        if not isinstance(arrays, Mapping):
            raise UsageError(
                f"{where} returned {type(arrays).__name__}; expected a mapping with x_train and "
                "y_train, x_test and y_test, or with train and test"
            )
        return _pairs(naming.by_split(arrays, where), where, arrays, needs)
    allowed = _ARGUMENTS.get(spec.dataset, ())
    for name in spec.args:
        if name not in allowed:
            takes = f"takes {' and '.join(allowed)} only" if allowed else "takes none"
            raise UsageError(f"data.args.{name}: dataset {spec.dataset} {takes}")
    if spec.dataset == "digits":
        return load_digits()
    if spec.dataset in schema.KNOWN:
        return known.known_set(spec.dataset, root, spec.splits)
    if root is None:
        raise UsageError(f"data.root: required for dataset {spec.dataset}")
    if spec.dataset == "arrays":
        choice, where = _choice(spec.args, needs), f"data.root: {root}"
        named = array_files.read(root, choice, _number(spec.args, "pad"))
        return _pairs(named, where, spec.args, choice)
    if spec.dataset == "image_folder":
        return image_folder.folder(root, **spec.args, resize=spec.resize)
    if not spec.args.keys().isdisjoint(tokens.ARGUMENTS):
        return tokens.tokenized(root, spec.splits, spec.args, job_folder)
    return text.text(root, spec.splits, spec.args)


def _pairs(
    batches: Mapping[str, Any], where: str, said: Mapping[str, Any], choice: naming.Choice
) -> RawData:
    """Return inputs and targets of each split, and what is ``said`` of the labels."""
    return RawData(
        splits={split: naming.pair(b, choice, where, split) for split, b in batches.items()},
        classes=_integer(said, "classes", where, least=1),
        no_label=_integer(said, "no_label", where),
    )


def _choice(args: Mapping[str, Any], needs: naming.Choice) -> naming.Choice:
    """Return which arrays of a file are inputs and which are targets."""
    inputs, targets = args.get("inputs"), args.get("targets")
    names = inputs if isinstance(inputs, list) else [inputs]
    if inputs is not None and (
        not names
        or len(set(map(str, names))) < len(names)
        or not all(isinstance(name, str) for name in names)
    ):
        raise UsageError(
            f"data.args.inputs: expected a name, or several in a list, each once, got {inputs!r}"
        )
    if targets is not None and not isinstance(targets, str):
        raise UsageError(f"data.args.targets: expected a name, got {targets!r}")
    return replace(needs, inputs=inputs, targets=targets)


def _number(args: Mapping[str, Any], name: str) -> float | None:
    value = args.get(name)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise UsageError(f"data.args.{name}: expected a number, got {value!r}")


def _integer(
    said: Mapping[str, Any], name: str, where: str, least: int | None = None
) -> int | None:
    value = said.get(name)
    if value is None:
        return None
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or (least is not None and value < least):
        wanted = "an integer" if least is None else f"an integer of at least {least}"
        raise UsageError(f"{where}: {name}: expected {wanted}, got {value!r}")
    return int(value)
