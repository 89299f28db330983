"""The fixed data: whole splits as tensors, loaded once, the same samples every time.

There is no loader: a split is one tensor of raw inputs and one of labels, small enough to
stay on the device.  `normalized` turns the raw inputs into what the network sees.

Shapes: N samples, C channels, H rows, W columns, F features, K values to predict.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsengine import images, schema
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.models import external

SPLITS = ("train", "test")
_DIGITS_MEAN, _DIGITS_STD = 0.3059, 0.3765  # of the training split
_DIGITS_TEST = 360
_LARGEST_LABEL = 1_000_000  # beyond this a label is surely something else


@dataclass(frozen=True, slots=True)
class Split:
    """All samples of one split.

    Attributes:
        x: Inputs as stored: uint8 images (N, C, H, W), or float32 (N, ...) taken as is.
        y: Labels, int64 (N,), or values to predict, float32 (N, K).
    """

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Dataset:
    """The splits a job asks for.

    Attributes:
        splits: By name, ``train`` before ``test``.
        mean: Of each channel on the scale of [0, 1], float64 (C,) or (1,); None for none.
        std: Likewise.
        classes: Number of classes; None if the data are no classification.
    """

    splits: dict[str, Split]
    mean: Tensor | None
    std: Tensor | None
    classes: int | None

    @property
    def channels(self) -> int:
        """Channels of images, else the size of the first axis of a sample."""
        return int(self._x.shape[1])

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of images; None if the inputs are not images."""
        return (int(self._x.shape[2]), int(self._x.shape[3])) if self._x.ndim == 4 else None

    @property
    def outputs(self) -> int:
        """Outputs a network needs: the classes, or the values to predict."""
        if self.classes is not None:
            return self.classes
        return int(next(iter(self.splits.values())).y.shape[1])

    @property
    def _x(self) -> Tensor:
        return next(iter(self.splits.values())).x

    @cached_property
    def sha256(self) -> str:
        """SHA-256 (hex) of names, types, shapes and little-endian bytes of all splits."""
        digest = hashlib.sha256()
        for name in sorted(self.splits):
            for part in (self.splits[name].x, self.splits[name].y):
                array = part.numpy()
                array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
                digest.update(f"{name} {array.dtype.name} {[*array.shape]}\n".encode())
                digest.update(array.data)
        return digest.hexdigest()


def normalized(dataset: Dataset, split: str, dtype: torch.dtype) -> Tensor:
    """Return the inputs of a split as the network sees them, (N, ...) in ``dtype``."""
    return standardized(dataset.splits[split].x, dataset, dtype)


def standardized(x: Tensor, dataset: Dataset, dtype: torch.dtype) -> Tensor:
    """Scale bytes to [0, 1], then subtract the data set's mean and divide by its std.

    Args:
        x: Raw inputs (N, ...) on any device; not modified.
        dataset: Where they are from.
        dtype: Of the result; computed in float64 for float64, else in float32.
    """
    working = torch.float64 if dtype == torch.float64 else torch.float32
    out = x.to(working, copy=True)
    if x.dtype == torch.uint8:
        out.div_(255)
    if dataset.mean is not None and dataset.std is not None:
        shape = (-1, *(1,) * (x.ndim - 2))
        out.sub_(dataset.mean.to(working).to(x.device).reshape(shape))
        out.div_(dataset.std.to(working).to(x.device).reshape(shape))
    return out.to(dtype)


def load(spec: schema.Data, *, root: Path | None, beside: Path, seed: int) -> Dataset:
    """Load the splits that a job asks for.

    Args:
        spec: The job's section.
        root: Its ``root``, made absolute: the folder, or the .npz file of ``arrays``.
        beside: The job file's folder, where a module of the user's is looked for.
        seed: Of the draw of a subset: at most ``spec.subset`` samples of each split, the
            classes in the proportions of the whole up to rounding, in the file's order.

    Raises:
        UsageError: If data are missing, damaged, empty, not finite or shaped wrongly.
        EnvironmentUnfit: If a library that the data set needs is not installed.
    """
    raw = _read(spec, root, beside)
    where = _where(spec, root)
    for name in spec.splits:
        if name not in raw.splits:
            have = ", ".join(raw.splits) or "none"
            raise UsageError(
                f"data.splits: {name} is asked for, but {where} has: {have}; ask for those only"
            )
    checked = {
        name: _checked(f"{where}: {name}", *raw.splits[name])
        for name in SPLITS
        if name in raw.splits
    }
    _check_alike(checked, where)
    classes = _classes(checked, raw.classes, where)
    splits: dict[str, Split] = {name: checked[name] for name in SPLITS if name in spec.splits}
    if spec.subset is not None:
        splits = {name: _subset(s, spec.subset, seed, name) for name, s in splits.items()}
    mean, std = raw.mean, raw.std
    if spec.normalize is not None:
        mean, std = spec.normalize.mean, spec.normalize.std
        channels = next(iter(splits.values())).x.shape[1]
        if len(mean) not in (1, channels):
            raise UsageError(
                f"data.normalize: mean has {len(mean)} values; the data have {channels} "
                "channels, so give as many, or one for all"
            )
    return Dataset(splits, _constants(mean), _constants(std), classes)


