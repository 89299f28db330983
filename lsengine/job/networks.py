"""The built-in networks: their names and arguments, without torch, so that jobs can be checked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One of the built-in networks, built by a family of `lsengine.models.zoo`.

    ``args`` are the defaults of those beside ``channels`` and ``classes``, of ``tokens`` beside
    ``vocabulary`` and ``context``; they also say of which type each is.  Texts are one of
    ``choices``.  With ``shortcut`` residual blocks add their input.  ``fuses`` says whether it has
    layers that can be fused.
    """

    family: str
    takes: Literal["images", "tokens", "anything"] = "images"
    args: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)
    depth: int = 0
    shortcut: bool = True
    fuses: bool = True


def _resnets(name: str, family: str, depth: int, width: int) -> dict[str, Network]:
    """Return a residual network with and without shortcuts."""
    plain = Network(family=family, depth=depth, args={"width": width})
    return {name: plain, f"{name}_noshort": replace(plain, shortcut=False)}


_TRANSFORMER = {"depth": 4, "width": 128, "heads": 4, "dropout": 0.0}
NETWORKS: dict[str, Network] = {
    "mlp": Network(family="mlp", takes="anything", args={"hidden": [128, 128]})
}
for _depth in (9, 16, 19):
    NETWORKS[f"vgg{_depth}"] = Network(family="vgg", depth=_depth)
for _depth in (18, 34, 50):
    NETWORKS |= _resnets(f"resnet{_depth}", "four_stages", _depth, 64)
for _depth in (20, 32, 44, 56, 110):
    NETWORKS |= _resnets(f"resnet{_depth}", "cifar_resnet", _depth, 16)
for _depth, _factors in ((56, (1, 2, 4, 8)), (110, (2, 4))):
    for _factor in _factors:
        NETWORKS |= _resnets(f"wrn{_depth}_{_factor}", "cifar_resnet", _depth, 16 * _factor)
NETWORKS["densenet121"] = Network(family="densenet", args={"growth": 32})
NETWORKS["gpt"] = Network(
    family="gpt",
    takes="tokens",
    args={**_TRANSFORMER, "positions": "rotary", "residual": True, "norm": True},
    choices={"positions": ("rotary", "learned")},
    fuses=False,
)
NETWORKS["vit"] = Network(family="vit", args={"patch": 4, **_TRANSFORMER}, fuses=False)
