"""Checkpoints: parameters read from files of many habits, and written in one.

In all functions ``key`` is the key path of the file in the job, for messages.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lsengine import files
from lsengine.errors import UsageError
from lsengine.geometry.parameters import misfit
from lsengine.wording import listed

_NESTINGS = ("state_dict", "model_state_dict", "model", "net")
_RESAVE = 'write its parameters alone with torch.save(model.state_dict(), "new.pt")'
# What pickles a NumPy number, which checkpoints carry as their accuracy: harmless, and
# not among the things torch allows by itself.
_HARMLESS: list[Any] = [
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        state: Parameters and buffers by name, on the CPU, without prefixes of wrappers.
        epoch: If the file says it.
        numbers: Other numbers by name, such as ``test_error``.
    """

    path: Path
    state: dict[str, Tensor]
    epoch: int | None = None
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file (hex)."""
        return files.sha256(self.path)


def load(path: Path, *, key: str = "model.checkpoint") -> Checkpoint:
    """Read a checkpoint without running any code that it may contain.

    Understands a bare state dict and one nested under ``state_dict``, ``model_state_dict``,
    ``model`` or ``net``, the prefixes of data-parallel and compiled models, and torch's
    formats before and after 1.6 whatever the file is called (.pt, .pth, .t7).

    Raises:
        UsageError: If it cannot be read, is damaged, holds no parameters, or needs code.
    """
    content = read(path, key=key)
    nested = _nested(content)
    state = {k: v for k, v in nested.items() if isinstance(v, Tensor)}
    if not state:
        if not isinstance(content, Mapping):
            found = f"one {type(content).__name__}"
        elif any(isinstance(nested.get(name), Mapping) for name in _NESTINGS):
            found = "a dict that holds itself"
        else:
            found = listed(nested) or "nothing"
        raise UsageError(
            f"{key}: {path} holds no parameters; found: {found}; expected a state dict, or "
            f"one under {', '.join(_NESTINGS)}"
        )
    numbers_beside = _numbers(content) if nested is not content else {}
    return Checkpoint(
        path=path,
        state={_plain(name, state): tensor for name, tensor in state.items()},
        epoch=epoch_of(numbers_beside),
        numbers={k: float(v) for k, v in numbers_beside.items() if k != "epoch"},
    )


def read(path: Path, *, key: str, mapped: bool = False) -> Any:
    """Return the content of a file of torch's, on the CPU, without running any code.

    If ``mapped``, tensors are read from the file only when they are used.

    Raises:
        UsageError: If it cannot be read, is damaged, or needs code.
    """
    try:
        with path.open("rb"), torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise UsageError(f"{key}: no such file: {path}") from None
    except IsADirectoryError:
        raise UsageError(f"{key}: {path} is a directory; expected a file") from None
    except PermissionError:
        raise UsageError(f"{key}: {path} cannot be read; check its permissions") from None
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "global" in str(error):
            pairs = pairwise(str(error).replace("`", " ").split())
            blamed = next((w for before, w in pairs if before == "GLOBAL"), "an unsupported type")
            raise UsageError(
                f"{key}: {path} holds Python objects, and reading those may run code "
                f"({blamed}); load it once where you trust it and {_RESAVE}"
            ) from None
        raise UsageError(f"{key}: {path} is not a checkpoint of torch, or damaged") from None
    except Exception as error:  # torch raises whatever a damaged file provokes
        reason = str(error).strip().partition("\n")[0][:200]
        raise UsageError(
            f"{key}: {path} is not a checkpoint of torch, or damaged: "
            f"{type(error).__name__}: {reason}"
        ) from error


def _nested(content: Any) -> Mapping[str, Any]:
    """Return the innermost of nested state dicts; of one that holds itself, the dict itself."""
    seen = set()
    while isinstance(content, Mapping) and id(content) not in seen:
        seen.add(id(content))
        inner = [content[name] for name in _NESTINGS if isinstance(content.get(name), Mapping)]
        if not inner:
            break
        content = inner[0]
    return content if isinstance(content, Mapping) else {}


def _plain(name: str, state: Mapping[str, Any]) -> str:
    """Return a parameter's name without the prefixes that wrappers of models add."""
    name = name.replace("_orig_mod.", "")
    everywhere = all(k.replace("_orig_mod.", "").startswith("module.") for k in state)
    return name.removeprefix("module.") if everywhere else name


def numbers(path: Path, *, key: str) -> dict[str, float]:
    """Return the numbers that a checkpoint file names, without reading its parameters.

    Such as ``epoch`` (an int) and ``test_error``; none of a bare state dict.

    Raises:
        UsageError: As `read`.
    """
    if not path.is_file():
        return {}
    content = read(path, key=key, mapped=zipfile.is_zipfile(path))
    return _numbers(content) if isinstance(content, Mapping) else {}


def _numbers(content: Mapping[Any, Any]) -> dict[str, float]:
    return {
        str(k): v
        for k, v in content.items()
        if isinstance(v, int | float) and not isinstance(v, bool)
    }


def epoch_of(numbers: Mapping[str, float]) -> int | None:
    """Return the epoch among a checkpoint's numbers, if it is there and an integer."""
    epoch = numbers.get("epoch")
    return epoch if isinstance(epoch, int) else None


def fit(model: nn.Module, checkpoint: Checkpoint, *, key: str) -> None:
    """Load a checkpoint's parameters into a model: all of them, and no others.

    Raises:
        UsageError: As `fitted`; the model is not changed then.
    """
    state = fitted(model, checkpoint, key=key)
    with torch.no_grad():
        for name, tensor in _tensors(model).items():
            tensor.copy_(state[name])


def fitted(model: nn.Module, checkpoint: Checkpoint, *, key: str) -> dict[str, Tensor]:
    """Return a checkpoint's parameters by the model's names for them.

    Counters of batches may be missing (files older than torch 0.4.1 have none); then the
    model's own stay.

    Raises:
        UsageError: With the first names that are missing, unexpected or of another shape.
    """
    expected = _tensors(model)
    by_plain = {_plain(name, expected): name for name in expected}
    state = {by_plain.get(name, name): tensor for name, tensor in checkpoint.state.items()}
    for name, tensor in expected.items():
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, tensor)
    if differences := misfit(state, expected):
        raise UsageError(
            f"{key}: {checkpoint.path} does not fit the model: {differences}; "
            "check model.arch and model.args"
        )
    return {name: state[name] for name in expected}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}


def save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    epoch: int | None = None,
    content: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write a checkpoint whole or not at all.

    The folder must exist; an existing file is replaced.  Parameters and buffers go under
    ``state_dict``, the optimizer's state under ``optimizer``; ``content`` has more numbers, texts
    and tensors by name.

    Raises:
        EnvironmentUnfit: If the file cannot be written.
    """
    # The order of a tensor's memory is a matter of the device's, not of the checkpoint.
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    saved: dict[str, Any] = {**content, "state_dict": state}
    if epoch is not None:
        saved["epoch"] = epoch
    if optimizer is not None:
        saved["optimizer"] = optimizer.state_dict()
    write(path, saved)


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write numbers, texts and tensors as a file of torch's, whole or not at all.

    Raises:
        EnvironmentUnfit: If the file cannot be written.
    """
    # In memory first: a file's name would become part of its content.
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    files.write(path, buffer.getbuffer())
