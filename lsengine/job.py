"""Job files: YAML in, one validated value out, or every problem at once.

The only module that reads or writes YAML.  It imports nothing heavy, so that a bad job is
refused before torch, MPI or HDF5 are loaded.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from lsengine.errors import JobError, did_you_mean
from lsengine.schema import ARCHITECTURES, DATASETS, LOSSES, Direction, Document

_NEEDS = {"eval": ("model.checkpoint", "directions", "grid"), "train": ("train",), "any": ()}


@dataclass(frozen=True, slots=True)
class Job:
    """A valid job and where it came from.

    Attributes:
        source: The job file; relative paths in the document are relative to its folder.
        document: The validated content with all defaults filled in.
    """

    source: Path
    document: Document

    def path(self, written: str) -> Path:
        """Return a path of the document, made absolute against the job file's folder."""
        return _absolute(self.source, written)

    @property
    def checkpoint(self) -> Path:
        """The centre's checkpoint; only for jobs loaded for a command that needs one."""
        assert self.document.model.checkpoint is not None
        return self.path(self.document.model.checkpoint)

    @property
    def output(self) -> Path:
        """The surface file."""
        return self.path(self.document.output or f"surfaces/{self.document.name}.h5")

    @property
    def directions(self) -> dict[str, Direction]:
        """The directions by axis name, ``alpha`` first."""
        assert self.document.directions is not None
        both = {"alpha": self.document.directions.alpha, "beta": self.document.directions.beta}
        return {axis: spec for axis, spec in both.items() if spec is not None}

    def direction_files(self) -> dict[str, Path]:
        """Return every file that a direction reads, by key path."""
        return {key: self.path(p) for key, p in _direction_files(self.document)}

    def resolved(self) -> str:
        """Return the whole document as YAML text, defaults filled in and paths absolute."""
        content = self.document.model_dump(mode="json")
        content["output"] = str(self.output)
        for keys in _PATHS:
            section: Any = content
            for key in keys[:-1]:
                section = (section or {}).get(key)
            if section and section.get(keys[-1]) is not None:
                section[keys[-1]] = str(self.path(section[keys[-1]]))
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)

    def identity(self, digests: Mapping[str, str]) -> dict[str, Any]:
        """Return everything that decides the values of the surface, as plain JSON values.

        Args:
            digests: SHA-256 of the checkpoint, of the data and of each direction's file.
        """
        content = self.document.model_dump(mode="json")
        kept = {k: content[k] for k in _IDENTITY}
        kept["model"] = {k: content["model"][k] for k in ("arch", "args")}
        kept["data"] = {k: v for k, v in content["data"].items() if k != "root"}
        kept["directions"] = {
            axis: {k: v for k, v in spec.items() if k not in _DIRECTION_PATHS}
            for axis, spec in (content["directions"] or {}).items()
            if spec is not None
        }
        kept["digests"] = dict(digests)
        return kept


