"""The data sets that have a name: CIFAR and MNIST, in whichever form they are there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lsengine import files
from lsengine.data import array_files, idx, torchvision
from lsengine.data.dataset import RawData
from lsengine.data.naming import TARGETS, Choice
from lsengine.data.validation import as_tensor
from lsengine.errors import EnvironmentUnfit, UsageError

log = logging.getLogger(__name__)
_SUFFIXES = (".npz", ".safetensors")
_LOCK = ".download.lock"
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What is known of a data set.

    Attributes:
        name: torchvision's class.
        shape: Channels, rows and columns of an image.
        mean, std: Of each channel on the scale of [0, 1].
        folders: Where MNIST's files may lie in the root; nothing if it has none of these.
        package: The folder of a Debian package.
        files: What a user puts into the root where nothing is downloaded.
    """

    name: str
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    files: str
    folders: tuple[str, ...] = ()
    package: Path | None = None


def _cifar(classes: int, folder: str) -> _Known:
    # The normalisation is that of the networks of Li et al. (2018), whose checkpoints would be
    # wrong with another one.
    return _Known(
        name=f"CIFAR{classes}",
        shape=(3, 32, 32),
        mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
        std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
        classes=classes,
        files=f"cifar-{classes}-python.tar.gz, or with the folder {folder} out of it",
    )


def _mnist(name: str, mean: float, std: float, package: Path | None = None) -> _Known:
    return _Known(
        name=name,
        shape=(1, idx.SIDE, idx.SIDE),
        mean=(mean,),
        std=(std,),
        classes=10,
        files=f"{', '.join(idx.FILES)}, each gzipped (.gz) or not, or all of them in {name}/raw",
        folders=("", "raw", f"{name}/raw"),
        package=package,
    )


_KNOWN = {
    "cifar10": _cifar(10, "cifar-10-batches-py"),
    "cifar100": _cifar(100, "cifar-100-python"),
    "mnist": _mnist("MNIST", mean=0.1307, std=0.3081),
    "fashion_mnist": _mnist("FashionMNIST", mean=0.2860, std=0.3530, package=_DEBIAN),
}


def known_set(dataset: str, root: Path | None, splits: Sequence[str]) -> RawData:
    """Load a known data set: the same numbers and labels whatever form it has.

    The root is a file with ``x_train`` and so on; or a folder with MNIST's files, or with what
    torchvision reads.  Debian's package is found without one.  What is nowhere is downloaded
    into the root.  Of all processes that share it one downloads, the others wait for it.

    Raises:
        UsageError: If it is not there and cannot be downloaded, is damaged, or is something else.
        EnvironmentUnfit: If torchvision is needed and cannot be imported.
    """
    known = _KNOWN[dataset]
    if root is not None and _is_file(dataset, known, root):
        loaded = _of_file(dataset, known, root, splits)
    else:
        loaded = {split: _of_folder(dataset, known, root, split) for split in splits}
    return RawData(splits=loaded, classes=known.classes, mean=known.mean, std=known.std)


def _is_file(dataset: str, known: _Known, root: Path) -> bool:
    """Whether the root is a file of arrays; refuse other files."""
    if files.is_folder(root):
        return False
    is_there, has_arrays = files.is_regular(root, "data.root"), root.suffix in _SUFFIXES
    if is_there != has_arrays:
        found = "is no file of arrays" if is_there else "is not there"
        raise UsageError(f"data.root: {root} {found}; for {dataset} {_ways(known)}")
    return is_there


def _ways(known: _Known) -> str:
    """Return how to have a data set without a network."""
    package = "install Debian's package dataset-fashion-mnist, or " if known.package else ""
    return (
        f"{package}name a folder with {known.files}; or an .npz file with x_train, y_train, "
        "x_test and y_test"
    )


def _of_file(dataset: str, known: _Known, root: Path, splits: Sequence[str]) -> dict[str, Pair]:
    named = array_files.read(root, Choice(), None)
    where = f"data.root: {root}"
    return {
        split: _pair(where, dataset, known, split, named[split])
        for split in splits
        if split in named
    }


