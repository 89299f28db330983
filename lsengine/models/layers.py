"""Which parameters belong to normalisations, and whether a network takes the data."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.optim.swa_utils import AveragedModel

from lsengine.errors import UsageError
from lsengine.models import calling
from lsengine.models.copies import duplicate

BatchNorm = _BatchNorm  # torch has no public name for what its batch normalisations share
_NORMALISATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
_NAMED_NORM = re.compile(r"norm(\dd)?$", re.IGNORECASE)


def check_model_accepts(
    model: nn.Module,
    x: Any,
    call: Callable[[nn.Module, Any], Any] = calling.call,
) -> Any:
    """Run two samples through the network, to find a misfit before the work starts.

    They are a tensor, or dicts and tuples of them.  The network's mode and its running statistics
    are left as they are.  Returns its output.

    Raises:
        UsageError: If the network refuses the data's shape, or a tensor is no row per sample.
    """
    training = model.training
    try:
        with torch.no_grad():
            out = call(model.eval(), x[:2] if isinstance(x, Tensor) else x)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"model.arch: the network refuses data of shape {_shape(x)} per sample: "
            f"{type(error).__name__}: {error}{_cure(error, _first(x))}"
        ) from error
    finally:
        model.train(training)
    samples = min(2, len(_first(x)))
    if isinstance(out, Tensor) and (not out.ndim or out.shape[0] != samples):
        raise UsageError(
            f"model.arch: expected one tensor, a row per sample; got shape {[*out.shape]} for "
            f"{samples} samples"
        )
    return out


def _first(x: Any) -> Tensor:
    """Return the first tensor of a nesting."""
    return x if isinstance(x, Tensor) else _first(next(iter(_inner(x).values())))


def _inner(x: Any) -> dict[Any, Any]:
    return x if isinstance(x, dict) else dict(enumerate(x))


def _shape(x: Any) -> str:
    """Return the shape of a sample, of several tensors by their names."""
    if isinstance(x, Tensor):
        return str([*x.shape[1:]])
    return ", ".join(f"{name}: {_shape(inner)}" for name, inner in _inner(x).items())


def _cure(error: BaseException, x: Tensor) -> str:
    """Return what to do about an error of a network's, as far as that is known."""
    said = str(error)
    if "to have 3 channels, but got 1" in said and x.ndim == 4:
        return "; for grey images in three channels say data.args.channels: 3 (image folders)"
    if "same dtype" in said or "scalar type" in said:
        if not (x.is_floating_point() or x.is_complex()):
            return "; the inputs are integers: store them as floats, unless they are tokens"
        if "indices" in said:
            return "; the inputs are real numbers: store tokens as integers"
        return (
            "; its code or its parts insist on other dtypes, while all its numbers have that of "
            "the job's precision: take dtypes from the inputs or the weights in forward"
        )
    return ""


def normalisation_parameters(model: nn.Module) -> frozenset[str]:
    """Return the names of all parameters that belong to normalisation layers.

    These are torch's own layers and any other class whose name ends in ``Norm``,
    ``Norm1d``, ``Norm2d`` or ``Norm3d``.  Only parameters that such a layer owns itself
    count: a class that wraps a whole block does not take the block's weights with it.
    """
    return frozenset(
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules(remove_duplicate=False)
        if is_normalisation(module)
        for name, _ in module.named_parameters(recurse=False)
    )


def is_normalisation(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer, torch's or one that its class calls so."""
    return isinstance(module, _NORMALISATIONS) or bool(_NAMED_NORM.search(class_name(module)))


def class_name(module: nn.Module) -> str:
    """Return the name of a module's class; of a compiled script what it was before."""
    if isinstance(module, torch.jit.ScriptModule):
        return str(getattr(module, "original_name", type(module).__name__))
    return type(module).__name__


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network within wrappers of torch's: data-parallel, compiled and averaged ones.

    They change how a network is run, not what it computes, and give its parameters other names.
    """
    while True:
        if isinstance(model, _WRAPPERS):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):  # torch.compile
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def initialise_lazy(
    model: nn.Module,
    x: Any,
    call: Callable[[nn.Module, Any], Any] = calling.call,
) -> None:
    """Give lazy modules the shapes that a few inputs make; nothing else is changed.

    ``call`` calls the network, as it has to be called.

    Raises:
        UsageError: If the network does not take the inputs.
    """
    lazy = [n for n, p in model.named_parameters() if isinstance(p, nn.UninitializedParameter)]
    if lazy:
        check_model_accepts(model, x, call)


def statistics_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules that keep running statistics: buffers running_mean or running_var."""
    return [
        module
        for module in model.modules()
        if any(
            isinstance(dict(module.named_buffers(recurse=False)).get(name), Tensor)
            for name in ("running_mean", "running_var")
        )
    ]


def batch_norm_buffers(model: nn.Module) -> frozenset[str]:
    """Return the names of all running means and variances."""
    return frozenset(
        name
        for name, _ in model.named_buffers(remove_duplicate=False)
        if name.rpartition(".")[2] in ("running_mean", "running_var")
    )


def changing_statistics(model: nn.Module, x: Any) -> set[str]:
    """Return the names of tensors, counters aside, that a forward pass in training mode changes.

    Those in modules of torch's own are left out: their statistics are known, and the vectors of a
    spectral normalisation are none.  The network and torch's random numbers are left as they are.
    Nothing is returned of a network that cannot be copied, or does not run in training mode.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            copy = duplicate(model).train()
            before = {name: t.detach().clone() for name, t in _numbers(copy).items()}
            calling.call(copy, deepcopy(x))
    except Exception:  # of the user's code
        return set()
    return {n for n, t in _numbers(copy).items() if n in before and not _is_same(t, before[n])}


def _numbers(model: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        if not type(module).__module__.startswith("torch."):
            own = [*module.named_parameters(prefix, False), *module.named_buffers(prefix, False)]
            found |= {name: t for name, t in own if t.is_floating_point() or t.is_complex()}
    return found


def _is_same(a: Tensor, b: Tensor) -> bool:
    same = a.dtype == b.dtype and a.shape == b.shape
    return same and bool(torch.equal(a.detach().nan_to_num(), b.nan_to_num()))
