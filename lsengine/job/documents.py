"""The text of YAML files as plain values, within limits that a job of any honest size keeps.

The only module that reads YAML.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from lsengine import files
from lsengine.errors import JobError, UsageError
from lsengine.job.plain import MOST_LEVELS, MOST_VALUES, shown
from lsengine.wording import listed, short

_MOST_BYTES = 2**20
_MOST_WRITTEN = 50_000  # of values, aliases not written out; reading that many takes seconds
_MOST_DIGITS = 400
_MOST_OF_A_MESSAGE = 300
_DEEP = "nested too deeply, or an alias stands for what it is part of"
# What PyYAML lets out for values that do not fit their tags, and for escapes of no character.
_LEAKS = (ValueError, OverflowError, ArithmeticError, LookupError, AttributeError, TypeError)


def read_mapping(source: Path) -> dict[str, Any]:
    """Return a YAML file's keys as they are written; raises `JobError`."""
    try:
        raw = parsed(read_text(source))
    except ValueError as error:
        raise JobError(str(source), [str(error)]) from None
    if not isinstance(raw, dict):
        found = "an empty file" if raw is None else type(raw).__name__
        problem = f'expected a mapping of keys such as "model:", got {found}'
        raise JobError(str(source), [problem])
    return raw


def read_text(source: Path) -> str:
    """Return the text of a file of settings.

    Raises:
        JobError: If it is no regular file, cannot be read as text, or is too long for a job.
    """
    try:
        return _content(source).decode()
    except UsageError as error:
        problem = str(error).removeprefix(f"{source}: ")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read as text: {error}"
    raise JobError(str(source), [problem])


def _content(source: Path) -> bytes:
    if not files.is_regular(source, expected="a YAML job file"):
        raise UsageError('no such file; "lsengine init" writes a starter job')
    with source.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise UsageError(f"is longer than {_MOST_BYTES:,} bytes, which is the most that is allowed")
    return content


def parsed(text: str) -> Any:
    """Return what YAML says, as job files are read.

    Raises:
        ValueError: If it is no YAML, too deep or too long, or would build objects.
    """
    try:
        # _Loader is a SafeLoader: tags that build objects are refused.
        return yaml.load(text, Loader=_Loader)
    except _TooMuch as error:
        raise ValueError(str(error)) from None
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
    except _LEAKS as error:
        said = str(error)
    if len(said) > _MOST_OF_A_MESSAGE:
        said = f"{said[:_MOST_OF_A_MESSAGE]}..."
    raise ValueError(f"not valid YAML: {said}") from None


class _TooMuch(yaml.YAMLError):
    """A few lines would fill the memory, or take for ever."""


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys and reads ``1e-2`` as a number."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._written, self._level = 0, 0

    def get_single_node(self) -> yaml.Node | None:
        """Return the whole document, unless its aliases stand for too much."""
        document = super().get_single_node()
        sizes: dict[int, tuple[int, int]] = {}
        if document is None:
            return None
        size, levels = _extent(document, sizes, 0)
        if levels > MOST_LEVELS:
            raise _TooMuch(_DEEP)
        if size > max(MOST_VALUES, len(sizes)):
            allowed = f"more than {MOST_VALUES:,} values, which is the most that is allowed"
            raise _TooMuch(
                f"its aliases (*name) stand for {allowed}; write fewer, or several files"
            )
        return document

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._written += 1
        if self._written > _MOST_WRITTEN:
            raise _TooMuch(f"has more than {_MOST_WRITTEN:,} values; write fewer, or several files")
        if self._level > MOST_LEVELS:
            raise _TooMuch(_DEEP)
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here, because later on a mapping also has the keys that it is merged with.
        node = super().compose_mapping_node(anchor)
        seen: set[Any] = set()
        repeated: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                value = self.construct_object(key, deep=True)
                (repeated if value in seen else seen).add(value)
        if repeated:
            names = listed(sorted(map(shown, repeated)))
            problem = f"key {names} is given twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        kind = node.tag.rpartition(":")[2]
        try:
            if kind in ("int", "float") and len(node.value) > _MOST_DIGITS:
                raise ValueError  # 1:1:1:... is a number of base 60, and takes for ever
            return super().construct_object(node, deep)
        except _LEAKS:
            problem = f"{short(node.value)} is not of the type {kind}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


def _extent(node: yaml.Node, extents: dict[int, tuple[int, int]], level: int) -> tuple[int, int]:
    """Return how many values a node has with each alias written out, and how many levels.

    ``extents`` are those that are known, by identity.
    """
    if id(node) in extents:
        return extents[id(node)]
    if level > MOST_LEVELS:
        raise _TooMuch(_DEEP)
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.CollectionNode):
        inner = node.value
        if isinstance(node, yaml.MappingNode):
            inner = [n for pair in node.value for n in pair]
    below = [_extent(n, extents, level + 1) for n in inner]
    size = 1 + sum(size for size, _ in below)
    extents[id(node)] = size, max((levels for _, levels in below), default=-1) + 1
    return extents[id(node)]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
