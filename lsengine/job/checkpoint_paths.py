"""Which files a checkpoint is: a file alone, or those of a folder that another program wrote."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lsengine import files
from lsengine.errors import UsageError
from lsengine.wording import listed

Form = Literal["torch", "safetensors", "distributed"]

_INDEX = ".index.json"
_MOST_OF_A_NAME = 255
_STEMS = ("model", "pytorch_model", "diffusion_pytorch_model", "adapter_model")
_SUFFIXES = (".safetensors", ".bin")
_TORCH = (".pt", ".pth", ".ckpt", ".bin", ".t7", ".tar", ".safetensors")
_ZERO = "convert it with the zero_to_fp32.py that DeepSpeed puts beside it"


@dataclass(frozen=True, slots=True)
class Members:
    """The files that hold a checkpoint's parameters, and how they are written.

    Attributes:
        form: How each file is to be read.
        files: The files; of a distributed checkpoint the first is ``.metadata``.
    """

    form: Form
    files: tuple[Path, ...]


def absolute(source: Path, written: str) -> Path:
    """Return a path that a job writes, taken from the folder of the job."""
    # Not `resolve`: a link to a folder of checkpoints should stay what the user wrote.
    path = Path(written)
    with contextlib.suppress(RuntimeError):  # no such user: then "~" is part of a name
        path = path.expanduser()
    return Path(os.path.normpath(source.absolute().parent / path))


def members(path: Path, key: str) -> Members:
    """Return the files of a checkpoint, which need not exist if the path is none of a folder's.

    A folder may be one of Hugging Face, Accelerate, DeepSpeed or torch.distributed.checkpoint.

    Raises:
        UsageError: With the key, if it is a folder that holds no checkpoint, or an index
            whose files are missing.
    """
    try:
        return _members(path)
    except UsageError as error:
        raise UsageError(f"{key}: {error}") from None


def problem(path: Path) -> str:
    """Return what keeps a folder or an index from being a checkpoint, empty if nothing does."""
    try:
        _members(path)
    except UsageError as error:
        return str(error)
    return ""


def _members(path: Path) -> Members:
    if files.is_folder(path):
        try:
            return _of_folder(path)
        except OSError as error:  # a folder whose files nobody may see
            raise UsageError(f"{path} cannot be looked at: {error.strerror}") from None
    is_there = files.is_regular(path)
    if path.name.endswith(_INDEX):
        if not is_there:
            raise UsageError(f"no such file: {path}")
        return _of_index(path)
    form: Form = "safetensors" if _is_safetensors(path) else "torch"
    return Members(form, (path,))


def _of_folder(folder: Path, *, is_inner: bool = False) -> Members:
    for suffix in _SUFFIXES:
        for stem in _STEMS:
            for name in (f"{stem}{suffix}", f"{stem}{suffix}{_INDEX}"):
                if (folder / name).is_file():
                    return _members(folder / name)
    if (folder / ".metadata").is_file():
        shards = sorted(folder.glob("*.distcp"))
        if not shards:
            raise UsageError(f"{folder} has .metadata, but no .distcp file; was it copied whole?")
        return Members("distributed", (folder / ".metadata", *shards))
    for inner in () if is_inner else _inner(folder):
        return _of_folder(inner, is_inner=True)
    return _of_deepspeed(folder)


def _inner(folder: Path) -> Iterator[Path]:
    """Yield the folder within a folder that holds the parameters."""
    fsdp = folder / "pytorch_model_fsdp_0"
    if (fsdp / ".metadata").is_file():
        yield fsdp
    latest = folder / "latest"
    if latest.is_file():
        with latest.open(errors="replace") as file:
            tag = file.read(_MOST_OF_A_NAME).strip()
        is_name = tag not in ("", ".", "..") and not set(tag) & set("/\0")
        if is_name and files.is_folder(folder / tag):
            yield folder / tag
    if any((folder / "checkpoint").glob("*_model_states.pt")):
        yield folder / "checkpoint"


def _of_deepspeed(folder: Path) -> Members:
    whole = sorted(folder.glob("mp_rank_*_model_states.pt"))
    if sorted(folder.glob("zero_pp_rank_*_model_states.pt")):
        raise UsageError(f"{folder} holds the parts of each rank (ZeRO stage 3); {_ZERO}")
    if len(whole) > 1:
        raise UsageError(f"{folder} holds the parts of {len(whole)} ranks; {_ZERO}")
    if whole:
        return Members("torch", (whole[0],))
    files = [p.name for p in sorted(folder.iterdir()) if p.suffix in _TORCH]
    inner = [p.name for p in sorted(folder.iterdir()) if p.is_dir()]
    advice = f"; name one of: {listed(files + inner)}" if files or inner else ""
    raise UsageError(
        f"{folder} is a directory; expected a file, or a folder with model.safetensors, "
        f"pytorch_model.bin, .metadata or mp_rank_00_model_states.pt{advice}"
    )


def _of_index(index: Path) -> Members:
    try:
        names = set(files.read_json(index)["weight_map"].values())
        shards = [index.parent / name for name in sorted(names)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise UsageError(f"{index} is not an index of shards: it has no weight_map") from None
    if not shards:
        raise UsageError(f"{index} names no file")
    outside = [p.name for p in shards if p.parent != index.parent or p.name.endswith(_INDEX)]
    if outside:
        raise UsageError(f"{index} names what is not beside it: {listed(outside)}")
    if missing := [p.name for p in shards if not files.is_regular(p)]:
        raise UsageError(f"{index} names files that are missing: {listed(missing)}")
    forms = {_members(shard).form for shard in shards}
    if len(forms) != 1:
        raise UsageError(f"{index} names files of two formats")
    return Members(forms.pop(), (*shards,))


def _is_safetensors(path: Path) -> bool:
    """Whether a file is of that format: by its name, or by how it begins."""
    if path.suffix == ".safetensors":
        return True
    try:
        with path.open("rb") as file:
            head = file.read(9)
        size = int.from_bytes(head[:8], "little")
        return head[8:] == b"{" and 2 <= size <= path.stat().st_size - 8
    except OSError:
        return False
