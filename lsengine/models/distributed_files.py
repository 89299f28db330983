"""Folders of torch.distributed.checkpoint, read by one process and without running code.

Imports torch.distributed.checkpoint, which takes a second.
"""

from __future__ import annotations

import io
import math
import mmap
import pathlib
import pickle
import warnings
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load

from lsengine import files
from lsengine.errors import UsageError
from lsengine.models import archives, pickles
from lsengine.models.pickle_values import Made, Named, Unsound

# The records that describe a checkpoint, by the module that has them now or had them once.
_NAMES: tuple[str, ...] = (
    "ChunkStorageMetadata",
    "TensorStorageMetadata",
    "BytesStorageMetadata",
    "Metadata",
)
_NAMES += ("MetadataIndex", "StorageMeta", "TensorProperties", "_MEM_FORMAT_ENCODING")
_PATHS = ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath", "Path", "PurePath")
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
        return _tree(folder, tensors)
    except (Exception, CheckpointException) as error:  # whatever a damaged file provokes
        reason = str(error).strip().partition("\n")[0][:200]
        if not isinstance(error, Unsound):
            reason = f"{type(error).__name__}: {reason}"
        reason = "" if reason == "damaged" else f": {reason}"
        raise UsageError(
            f"{key}: {folder} is not a checkpoint of torch.distributed, or damaged{reason}"
        ) from error


def _tree(folder: Path, tensors: bool) -> dict[Any, Any]:
    reader = _Reader(str(folder))
    metadata = reader.read_metadata()
    paths = {n: _path(n, metadata) for n in metadata.state_dict_metadata}
    wanted: dict[str, Any] = {}
    for name, entry in metadata.state_dict_metadata.items():
        if "optim" not in str(paths[name][0]):
            wanted[name] = entry if isinstance(entry, TensorStorageMetadata) else None
    if not tensors:
        wanted = {name: entry for name, entry in wanted.items() if entry is None}
    _examine(folder, metadata, wanted)
    for name, entry in wanted.items():
        if entry is not None:
            wanted[name] = torch.empty(entry.size, dtype=entry.properties.dtype)
    planner = _Planner()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no process group, which is meant
        load(wanted, storage_reader=reader, planner=planner)
    nested: dict[Any, Any] = {}
    for name, value in (wanted | planner.numbers).items():
        *inner, last = paths[name]
        node = nested
        for step in inner:
            node = node.setdefault(step, {})
        node[last] = value
    return nested


def _examine(folder: Path, metadata: Metadata, wanted: Mapping[str, Any]) -> None:
    """Look at what is to be read, before room is made for it.

    Raises:
        Unsound: If a part is not in the folder's files, or they have fewer bytes than its tensors.
        Foreign: If a part names what must not be.
    """
    parts: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for index, stored in metadata.storage_data.items():
        if index.fqn in wanted:
            if stored.transform_descriptors:
                raise Unsound(f"{index.fqn} is compressed")
            parts[stored.relative_path].add((stored.offset, stored.length))
    for name, places in parts.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise Unsound(f"it names a file that is not beside it: {str(name)[:100]}")
        _examine_file(folder / name, places)
    shapes = [(t.size, t.properties.dtype.itemsize) for t in wanted.values() if t is not None]
    needed = sum(math.prod(size) * each for size, each in shapes)
    there = sum(length for places in parts.values() for _, length in places)
    if needed > there:
        raise Unsound(f"its tensors have {needed:,} bytes, and its files {there:,} for them")


def _examine_file(path: Path, places: Collection[tuple[int, int]]) -> None:
    """Look at the parts of one file, each of which is a file of torch's."""
    if not files.is_regular(path):
        raise Unsound(f"no such file: {path.name}")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end = 0
        for start, length in sorted(places):
            if not end <= start <= start + length <= len(data):
                raise Unsound(f"{path.name} has parts that share bytes, or is cut")
            end = start + length
            with memoryview(data) as whole, whole[start:end] as part:
                archives.examined(part)


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
        pickles.walk(content, 0, _Rules(len(content)), len(content))
        metadata = _Unpickler(io.BytesIO(content)).load()
        if not isinstance(metadata, Metadata):
            raise TypeError(f".metadata holds {type(metadata).__name__}")
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


class _Rules:
    """The rules for the description of a checkpoint: records of what is in it.

    Args:
        size: Of the description, in bytes.
    """

    def __init__(self, size: int) -> None:
        self._left = 2 * size

    def name(self, name: str) -> None:
        """Let the library's records pass."""
        module, _, last = name.rpartition(".")
        if not _is_known(module, last):
            raise pickle.UnpicklingError(f"it holds Python objects ({name})")

    def call(self, function: Named, arguments: list[Any]) -> Made:
        """Return a record; what calls copy is limited."""
        copied = [len(item) if isinstance(item, str) else 1 for item in arguments]
        copied += [len(item.facts) for item in arguments if isinstance(item, Made)]
        self._left -= sum(copied)
        if self._left < 0:
            raise Unsound("its records copy more than is in it")
        return Made("record", [])

    def build(self, made: Made, state: Any) -> None:
        """Let records have what they say."""

    def fill(self, made: Made, kind: str) -> None:
        """Refuse records that are filled like dicts or lists, but those of ordered dicts."""
        if kind != "dict":
            raise Unsound("damaged")

    def stored(self, identity: Any) -> Made:
        """Refuse what is stored elsewhere: nothing is."""
        raise Unsound("damaged")


def _is_known(module: str, name: str) -> bool:
    is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
    is_path = module.partition(".")[0] == "pathlib" and name in _PATHS
    return is_dtype or is_path or name in _RECORDS.get(module, ())


class _Unpickler(pickle.Unpickler):
    """Makes the library's records, and refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a record's class, or one of torch's values."""
        if not _is_known(module, name):
            raise pickle.UnpicklingError(f"it holds Python objects ({module}.{name})")
        if name in _PATHS:  # of the folder's old place, perhaps on another system
            return pathlib.PurePosixPath
        return getattr(torch, name) if module == "torch" else super().find_class(module, name)
