"""Job files: YAML in, one validated value out, or every problem at once.

The only module that reads or writes YAML.  A bad job is refused before torch or MPI is loaded.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from lsengine import checks, matrix
from lsengine.errors import JobError
from lsengine.problems import drop, explain, short
from lsengine.schema import Direction, Document, Trajectory

_SURFACE = ("model.checkpoint", "directions", "grid")
_NEEDS = {
    "eval": _SURFACE,
    "trajectory": _SURFACE,
    "spectrum": ("model.checkpoint",),
    "train": ("train",),
    "connect": ("model.checkpoint", "curve"),
    "any": (),
}


@dataclass(frozen=True, slots=True)
class Job:
    """A valid job and where it came from.

    Attributes:
        source: The job file; relative paths in the document are relative to its folder.
        document: The validated content with all defaults filled in.
        shard: k and n of a run that evaluates the k-th of n parts into a file of its own.
    """

    source: Path
    document: Document
    shard: tuple[int, int] | None = None

    def path(self, written: str) -> Path:
        """Return a path of the document, made absolute against the job file's folder."""
        return _absolute(self.source, written)

    @property
    def checkpoint(self) -> Path:
        """The centre's checkpoint; only for jobs loaded for a command that needs one."""
        assert self.document.model.checkpoint is not None
        return self.path(self.document.model.checkpoint)

    @property
    def surface(self) -> Path:
        """The surface file."""
        return self.path(self.document.output or f"surfaces/{self.document.name}.h5")

    @property
    def output(self) -> Path:
        """The file that a run writes: the surface's, or the shard's beside it."""
        whole = self.surface
        return whole.with_suffix(f".shard-{self.shard[0]}.h5") if self.shard else whole

    @property
    def directions(self) -> dict[str, Direction]:
        """The directions by axis name, ``alpha`` first."""
        assert self.document.directions is not None
        both = {"alpha": self.document.directions.alpha, "beta": self.document.directions.beta}
        return {axis: spec for axis, spec in both.items() if spec is not None}

    def direction_files(self) -> dict[str, Path]:
        """Return every file that a direction reads, by key path."""
        return {key: self.path(p) for key, p in _direction_files(self.document)}

    @property
    def trajectory(self) -> tuple[str, str] | None:
        """Key path and absolute glob of the checkpoints that are projected, if any are."""
        found = checks.trajectory_glob(self.document)
        return found and (found[0], str(self.path(found[1])))

    @property
    def is_curve_plane(self) -> bool:
        """Whether the directions are the plane of a trained curve."""
        return checks.is_curve_plane(self.document)

    @property
    def margin(self) -> float:
        """Room around a trajectory or curve on axes that fit it, as a fraction of its extent."""
        return (self.document.trajectory or Trajectory()).margin

    @property
    def fits_trajectory(self) -> bool:
        """Whether an axis takes its range from the trajectory or the curve."""
        return self.document.grid is not None and any(checks.automatic_axes(self.document))

    def resolved(self) -> str:
        """Return the whole document as YAML text, defaults filled in and paths absolute."""
        content = self.document.model_dump(mode="json")
        content["output"] = str(self.surface)
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
            digests: SHA-256 of the checkpoint, of the data and of each direction's files; of
                the trajectory's where an axis fits it.
        """
        content = self.document.model_dump(mode="json")
        kept = {k: content[k] for k in _IDENTITY}
        if self.document.cells_per_pass != 1:  # left out where it is 1: files are older than it
            kept["cells_per_pass"] = self.document.cells_per_pass
        kept["model"] = {k: content["model"][k] for k in ("arch", "args")}
        kept["data"] = {k: v for k, v in content["data"].items() if k != "root"}
        kept["directions"] = {
            axis: {k: v for k, v in spec.items() if k not in _DIRECTION_PATHS}
            for axis, spec in (content["directions"] or {}).items()
            if spec is not None
        }
        if self.fits_trajectory:
            kept["trajectory"] = {"margin": self.margin}
        kept["digests"] = dict(digests)
        return kept


_PATHS = (
    ("model", "checkpoint"),
    ("data", "root"),
    ("directions", "alpha", "checkpoint"),
    ("directions", "alpha", "path"),
    ("directions", "beta", "checkpoint"),
    ("directions", "beta", "path"),
    ("directions", "alpha", "checkpoints"),
    ("directions", "beta", "checkpoints"),
    ("trajectory", "checkpoints"),
    *(("train", "output"), ("curve", "to"), ("curve", "output")),
)
_DIRECTION_FILES = ("checkpoint", "path")
_DIRECTION_PATHS = (*_DIRECTION_FILES, "checkpoints")
_IDENTITY = (
    *("loss", "batch_norm", "curvature", "precision", "batch_size"),
    *("quantities", "grid", "repeats", "seed"),
)


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of an identity (hex)."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def cell_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an identity that decides the value of a single cell."""
    return {k: v for k, v in identity.items() if k not in ("grid", "repeats", "quantities")}


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Return ``key: ours, in the file theirs`` for the first key that differs, or None."""
    left, right = dict(_flat(ours)), dict(_flat(theirs))
    for key in sorted(left.keys() | right.keys(), key=lambda k: (k.startswith("digests."), k)):
        a, b = left.get(key, "absent"), right.get(key, "absent")
        if json.dumps(a) != json.dumps(b):  # as in the fingerprint, where 1 is not 1.0
            if key.startswith("digests."):
                return f"the content of {key.removeprefix('digests.')} is not what it was"
            return f"{key} is {short(a)} in the job, {short(b)} in the file"
    return None


def load(path: str | Path, *, command: str = "any") -> Job:
    """Read and check a file that is one job.

    Args:
        path: The YAML file.
        command: What the job is for (``eval``, ``trajectory``, ``train`` or ``any``); decides
            which sections and files must be there.

    Raises:
        JobError: With every problem of the file, each starting with its key path; also if a
            matrix makes several jobs of it.
    """
    jobs = load_all(path, command=command)
    if len(jobs) > 1:
        names = ", ".join(job.document.name for job in jobs)
        problem = f"matrix: makes {len(jobs)} jobs of this file, one is needed here: {names}"
        raise JobError(str(path), [problem])
    return jobs[0]


def load_all(path: str | Path, *, command: str = "any", only: str = "*") -> list[Job]:
    """Read and check a file that may be several jobs, by `lsengine.matrix`.

    Args:
        path: The YAML file.
        command: See `load`.
        only: Pattern that the names of the wanted jobs match.

    Raises:
        JobError: With every problem of every job.
    """
    source = Path(path)
    raw = _read_with_base(source, ())
    raw.setdefault("name", source.stem)
    try:
        documents = matrix.expanded(raw)
    except ValueError as error:
        raise JobError(str(path), [str(error)]) from None
    jobs, problems = [], []
    for content in documents:
        if not fnmatchcase(str(content["name"]), only):
            continue
        document, found = _validate(content)
        found += checks.between_keys(document)
        found += _needs(document, content, command)
        found += _file_checks(source, document, command)
        prefix = f"{content['name']}: " if len(documents) > 1 else ""
        problems += [prefix + problem for problem in found]
        jobs.append(Job(source=source.absolute(), document=document))
    if not jobs:
        names = ", ".join(str(content["name"]) for content in documents)
        problems.append(f"no job's name matches {only}; there are: {names}")
    if not problems:
        problems += _shared_outputs(jobs, command)
    if problems:
        raise JobError(str(path), problems)
    return jobs


def matching(pattern: str) -> list[Path]:
    """Return the files that match an absolute glob, hidden ones left out, sorted by name."""
    path = Path(pattern)
    found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    return sorted(p for p in found if not p.name.startswith(".") and p.is_file())


def _shared_outputs(jobs: list[Job], command: str) -> Iterator[str]:
    """Yield what several jobs of one file would all write."""
    outputs = {
        "eval": ("output", [job.output for job in jobs]),
        "train": ("train.output", [j.path(t.output) for j in jobs if (t := j.document.train)]),
    }
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
        raise JobError(
            str(source), [f"extends: expected the name of a job file, got {short(base)}"]
        )
    chain = (*chain, source.absolute())
    if _absolute(source, base) in chain:
        raise JobError(str(source), [f"extends: {base} extends itself"])
    inherited = _read_with_base(_absolute(source, base), chain)
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
        # _Loader is a SafeLoader: tags that build objects are refused.
        raw = yaml.load(text, Loader=_Loader)
        json.dumps(raw, default=str, skipkeys=True)  # as deep as anything after it goes
    except yaml.YAMLError as error:
        raise refuse(f"not valid YAML: {' '.join(str(error).split())}") from None
    except (RecursionError, ValueError):
        raise refuse("nested too deeply, or an alias stands for what it is part of") from None
    if not isinstance(raw, dict):
        found = "an empty file" if raw is None else type(raw).__name__
        raise refuse(f'expected a mapping of keys such as "model:", got {found}')
    return raw


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys and reads ``1e-2`` as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        written = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in written]
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
            drop(pruned, item["loc"])
        partial: dict[str, Any] = {}
        annotated: Any = Annotated  # built from values here, which types cannot be
        for name, field in Document.model_fields.items():
            try:
                hint = annotated[field.annotation, field]
                partial[name] = TypeAdapter(hint).validate_python(pruned[name])
            except (KeyError, ValidationError):
                partial[name] = None
        return Document.model_construct(**partial), explain(error, raw)


def _needs(job: Document, raw: Mapping[str, Any], command: str) -> Iterator[str]:
    for key in _NEEDS[command]:
        section, _, inner = key.partition(".")
        is_there = raw.get(section) is not None
        if is_there and inner and job.model is not None:
            is_there = getattr(job.model, inner) is not None
        if not is_there:
            yield f'{key}: required by "lsengine {command}", but missing'
    if command == "trajectory" and job.directions and checks.trajectory_glob(job) is None:
        yield (
            'trajectory.checkpoints: required by "lsengine trajectory", because no direction is '
            "principal"
        )


def _file_checks(source: Path, job: Document, command: str) -> Iterator[str]:
    surface = command in ("eval", "trajectory")
    if (surface or command in ("spectrum", "connect")) and job.model and job.model.checkpoint:
        hint = '; "lsengine train" of this job writes one' if job.train else ""
        yield from _missing(source, "model.checkpoint", job.model.checkpoint, hint)
    if surface:
        for key, written in _direction_files(job):
            yield from _missing(source, key, written, "")
        if (found := checks.trajectory_glob(job)) is not None:
            yield from _no_match(source, *found)
        yield from _unwritable(_absolute(source, job.output or "surfaces/x.h5"), "output")
    if command == "connect" and job.curve:
        yield from _missing(source, "curve.to", job.curve.to, "")
        yield from _unwritable(_absolute(source, job.curve.output) / "curve.pt", "curve.output")
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


def _no_match(source: Path, key: str, written: str) -> Iterator[str]:
    pattern = _absolute(source, written)
    if pattern.is_dir():
        yield f"{key}: {pattern} is a folder; expected a pattern such as {pattern / 'epoch_*.pt'}"
    elif not matching(str(pattern)):
        yield f"{key}: no file matches {pattern}"


def _unwritable(path: Path, key: str) -> Iterator[str]:
    if "\0" in str(path):
        yield f"{key}: no file can have the name {short(path.name)}"
        return
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
        for key in _DIRECTION_FILES:
            if getattr(spec, key, None) is not None:
                yield f"directions.{axis}.{key}", getattr(spec, key)


def _absolute(source: Path, written: str) -> Path:
    # Not `resolve`: a link to a folder of checkpoints should stay what the user wrote.
    path = Path(written)
    with contextlib.suppress(RuntimeError):  # no such user: then "~" is part of a name
        path = path.expanduser()
    return Path(os.path.normpath(source.absolute().parent / path))


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