_PATHS = (
    ("model", "checkpoint"),
    ("data", "root"),
    ("directions", "alpha", "checkpoint"),
    ("directions", "alpha", "path"),
    ("directions", "beta", "checkpoint"),
    ("directions", "beta", "path"),
    ("train", "output"),
)
_DIRECTION_PATHS = ("checkpoint", "path")
_IDENTITY = (
    *("loss", "batch_norm", "precision", "batch_size"),
    *("quantities", "grid", "repeats", "seed"),
)


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of an identity (hex)."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def cell_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an identity that decides the value of a single cell."""
    return {k: v for k, v in identity.items() if k not in ("grid", "repeats", "quantities")}


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Return ``key: ours, in the file theirs`` for the first key that differs, or None."""
    left, right = dict(_flat(ours)), dict(_flat(theirs))
    for key in sorted(left.keys() | right.keys()):
        a, b = left.get(key, "absent"), right.get(key, "absent")
        if a != b:
            return f"{key} is {_short(a)} in the job, {_short(b)} in the file"
    return None


def load(path: str | Path, *, command: str = "any") -> Job:
    """Read and check a job file.

    Args:
        path: The YAML file.
        command: What the job is for (``eval``, ``train`` or ``any``); decides which sections
            and files must be there.

    Raises:
        JobError: With every problem of the file, each starting with its key path.
    """
    source = Path(path)
    raw = _read(source)
    raw.setdefault("name", source.stem)
    document, problems = _validate(raw)
    problems += _cross_checks(document)
    problems += _needs(document, raw, command)
    problems += _file_checks(source, document, command)
    if problems:
        raise JobError(str(path), problems)
    return Job(source=source.absolute(), document=document)


def _read(source: Path) -> dict[str, Any]:
    def refuse(problem: str) -> JobError:
        return JobError(str(source), [problem])

    try:
        text = source.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise refuse('no such file; "lsengine init" writes a starter job') from None
    except IsADirectoryError:
        raise refuse("is a directory; expected a YAML job file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(f"cannot be read as text: {error}") from None
    try:
        # _Loader is a SafeLoader: tags that build objects are refused.
        raw = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise refuse(f"not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        found = "an empty file" if raw is None else type(raw).__name__
        raise refuse(f'expected a mapping of keys such as "model:", got {found}')
    return raw


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys and reads ``1e-2`` as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = {str(k) for k in keys if keys.count(k) > 1}
        if repeated:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {', '.join(sorted(repeated))} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _validate(raw: dict[str, Any]) -> tuple[Document, list[str]]:
    """Validate; after a failure return what is right without the wrong keys, and the problems."""
    try:
        return Document.model_validate(raw), []
    except ValidationError as error:
        pruned = copy.deepcopy(raw)
        for item in error.errors(include_url=False):
            _drop(pruned, item["loc"])
        partial: dict[str, Any] = {}
        for name, field in Document.model_fields.items():
            try:
                hint = Annotated[field.annotation, field]
                partial[name] = TypeAdapter(hint).validate_python(pruned[name])
            except (KeyError, ValidationError):
                partial[name] = None
        return Document.model_construct(**partial), _explain(error, raw)


def _drop(raw: Any, loc: tuple[int | str, ...]) -> None:
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


def _explain(error: ValidationError, raw: Any) -> list[str]:
    """Turn pydantic's errors into one line per key: what was found, what is allowed."""
    by_key: dict[str, list[str]] = {}
    for item in error.errors(include_url=False):
        key, owner = _key_path(item["loc"], raw, item["type"])
        by_key.setdefault(key, []).append(_message(item, owner))
    return [f"{key}: {' or '.join(dict.fromkeys(m))}" for key, m in by_key.items()]


def _key_path(loc: tuple[int | str, ...], raw: Any, kind: str) -> tuple[str, str]:
    """Return the path as the user wrote it, and the model's path used to find its fields.

    Pydantic adds the tags of unions to its locations; what is not in the input is such a tag,
    except for the last element of a missing key.
    """
    keys: list[str] = []
    for depth, element in enumerate(loc):
        last = depth == len(loc) - 1
        try:
            raw = raw[element]
        except (KeyError, IndexError, TypeError):
            if not (last and kind == "missing"):
                continue
            raw = None
        keys.append(f"[{element}]" if isinstance(element, int) else f".{element}")
    if kind.startswith("union_tag"):
        keys.append(".kind")
    return "".join(keys).lstrip(".") or "job", ".".join(str(e) for e in loc[:-1])


def _message(item: Mapping[str, Any], owner: str) -> str:
    kind, found, context = item["type"], item.get("input"), item.get("ctx", {})
    if kind == "extra_forbidden":
        fields = _fields_at(owner)
        hint = did_you_mean(item["loc"][-1], fields)
        return "unknown key" + (hint or "; allowed: " + ", ".join(fields))
    if kind == "missing":
        return "required, but missing"
    if kind in ("literal_error", "union_tag_invalid"):
        allowed = context.get("expected") or context.get("expected_tags", "")
        found = context.get("tag", found)
        words = [w.strip("' ") for w in re.split(r",| or ", allowed)]
        return f"got {_short(found)}; allowed: {', '.join(words)}{did_you_mean(found, words)}"
    if kind == "union_tag_not_found":
        return "required, but missing"
    text = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    text = text.replace("a valid ", "").replace("greater than or equal to", "at least")
    text = text if text.startswith("expected") or kind == "value_error" else f"expected {text}"
    return f"{text}, got {_short(found)}"


def _fields_at(owner: str) -> list[str]:
    """Return the keys allowed at a model path, found in the JSON schema."""
    schema = Document.model_json_schema()
    node: dict[str, Any] = schema
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
    options = [_dereference(o, schema) for o in [node, *node.get("anyOf", [])]]
    return [name for option in options for name in option.get("properties", {})]