def _constants(values: Sequence[float] | None) -> Tensor | None:
    return None if values is None else torch.tensor(list(values), dtype=torch.float64)


def _where(spec: schema.Data, root: Path | None) -> str:
    """Return the key path and the name of the source, to start messages with."""
    if spec.dataset in ("arrays", "image_folder"):
        return f"data.root: {root}"
    return f"data.dataset: {spec.dataset}"


def _read(spec: schema.Data, root: Path | None, beside: Path) -> images.Raw:
    if ":" in spec.dataset:
        found = external.call(spec.dataset, spec.args, key="data.dataset", beside=beside)
        if not isinstance(found, Mapping):
            raise UsageError(
                f"data.dataset: {spec.dataset} returned {type(found).__name__}; expected a "
                "mapping with x_train and y_train, x_test and y_test"
            )
        return _pairs(found, f"data.dataset: {spec.dataset}", found.get("classes"))
    for name in spec.args:
        if spec.dataset != "arrays" or name != "classes":
            takes = "takes classes only" if spec.dataset == "arrays" else "takes none"
            raise UsageError(f"data.args.{name}: dataset {spec.dataset} {takes}")
    if spec.dataset == "digits":
        return _digits()
    if root is None:
        raise UsageError(f"data.root: required for dataset {spec.dataset}")
    if spec.dataset == "arrays":
        return _arrays(root, spec.args.get("classes"))
    if spec.dataset == "image_folder":
        return images.folder(root)
    return images.torchvision_set(spec.dataset, root, spec.splits)


def _digits() -> images.Raw:
    """Return scikit-learn's 1,797 digits, 1x8x8 in [0, 1], split once and for all."""
    table = torch.from_numpy(_digits_table())
    x = table[:, :-1].reshape(-1, 1, 8, 8).to(torch.float32).div_(16)
    y = table[:, -1].to(torch.int64)
    test = torch.zeros(len(y), dtype=torch.bool)
    test[_stratified(y, _DIGITS_TEST, torch.Generator().manual_seed(0))] = True
    splits = {"train": (x[~test], y[~test]), "test": (x[test], y[test])}
    return images.Raw(splits, 10, (_DIGITS_MEAN,), (_DIGITS_STD,))


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


