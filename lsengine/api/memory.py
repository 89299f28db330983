"""What a caller has in memory, as the job's own code: networks, samples, losses, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from lsengine.api.process import seeded
from lsengine.data import Split
from lsengine.data.dataset import NO_LABEL
from lsengine.data.loaders import from_memory
from lsengine.data.nesting import mapped
from lsengine.errors import UsageError
from lsengine.models import checkpoint
from lsengine.models.copies import duplicate, original_number
from lsengine.models.layers import unwrapped

SPLITS = ("train", "test")
_FUNCTIONS: dict[Any, str] = {
    F.cross_entropy: "cross_entropy",
    F.mse_loss: "mse",
    F.nll_loss: "nll",
    F.l1_loss: "l1",
    F.huber_loss: "huber",
    F.binary_cross_entropy_with_logits: "bce_with_logits",
}
_MODULES: dict[Any, tuple[str, tuple[str, ...]]] = {  # with the options that a job knows
    nn.CrossEntropyLoss: ("cross_entropy", ("weight", "ignore_index", "label_smoothing")),
    nn.MSELoss: ("mse", ()),
    nn.NLLLoss: ("nll", ("weight", "ignore_index")),
    nn.L1Loss: ("l1", ()),
    nn.HuberLoss: ("huber", ("delta",)),
    nn.BCEWithLogitsLoss: ("bce_with_logits", ("pos_weight",)),
}


class Samples:
    """Reads the samples of a caller's data once, when they are asked for.

    ``data`` is what `lsengine.data.loaders` takes, or a mapping of such by the splits' names; else
    it is of the given split.  What a loader draws by chance is the same every time.
    """

    def __init__(
        self, data: Any, split: str, *, with_targets: bool = True, pad: float | None = None
    ) -> None:
        if split not in SPLITS:
            raise UsageError(f"split: got {split!r}; allowed: {', '.join(SPLITS)}")
        is_named = isinstance(data, Mapping) and bool(data) and set(data) <= set(SPLITS)
        if isinstance(data, Mapping) and not is_named:
            _refuse_other_splits(data)
        given = data if is_named else {split: data}
        self._given: dict[str, Any] = {name: given[name] for name in SPLITS if name in given}
        self._with_targets, self._pad = with_targets, pad
        self._read: dict[str, Split] | None = None

    @property
    def splits(self) -> list[str]:
        """The names of the splits, ``train`` first."""
        return list(self._given)

    def __call__(self) -> dict[str, Split]:
        """Return all samples by split.

        Raises:
            UsageError: If these are no samples.
        """
        if self._read is None:
            how: dict[str, Any] = {"with_targets": self._with_targets, "pad": self._pad}
            with seeded():
                self._read = {
                    name: from_memory(data, **how, where=f"data: {name}")
                    for name, data in self._given.items()
                }
        return self._read

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_given": dict.fromkeys(self._given), "_read": self()}


def _refuse_other_splits(data: Mapping[str, Any]) -> None:
    """Refuse loaders and data sets by names that are no splits'."""
    if any(isinstance(source, DataLoader | Dataset) for source in data.values()):
        found = ", ".join(map(str, data))
        raise UsageError(f"data: loaders by the names {found}; splits are {' and '.join(SPLITS)}")


