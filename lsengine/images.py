"""Image data sets on disk: torchvision's, and folders of image files.

Torchvision is imported only for its own data sets; pillow only for folders.

Shapes: N samples, C channels, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lsengine import decoded
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.models import external

log = logging.getLogger(__name__)

_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
_POLL_S = 0.5
_NETWORK_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Raw:
    """Unchecked splits and what is known about them.

    Attributes:
        splits: Inputs and labels by name; arrays or tensors.
        classes: Number of classes, where the source says it.
        mean: Of each channel on the scale of [0, 1]; the data set's usual normalisation.
        std: Likewise.
    """

    splits: dict[str, tuple[Any, Any]]
    classes: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """One of torchvision's data sets.

    Attributes:
        name: Torchvision's class.
        files: What a user without a network puts into the root.
    """

    name: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    files: str


# The normalisation of CIFAR is that of the networks of Li et al. (2018), whose checkpoints
# would be wrong with another one.
_CIFAR_MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
_CIFAR_STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)
_KNOWN = {
    "cifar10": _Known(
        *("CIFAR10", 10, _CIFAR_MEAN, _CIFAR_STD),
        "cifar-10-python.tar.gz, or the folder cifar-10-batches-py out of it",
    ),
    "cifar100": _Known(
        *("CIFAR100", 100, _CIFAR_MEAN, _CIFAR_STD),
        "cifar-100-python.tar.gz, or the folder cifar-100-python out of it",
    ),
    "mnist": _Known(
        *("MNIST", 10, (0.1307,), (0.3081,)),
        "MNIST/raw/ with train-images-idx3-ubyte, train-labels-idx1-ubyte, "
        "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte",
    ),
    "fashion_mnist": _Known(
        *("FashionMNIST", 10, (0.2860,), (0.3530,)),
        "FashionMNIST/raw/ with train-images-idx3-ubyte, train-labels-idx1-ubyte, "
        "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte",
    ),
}


def torchvision_set(dataset: str, root: Path, splits: Sequence[str]) -> Raw:
    """Load one of torchvision's data sets; download it if it is not there.

    Of all processes that share the folder one downloads, the others wait for it.

    Args:
        dataset: Its name in a job.
        root: The folder it is in, or is downloaded to.
        splits: The splits to load.

    Raises:
        UsageError: If it is not there and cannot be downloaded, or is damaged.
        EnvironmentUnfit: If torchvision cannot be imported.
    """
    known = _KNOWN[dataset]
    cls = getattr(external.torchvision().datasets, known.name)
    found = {}
    for split in splits:
        source = _there(cls, root, split) or _downloaded(cls, known, dataset, root, split)
        found[split] = (_channels_first(source.data), torch.as_tensor(source.targets))
    return Raw(found, known.classes, known.mean, known.std)


def _channels_first(data: Any) -> Tensor:
    x = torch.as_tensor(data)
    return x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x.unsqueeze(1)


def _there(cls: Any, root: Path, split: str) -> Any:
    try:
        return cls(str(root), train=split == "train", download=False)
    except RuntimeError as error:
        if "not found" in str(error):  # "... or corrupted": the download tells which
            return None
        raise UsageError(f"data.root: {root}: {error}") from error
    except Exception as error:  # whatever a parser stumbles over
        raise UsageError(
            f"data.root: {root} is damaged: {type(error).__name__}: {error}; "
            "remove it to have it downloaded again"
        ) from error


def _downloaded(cls: Any, known: _Known, dataset: str, root: Path, split: str) -> Any:
    with _locked(root):
        source = _there(cls, root, split)  # another process may have been faster
        if source is not None:
            return source
        log.info("downloading %s into %s", dataset, root)
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_NETWORK_TIMEOUT_S)
        try:
            return cls(str(root), train=split == "train", download=True)
        except Exception as error:  # no network, no space, wrong checksum, ...
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UsageError(
                f"data.root: {dataset} is not (or not whole) in {root}, and downloading it "
                f"failed: {reason}; without a network put there {known.files}"
            ) from error
        finally:
            socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Let one process at a time into the context; the lock dies with its process."""
    path = root / ".download.lock"
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise UsageError(
            f"data.root: the data set is not in {root}, and nothing can be written there: {error}"
        ) from None
    with file:
        waiting = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    log.info("waiting for another process that downloads into %s", root)
                waiting = True
                time.sleep(_POLL_S)
            except OSError as error:
                log.warning("%s cannot be locked (%s); downloading anyway", path, error)
                break
        yield


