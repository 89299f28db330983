"""Several jobs in one file: `extends` takes over another file, `matrix` multiplies.

Works on plain mappings, before validation.

    extends: base.yaml                  # sections are merged, this file wins
    name: vgg9-{train.batch_size}       # {key} stands for the value or its label
    matrix:
      train.batch_size: [128, 8192]
      train.weight_decay: {none: 0.0, some: 5.0e-4}     # label: value
      run: [a, b]                       # no key of a job: a variable, for {run} in texts
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lsengine.job.plain import shown
from lsengine.wording import did_you_mean

_MOST_JOBS = 10_000
_MOST_CHARACTERS = 20_000_000  # of all jobs
_MOST_OF_A_LABEL = 200
_PRINTED = 10**15
_MOST_SECTIONS = 20
_TOKEN = re.compile(r"\{([^{}]*)\}")


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid on top, mapping by mapping.

    A section that names another ``kind``, ``dataset`` or ``arch`` replaces the base's whole:
    its other keys would belong to something else.

    Example:
        >>> merged({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
        {'a': {'x': 1, 'y': 3}}
    """
    result = dict(base)
    for key, value in over.items():
        inherited = result.get(key)
        result[key] = value
        if isinstance(inherited, Mapping) and isinstance(value, Mapping):
            kinds = {"kind", "dataset", "arch"} & value.keys() & inherited.keys()
            is_another = any(value[name] != inherited[name] for name in kinds)
            result[key] = value if is_another else merged(inherited, value)
    return result


def expanded(raw: Mapping[str, Any], keys: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return one document per combination of the matrix's values, in the order written.

    ``keys`` are those of a job.  If they are given, another key without a dot is a variable: texts
    have it in braces, and that is all.

    Raises:
        ValueError: If the matrix is no mapping of keys to values, makes too many jobs, has a
            variable that no text has, or a key leads through something that is no section; with a
            message that starts with the key.
    """
    base = {key: value for key, value in raw.items() if key != "matrix"}
    axes = list(_axes(raw.get("matrix") or {}))
    count = math.prod(len(values) for _, values in axes)
    if count > _MOST_JOBS:
        said = f"{count:,}" if count < _PRINTED else f"more than {_PRINTED:,}"
        raise ValueError(f"matrix: makes {said} jobs; allowed: at most {_MOST_JOBS:,}")
    own = count * _characters(base)
    total = own + sum(_characters(values) * count // len(values) for _, values in axes)
    if count > 1 and total > _MOST_CHARACTERS:
        raise ValueError(
            f"matrix: makes {count:,} jobs of {total // count:,} characters; allowed: at most "
            f"{_MOST_CHARACTERS:,} characters in all"
        )
    variables = {key for key, _ in axes if keys and "." not in key and key not in keys}
    _refuse_unused(variables, raw, keys)
    documents = []
    for choice in itertools.product(*(values for _, values in axes)):
        document = copy.deepcopy(base)
        labels = {}
        for (key, _), (label, value) in zip(axes, choice, strict=True):
            if key not in variables:
                put(document, key, value, where="matrix.")
            labels[f"{{{key}}}"] = label
        if axes and not any(token in str(document["name"]) for token in labels):
            document["name"] = "-".join([str(document["name"]), *labels.values()])
        documents.append(_filled(document, labels))
    return documents


def _refuse_unused(
    variables: Collection[str], raw: Mapping[str, Any], keys: Collection[str]
) -> None:
    text = json.dumps(raw, default=str, skipkeys=True) if variables else ""
    for name in sorted(variables):
        token = f"{{{name}}}"
        if json.dumps(token)[1:-1] not in text:
            raise ValueError(
                f"matrix.{shown(name)}: is no key of a job{did_you_mean(name, keys)}; as a "
                f"variable of your own it has to stand in a text of the file: {shown(token)}"
            )


def _axes(matrix: Any) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    if not isinstance(matrix, Mapping):
        # One exception for all that is wrong with a matrix, which `job` turns into a problem.
        raise ValueError("matrix: expected a mapping from keys to values")  # noqa: TRY004
    for key, values in matrix.items():
        if isinstance(values, Mapping) and values:
            yield str(key), [(str(label), value) for label, value in values.items()]
        elif isinstance(values, list) and values:
            yield str(key), [(str(value), value) for value in values]
        else:
            raise ValueError(
                f"matrix.{shown(key)}: expected a list of values or a mapping label: value"
            )


def put(document: dict[str, Any], key: str, value: Any, *, where: str) -> None:
    """Give a document a value at a dotted key, and the sections that lead there.

    Raises:
        ValueError: If the key leads through something that is no section; it starts with
            ``where`` the value comes from.
    """
    *sections, last = key.split(".")
    if len(sections) > _MOST_SECTIONS:
        raise ValueError(f"{where}{shown(key)}: leads through too many sections")
    for section in sections:
        if document.get(section) is None:
            document[section] = {}
        document = document[section]
        if not isinstance(document, dict):
            raise ValueError(f"{where}{shown(key)}: {shown(section)} is no section of the job")  # noqa: TRY004
    document[last] = copy.deepcopy(value)


def _filled(value: Any, labels: Mapping[str, str]) -> Any:
    """Replace ``{key}`` in every string.

    Raises:
        ValueError: If what takes its place is too long.
    """

    def label(match: re.Match[str]) -> str:
        text = labels.get(match[0], match[0])
        if len(text) > _MOST_OF_A_LABEL and text != match[0]:
            raise ValueError(
                f"matrix.{shown(match[1])}: a value of {len(text):,} characters cannot stand in "
                "text; give it a label, label: value"
            )
        return text

    if isinstance(value, str):
        return _TOKEN.sub(label, value)
    if isinstance(value, dict):
        return {k: _filled(v, labels) for k, v in value.items()}
    return [_filled(v, labels) for v in value] if isinstance(value, list) else value


def _characters(value: Any) -> int:
    return len(json.dumps(value, default=str, skipkeys=True))
