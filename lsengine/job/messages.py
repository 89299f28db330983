"""Pydantic's errors as lines for a person: key path, what was found, what is allowed."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from lsengine.job.plain import shown
from lsengine.job.schema import Document
from lsengine.wording import did_you_mean, short

MOST_LINES = 50  # lines that anybody reads


def drop(raw: Any, loc: tuple[int | str, ...]) -> None:
    """Remove the key at a location of pydantic's, so that its neighbours can be checked."""
    owner, last = None, None
    for element in loc:
        try:
            raw[element]
        except (KeyError, IndexError, TypeError):
            continue
        owner, last, raw = raw, element, raw[element]
    if isinstance(owner, dict):
        owner.pop(last)


def explain(error: ValidationError, raw: Any) -> list[str]:
    """Turn pydantic's errors into one line per key: what was found, what is allowed."""
    by_key: dict[str, list[str]] = {}
    left_out: set[str] = set()
    for item in error.errors(include_url=False):
        key, owner = _key_path(item["loc"], raw, item["type"])
        if key not in by_key and len(by_key) == MOST_LINES:
            left_out.add(key)
            continue
        by_key.setdefault(key, []).append(_message(item, owner))
    lines = [f"{key}: {' or '.join(dict.fromkeys(m))}" for key, m in by_key.items()]
    return lines + ([f"and {len(left_out):,} more"] if left_out else [])


def _key_path(loc: tuple[int | str, ...], raw: Any, kind: str) -> tuple[str, str]:
    """Return the path as the user wrote it, and the model's path used to find its fields.

    Pydantic adds the tags of unions to its locations; what is not in the input is such a tag,
    except for the last element of a missing key.
    """
    keys: list[str] = []
    for depth, element in enumerate(loc, start=1):
        try:
            raw = raw[element]
        except (KeyError, IndexError, TypeError):
            if depth < len(loc) or kind != "missing":
                continue
        keys.append(f"[{element}]" if isinstance(element, int) else f".{shown(element)}")
    if kind.startswith("union_tag"):
        keys.append(".kind")
    return "".join(keys).lstrip(".") or "job", ".".join(str(e) for e in loc[:-1])


def _message(item: Mapping[str, Any], owner: str) -> str:
    kind, found, context = item["type"], item.get("input"), item.get("ctx", {})
    if kind == "extra_forbidden":
        fields = _fields_at(owner)
        hint = did_you_mean(item["loc"][-1], fields)
        return "unknown key" + (hint or "; allowed: " + ", ".join(fields))
    if kind in ("missing", "union_tag_not_found"):
        return "required, but missing"
    if kind in ("literal_error", "union_tag_invalid"):
        allowed = context.get("expected") or context.get("expected_tags", "")
        found = context.get("tag", found)
        words = [w.strip("' ") for w in re.split(r",| or ", allowed)]
        return f"got {short(found)}; allowed: {', '.join(words)}{did_you_mean(found, words)}"
    text = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    text = text.replace("a valid ", "").replace("greater than or equal to", "at least")
    text = text if text.startswith("expected") or kind == "value_error" else f"expected {text}"
    return f"{text}, got {short(found)}"


@functools.cache
def _json_schema() -> dict[str, Any]:
    return Document.model_json_schema()


def _fields_at(owner: str) -> list[str]:
    """Return the keys allowed at a model path, found in the JSON schema."""
    node = schema = _json_schema()
    for part in filter(None, owner.split(".")):
        options = [node, *node.get("anyOf", []), *node.get("oneOf", [])]
        options = [_dereference(o, schema) for o in options]
        options += [_dereference(n, schema) for o in options for n in o.get("oneOf", [])]
        for option in options:
            if part in option.get("properties", {}):
                node = _dereference(option["properties"][part], schema)
                break
            if option.get("properties", {}).get("kind", {}).get("const") == part:
                node = option
                break
    several = [node, *node.get("anyOf", []), *node.get("oneOf", [])]
    options = [_dereference(o, schema) for o in several]
    return [name for option in options for name in option.get("properties", {})]


def _dereference(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref", "").rpartition("/")[2]
    return schema["$defs"][reference] if reference else node
