"""Job files: YAML in, one validated value out, or every problem at once.

The only module that reads or writes YAML.  A bad job is refused before torch or MPI is loaded.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from lsengine.errors import JobError
from lsengine.job import matrix, rules
from lsengine.job.job import Job, absolute, file_checks
from lsengine.job.messages import drop, explain
from lsengine.job.schema import Document
from lsengine.wording import short

_MOST_VALUES = 100_000  # that aliases may stand for
_NEEDS = {
    **dict.fromkeys(("eval", "trajectory"), ("model.checkpoint", "directions", "grid")),
    "spectrum": ("model.checkpoint",),
    "train": ("train",),
    "connect": ("model.checkpoint", "curve"),
    "any": (),
}


def load(path: str | Path, *, command: str = "any", changes: Sequence[str] = ()) -> Job:
    """Read and check a file that is one job.

    The command (``eval``, ``trajectory``, ``spectrum``, ``train``, ``connect`` or ``any``) decides
    which sections and files must be there.  ``changes`` are as for `load_all`.

    Raises:
        JobError: With every problem of the file, each starting with its key path; also if a
            matrix makes several jobs of it.
    """
    jobs = load_all(path, command=command, changes=changes)
    if len(jobs) > 1:
        names = ", ".join(job.document.name for job in jobs)
        problem = f"matrix: makes {len(jobs)} jobs of this file, one is needed here: {names}"
        raise JobError(str(path), [problem])
    return jobs[0]


def load_all(
    path: str | Path, *, command: str = "any", only: str = "*", changes: Sequence[str] = ()
) -> list[Job]:
    """Read and check a file that may be several jobs, by `lsengine.job.matrix`.

    ``command`` is that of `load`; ``only`` is a pattern that the names of the wanted jobs match.
    ``changes`` such as ``grid.alpha=[-1, 1, 9]`` replace values of the file, before the matrix
    is looked at.

    Raises:
        JobError: With every problem of every job.
    """
    source = Path(path)
    raw = _read_with_base(source, ())
    raw.setdefault("name", source.stem)
    try:
        for change in changes:
            _change(raw, change)
        documents = matrix.expanded(raw)
    except ValueError as error:
        raise JobError(str(path), [str(error)]) from None
    jobs, problems = [], []
    for content in documents:
        if not fnmatchcase(str(content["name"]), only):
            continue
        job, of_job = _checked(content, source, command)
        prefix = f"{content['name']}: " if len(documents) > 1 else ""
        problems += [prefix + problem for problem in of_job]
        jobs.append(job)
    if not jobs:
        names = ", ".join(str(content["name"]) for content in documents)
        problems.append(f"no job's name matches {only}; there are: {names}")
    if not problems:
        problems += _shared_outputs(jobs, command)
    if problems:
        raise JobError(str(path), problems)
    return jobs


def _change(raw: dict[str, Any], change: str) -> None:
    """Give a raw document the value of ``KEY=VALUE``.

    Raises:
        ValueError: If it is not of that form, its value is no YAML, or the matrix sets the key.
    """
    key, sign, text = change.partition("=")
    if not (sign and all(key.split("."))):
        raise ValueError(f"--set {change}: expected KEY=VALUE, such as grid.alpha=[-1,1,9]")
    try:
        value = parsed(text)
    except ValueError as error:
        raise ValueError(f"--set {key}: {error}") from None
    combined = raw.get("matrix")
    first, _, rest = key.partition(".")
    if first == "matrix" and rest and isinstance(combined or {}, dict):  # its keys have dots
        raw["matrix"] = {**(combined or {}), rest: value}
        return
    if isinstance(combined, dict) and key in combined:
        raise ValueError(f"--set {key}: the matrix of the file gives it; set matrix.{key}")
    matrix.put(raw, key, value, where="--set ")


def from_values(content: dict[str, Any], *, folder: Path, command: str, who: str) -> Job:
    """Return a job of keys and values that are in no file.

    ``folder`` is where its paths start, ``who`` is named before the problems; see `load`.

    Raises:
        JobError: With every problem.
    """
    job, problems = _checked(content, folder / who, command)
    if problems:
        raise JobError(who, problems)
    return job


def _checked(content: dict[str, Any], source: Path, command: str) -> tuple[Job, list[str]]:
    """Return a job and what is wrong with it."""
    document, problems = _validate(content)
    problems += rules.between_keys(document)
    problems += _needs(document, content, command)
    problems += file_checks(source, document, command)
    return Job(source=source.absolute(), document=document), problems


def _shared_outputs(jobs: list[Job], command: str) -> Iterator[str]:
    """Yield what several jobs of one file would all write."""
    trained = [j.path(t.output) for j in jobs if (t := j.document.train)]
    outputs = {"eval": ("output", [j.output for j in jobs]), "train": ("train.output", trained)}
    key, paths = outputs.get(command, ("", []))
    if len(set(paths)) < len(paths):
        yield f"{key}: several jobs of the matrix share one; put a key in braces into it"


def _read_with_base(source: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    """Read a file laid on top of the one it extends, and so on."""
    raw = read_mapping(source)
    base = raw.pop("extends", None)
    if base is None:
        return raw
    if not isinstance(base, str):
        problem = f"extends: expected the name of a job file, got {short(base)}"
        raise JobError(str(source), [problem])
    chain = (*chain, source.absolute())
    if absolute(source, base) in chain:
        raise JobError(str(source), [f"extends: {base} extends itself"])
    inherited = _read_with_base(absolute(source, base), chain)
    inherited.pop("name", None)  # two jobs of one name would share a surface
    return matrix.merged(inherited, raw)


def read_mapping(source: Path) -> dict[str, Any]:
    """Return a YAML file's keys as they are written; raises `JobError`."""

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
        raw = parsed(text)
    except ValueError as error:
        raise refuse(str(error)) from None
    if not isinstance(raw, dict):
        found = "an empty file" if raw is None else type(raw).__name__
        raise refuse(f'expected a mapping of keys such as "model:", got {found}')
    return raw


