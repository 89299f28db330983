"""Files of torch's that lsengine writes for itself, and believes only as they were written.

torch does not look whether bits of its files have changed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lsengine.errors import UsageError
from lsengine.models import checkpoint

log = logging.getLogger(__name__)
_KEY = "content_sha256"


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write numbers, texts and tensors with their digest, whole or not at all.

    Raises:
        EnvironmentUnfit: If the file cannot be written.
    """
    checkpoint.write(path, {**content, _KEY: _digest(content)})


def read(path: Path, *, key: str) -> dict[str, Any]:
    """Return what `write` has written; warn of files of earlier versions, which have no digest.

    Raises:
        UsageError: If it cannot be read, or is not what was written; ``key`` begins the message.
    """
    found = checkpoint.read(path, key=key)
    if not isinstance(found, Mapping):
        raise _damage(path, key, f"it holds a {type(found).__name__}")
    content = {name: value for name, value in found.items() if name != _KEY}
    if _KEY not in found:
        log.warning("%s is of an earlier version: it has no digest that would show damage", path)
    elif found[_KEY] != _digest(content):
        raise _damage(path, key, "it is not what was written")
    return content


def _damage(path: Path, key: str, why: str) -> UsageError:
    advice = "remove it, and give the command that has made it again"
    return UsageError(f"{key}: {path} is damaged: {why}; {advice}")


def _digest(content: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            add((str(value.dtype), *value.shape))
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping):
            add([*value.items()])
        elif isinstance(value, list | tuple):
            digest.update(f"{len(value)}:".encode())
            for item in value:
                add(item)
        else:
            digest.update(f"{value!r},".encode(errors="surrogatepass"))

    add(content)
    return digest.hexdigest()
