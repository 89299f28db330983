"""The zoo, and every other network a job may name.

Example:
    >>> from pathlib import Path
    >>> spec = schema.Model(arch="resnet20")
    >>> network = build(spec, channels=1, classes=10, size=(8, 8), beside=Path())
    >>> network.linear.out_features
    10
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lsengine import schema
from lsengine.errors import UsageError, did_you_mean
from lsengine.models import densenet, external, mlp, resnet, vgg

Size = tuple[int, int]

_SMALLEST = 8
_NORMALISATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_NAMED_NORM = re.compile(r"norm(\dd)?$", re.IGNORECASE)


def build(
    model: schema.Model, *, channels: int, classes: int, size: Size | None, beside: Path
) -> nn.Module:
    """Build the network that a job names, with fresh parameters from torch's generator.

    Args:
        model: The job's section; its ``args`` win over what follows.
        channels: Channels of the data, or features per sample if the data are not images.
        classes: Number of outputs.
        size: Height and width of the data's images; None if they are not images.
        beside: The job file's folder, where the user's modules are looked for.

    Raises:
        UsageError: If the name or its arguments are wrong, or the user's factory fails.
        EnvironmentUnfit: If torchvision is needed and cannot be imported.
    """
    origin, _, name = model.arch.partition(":")
    if origin == "torchvision" and name:
        return _from_torchvision(name, {"num_classes": classes, **model.args})
    if name:
        network = external.call(model.arch, model.args, key="model.arch", beside=beside)
        if not isinstance(network, nn.Module):
            raise UsageError(
                f"model.arch: {model.arch} returned {type(network).__name__}; expected a "
                "torch.nn.Module"
            )
        return network
    if model.arch not in schema.ARCHITECTURES:
        near = did_you_mean(model.arch, schema.ARCHITECTURES)
        raise UsageError(
            f'model.arch: got "{model.arch}"; allowed: a zoo name (see "lsengine models"), '
            f"torchvision:NAME or module:factory{near}"
        )
    maker, allowed = _entry(model.arch)
    args = {"channels": channels, "classes": classes, **allowed, **model.args}
    _check_args(model.arch, args, {"channels": 1, "classes": 1, **allowed})
    if model.arch != "mlp":
        if size is None:
            raise UsageError(
                f"model.arch: {model.arch} needs images, but the data have {channels} "
                "features per sample; use mlp or module:factory"
            )
        if min(size) < _SMALLEST:
            raise UsageError(
                f"model.arch: {model.arch} needs at least {_SMALLEST}x{_SMALLEST} pixels, "
                f"got {size[0]}x{size[1]}; use mlp or module:factory"
            )
    return maker(size, args)


def zoo() -> list[tuple[str, int]]:
    """Return each zoo name with its number of parameters at 3x32x32 and 10 classes."""
    sizes = []
    for name in schema.ARCHITECTURES:
        with torch.device("meta"):  # shapes only: nothing is allocated or drawn
            network = build(
                schema.Model(arch=name),
                channels=3,
                classes=10,
                size=(32, 32),
                beside=Path(),
            )
        sizes.append((name, sum(p.numel() for p in network.parameters())))
    return sizes


def check_fit(model: nn.Module, x: Tensor, outputs: int | None) -> None:
    """Run two samples through the network, to find a misfit before the work starts.

    Args:
        model: The network; its mode and its running statistics are left as they are.
        x: A batch of inputs on the network's device.
        outputs: The number of outputs that the labels need at least (classes) or exactly
            (values to be predicted); None to skip that check.

    Raises:
        UsageError: If the network refuses the data's shape, or has too few outputs.
    """
    training = model.training
    try:
        with torch.no_grad():
            out = model.eval()(x[:2])
    except Exception as error:
        raise UsageError(
            f"model.arch: the network refuses data of shape {[*x.shape[1:]]} per sample: "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        model.train(training)
    if not isinstance(out, Tensor) or out.shape[0] != min(2, x.shape[0]):
        found = f"shape {[*out.shape]}" if isinstance(out, Tensor) else type(out).__name__
        raise UsageError(f"model.arch: expected one tensor, a row per sample; got {found}")
    if outputs is not None and (out.ndim < 2 or out.shape[1] < outputs):
        raise UsageError(
            f"model.arch: the outputs have shape {[*out.shape[1:]]}, but the data "
            f"need {outputs}; check model.args"
        )


def normalisation_parameters(model: nn.Module) -> frozenset[str]:
    """Return the names of all parameters that belong to normalisation layers.

    These are torch's own layers and any other class whose name ends in ``Norm``,
    ``Norm1d``, ``Norm2d`` or ``Norm3d``.  Only parameters that such a layer owns itself
    count: a class that wraps a whole block does not take the block's weights with it.
    """
    return frozenset(
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _NORMALISATIONS) or _NAMED_NORM.search(type(module).__name__)
        for name, _ in module.named_parameters(recurse=False)
    )


def batch_norm_buffers(model: nn.Module) -> frozenset[str]:
    """Return the names of all running means and variances."""
    return frozenset(
        name
        for name, _ in model.named_buffers(remove_duplicate=False)
        if name.rpartition(".")[2] in ("running_mean", "running_var")
    )


Maker = Callable[[Size | None, dict[str, Any]], nn.Module]


def _entry(arch: str) -> tuple[Maker, dict[str, Any]]:
    """Return how to make a zoo network, and its arguments beside channels and classes."""
    shortcut = not arch.endswith("_noshort")
    if match := re.match(r"wrn(\d+)_(\d+)", arch):
        depth, width = int(match[1]), 16 * int(match[2])
        return partial(_resnet, resnet.cifar, depth, shortcut), {"width": width}
    if match := re.match(r"resnet(\d+)", arch):
        depth = int(match[1])
        if depth in (18, 34, 50):
            return partial(_resnet, resnet.four_stages, depth, shortcut), {"width": 64}
        return partial(_resnet, resnet.cifar, depth, shortcut), {"width": 16}
    if match := re.match(r"vgg(\d+)", arch):
        return partial(_vgg, int(match[1])), {}
    if arch == "densenet121":
        return _densenet, {"growth": 32}
    return _mlp, {"hidden": [128, 128]}


def _resnet(
    family: Callable[..., nn.Module],
    depth: int,
    shortcut: bool,
    _: Size | None,
    args: dict[str, Any],
) -> nn.Module:
    return family(depth, shortcut=shortcut, **args)


def _vgg(depth: int, size: Size | None, args: dict[str, Any]) -> nn.Module:
    assert size is not None
    return vgg.VGG(depth, size=size, **args)


def _densenet(_: Size | None, args: dict[str, Any]) -> nn.Module:
    return densenet.DenseNet(**args)


def _mlp(size: Size | None, args: dict[str, Any]) -> nn.Module:
    height, width = size or (1, 1)
    features = args["channels"] * height * width
    return mlp.MLP(features=features, classes=args["classes"], hidden=args["hidden"])


def _check_args(arch: str, args: dict[str, Any], allowed: dict[str, Any]) -> None:
    for name, value in args.items():
        if name not in allowed:
            near = did_you_mean(name, allowed) or f"; allowed: {', '.join(allowed)}"
            raise UsageError(f"model.args.{name}: {arch} takes no such argument{near}")
        several = isinstance(allowed[name], list)
        if several and not isinstance(value, list | tuple):
            raise UsageError(f"model.args.{name}: expected a list of integers, got {value!r}")
        if not all(_is_count(v) for v in (value if several else [value])):
            kind = "integers of at least 1" if several else "an integer of at least 1"
            raise UsageError(f"model.args.{name}: expected {kind}, got {value!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _from_torchvision(name: str, args: dict[str, Any]) -> nn.Module:
    library = external.torchvision().models
    known = library.list_models()
    if name not in known:
        near = did_you_mean(name, known) or f"; allowed: {', '.join(known[:6])}, ..."
        raise UsageError(f'model.arch: torchvision has no network "{name}"{near}')
    builder = library.get_model_builder(name)
    try:
        network = builder(**{"weights": None, **args})
    except Exception as error:
        raise UsageError(
            f"model.args: torchvision:{name} refuses {args}: {type(error).__name__}: {error}"
        ) from error
    assert isinstance(network, nn.Module)
    return network