def parsed(text: str) -> Any:
    """Return what YAML says, as job files are read.

    Raises:
        ValueError: If it is no YAML, too deep or too long, or would build objects.
    """
    try:
        # _Loader is a SafeLoader: tags that build objects are refused.
        value = yaml.load(text, Loader=_Loader)
        json.dumps(value, default=str, skipkeys=True)  # as deep as anything after it goes
    except _TooManyValues as error:
        raise ValueError(str(error)) from None
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from None
    except (RecursionError, ValueError):
        raise ValueError("nested too deeply, or an alias stands for what it is part of") from None
    return value


class _TooManyValues(yaml.YAMLError):
    """A few lines of aliases of aliases would fill the memory."""


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys and reads ``1e-2`` as a number."""

    def get_single_node(self) -> yaml.Node | None:
        """Return the whole document, unless its aliases stand for too much."""
        document = super().get_single_node()
        sizes: dict[int, int] = {}
        if document is not None and _size(document, sizes) > max(_MOST_VALUES, len(sizes)):
            allowed = f"more than {_MOST_VALUES:,} values, which is the most that is allowed"
            raise _TooManyValues(
                f"its aliases (*name) stand for {allowed}; write fewer, or several files"
            )
        return document

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        written = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in written]
        repeated = {str(k) for k in keys if keys.count(k) > 1}
        if repeated:
            problem = f"key {', '.join(sorted(repeated))} is given twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return how many values a node has with each alias written out; ``sizes`` are by identity."""
    if id(node) not in sizes:
        is_mapping = isinstance(node, yaml.MappingNode)
        inner = [n for pair in node.value for n in pair] if is_mapping else node.value
        many = isinstance(node, yaml.CollectionNode)
        sizes[id(node)] = 1 + (sum(_size(n, sizes) for n in inner) if many else 0)
    return sizes[id(node)]


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
            drop(pruned, item["loc"])
        partial: dict[str, Any] = dict.fromkeys(Document.model_fields)
        annotated: Any = Annotated  # built from values here, which types cannot be
        for name, field in Document.model_fields.items():
            with suppress(KeyError, ValidationError):
                hint = annotated[field.annotation, field]
                partial[name] = TypeAdapter(hint).validate_python(pruned[name])
        return Document.model_construct(**partial), explain(error, raw)


def _needs(job: Document, raw: Mapping[str, Any], command: str) -> Iterator[str]:
    for key in _NEEDS[command]:
        section, _, inner = key.partition(".")
        # A folder has weights of its own.
        inner = "centre" if inner == "checkpoint" else inner
        lacks_inner = bool(inner) and job.model is not None and getattr(job.model, inner) is None
        if raw.get(section) is None or lacks_inner:
            yield f'{key}: required by "lsengine {command}", but missing'
    if command == "trajectory" and job.directions and rules.trajectory_glob(job) is None:
        why = 'required by "lsengine trajectory", because no direction is principal'
        yield f"trajectory.checkpoints: {why}"
