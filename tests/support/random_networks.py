"""Random small networks and losses as people write them, by seed, as the source of a module.

A network is an entry, a few blocks and an exit, in one of four kinds of shape: vectors, sequences,
signals and images.  The blocks are those of `tests/support/network_blocks.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support import network_blocks as blocks
from tests.support.network_blocks import REFUSED, RIGHT, WORST, Block

SAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network with its loss and data, and what must come of it.

    Attributes:
        code: Defines ``make`` and, where the job has a loss of its own, ``loss``.
        changes: Keys of the job.
        meaning: Which of the naive losses the right one is.
        expected: ``right``, ``refused``, or ``either`` of them.
        why: The parts that are unusual.
    """

    seed: int
    code: str
    x: NDArray[Any]
    y: NDArray[Any]
    changes: dict[str, Any]
    meaning: str
    expected: str
    why: tuple[str, ...] = field(default=())

    @property
    def has_curvature(self) -> bool:
        """Whether the job asks for the Hessian's ends."""
        return "curvature" in self.changes.get("quantities", ())


def draw(seed: int) -> Case:
    """Return the case of a seed."""
    rng = np.random.default_rng([14, seed])
    curved = bool(rng.random() < 0.35)
    kind = str(rng.choice(["vector", "sequence", "tokens", "signal", "image", "bytes"]))
    shape = {"tokens": "sequence", "bytes": "image"}.get(kind, kind)
    width = 4 if shape in ("vector", "sequence") or not curved else 2
    loss = _draw_loss(rng)
    outputs = loss.outputs
    parts = [blocks.entry(kind, width, rng)]
    parts += blocks.body(shape, width, rng, smooth=curved)
    parts += [blocks.leave(shape, width, rng)]
    if shape != "vector":
        parts += blocks.body("vector", width, rng, smooth=curved, most=1)
    wrapper = blocks.wrapper(parts, rng)
    if wrapper.name == "seeded":  # what is drawn in the constructor is the same each time
        parts = [
            replace(p, expected=RIGHT, with_curvature=RIGHT) if p.seedable else p for p in parts
        ]
    source = _source(parts, wrapper, width, outputs) + loss.code
    everything = [*parts, wrapper, loss.as_block()]
    changes = _job(rng, loss, curved)
    if any("batch" in p.name and p.expected == REFUSED for p in everything):
        changes.pop("batch_size", None)  # a size that is given is a size that is meant
    return Case(
        seed=seed,
        code=source,
        x=_inputs(kind, rng),
        y=_targets(loss, rng),
        changes=changes,
        meaning=loss.meaning,
        expected=_expected(everything, curved, loss),
        why=tuple(p.name for p in everything),
    )


def _expected(parts: list[Block], curved: bool, loss: Loss) -> str:
    worst = max((p.expected for p in parts), key=WORST.index)
    if curved:
        worst = max([worst, *(p.with_curvature for p in parts)], key=WORST.index)
    return worst


@dataclass(frozen=True)
class Loss:
    """A loss: the job's key, its code, and its meaning."""

    name: str
    meaning: str
    outputs: int
    targets: str
    code: str = ""
    expected: str = RIGHT

    def as_block(self) -> Block:
        """Return name and expectation as those of a part of a network."""
        return Block(f"loss {self.name}", expected=self.expected)


def _own(name: str, meaning: str, outputs: int, targets: str, body: str, why: str = RIGHT) -> Loss:
    return Loss(name, meaning, outputs, targets, f"\n\ndef loss(o, t):\n    {body}\n", why)