def _dereference(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref", "").rpartition("/")[2]
    return schema["$defs"][reference] if reference else node


def _cross_checks(job: Document) -> Iterator[str]:
    """Yield what is wrong between keys that are right one by one."""
    if job.model and ":" not in job.model.arch and job.model.arch not in ARCHITECTURES:
        hint = did_you_mean(job.model.arch, ARCHITECTURES)
        yield (
            f"model.arch: got {_short(job.model.arch)}; allowed: a zoo name (see "
            f'"lsengine models"), torchvision:NAME or module:factory{hint}'
        )
    if job.data and ":" not in job.data.dataset and job.data.dataset not in DATASETS:
        allowed = ", ".join(DATASETS)
        hint = did_you_mean(job.data.dataset, DATASETS)
        yield (
            f"data.dataset: got {_short(job.data.dataset)}; allowed: {allowed} "
            f"or module:factory{hint}"
        )
    if job.loss and ":" not in job.loss and job.loss not in LOSSES:
        hint = did_you_mean(job.loss, LOSSES)
        allowed = ", ".join(LOSSES)
        yield f"loss: got {_short(job.loss)}; allowed: {allowed} or module:function{hint}"
    if job.data and job.data.dataset in DATASETS[1:] and job.data.root is None:
        yield f"data.root: required for dataset {job.data.dataset}"
    if job.grid and job.directions and (job.grid.beta is None) != (job.directions.beta is None):
        there, missing = ("grid", "directions") if job.grid.beta else ("directions", "grid")
        yield f"{missing}.beta: required, because {there}.beta is given"
    if job.grid:
        for axis in ("alpha", "beta"):
            spec = getattr(job.grid, axis)
            if spec and spec[0] == "auto":
                yield f"grid.{axis}: auto needs a trajectory; give [start, stop, points]"
    if (job.repeats or 1) > 1 and job.directions:
        if job.directions.beta is not None:
            yield f"repeats: got {job.repeats}; two directions allow 1 only"
        elif job.directions.alpha.kind != "random":
            yield (
                f"repeats: got {job.repeats}; only directions of kind random differ "
                f"between repeats, got kind {job.directions.alpha.kind}"
            )


def _needs(job: Document, raw: Mapping[str, Any], command: str) -> Iterator[str]:
    for key in _NEEDS[command]:
        section, _, inner = key.partition(".")
        is_there = raw.get(section) is not None
        if is_there and inner and job.model is not None:
            is_there = getattr(job.model, inner) is not None
        if not is_there:
            yield f'{key}: required by "lsengine {command}", but missing'


def _file_checks(source: Path, job: Document, command: str) -> Iterator[str]:
    if command == "eval":
        if job.model and job.model.checkpoint:
            hint = '; "lsengine train" of this job writes one' if job.train else ""
            yield from _missing(source, "model.checkpoint", job.model.checkpoint, hint)
        for key, written in _direction_files(job):
            yield from _missing(source, key, written, "")
        yield from _unwritable(_absolute(source, job.output or "surfaces/x.h5"), "output")
    if command == "train" and job.train:
        yield from _unwritable(_absolute(source, job.train.output) / "history.h5", "train.output")
    if job.data and job.data.dataset == "arrays" and job.data.root:
        yield from _missing(source, "data.root", job.data.root, "; expected an .npz file")


def _missing(source: Path, key: str, written: str, hint: str) -> Iterator[str]:
    path = _absolute(source, written)
    if path.is_dir():
        yield f"{key}: {path} is a directory; expected a file"
    elif not path.is_file():
        yield f"{key}: no such file: {path}{hint}"
    elif not os.access(path, os.R_OK):
        yield f"{key}: {path} cannot be read; check its permissions"


def _unwritable(path: Path, key: str) -> Iterator[str]:
    if path.is_dir():
        yield f"{key}: {path} is a directory; expected the name of a file"
        return
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent  # the rest is made when it is needed
    if not folder.is_dir():
        yield f"{key}: {folder} is not a directory"
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield f"{key}: cannot write in {folder}; check its permissions"


def _direction_files(job: Document) -> Iterator[tuple[str, str]]:
    for axis in ("alpha", "beta"):
        spec = getattr(job.directions, axis, None)
        for key in _DIRECTION_PATHS:
            if getattr(spec, key, None) is not None:
                yield f"directions.{axis}.{key}", getattr(spec, key)


def _absolute(source: Path, written: str) -> Path:
    # Not `resolve`: a link to a folder of checkpoints should stay what the user wrote.
    return Path(os.path.normpath(source.absolute().parent / Path(written).expanduser()))


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _short(value: Any) -> str:
    text = json.dumps(value, default=str) if not isinstance(value, float) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