def folder(root: Path) -> Raw:
    """Load ``root/train/<class>/*`` and ``root/test/<class>/*`` (or ``val``).

    A root that holds the class folders itself is a training split.  Classes are numbered in
    the order of their names.  All images have one size; grey ones have one channel if all
    images of the root are grey, else everything is converted to RGB.

    Raises:
        UsageError: If there are no images, they differ in size, or one cannot be read.
        EnvironmentUnfit: If pillow is not installed.
    """
    if not root.is_dir():
        raise UsageError(f"data.root: no such folder: {root}; expected train/<class>/*.png in it")
    found = {"train": root / "train", "test": root / "test"}
    if not found["test"].is_dir():
        found["test"] = root / "val"
    found = {name: path for name, path in found.items() if path.is_dir()}
    found = found or {"train": root}
    folders = {name: _subfolders(path) for name, path in found.items()}
    classes = sorted({name for inner in folders.values() for name in inner})
    for split, inner in folders.items():
        if missing := [name for name in classes if name not in inner]:
            raise UsageError(
                f"data.root: {found[split]} has no folder {missing[0]}; every split needs "
                f"a folder for each of the {len(classes)} classes"
            )
    files = {
        split: [(file, label) for label, name in enumerate(classes) for file in _files(inner[name])]
        for split, inner in folders.items()
    }
    if not classes or not all(files.values()):
        empty = next((found[s] for s in files if not files[s]), root)
        raise UsageError(
            f"data.root: no images in {empty}; expected <class>/*.png or another of "
            f"{', '.join(_ENDINGS)}"
        )
    paths = {split: [file for file, _ in rows] for split, rows in files.items()}
    images = decoded.pixels(root, paths, lambda: _decoded(paths))
    splits = {
        split: (
            torch.from_numpy(images[split]).permute(0, 3, 1, 2).contiguous(),
            torch.tensor([label for _, label in rows]),
        )
        for split, rows in files.items()
    }
    return Raw(splits, len(classes))


def _subfolders(path: Path) -> dict[str, Path]:
    entries = (p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    return {p.name: p for p in entries}


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.suffix.lower() in _ENDINGS)


def _decoded(paths: Mapping[str, Sequence[Path]]) -> decoded.Pixels:
    """Decode the image files of all splits, (N, H, W, C), of one size and number of channels."""
    every = {split: [_decode(file) for file in files] for split, files in paths.items()}
    pairs = [pair for s, files in paths.items() for pair in zip(files, every[s], strict=True)]
    first, shape = pairs[0][0], pairs[0][1].shape[:2]
    for file, pixels in pairs:
        if pixels.shape[:2] != shape:
            height, width = pixels.shape[:2]
            raise UsageError(
                f"data.root: {file} is {height}x{width}, but {first} is {shape[0]}x{shape[1]}; "
                "all images must have one size"
            )
    channels = 3 if any(pixels.ndim == 3 for _, pixels in pairs) else 1
    return {
        split: np.stack(
            [
                np.broadcast_to(p if p.ndim == 3 else p[..., None], (*shape, channels))
                for p in images
            ]
        )
        for split, images in every.items()
    }


def _decode(file: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    try:
        from PIL import Image
    except ImportError as error:
        raise EnvironmentUnfit(
            f"data.dataset: image_folder needs pillow, which cannot be imported: {error}"
        ) from None
    try:
        with Image.open(file) as image:
            grey = image.mode in ("1", "L")
            return np.asarray(image.convert("L" if grey else "RGB"))
    except OSError as error:
        raise UsageError(f"data.root: {file} is not a readable image: {error}") from None
