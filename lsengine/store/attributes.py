"""What a surface file says of itself: its attributes and other texts, each of its type.

`docs/FORMAT.md` has the meaning of each.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from lsengine.store.validation import Content
from lsengine.surface import parts
from lsengine.surface.identity import PRECISIONS
from lsengine.wording import short

_TEXTS = (
    *("format", "lsengine_version", "name", "job", "identity", "fingerprint", "cell_fingerprint"),
    *("created", "checkpoint_sha256", "data_sha256", "torch_version", "mpi_library"),
    *("device_kind", "forward", "loss_of", "twin", "numpy_version", "writing", "precision"),
    *("metrics", "products_by", "direction_sizes"),
)
_NUMBERS = (
    "direction_cosine",
    *(f"{axis}_eigenvalue{what}" for axis in ("alpha", "beta") for what in ("", "_residual")),
    *(f"{split}_loss_barrier" for split in ("train", "test")),
)
KINDS: Mapping[str, str] = {
    **dict.fromkeys(_TEXTS, "text"),
    **dict.fromkeys(("format_version", "batch_size", "threads", "cells_per_pass"), "integer"),
    **dict.fromkeys(_NUMBERS, "number"),
    **dict.fromkeys(("train_loss_ends", "test_loss_ends"), "numbers"),
}
"""Of each root attribute of a surface its kind, as `Content.attributes` wants it."""
TRAJECTORY_KINDS: Mapping[str, str] = {
    "expected_cosine": "number",
    "explained_displacement": "number",
    "explained_variance_ratio": "numbers",
    "unit": "text",
}
_POSITIVE = ("batch_size", "threads", "cells_per_pass")


def read(content: Content, required: Collection[str] = ()) -> dict[str, Any]:
    """Return the root attributes of a surface; those that are JSON have the right form.

    Raises:
        SurfaceError: If one has not, or if one that is ``required`` is not there.
    """
    attributes = content.attributes(KINDS, required)
    if attributes.get("precision", "float32") not in PRECISIONS:
        allowed = ", ".join(PRECISIONS)
        found = short(attributes["precision"])
        raise content.damage(f"attribute precision is {found}; expected one of {allowed}")
    for name in _POSITIVE:
        if not 1 <= attributes.get(name, 1) < 2**63:
            raise content.damage(f"attribute {name} is {attributes[name]}; expected 1 or more")
    for name, (fits, words) in _JSON.items():
        if name in attributes:
            value = content.json(f"attribute {name}", attributes[name])
            if not fits(value):
                raise content.damage(f"attribute {name} is not {words}")
    for name in ("train_loss_ends", "test_loss_ends"):
        if name in attributes and (attributes[name].ndim != 1 or len(attributes[name]) != 2):
            raise content.damage(f"attribute {name} is not two numbers")
    return attributes


def state(content: Content) -> list[tuple[str, list[int], bool]]:
    """Return name, shape, and whether it is a parameter, of the network's whole state dict.

    Empty if the file does not say it.

    Raises:
        SurfaceError: If it says something else.
    """
    return list(_text(content, "state", _is_state, "a list of [name, shape, whether a parameter]"))


def roles(content: Content) -> Mapping[str, list[str]]:
    """Return which parameters have a role; see `lsengine.surface.parts`; raises like `state`."""
    return dict(_text(content, "roles", _is_names, "names of parameters by their role"))


def drawn(content: Content) -> dict[str, dict[str, list[str]]]:
    """Return digests of directions that the file does not hold; raises like `state`."""
    return dict(_text(content, "drawn", _is_drawn, "digests by axis and parameter"))


def _text(content: Content, name: str, fits: Callable[[Any], bool], words: str) -> Any:
    """Return what a text of the group ``directions`` says."""
    inner = content.inner("directions") if "directions" in content else None
    if inner is None or not (text := inner.text(name)):
        return {}
    value = inner.json(inner.path(name), text)
    if not fits(value):
        raise content.damage(f"{inner.path(name)} is not {words}")
    return value


def _is_state(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, list)
        and len(entry) == 3
        and isinstance(entry[0], str)
        and isinstance(entry[1], list)
        and len(entry[1]) <= 32
        and all(type(n) is int and 0 <= n < 2**63 for n in entry[1])
        and isinstance(entry[2], bool)
        for entry in value
    )


def _is_names(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_list_of_text, value.values()))


def _is_drawn(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= {"alpha", "beta"}
        and all(map(_is_names, value.values()))
    )


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_identity(value: Any) -> bool:
    """Whether directions and sources are as readers take them."""
    if not isinstance(value, dict) or not isinstance(value.get("code", {}), dict):
        return False
    specs = value.get("directions") or {}
    return isinstance(specs, dict) and all(map(_is_direction, specs.values()))


def _is_direction(spec: Any) -> bool:
    chosen = [spec.get(n) or [] for n in ("only", "ignore")] if isinstance(spec, dict) else []
    return spec is None or (bool(chosen) and all(map(_is_list_of_text, chosen)))


def _is_twin(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(means, list) and all(isinstance(mean, int | float) for mean in means)
        for means in value.values()
    )


def _is_sizes(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= {"alpha", "beta"}
        and all(map(_is_size, value.values()))
    )


def _is_size(value: Any) -> bool:
    lengths = value.get("lengths") if isinstance(value, dict) else None
    return (
        isinstance(lengths, dict)
        and lengths.keys() <= set(parts.KINDS)
        and all(type(n) is float and not n < 0 for n in lengths.values())  # or NaN
        and type(value.get("zero_filters")) is int
        and 0 <= value["zero_filters"] < 2**63
    )


_JSON: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "identity": (_is_identity, "what decides the values, as JSON"),
    "metrics": (_is_list_of_text, "a list of names, as JSON"),
    "twin": (_is_twin, "losses by split, as JSON"),
    "direction_sizes": (_is_sizes, "lengths by axis, as JSON"),
}
