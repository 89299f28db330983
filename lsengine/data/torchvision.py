"""Data sets that torchvision reads, downloaded once for all ranks."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lsengine.data.dataset import RawData
from lsengine.data.image_folder import NETWORK_TIMEOUT_S, POLL_S
from lsengine.errors import UsageError
from lsengine.external import torchvision

log = logging.getLogger(__name__)


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


def torchvision_set(dataset: str, root: Path, splits: Sequence[str]) -> RawData:
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
    cls = getattr(torchvision.torchvision().datasets, known.name)
    found = {}
    for split in splits:
        source = _there(cls, root, split) or _downloaded(cls, known, dataset, root, split)
        found[split] = (_channels_first(source.data), torch.as_tensor(source.targets))
    return RawData(found, known.classes, known.mean, known.std)


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
        socket.setdefaulttimeout(NETWORK_TIMEOUT_S)
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
                time.sleep(POLL_S)
            except OSError as error:
                log.warning("%s cannot be locked (%s); downloading anyway", path, error)
                break
        yield
