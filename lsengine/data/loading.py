"""From a job's section to a data set, whatever its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from lsengine.data import image_folder, torchvision
from lsengine.data.dataset import (
    SPLITS,
    Dataset,
    RawData,
    Split,
    draw_subset,
)
from lsengine.data.digits import load_digits
from lsengine.data.nesting import lone
from lsengine.data.validation import check_alike, described, validated
from lsengine.errors import UsageError
from lsengine.external import user_code
from lsengine.job import schema

_ARGUMENTS = {"arrays": ("classes", "no_label"), "image_folder": image_folder.ARGUMENTS}


def load(
    spec: schema.DataSpec, *, root: Path | None, job_folder: Path, seed: int, exact: bool = False
) -> Dataset:
    """Load the splits that a job asks for.

    The root is absolute: the folder, or the .npz file of ``arrays``.  A subset has at most
    ``spec.subset`` samples of each split, drawn by the seed, the classes in the proportions of the
    whole up to rounding, in the file's order.  With ``exact`` inputs and values to predict of 64
    bits keep them; else they are rounded to float32.

    Raises:
        UsageError: If data are missing, damaged, empty, not finite or shaped wrongly.
        EnvironmentUnfit: If a library that the data set needs is not installed.
    """
    raw = _read(spec, root, job_folder)
    in_root = spec.dataset in ("arrays", "image_folder")
    where = f"data.root: {root}" if in_root else f"data.dataset: {spec.dataset}"
    for name in spec.splits:
        if name not in raw.splits:
            found = f"{where} has: {', '.join(raw.splits) or 'none'}"
            raise UsageError(f"data.splits: {name} is asked for, but {found}; ask for those only")
    present = [name for name in SPLITS if name in raw.splits]
    checked = {
        name: validated(f"{where}: {name}", *raw.splits[name], exact=exact, no_label=raw.no_label)
        for name in present
    }
    check_alike(checked, where)
    kind, classes = described(checked, raw.classes, where)
    splits: dict[str, Split] = {name: checked[name] for name in SPLITS if name in spec.splits}
    if spec.subset is not None:
        splits = {name: draw_subset(s, spec.subset, seed, name) for name, s in splits.items()}
    mean, std = raw.mean, raw.std
    if spec.normalize is not None:
        mean, std = spec.normalize.mean, spec.normalize.std
        x = lone(next(iter(splits.values())).x)
        if x.dtype == torch.int64:
            raise UsageError(
                "data.normalize: the inputs are integers, which are taken as they are; store "
                "floats, or leave normalize out"
            )
        channels = x.shape[1]
        if len(mean) not in (1, channels):
            raise UsageError(
                f"data.normalize: mean has {len(mean)} values; the data have {channels} "
                "channels, so give as many, or one for all"
            )
    constants = {"mean": _constants(mean), "std": _constants(std)}
    return Dataset(splits=splits, **constants, classes=classes, target_kind=kind)


def _constants(values: Sequence[float] | None) -> Tensor | None:
    return None if values is None else torch.tensor(list(values), dtype=torch.float64)


def _read(spec: schema.DataSpec, root: Path | None, job_folder: Path) -> RawData:
    if ":" in spec.dataset:
        arrays = user_code.call(spec.dataset, spec.args, key="data.dataset", job_folder=job_folder)
        if not isinstance(arrays, Mapping):
            raise UsageError(
                f"data.dataset: {spec.dataset} returned {type(arrays).__name__}; expected a "
                "mapping with x_train and y_train, x_test and y_test"
            )
        return _pairs(arrays, f"data.dataset: {spec.dataset}", arrays)
    allowed = _ARGUMENTS.get(spec.dataset, ())
    for name in spec.args:
        if name not in allowed:
            takes = f"takes {' and '.join(allowed)} only" if allowed else "takes none"
            raise UsageError(f"data.args.{name}: dataset {spec.dataset} {takes}")
    if spec.dataset == "digits":
        return load_digits()
    if root is None:
        raise UsageError(f"data.root: required for dataset {spec.dataset}")
    if spec.dataset == "arrays":
        return _arrays(root, spec.args)
    if spec.dataset == "image_folder":
        return image_folder.folder(root, **spec.args, resize=spec.resize)
    return torchvision.torchvision_set(spec.dataset, root, spec.splits)


def _arrays(file: Path, args: Mapping[str, Any]) -> RawData:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UsageError(f"data.root: no such file: {file}; expected an .npz file") from None
    except IsADirectoryError:
        raise UsageError(f"data.root: {file} is a directory; expected an .npz file") from None
    except (OSError, ValueError, EOFError, BadZipFile, AttributeError, TypeError) as error:
        raise UsageError(
            f"data.root: {file} is not a readable .npz file of plain arrays: {error}"
        ) from None
    return _pairs(arrays, f"data.root: {file}", args)


def _pairs(arrays: Mapping[str, Any], where: str, said: Mapping[str, Any]) -> RawData:
    """Pick x_<split> and y_<split>, and what is ``said`` of the labels."""
    classes = _integer(said, "classes", where, least=1)
    no_label = _integer(said, "no_label", where)
    splits = {}
    for name in SPLITS:
        x, y = f"x_{name}", f"y_{name}"
        if (x in arrays) != (y in arrays):
            present, missing = (x, y) if x in arrays else (y, x)
            raise UsageError(f"{where}: has {present}, but no {missing}")
        if x in arrays:
            splits[name] = (arrays[x], arrays[y])
    if not splits:
        names = ", ".join(map(str, arrays)) or "nothing"
        raise UsageError(f"{where}: expected x_train and y_train, found {names}")
    return RawData(splits=splits, classes=classes, no_label=no_label)


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