class Copies:
    """Makes copies of a network, which is itself only read; they are on the CPU.

    ``judge`` does with a network, inputs and targets what a surface is made of.

    Raises:
        UsageError: If it is no network.
    """

    def __init__(self, model: Any, samples: Samples, judge: Callable[..., Any]) -> None:
        if not isinstance(model, nn.Module):
            raise UsageError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        self._model, self._samples, self._judge = unwrapped(model), samples, judge
        self._is_checked = False

    def __call__(self) -> nn.Module:
        """Return a copy without gradients.

        Raises:
            UsageError: If the network's own numbers would be used in place of the copy's.
        """
        copy = duplicate(self._model).cpu()
        copy.zero_grad(set_to_none=True)
        if not self._is_checked:
            self._check(copy)
        self._is_checked = True
        return copy

    def _check(self, copy: nn.Module) -> None:
        """Look at what is computed with: a function keeps the layers of the network it knows."""
        split = next(iter(self._samples().values()))
        x, y = (None if n is None else mapped(_first_two, n) for n in (split.x, split.y))
        trial = duplicate(copy).float().eval()
        with seeded():
            judge = self._judge
            # Constants in a buffer may be a loss's, too.
            name = original_number(self._model, trial, lambda n: judge(n, x, y), buffers=False)
        if name:
            raise UsageError(
                f"model: {name} is used by a function that knows the model itself, so that nothing "
                "changes when a copy's numbers move; in the network let it be a method or a "
                "module, in a loss or an objective take the network that is given"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"_model": self(), "_is_checked": True}  # another process may see no device


def _first_two(tensor: Tensor) -> Tensor:
    """Return two samples, about as a network sees them."""
    if tensor.dtype == torch.uint8 and tensor.ndim == 4:
        return tensor[:2] / 255
    return tensor[:2].float() if tensor.is_floating_point() else tensor[:2]


def named_loss(loss: Any) -> Any:
    """Return what a job calls a loss that lsengine has, too; None for the caller's own.

    Raises:
        UsageError: If it is no loss.
    """
    if isinstance(loss, str | Mapping):
        return loss
    if not callable(loss):
        raise UsageError(
            f"loss: expected a name, or a function of output and target; got {type(loss).__name__}"
        )
    if isinstance(loss, FunctionType | BuiltinFunctionType):
        return _FUNCTIONS.get(loss)
    return _of_module(loss)


def _of_module(loss: Any) -> Any:
    """Return the name and options of a loss that is a module of torch's."""
    name, options = _MODULES.get(type(loss), ("", ()))
    of_all = {"weight": None, "pos_weight": None, "reduction": "mean"}
    others = [key for key in of_all if key not in options and hasattr(loss, key)]
    if not name or any(getattr(loss, key) != of_all[key] for key in others):
        return None
    given = {key: getattr(loss, key) for key in options}
    if given.get("ignore_index") == NO_LABEL:  # counts for none anyway
        del given["ignore_index"]
    said = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in given.items()}
    plain = {"label_smoothing": 0.0, "delta": 1.0, "weight": None, "pos_weight": None}
    said = {k: v for k, v in said.items() if k not in plain or v != plain[k]}
    return {"name": name, **said} if said else name


def is_in_memory(thing: Any) -> bool:
    """Whether a checkpoint is a network or a state dict, and not the name of a file."""
    return isinstance(thing, nn.Module | Mapping)


def state_of(thing: Any, key: str) -> dict[str, Tensor]:
    """Return the numbers of a network, a state dict or a file, on the CPU.

    Raises:
        UsageError: If it holds no tensors, or is no checkpoint; the message begins with the key.
    """
    if isinstance(thing, str | Path):
        return checkpoint.load(Path(thing), key=key).state
    named = unwrapped(thing).state_dict() if isinstance(thing, nn.Module) else thing
    if not isinstance(named, Mapping):
        expected = "a network, a state dict or the name of a file"
        raise UsageError(f"{key}: expected {expected}; got {type(thing).__name__}")
    state = {name: t.detach().cpu() for name, t in named.items() if isinstance(t, Tensor)}
    if not state:
        raise UsageError(f"{key}: holds no tensors; expected a network or its state dict")
    return state


def write_checkpoint(path: Path, thing: Any, key: str, epoch: int | None = None) -> None:
    """Write the numbers that `state_of` returns as a checkpoint.

    Raises:
        UsageError: As `state_of`.
        EnvironmentUnfit: If the file cannot be written.
    """
    content = {"state_dict": {n: t.contiguous() for n, t in state_of(thing, key).items()}}
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
