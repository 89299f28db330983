"""Which network of the zoo a checkpoint is of, by the names and shapes of its parameters."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lsengine.errors import UsageError
from lsengine.job.networks import NETWORKS, Network
from lsengine.job.schema import ModelSpec
from lsengine.models.state_dicts import COUNTER
from lsengine.models.zoo import build

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
_SIZES = (8, 16, 28, 32, 64)  # of images for which a network is tried
_MOST_NAMES, _MOST_PREFIXES = 3000, 8  # what is tried, so that a file of many names ends soon


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """A network whose parameters have the names and shapes of a checkpoint, all of them.

    Attributes:
        arch: Its name in the zoo.
        args: Its arguments, as far as they are not what it has without them.
        channels: Of images; or features per sample, or how many tokens there are.
        classes: How many outputs it has.
        size: Of images, as far as the shapes tell.
        unsure: Arguments, or ``size``, that no shape tells for sure.
    """

    arch: str
    args: dict[str, Any]
    channels: int
    classes: int
    size: tuple[int, int] | None = None
    unsure: tuple[str, ...] = ()


def guess(shapes: Shapes) -> Guess | None:
    """Return the network of the zoo that has parameters of these names and shapes, None if none.

    All names may begin with something that the network's do not.  Shapes may be of any number of
    axes, and of any length.  Of more than 3,000 names nothing is guessed.

    Example:
        >>> guess({"net.linear.weight": (10, 64), "net.linear.bias": (10,)}).args
        {'hidden': []}
    """
    wanted = {n: s for n, s in shapes.items() if n.rpartition(".")[2] != COUNTER}
    if len(wanted) > _MOST_NAMES:
        return None
    for (anchor, *_), candidates in _FAMILIES.items():
        for prefix in sorted(_prefixes(wanted, anchor), key=len)[:_MOST_PREFIXES]:
            own = {n.removeprefix(prefix): s for n, s in wanted.items() if n.startswith(prefix)}
            try:
                found = list(candidates(own))
            except (KeyError, IndexError, ValueError):  # names or axes are missing, or too many
                continue
            if match := next((g for g in found if _has(g, own)), None):
                return match
    return None


def _prefixes(shapes: Shapes, anchor: str) -> Iterator[str]:
    for name in shapes:
        if name == anchor or name.endswith(f".{anchor}"):
            yield name.removesuffix(anchor)


def _has(found: Guess, shapes: Shapes) -> bool:
    """Whether a network has parameters and statistics of exactly these names and shapes."""
    size = None if NETWORKS[found.arch].takes == "tokens" else found.size or (32, 32)
    if found.arch == "mlp" and found.size is None:  # features, that may be anything
        size = None
    try:
        with torch.device("meta"):
            network = build(
                ModelSpec(arch=found.arch, args=found.args),
                channels=found.channels,
                classes=found.classes,
                size=size,
                job_folder=Path(),
            )
    except UsageError:
        return False
    state = {n: tuple(t.shape) for n, t in network.state_dict().items()}
    return {n: s for n, s in state.items() if n.rpartition(".")[2] != COUNTER} == shapes


def _mlps(shapes: Shapes) -> Iterator[Guess]:
    places = (f"layers.{i}.weight" for i in itertools.count())
    weights = [shapes[name] for name in itertools.takewhile(shapes.__contains__, places)]
    classes, last = shapes["linear.weight"]
    features = weights[0][1] if weights else last
    known = {64: (1, (8, 8)), 784: (1, (28, 28)), 3072: (3, (32, 32))}
    channels, size = known.get(features, (features, None))
    args = _given("mlp", hidden=[rows for rows, _ in weights])
    yield Guess(arch="mlp", args=args, channels=channels, classes=classes, size=size)


def _vggs(shapes: Shapes) -> Iterator[Guess]:
    channels, classes = shapes["features.0.weight"][1], shapes["classifier.weight"][0]
    for name, side in itertools.product(_named("vgg"), _SIZES):
        yield Guess(
            arch=name, args={}, channels=channels, classes=classes, size=(side, side),
            unsure=("size",),
        )  # fmt: skip


def _resnets(shapes: Shapes) -> Iterator[Guess]:
    width, channels = shapes["conv1.weight"][:2]
    classes = shapes["linear.weight"][0]
    blocks = [n for n in shapes if re.fullmatch(r"layer\d+\.\d+\.conv1\.weight", n)]
    stages = {name.partition(".")[0] for name in blocks}
    family = "cifar_resnet" if len(stages) == 3 else "four_stages"
    depths = {2 * len(blocks) + 2} if len(stages) == 3 else {18, 34, 50}
    names = [n for n in _named(family) if NETWORKS[n].depth in depths]
    for name in sorted(names, key=lambda n: NETWORKS[n].args["width"] != width):
        args = _given(name, width=width)
        yield Guess(arch=name, args=args, channels=channels, classes=classes)


def _densenets(shapes: Shapes) -> Iterator[Guess]:
    planes, channels = shapes["conv1.weight"][:2]
    args = _given("densenet121", growth=planes // 2)
    yield Guess(
        arch="densenet121", args=args, channels=channels, classes=shapes["linear.weight"][0]
    )


def _vits(shapes: Shapes) -> Iterator[Guess]:
    width, channels, patch, _ = shapes["patches.weight"]
    side = patch * math.isqrt(shapes["positions.weight"][0])
    args = _given("vit", patch=patch, width=width, depth=_blocks(shapes))
    yield Guess(
        arch="vit", args=args, channels=channels, classes=shapes["head.weight"][0],
        size=(side, side), unsure=("heads",),
    )  # fmt: skip


def _gpts(shapes: Shapes) -> Iterator[Guess]:
    vocabulary, width = shapes["embedding.weight"]
    context, *_ = shapes.get("positions.weight", (0,))
    positions = "learned" if context else "rotary"
    args = _given("gpt", width=width, depth=_blocks(shapes), positions=positions)
    for norm in (True, False):
        yield Guess(
            arch="gpt", args={**args, **_given("gpt", norm=norm)}, channels=context or 1,
            classes=vocabulary, unsure=("heads", "residual"),
        )  # fmt: skip


_FAMILIES: dict[tuple[str, ...], Callable[[Shapes], Iterator[Guess]]] = {
    ("linear.weight", "mlp"): _mlps,
    ("features.0.weight",): _vggs,
    ("conv1.weight", "resnet"): _resnets,
    ("conv1.weight", "densenet"): _densenets,
    ("patches.weight",): _vits,
    ("embedding.weight",): _gpts,
}  # by a name that all networks of a family have


def _named(family: str) -> list[str]:
    return [name for name, entry in NETWORKS.items() if entry.family == family]


def _given(arch: str, **args: Any) -> dict[str, Any]:
    """Return the arguments that differ from the network's own."""
    entry: Network = NETWORKS[arch]
    return {name: value for name, value in args.items() if entry.args[name] != value}


def _blocks(shapes: Shapes) -> int:
    return len({n.split(".")[1] for n in shapes if n.startswith("blocks.")})
