"""What a caller has in memory, as the job's own code: networks, samples, losses, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lsengine.errors import UsageError
from lsengine.models import checkpoint
from lsengine.models.copies import duplicate
from lsengine.models.layers import unwrapped

SPLITS = ("train", "test")
_LOSSES: dict[Any, str] = {F.cross_entropy: "cross_entropy", F.mse_loss: "mse"}


class Copies:
    """Makes copies of a network, which is itself only read; they are on the CPU.

    Raises:
        UsageError: If it is no network.
    """

    def __init__(self, model: Any) -> None:
        if not isinstance(model, nn.Module):
            raise UsageError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        self._model = unwrapped(model)

    def __call__(self) -> nn.Module:
        """Return a copy without gradients."""
        copy = duplicate(self._model).cpu()
        copy.zero_grad(set_to_none=True)
        return copy

    def __getstate__(self) -> dict[str, Any]:
        return {"_model": self()}  # another process may see no device


class Samples:
    """Reads the samples of a caller's data once, when they are asked for.

    ``data`` is what docs/PYTHON.md lists, or a mapping of such by the splits' names; else it is of
    the given split.
    """

    def __init__(self, data: Any, split: str) -> None:
        if split not in SPLITS:
            raise UsageError(f"split: got {split!r}; allowed: {', '.join(SPLITS)}")
        is_named = isinstance(data, Mapping) and bool(data) and set(data) <= set(SPLITS)
        given = data if is_named else {split: data}
        self._given: dict[str, Any] = {name: given[name] for name in SPLITS if name in given}
        self._read: dict[str, Any] | None = None

    @property
    def splits(self) -> list[str]:
        """The names of the splits, ``train`` first."""
        return list(self._given)

    def __call__(self) -> dict[str, Any]:
        """Return inputs and targets by split, as the job's own data sets give them.

        Raises:
            UsageError: If these are no samples.
        """
        if self._read is None:
            self._read = {}
            for name, data in self._given.items():
                x, y = _pair(data)
                self._read |= {f"x_{name}": x, f"y_{name}": y}
        return self._read

    def __getstate__(self) -> dict[str, Any]:
        return {"_given": dict.fromkeys(self._given), "_read": self()}


def _pair(data: Any) -> tuple[Any, Any]:
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise UsageError(f"data: expected a pair of inputs and targets, got {type(data).__name__}")
    return data[0], data[1]


def named_loss(loss: Any) -> Any:
    """Return what a job calls a loss that lsengine has, too; None for the caller's own.

    Raises:
        UsageError: If it is no loss.
    """
    if isinstance(loss, str | Mapping):
        return loss
    if type(loss) is nn.CrossEntropyLoss and _is_plain(loss, nn.CrossEntropyLoss()):
        return "cross_entropy"
    if type(loss) is nn.MSELoss and _is_plain(loss, nn.MSELoss()):
        return "mse"
    if not callable(loss):
        raise UsageError(
            f"loss: expected a name, or a function of output and target; got {type(loss).__name__}"
        )
    return _LOSSES.get(loss) if isinstance(loss, type(F.cross_entropy)) else None


def _is_plain(loss: nn.Module, plain: nn.Module) -> bool:
    """Whether a loss has the options with which it comes."""
    options = ("reduction", "ignore_index", "label_smoothing")
    return getattr(loss, "weight", None) is None and all(
        getattr(loss, name, None) == getattr(plain, name, None) for name in options
    )


def is_in_memory(thing: Any) -> bool:
    """Whether a checkpoint is a network or a state dict, and not the name of a file."""
    return isinstance(thing, nn.Module | Mapping)


def write_checkpoint(path: Path, thing: Any, key: str, epoch: int | None = None) -> None:
    """Write the numbers of a network or a state dict as a checkpoint.

    Raises:
        UsageError: If it holds no tensors; the message begins with the key.
        EnvironmentUnfit: If the file cannot be written.
    """
    named = unwrapped(thing).state_dict() if isinstance(thing, nn.Module) else thing
    state = {name: t.detach().cpu() for name, t in named.items() if isinstance(t, Tensor)}
    if not state:
        raise UsageError(f"{key}: holds no tensors; expected a network or its state dict")
    content = {"state_dict": {name: t.contiguous() for name, t in state.items()}}
    checkpoint.write(path, content if epoch is None else {**content, "epoch": epoch})


def as_epochs(checkpoints: Any) -> dict[int, Any]:
    """Return checkpoints by their epochs: those of a mapping, else counted from 0.

    Raises:
        UsageError: If there are none.
    """
    if isinstance(checkpoints, Mapping):
        given = dict(checkpoints)
    elif isinstance(checkpoints, Sequence) and not isinstance(checkpoints, str):
        given = dict(enumerate(checkpoints))
    else:
        raise UsageError(
            "checkpoints: expected a list of networks, state dicts or files, or a mapping from "
            f"epochs to them; got {type(checkpoints).__name__}"
        )
    if not given or any(isinstance(e, bool) or not isinstance(e, int) or e < 0 for e in given):
        found = ", ".join(map(str, given)) or "none"
        raise UsageError(f"checkpoints: expected epochs of at least 0; got {found}")
    return dict(sorted(given.items()))
