"""Data sets that torchvision reads, downloaded once for all ranks."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lsengine import files
from lsengine.data.dataset import RawData
from lsengine.errors import UsageError
from lsengine.external import torchvision

log = logging.getLogger(__name__)
_NETWORK_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """One of torchvision's data sets; `files` is what a user without a network puts into root."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    files: str


def _cifar(classes: int, folder: str) -> _Known:
    files = f"cifar-{classes}-python.tar.gz, or the folder {folder} out of it"
    # The normalisation is that of the networks of Li et al. (2018), whose checkpoints would be
    # wrong with another one.
    mean, std = (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)
    return _Known(name=f"CIFAR{classes}", mean=mean, std=std, classes=classes, files=files)


def _mnist(name: str, mean: float, std: float) -> _Known:
    files = (
        f"{name}/raw/ with train-images-idx3-ubyte, train-labels-idx1-ubyte, "
        "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"
    )
    return _Known(name=name, mean=(mean,), std=(std,), classes=10, files=files)


_KNOWN = {
    "cifar10": _cifar(10, "cifar-10-batches-py"),
    "cifar100": _cifar(100, "cifar-100-python"),
    "mnist": _mnist("MNIST", mean=0.1307, std=0.3081),
    "fashion_mnist": _mnist("FashionMNIST", mean=0.2860, std=0.3530),
}


def torchvision_set(dataset: str, root: Path, splits: Sequence[str]) -> RawData:
    """Load one of torchvision's data sets; download it if it is not there.

    Of all processes that share the folder one downloads, the others wait for it.

    Raises:
        UsageError: If it is not there and cannot be downloaded, or is damaged.
        EnvironmentUnfit: If torchvision cannot be imported.
    """
    known = _KNOWN[dataset]
    cls = getattr(torchvision.torchvision().datasets, known.name)
    loaded = {}
    for split in splits:
        source = _present(cls, root, split) or _downloaded(cls, known, dataset, root, split)
        x = torch.as_tensor(source.data)
        x = x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x.unsqueeze(1)
        loaded[split] = (x, torch.as_tensor(source.targets))
    return RawData(splits=loaded, classes=known.classes, mean=known.mean, std=known.std)


def _present(cls: Any, root: Path, split: str) -> Any:
    """Return a split that is in the root; None if it is not, or not whole."""
    try:
        return cls(str(root), train=split == "train", download=False)
    except RuntimeError:  # what torchvision raises then; if it is another, the download tells
        return None
    except Exception as error:  # whatever a parser stumbles over
        raise UsageError(
            f"data.root: {root} is damaged: {type(error).__name__}: {error}; "
            "remove it to have it downloaded again"
        ) from error


def _downloaded(cls: Any, known: _Known, dataset: str, root: Path, split: str) -> Any:
    files.make_folder(root, "data.root")
    waiting = f"another process that downloads into {root}"
    with files.locked(root / ".download.lock", waiting):
        source = _present(cls, root, split)  # another process may have been faster
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
