"""Formats on disk: what a checkpoint's files hold, as nested dicts, lists, tensors and numbers.

No code in a file is run.  Objects of classes that torch does not know are passed over: a stand-in
without behaviour takes their place.

In all functions ``key`` is the key path of the file in the job, for messages.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from lsengine import files
from lsengine.errors import LsengineError, UsageError
from lsengine.external.optional import library
from lsengine.job.checkpoint_paths import members
from lsengine.models import archives
from lsengine.models.pickle_values import Foreign, Unsound
from lsengine.wording import listed

log = logging.getLogger(__name__)
RESAVE = 'write its parameters alone with torch.save(model.state_dict(), "new.pt")'
_WHOLE = (
    "write them whole with get_model_state_dict(model, "
    "options=StateDictOptions(full_state_dict=True, cpu_offload=True)) and torch.save"
)
# What pickles a NumPy number, such as an accuracy, and describes an array: harmless, and
# not among the things torch allows by itself.
_HARMLESS: list[Any] = [
    np.dtype,
    *(getattr(np.dtypes, name) for name in dir(np.dtypes) if name.endswith("DType")),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
]
_SMALL = 2**24  # bytes of a file
# What takes the place of an object that is filled like this.
_FILLED: dict[str, type] = {"object": object, "dict": OrderedDict, "list": list}


@dataclass(frozen=True, slots=True)
class Content:
    """What a checkpoint holds.

    Attributes:
        tree: As saved, without what was passed over.
        passed_over: Names of the classes whose objects were.
    """

    tree: Any
    passed_over: tuple[str, ...] = ()


def content(path: Path, *, key: str, tensors: bool = True) -> Content:
    """Return what a file or folder holds, on the CPU.

    Without ``tensors`` those that need not be read are left out.

    Raises:
        UsageError: If it cannot be read, is damaged, or is of no format known here.
        EnvironmentUnfit: If a library that its format needs is missing.
    """
    found = members(path, key)
    if found.files != (path,) and found.form != "distributed":
        log.debug("%s: %s is read from %s", key, path, listed(p.name for p in found.files))
    if found.form == "distributed":
        # Its import takes a second, and few need it.
        from lsengine.models import distributed_files

        folder = found.files[0].parent
        return Content(distributed_files.tree(folder, key=key, tensors=tensors))
    parts = []
    for file in found.files:
        if found.form == "safetensors":
            parts.append(Content(_safetensors(file, key) if tensors else _words(file, key)))
        else:
            parts.append(_of_torch(file, key, mapped=not tensors))
    if len(parts) == 1:
        return parts[0]
    tree: dict[str, Any] = {}
    for part in parts:
        own = part.tree if isinstance(part.tree, Mapping) else {}
        twice = [n for n in own if n in tree and isinstance(own[n], Tensor | Mapping)]
        if twice:
            raise UsageError(f"{key}: {path} has {listed(twice)} in two of its files; keep one")
        tree |= own
    return Content(tree, tuple(name for part in parts for name in part.passed_over))


def digest(path: Path, *, key: str = "checkpoint") -> str:
    """Return the SHA-256 (hex) of a checkpoint's file, of several that of their names and digests.

    Raises:
        UsageError: If one cannot be read.
    """
    found = members(path, key)
    if len(found.files) == 1:
        return files.sha256(found.files[0])
    lines = [f"{file.name} {files.sha256(file)}\n" for file in found.files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def beside(path: Path) -> dict[str, Any]:
    """Return the values that Hugging Face's trainer wrote into a checkpoint's folder."""
    state = (path if files.is_folder(path) else path.parent) / "trainer_state.json"
    try:
        found = files.read_json(state)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, UsageError) as error:
        log.warning("%s is left out: %s", state, error)
        return {}
    return found if isinstance(found, dict) else {}


def read(path: Path, *, key: str, mapped: bool = False) -> Any:
    """Return the content of a file of torch's, on the CPU; one with other objects is refused.

    Raises:
        UsageError: If it cannot be read, is damaged, or needs code.
    """
    found = examined(path, key)
    if found.foreign:
        raise UsageError(needs_code(path, key, [*found.foreign][:1]))
    return _load(path, key, found.can_map and mapped, {})


def needs_code(path: Path, key: str, names: list[str]) -> str:
    """Return the message for a file that cannot be read without running what it names."""
    if any(name.rpartition(".")[2] in ("DTensor", "ShardedTensor") for name in names):
        return f"{key}: {path} holds the part of one rank of distributed tensors; {_WHOLE}"
    return (
        f"{key}: {path} holds Python objects, and reading those may run code "
        f"({listed(names)}); load it once where you trust it and {RESAVE}"
    )


def _of_torch(path: Path, key: str, mapped: bool) -> Content:
    """Read a file of torch's, and pass over objects of classes that torch does not know."""
    found = examined(path, key)
    stand_ins = {name: _stand_in(name, _FILLED[kind]) for name, kind in found.foreign.items()}
    return Content(_load(path, key, found.can_map and mapped, stand_ins), tuple(stand_ins))