def _arrays(file: Path, classes: Any) -> images.Raw:
    try:
        with np.load(file, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UsageError(f"data.root: no such file: {file}; expected an .npz file") from None
    except IsADirectoryError:
        raise UsageError(f"data.root: {file} is a directory; expected an .npz file") from None
    except (OSError, ValueError, EOFError, BadZipFile, AttributeError, TypeError) as error:
        raise UsageError(
            f"data.root: {file} is not a readable .npz file of plain arrays: {error}"
        ) from None
    return _pairs(found, f"data.root: {file}", classes)


def _pairs(found: Mapping[str, Any], where: str, classes: Any) -> images.Raw:
    """Pick x_<split> and y_<split>."""
    if classes is not None and (
        isinstance(classes, bool) or not isinstance(classes, int) or classes < 1
    ):
        raise UsageError(f"{where}: classes: expected an integer of at least 1, got {classes!r}")
    splits = {}
    for name in SPLITS:
        there = [key for key in (f"x_{name}", f"y_{name}") if key in found]
        if len(there) == 1:
            missing = f"y_{name}" if there[0].startswith("x") else f"x_{name}"
            raise UsageError(f"{where}: has {there[0]}, but no {missing}")
        if there:
            splits[name] = (found[f"x_{name}"], found[f"y_{name}"])
    if not splits:
        names = ", ".join(map(str, found)) or "nothing"
        raise UsageError(f"{where}: expected x_train and y_train, found {names}")
    return images.Raw(splits, classes)


def _checked(where: str, x_raw: Any, y_raw: Any) -> Split:
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
    return Split(_inputs(where, x), _labels(where, y))


def _tensor(where: str, raw: Any) -> Tensor:
    try:
        if isinstance(raw, Tensor):
            return raw.detach().cpu()
        array = np.asarray(raw)
        return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{where}: not an array of numbers: {error}") from None


def _inputs(where: str, x: Tensor) -> Tensor:
    if x.dtype == torch.uint8:
        if x.ndim != 4:
            raise UsageError(
                f"{where}: bytes are images (N, C, H, W), but the inputs have shape "
                f"{[*x.shape]}; reshape them, or store floats"
            )
        if x.shape[3] in (1, 3, 4) and x.shape[1] >= 8:  # more likely rows than channels
            raise UsageError(
                f"{where}: the inputs have shape {[*x.shape]}, channels last; expected "
                "(N, C, H, W): transpose them"
            )
        return x.contiguous()
    if not x.is_floating_point():
        raise UsageError(
            f"{where}: inputs are {_type(x)}; expected floats, or uint8 images (N, C, H, W)"
        )
    x = x.to(torch.float32).contiguous()
    if not bool(torch.isfinite(x).all()):
        bad = (~torch.isfinite(x.flatten(1)).all(1)).nonzero().flatten()
        raise UsageError(
            f"{where}: {len(bad)} of {len(x)} inputs have NaN or infinite values, the "
            f"first at index {int(bad[0])}; clean them first"
        )
    return x


def _labels(where: str, y: Tensor) -> Tensor:
    if y.is_floating_point():
        if not bool(torch.isfinite(y).all()):
            raise UsageError(f"{where}: labels have NaN or infinite values")
        return y.to(torch.float32).reshape(len(y), -1).contiguous()
    if y.is_complex() or y.ndim != 1:
        raise UsageError(
            f"{where}: labels are {_type(y)} of shape {[*y.shape]}; expected integers "
            "(N,), or floats (N, K) to predict"
        )
    return y.to(torch.int64).contiguous()


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_alike(splits: Mapping[str, Split], where: str) -> None:
    if len(splits) < 2:
        return
    train, test = (splits[name] for name in SPLITS)
    if train.x.shape[1:] != test.x.shape[1:] or train.x.dtype != test.x.dtype:
        raise UsageError(
            f"{where}: the splits differ: train inputs are {_type(train.x)} "
            f"{[*train.x.shape[1:]]} per sample, test inputs {_type(test.x)} "
            f"{[*test.x.shape[1:]]}"
        )
    if train.y.dtype != test.y.dtype or train.y.shape[1:] != test.y.shape[1:]:
        raise UsageError(
            f"{where}: the splits differ: train labels are {_type(train.y)} "
            f"{[*train.y.shape]}, test labels {_type(test.y)} {[*test.y.shape]}"
        )


def _classes(splits: Mapping[str, Split], declared: int | None, where: str) -> int | None:
    """Return the number of classes, from all splits of the source, asked for or not."""
    if next(iter(splits.values())).y.is_floating_point():
        return None
    allowed = declared if declared is not None else _LARGEST_LABEL
    for name, split in splits.items():
        smallest, largest = int(split.y.min()), int(split.y.max())
        if smallest < 0 or largest >= allowed:
            odd = smallest if smallest < 0 else largest
            raise UsageError(f"{where}: {name} has the label {odd}; expected 0 to {allowed - 1}")
    return declared or 1 + max(int(split.y.max()) for split in splits.values())


def _subset(split: Split, samples: int, seed: int, name: str) -> Split:
    if samples >= len(split.y):
        return split
    digest = hashlib.sha256(f"subset {seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    chosen = _stratified(split.y, samples, generator)
    return Split(split.x[chosen].contiguous(), split.y[chosen].contiguous())


def _stratified(y: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Return sorted indices of a draw that has the classes in the proportions of all.

    Shares are rounded down and what is left goes to the largest remainders.  Values to
    predict have no classes: the draw is then uniform.
    """
    if y.is_floating_point():
        return torch.randperm(len(y), generator=generator)[:samples].sort().values
    labels, counts = y.unique(return_counts=True)
    shares = (counts * samples) // len(y)
    remainders = (counts * samples) % len(y)
    left = samples - int(shares.sum())
    shares[remainders.argsort(descending=True, stable=True)[:left]] += 1
    chosen = []
    for label, share in zip(labels, shares.tolist(), strict=True):
        members = (y == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator)
        chosen.append(members[order[:share]])
    return torch.cat(chosen).sort().values
