"""What the parameters of a network are: weights, biases, or gains of normalisations.

A role is decided by the type of the module, then by the number of axes, and then by the words of
the names.  `docs/howto/what-moves.md` has the rule in words for users.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList

from lsengine.models.layers import class_name, is_normalisation

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_WEIGHTED = (nn.Linear, nn.Bilinear, _ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
_WEIGHTED += _EMBEDDINGS  # type: ignore[assignment]
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
# What torch calls the weights of its layers, those of pruning and of its two old reparametrisations
# among them.
_WEIGHT = re.compile(r"(weight(_(ih|hh|hr))?(_l\d+)?(_reverse)?|(in|q|k|v)_proj_weight)(_orig|_v)?")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_BIASES, _SHIFTS = {"bias", "biases"}, {"beta", "shift", "offset"}
_GAINS = {"scale", "scales", "scaling", "gain", "gains", "gamma", "layerscale"}
_WEIGHTS = {"weight", "weights", "kernel", "filter", "w"}
_NEGATIONS = {"no", "non", "free", "without", "less"}
_NUMBERED = re.compile(r"[\d_]+d?$")
_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a parameter is: the module that uses it, and its own name there."""

    owner: nn.Module
    name: str
    _: KW_ONLY
    called: Collection[str]  # what the owner is called in the network
    classes: Collection[str]  # what its class is called, if that is not one of torch's


def parameter_roles(model: nn.Module) -> dict[str, frozenset[str]]:
    """Return the names of the parameters by role: ``bias``, ``norm``, ``one_axis``, ``frozen``.

    A parameter may have several roles: the shift of a normalisation is a bias as well.  Without a
    role it is a weight.  One that several modules share is a weight if it is one of torch's
    weights in any of them.  ``one_axis`` is the rule of Li et al.'s own script: every parameter
    with at most one axis.  ``frozen`` are those that want no gradient.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[int, list[frozenset[str] | None]] = {}
    names: dict[str, Tensor] = {}
    for prefix, module in modules.items():
        for name, tensor in module.named_parameters(recurse=False, remove_duplicate=False):
            names[f"{prefix}.{name}" if prefix else name] = tensor
            found.setdefault(id(tensor), []).append(_roles(modules, prefix, name, tensor))
    roles: dict[str, frozenset[str]] = {}
    for word in ("bias", "norm"):
        having = {key for key, sets in found.items() if None not in sets and word in _union(sets)}
        roles[word] = frozenset(name for name, tensor in names.items() if id(tensor) in having)
    one_axis = frozenset(name for name, tensor in names.items() if tensor.ndim <= 1)
    frozen = frozenset(name for name, tensor in names.items() if not tensor.requires_grad)
    return roles | {"one_axis": one_axis, "frozen": frozen}


def _union(sets: list[frozenset[str] | None]) -> frozenset[str]:
    return frozenset().union(*(s for s in sets if s is not None))


def _roles(
    modules: Mapping[str, nn.Module], prefix: str, name: str, tensor: Tensor
) -> frozenset[str] | None:
    """Return the roles of a parameter in one module; None if it is a weight of a layer of torch's.

    A weight that is made of others has its place where it is used; of the two that torch's
    weight normalisation makes it of, the first is the gain.
    """
    module, is_gain = modules[prefix], name.endswith("_g") and bool(_WEIGHT.fullmatch(name[:-2]))
    if isinstance(module, ParametrizationList):
        is_gain = name == "original0" and isinstance(module[0], _WeightNorm)
        above, _, name = prefix.rpartition(".")
        prefix = above.rpartition(".")[0]
        module = modules[prefix]
    called, classes = _labels(modules, prefix, module)
    place = _Place(module, name, called=called, classes=classes)
    is_bias = _says_bias(place)
    if is_normalisation(module):
        return frozenset({"norm", "bias"} if _BIASES & set(_words(name)) else {"norm"})
    if is_gain and isinstance(module, _WEIGHTED):
        return frozenset({"norm"})
    is_layer = isinstance(module, _WEIGHTED) and _WEIGHT.fullmatch(name)
    if is_layer and not (is_bias and isinstance(module, _EMBEDDINGS)):
        return None
    return frozenset({"bias"}) if is_bias else _by_shape(place, tensor)


def _by_shape(place: _Place, tensor: Tensor) -> frozenset[str]:
    """Return the roles that axes and names give to a parameter that no layer of torch's knows."""
    words = set(_words(place.name))
    says_gain = bool(words & _GAINS) or any(map(_is_gain, (*place.called, *place.classes)))
    is_weight, long_axes = bool(words & _WEIGHTS), sum(size > 1 for size in tensor.shape)
    if tensor.ndim <= 1:
        return frozenset({"bias", "norm"} if says_gain and tensor.ndim else {"bias"})
    if long_axes <= 1 and (says_gain or _is_beside_shift(place, tensor)):
        return frozenset({"norm"})
    if is_weight:
        return _NOTHING
    if tensor.numel() == 1 or (long_axes <= 1 and words & _SHIFTS):
        return frozenset({"bias"})
    if long_axes <= 1 and tensor.ndim > 2 and tensor.shape[-1] == 1:
        return frozenset({"norm"})  # a number for each channel of an image or a sequence
    return frozenset({"bias"}) if _is_beside_weight(place) else _NOTHING