def examined(path: Path, key: str) -> archives.Found:
    """Return what a file of torch's has in it, once nothing speaks against reading it.

    Raises:
        UsageError: If it cannot be read, is damaged, would take much more memory than it has
            bytes, or needs code.
    """
    if not files.is_regular(path, key):
        raise UsageError(f"{key}: no such file: {path}")
    try:
        state = path.stat()
        return _known(path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    except PermissionError:
        raise UsageError(f"{key}: {path} cannot be read; check its permissions") from None
    except OSError as error:
        raise UsageError(f"{key}: {path} cannot be read: {error.strerror}") from None
    except Foreign as error:
        raise UsageError(needs_code(path, key, [error.name])) from None
    except Unsound as error:
        reason = "" if str(error) == "damaged" else f": {error}"
        raise UsageError(
            f"{key}: {path} is not a checkpoint of torch, or damaged{reason}"
        ) from None


@lru_cache(maxsize=1000)  # a trajectory's checkpoints are read many times
def _known(path: Path, *_: int) -> archives.Found:
    """Look at a file, of these numbers of its place, size and time, once."""
    return archives.examine(path)


def _stand_in(name: str, made: type) -> type:
    """Return a class that takes whatever a file gives it, and makes something empty of it."""

    def new(cls: type, *_: Any, **__: Any) -> Any:
        return object.__new__(cls) if made is object else made()

    def ignore(*_: Any, **__: Any) -> None:
        pass

    shown = ascii(name)[1:-1]  # the name of a class takes no null or half character
    return type(f"<{shown}>", (), {"__new__": new, "__init__": ignore, "__setstate__": ignore})


def _load(path: Path, key: str, mapped: bool, stand_ins: Mapping[str, type]) -> Any:
    """Read a file of torch's that has been looked at."""
    known = [*_HARMLESS, *((cls, name) for name, cls in stand_ins.items())]
    try:
        # What torch leaves of a large file in loops has to go at once.
        is_small = path.stat().st_size < _SMALL
        collection = archives.without_collection() if is_small else contextlib.nullcontext()
        with torch.serialization.safe_globals(known), collection:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:  # other versions of torch may know less
        text = str(error)
        if "torch.distributed.tensor" in text:
            raise UsageError(needs_code(path, key, ["torch.distributed.tensor.DTensor"])) from None
        if "GLOBAL" in text or "global" in text:
            pairs = pairwise(text.replace("`", " ").split())
            blamed = next((w for before, w in pairs if before == "GLOBAL"), "an unsupported type")
            raise UsageError(needs_code(path, key, [blamed])) from None
        raise UsageError(f"{key}: {path} is not a checkpoint of torch, or damaged") from None
    except Exception as error:  # torch raises whatever a damaged file provokes
        _refuse_damaged(error, path, key, "torch")


def _refuse_damaged(error: Exception, path: Path, key: str, library_name: str) -> NoReturn:
    if isinstance(error, LsengineError):
        raise error
    if "TorchScript" in str(error):
        raise UsageError(
            f"{key}: {path} is a TorchScript archive, which holds code; load it once where you "
            f"trust it with torch.jit.load and {RESAVE}"
        ) from None
    reason = str(error).strip().partition("\n")[0][:200]
    raise UsageError(
        f"{key}: {path} is not a checkpoint of {library_name}, or damaged: "
        f"{type(error).__name__}: {reason}"
    ) from error


def _safetensors(path: Path, key: str) -> dict[str, Any]:
    reader = library("safetensors.torch", "safetensors", f"{key}: {path}")
    try:
        return dict(reader.load_file(str(path), device="cpu"))
    except Exception as error:
        _refuse_damaged(error, path, key, "safetensors")


def _words(path: Path, key: str) -> dict[str, Any]:
    """Return the words that a file of safetensors has beside its tensors."""
    reader = library("safetensors", "safetensors", f"{key}: {path}")
    try:
        with reader.safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except Exception as error:
        _refuse_damaged(error, path, key, "safetensors")