WEIGHTS = "torch.tensor([1.0, 2.5, 0.5], dtype=torch.float64)"
BCE = "F.binary_cross_entropy_with_logits"
LEGITIMATE = (
    Loss("cross_entropy", "cross_entropy", 3, "labels"),
    Loss("cross_entropy", "cross_entropy", 3, "column"),
    Loss("mse", "mse", 2, "numbers"),
    Loss("mse", "mse_labels", 3, "labels"),
    Loss("mse", "mse_one", 1, "number"),
    _own("own", "cross_entropy", 3, "labels", "return F.cross_entropy(o, t, reduction='none')"),
    _own("own mean", "cross_entropy", 3, "labels", "return F.cross_entropy(o, t)"),
    _own("own mean", "mse", 2, "numbers", "return F.mse_loss(o, t)"),
    _own("own", "absolute", 2, "numbers", "return (1 + (o - t) ** 2).sqrt().sum(1)"),
    _own(
        "pair",
        "weighted",
        3,
        "labels",
        f"return F.cross_entropy(o, t, reduction='none'), {WEIGHTS}[t]",
    ),
    _own(
        "one logit", "bce", 1, "binary", f"return {BCE}(o[:, 0], t.to(o.dtype), reduction='none')"
    ),
    _own(
        "multi-label",
        "bce_many",
        3,
        "many",
        f"return {BCE}(o, t.to(o.dtype), reduction='none').mean(1)",
    ),
    _own("own mean", "bce_many", 3, "many", f"return {BCE}(o, t.to(o.dtype))"),
)
MISTAKEN = (
    ("sum", 3, "labels", "return F.cross_entropy(o, t, reduction='sum')"),
    ("sum", 2, "numbers", "return ((o - t) ** 2).sum()"),
    ("weighted scalar", 3, "labels", f"return F.cross_entropy(o, t, weight={WEIGHTS}.to(o.dtype))"),
    ("ignored", 3, "labels", "return F.cross_entropy(o, t, ignore_index=1)"),
    ("broadcast", 1, "number", "return ((o - t) ** 2).mean()"),
    ("broadcast", 1, "number", "return ((o - t) ** 2).mean(1)"),
    ("broadcast", 1, "number", "return (o - t) ** 2"),
    ("batch statistics", 2, "numbers", "return ((o - o.mean(0) - t) ** 2).mean(1)"),
    ("too many", 2, "numbers", "return (o - t) ** 2"),
    ("noise", 2, "numbers", "return ((o + torch.rand_like(o) - t) ** 2).mean(1)"),
    ("root of mean", 2, "numbers", "return ((o - t) ** 2).mean().sqrt()"),
    ("numpy", 2, "numbers", "return ((o - t) ** 2).mean(1).detach().numpy()"),
)


def _draw_loss(rng: np.random.Generator) -> Loss:
    if rng.random() < 0.12:
        name, outputs, targets, body = MISTAKEN[rng.integers(len(MISTAKEN))]
        return _own(name, "", outputs, targets, body, "refused")
    return LEGITIMATE[rng.integers(len(LEGITIMATE))]


def _job(rng: np.random.Generator, loss: Loss, curved: bool) -> dict[str, Any]:
    direction: dict[str, Any] = {"kind": "random", "seed": int(rng.integers(1000))}
    if rng.random() < 0.5:
        direction["ignore"] = []
    if rng.random() < 0.5:
        direction["normalize"] = str(rng.choice(["filter", "layer", "weight"]))
    changes: dict[str, Any] = {"directions": {"alpha": direction}}
    changes["loss"] = "net:loss" if loss.code else loss.name
    quantities = ["loss", *(["accuracy"] if loss.meaning in WITH_ACCURACY else [])]
    changes["quantities"] = quantities + (["curvature"] if curved else [])
    if rng.random() < 0.3:
        changes["precision"] = "float64"
    if rng.random() < 0.3:
        changes["batch_size"] = int(rng.choice([7, 20]))
    return changes


WITH_ACCURACY = {"cross_entropy", "weighted", "mse_labels", "bce", "bce_many"}


def _inputs(kind: str, rng: np.random.Generator) -> NDArray[Any]:
    if kind == "tokens":
        return rng.integers(0, 7, (SAMPLES, 4))
    if kind == "bytes":
        return rng.integers(0, 256, (SAMPLES, 3, 5, 5)).astype(np.uint8)
    shape = {"vector": (5,), "sequence": (4, 5), "signal": (2, 8), "image": (3, 5, 5)}[kind]
    return rng.normal(size=(SAMPLES, *shape)).astype(np.float32)


def _targets(loss: Loss, rng: np.random.Generator) -> NDArray[Any]:
    labels = np.concatenate([[2, 1, 0], rng.integers(0, 3, SAMPLES - 3)])
    return {
        "labels": labels,
        "column": labels[:, None],
        "binary": labels % 2,
        "many": rng.integers(0, 2, (SAMPLES, 3)),
        "numbers": rng.normal(size=(SAMPLES, 2)).astype(np.float32),
        "number": rng.normal(size=SAMPLES).astype(np.float32),
    }[loss.targets]


def _source(parts: list[Block], wrapper: Block, width: int, outputs: int) -> str:
    """Return the module of a network's parts."""

    def lines(text: str, indent: int = 8) -> str:
        return "".join(f"{' ' * indent}{line}\n" for line in text.splitlines())

    made = "".join(p.definitions for p in parts)
    init = "".join(lines(p.init) for p in parts)
    forward = "".join(lines(p.forward) for p in parts)
    methods = "".join(p.methods for p in parts)
    return (
        f"{made}\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"{init}        self.head = nn.Linear({width}, {outputs})\n\n{methods}"
        f"    def forward(self, x):\n{forward}        return self.head(h)\n\n\n"
        f"def make():\n{lines(wrapper.init, 4)}    return {wrapper.forward}\n"
    )
