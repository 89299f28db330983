"""The zoo, and every other network a job may name.

Example:
    >>> from pathlib import Path
    >>> spec = schema.ModelSpec(arch="resnet20")
    >>> network = build(spec, channels=1, classes=10, size=(8, 8), job_folder=Path())
    >>> network.linear.out_features
    10
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lsengine.errors import UsageError
from lsengine.external import torchvision, user_code
from lsengine.job import schema
from lsengine.job.networks import NETWORKS, Network
from lsengine.models import densenet, gpt, plain, pretrained, resnet, vit
from lsengine.models.layers import unwrapped
from lsengine.wording import did_you_mean

Size = tuple[int, int]
_SMALLEST = 8
# What torch raises where sizes are beyond memory, or beyond its integers.
_TOO_LARGE = (RuntimeError, MemoryError, OverflowError, TypeError)
_given_out: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # what users' factories have made


def build(
    model: schema.ModelSpec, *, channels: int, classes: int, size: Size | None, job_folder: Path
) -> nn.Module:
    """Build the network that a job names, with fresh parameters from torch's generator.

    The section's ``args`` win over what is known of the data: channels (or features per sample
    if they are not images), classes, and height and width of images.

    Raises:
        UsageError: If the name or its arguments are wrong, or the user's factory fails.
        EnvironmentUnfit: If torchvision is needed and cannot be imported.
    """
    origin, _, name = model.arch.partition(":")
    if origin == "transformers" and name:
        return pretrained.build(model, job_folder)
    if origin == "torchvision" and name:
        return _from_torchvision(name, {"num_classes": classes, **model.args})
    if name:
        return _own(model, job_folder)
    entry = NETWORKS.get(model.arch)
    if entry is None:
        near = did_you_mean(model.arch, NETWORKS)
        raise UsageError(
            f'model.arch: got "{model.arch}"; allowed: a zoo name (see "lsengine models"), '
            f"torchvision:NAME, transformers:CLASS or module:factory{near}"
        )
    names = ("context", "vocabulary") if entry.takes == "tokens" else ("channels", "classes")
    defaults = dict(zip(names, (channels, classes), strict=True)) | entry.args
    args = defaults | model.args
    _check_args(model.arch, args, defaults)
    _check_inputs(model.arch, entry, channels, size)
    try:
        return _from_zoo(entry, size or (1, 1), args)
    except (ValueError, *_TOO_LARGE) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"model.args: {model.arch}: {reason}") from None


def _check_inputs(arch: str, entry: Network, channels: int, size: Size | None) -> None:
    problem = ""
    if entry.takes == "images" and size is None:
        problem = f"images, but the data have {channels} features per sample"
    elif entry.takes == "images" and size is not None and min(size) < _SMALLEST:
        problem = f"at least {_SMALLEST}x{_SMALLEST} pixels, got {size[0]}x{size[1]}"
    elif entry.takes == "tokens" and size is not None:
        problem = f"tokens, integers (N, T), but the data are images of {size[0]}x{size[1]}"
    if problem:
        raise UsageError(f"model.arch: {arch} needs {problem}; use mlp or module:factory")


def _own(model: schema.ModelSpec, job_folder: Path) -> nn.Module:
    """Return the network that the user's factory makes, without its wrappers."""
    network = user_code.call(model.arch, model.args, key="model.arch", job_folder=job_folder)
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"model.arch: {model.arch} returned {type(network).__name__}; expected a "
            "torch.nn.Module"
        )
    network = unwrapped(network)
    if network in _given_out:
        raise UsageError(
            f"model.arch: {model.arch} returned the same network again, whose numbers are "
            "others by now; it has to make a new one in every call"
        )
    if not list(network.parameters()):
        raise UsageError(
            f"model.arch: {model.arch} returned a network without parameters, so nothing can "
            "move; if it is quantized or a frozen script, return it as it was before"
        )
    try:
        network.train(network.training)
    except NotImplementedError as error:  # a program of torch.export
        raise UsageError(
            f"model.arch: {model.arch} returned a network whose mode cannot be set ({error}); "
            "return it as it was before torch.export"
        ) from None
    _given_out.add(network)
    return network


def zoo() -> list[tuple[str, int]]:
    """Return each zoo name with its number of parameters at 3x32x32 and 10 classes or tokens."""
    sizes = []
    for name, entry in NETWORKS.items():
        spec, size = schema.ModelSpec(arch=name), None if entry.takes == "tokens" else (32, 32)
        # Shapes only: nothing is allocated or drawn.  For an embedding torch loads its compiler.
        with torch.device("cpu" if entry.family in ("gpt", "vit") else "meta"):
            network = build(spec, channels=3, classes=10, size=size, job_folder=Path())
        sizes.append((name, sum(p.numel() for p in network.parameters())))
    return sizes


def _from_zoo(entry: Network, size: Size, args: Mapping[str, Any]) -> nn.Module:
    if entry.family == "mlp":
        features = args["channels"] * size[0] * size[1]
        return plain.MLP(features=features, classes=args["classes"], hidden=args["hidden"])
    if entry.family == "vgg":
        return plain.VGG(entry.depth, size=size, **args)
    if entry.family == "densenet":
        return densenet.DenseNet(**args)
    if entry.family == "gpt":
        return gpt.GPT(**args)
    if entry.family == "vit":
        return vit.VisionTransformer(size=size, **args)
    family = {"cifar_resnet": resnet.cifar, "four_stages": resnet.four_stages}[entry.family]
    return family(entry.depth, shortcut=entry.shortcut, **args)


def _check_args(arch: str, args: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse arguments that a network does not take, or that are not of the default's kind."""
    for name, value in args.items():
        if name not in defaults:
            near = did_you_mean(name, defaults) or f"; allowed: {', '.join(defaults)}"
            raise UsageError(f"model.args.{name}: {arch} takes no such argument{near}")
        if problem := _problem_of_arg(value, defaults[name], NETWORKS[arch].choices.get(name, ())):
            raise UsageError(f"model.args.{name}: {problem}, got {value!r}")


def _problem_of_arg(value: Any, default: Any, choices: Sequence[str]) -> str:
    """Return what is expected instead of a value; empty if it is right."""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "expected true or false"
    if isinstance(default, str):
        return "" if value in choices else f"allowed: {', '.join(choices)}"
    if isinstance(default, float):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if is_number and 0 <= value < 1 else "expected a number from 0 to below 1"
    several = isinstance(default, list)
    if several and not isinstance(value, list | tuple):
        return "expected a list of integers"
    counts = value if several else [value]
    if all(isinstance(c, int) and not isinstance(c, bool) and c >= 1 for c in counts):
        return ""
    return f"expected {'integers' if several else 'an integer'} of at least 1"


def _from_torchvision(name: str, args: dict[str, Any]) -> nn.Module:
    library = torchvision.torchvision().models
    if name not in (known := library.list_models()):
        near = did_you_mean(name, known) or f"; allowed: {', '.join(known[:6])}, ..."
        raise UsageError(f'model.arch: torchvision has no network "{name}"{near}')
    try:
        network = library.get_model_builder(name)(**{"weights": None, **args})
    except Exception as error:
        raise UsageError(
            f"model.args: torchvision:{name} refuses {args}: {type(error).__name__}: {error}"
        ) from error
    assert isinstance(network, nn.Module)
    return network
