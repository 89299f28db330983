"""Folders of torch.distributed.checkpoint, read by one process and without running code.

Imports torch.distributed.checkpoint, which takes a second.
"""

from __future__ import annotations

import io
import pathlib
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load

from lsengine.errors import UsageError

# The records that describe a checkpoint, by the module that has them now or had them once.
_NAMES: tuple[str, ...] = (
    "ChunkStorageMetadata",
    "TensorStorageMetadata",
    "BytesStorageMetadata",
    "Metadata",
)
_NAMES += ("MetadataIndex", "StorageMeta", "TensorProperties", "_MEM_FORMAT_ENCODING")
_RECORDS: dict[str, tuple[str, ...]] = {
    "torch.distributed.checkpoint.metadata": _NAMES,
    "torch.distributed._shard.sharded_tensor.metadata": ("TensorProperties", "MEM_FORMAT_ENCODING"),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size",),
    "collections": ("OrderedDict",),
}


def tree(folder: Path, *, key: str, tensors: bool = True) -> dict[Any, Any]:
    """Return tensors and numbers of a checkpoint's folder, nested as they were saved.

    The state of optimizers is left out; without ``tensors`` all tensors are.

    Raises:
        UsageError: With the key, if it is damaged, or needs code.
    """
    try:
        reader = _Reader(str(folder))
        metadata = reader.read_metadata()
        paths = {n: _path(n, metadata) for n in metadata.state_dict_metadata}
        wanted: dict[str, Any] = {}
        for name, entry in metadata.state_dict_metadata.items():
            if "optim" in str(paths[name][0]):
                continue
            if not isinstance(entry, TensorStorageMetadata):
                wanted[name] = None
            elif tensors:
                wanted[name] = torch.empty(entry.size, dtype=entry.properties.dtype)
        planner = _Planner()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no process group, which is meant
            load(wanted, storage_reader=reader, planner=planner)
    except Exception as error:  # torch raises whatever a damaged file provokes
        reason = str(error).strip().partition("\n")[0][:200]
        raise UsageError(
            f"{key}: {folder} is not a checkpoint of torch.distributed, or damaged: "
            f"{type(error).__name__}: {reason}"
        ) from error
    nested: dict[Any, Any] = {}
    for name, value in (wanted | planner.numbers).items():
        *inner, last = paths[name]
        node = nested
        for step in inner:
            node = node.setdefault(step, {})
        node[last] = value
    return nested


def _path(name: str, metadata: Metadata) -> tuple[Any, ...]:
    """Return where a value was in what was saved."""
    where = metadata.planner_data if isinstance(metadata.planner_data, Mapping) else {}
    return tuple(where.get(name, (name,)))


class _Planner(DefaultLoadPlanner):  # type: ignore[misc, unused-ignore]
    """Reads what is no tensor as data only."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[str, Any] = {}

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Take numbers and words, pass over objects."""
        try:
            found = torch.load(value, weights_only=True)
        except pickle.UnpicklingError:
            return
        self.numbers[read_item.dest_index.fqn] = found


class _Reader(FileSystemReader):  # type: ignore[misc, unused-ignore]
    """Reads the description of a checkpoint as data only."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Return the description, made of nothing but the library's own records."""
        content = Path(self.path, ".metadata").read_bytes()
        metadata = _Unpickler(io.BytesIO(content)).load()
        if not isinstance(metadata, Metadata):
            raise TypeError(f".metadata holds {type(metadata).__name__}")
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


class _Unpickler(pickle.Unpickler):
    """Makes the library's records, and refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a record's class, or one of torch's values."""
        if module == "pathlib":  # of the folder's old place, perhaps on another system
            return pathlib.PurePosixPath
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if name in _RECORDS.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds Python objects ({module}.{name})")