def _pair(where: str, dataset: str, known: _Known, split: str, arrays: object) -> Pair:
    """Return images, channels first, and labels of the arrays of a split."""
    named = arrays if isinstance(arrays, dict) else {}
    target = next((name for name in TARGETS if name in named), "")
    if "x" not in named or not target:
        raise UsageError(f"{where}: {dataset} needs x_{split} and y_{split}, which it has not")
    x = as_tensor(f"{where}: x_{split}", named["x"])
    y = as_tensor(f"{where}: {target}_{split}", named[target])
    c, h, w = known.shape
    orders: dict[tuple[int, ...], Tensor]
    orders = {(c, h, w): x, (h, w, c): x.movedim(-1, 1)} if x.ndim == 4 else {}
    if c == 1 and x.ndim == 3:
        orders[h, w] = x.unsqueeze(1)
    images = orders.get(tuple(x.shape[1:]))
    if images is None or x.dtype != torch.uint8:
        raise UsageError(
            f"{where}: x_{split} is {_described(x)}; {dataset} has uint8 [N, {c}, {h}, {w}] or "
            f"[N, {h}, {w}, {c}]; dataset: arrays takes others"
        )
    if y.shape[1:] not in ((), (1,)) or y.is_floating_point() or y.is_complex():
        raise UsageError(f"{where}: {target}_{split} is {_described(y)}; expected integers [N]")
    return images.contiguous(), y.flatten()


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {[*tensor.shape]}"


def _of_folder(dataset: str, known: _Known, root: Path | None, split: str) -> Pair:
    found = None if root is None else _present(dataset, known, root, split)
    if found is None and known.package is not None:
        found = idx.read([known.package], split)
    if found is not None:
        return found
    if root is not None:
        return _downloaded(dataset, known, root, split)
    if known.package is None:
        raise UsageError(f"data.root: required for dataset {dataset}")
    raise UsageError(
        f"data.root: {dataset} is not in {known.package}, and no root is given; {_ways(known)}; "
        "or a folder to download into"
    )


def _present(dataset: str, known: _Known, root: Path, split: str) -> Pair | None:
    """Return a split that is in the root; None if it is not, or not whole."""
    try:
        return _read(dataset, known, root, split)
    except UsageError:
        if files.has_gone(root / _LOCK):
            raise
    with _locked(root):  # another process may be writing what looks damaged
        return _read(dataset, known, root, split)


def _read(dataset: str, known: _Known, root: Path, split: str) -> Pair | None:
    if known.folders:
        return idx.read([root / folder for folder in known.folders], split)
    with _needing(dataset, known, root):
        return torchvision.present(known.name, root, split)


def _downloaded(dataset: str, known: _Known, root: Path, split: str) -> Pair:
    files.make_folder(root, "data.root")
    with _locked(root):
        found = _read(dataset, known, root, split)  # another process may have been faster
        if found is not None:
            return found
        try:
            with _needing(dataset, known, root):
                log.info("downloading %s into %s", dataset, root)
                return torchvision.downloaded(known.name, root, split)
        except EnvironmentUnfit:
            raise
        except Exception as error:  # no network, no space, wrong checksum, ...
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UsageError(
                f"data.root: {dataset} is not (or not whole) in {root}, and downloading it "
                f"failed: {reason}; without a network {_ways(known)}"
            ) from error


@contextmanager
def _needing(dataset: str, known: _Known, root: Path) -> Iterator[None]:
    """Say of a missing torchvision what does without it."""
    try:
        yield
    except EnvironmentUnfit as error:
        raise EnvironmentUnfit(
            f"data.root: for {dataset} in {root} torchvision is needed: {error}; without it "
            f"{_ways(known)}"
        ) from None


def _locked(root: Path) -> AbstractContextManager[bool]:
    return files.locked(root / _LOCK, f"another process that downloads into {root}")