def _is_beside_shift(place: _Place, tensor: Tensor) -> bool:
    """Whether a parameter called ``alpha`` or ``weight`` has a shift of its own shape beside it."""
    own = dict(place.owner.named_parameters(recurse=False))
    is_named = place.name in ("alpha", "weight") and tensor.numel() > 1
    return is_named and any(
        other.shape == tensor.shape and (_BIASES | _SHIFTS) & set(_words(name))
        for name, other in own.items()
    )


def _is_beside_weight(place: _Place) -> bool:
    """Whether a parameter such as ``b``, ``b1`` or ``b_Q`` has a ``w``, ``W1`` or ``W_Q``."""
    if not re.match(r"b(?![a-z])", place.name):
        return False
    rest, own = place.name[1:], dict(place.owner.named_parameters(recurse=False))
    return any(letter + rest in own for letter in "wW")


def _says_bias(place: _Place) -> bool:
    """Whether the name of a parameter, or what its module is called, has the word bias.

    A table of relative positions is one, too.  The weight of a class such as ``LinearWithBias`` is
    none.
    """
    words = set(_words(place.name))
    if words & _BIASES:
        return not words & _NEGATIONS
    if "table" in words and words & {"relative", "rel"} and words & {"position", "pos"}:
        return True
    is_weight = bool(words & _WEIGHTS) and not isinstance(place.owner, _EMBEDDINGS)
    said = [set(_words(n)) for n in (*place.called, *(() if is_weight else place.classes))]
    return any(words & _BIASES and not words & _NEGATIONS for words in said)


def _is_gain(label: str) -> bool:
    """Whether a module is called a scale, but not one of several: `layer_scale_1`, `Scale2d`."""
    words = _words(_NUMBERED.sub("", label))
    return bool(words) and words[-1] in _GAINS and "multi" not in words


def _labels(
    modules: Mapping[str, nn.Module], prefix: str, module: nn.Module
) -> tuple[list[str], list[str]]:
    """Return what a module is called in its parent, and its class if it is not one of torch's.

    A list of modules gives its own name to what is in it.  A table is known by the module that it
    serves, too.
    """
    above, _, label = prefix.rpartition(".")
    parent = modules.get(above) if label else None
    called = [label] if label else []
    classes = [] if _is_of_torch(module) else [class_name(module)]
    if isinstance(parent, _CONTAINERS):
        more = _labels(modules, above, parent)
        return called + more[0], classes + more[1]
    if isinstance(module, _EMBEDDINGS) and parent is not None and not _is_of_torch(parent):
        called, classes = [*called, above.rpartition(".")[2]], [*classes, class_name(parent)]
    return called, classes


def _is_of_torch(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] == "torch"


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case, whether by underscores or by capitals.

    Example:
        >>> _words("relative_position_bias_table"), _words("PositionBias2d")
        (['relative', 'position', 'bias', 'table'], ['position', 'bias', '2', 'd'])
    """
    return [word.lower() for word in _WORD.findall(name)]
