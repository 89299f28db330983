"""Data sets as torchvision reads and downloads them."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lsengine.errors import UsageError
from lsengine.external import torchvision

_NETWORK_TIMEOUT_S = 30.0


def present(name: str, root: Path, split: str) -> tuple[Tensor, Tensor] | None:
    """Return images (N, C, H, W) and labels (N,) of a split; None if it is not there, or not whole.

    Raises:
        UsageError: If it is damaged.
        EnvironmentUnfit: If torchvision cannot be imported.
    """
    cls = getattr(torchvision.torchvision().datasets, name)
    try:
        return _tensors(cls(str(root), train=split == "train", download=False))
    except RuntimeError:  # what torchvision raises then; if it is another, the download tells
        return None
    except Exception as error:  # whatever a parser stumbles over
        raise UsageError(
            f"data.root: {root} is damaged: {type(error).__name__}: {error}; "
            "remove it to have it downloaded again"
        ) from error


def downloaded(name: str, root: Path, split: str) -> tuple[Tensor, Tensor]:
    """Download a data set into the root, and return a split of it as `present` does.

    Raises:
        EnvironmentUnfit: If torchvision cannot be imported.
        Exception: Of any kind, if it cannot be downloaded.
    """
    cls = getattr(torchvision.torchvision().datasets, name)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_NETWORK_TIMEOUT_S)
    try:
        return _tensors(cls(str(root), train=split == "train", download=True))
    finally:
        socket.setdefaulttimeout(before)


def _tensors(source: Any) -> tuple[Tensor, Tensor]:
    x = torch.as_tensor(source.data)
    x = x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x.unsqueeze(1)
    return x, torch.as_tensor(source.targets)
