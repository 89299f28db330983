"""Job files: YAML in, one validated value out, or every problem at once.

A bad job is refused before torch or MPI is loaded.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from lsengine.errors import JobError
from lsengine.job import matrix, plain, rules
from lsengine.job.checkpoint_search import Search
from lsengine.job.documents import parsed, read_mapping
from lsengine.job.file_checks import file_checks
from lsengine.job.job import Job, absolute
from lsengine.job.messages import MOST_LINES, drop, explain
from lsengine.job.plain import shown
from lsengine.job.schema import Document
from lsengine.wording import listed, short

_MOST_FILES = 20  # one on top of another
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
        names = listed(job.document.name for job in jobs)
        problem = f"matrix: makes {len(jobs)} jobs of this file, one is needed here: {names}; "
        problem += "--set 'matrix={}' takes the file without its matrix"
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
        documents = matrix.expanded(raw, Document.model_fields.keys())
    except ValueError as error:
        raise JobError(str(path), [str(error)]) from None
    wanted = [d for d in documents if fnmatchcase(str(d["name"]), only)]
    jobs: list[Job] = []
    problems: list[str] = []
    search = Search()
    for content in wanted:
        if len(problems) > MOST_LINES:
            problems.append(f"{len(wanted) - len(jobs):,} of the matrix's jobs are not looked at")
            break
        job, of_job = _checked(content, source, command, search)
        prefix = f"{shown(content['name'])}: " if len(documents) > 1 else ""
        problems += [prefix + problem for problem in of_job]
        jobs.append(job)
    if not wanted:
        names = listed(shown(content["name"]) for content in documents)
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
    job, problems = _checked(content, folder / who, command, Search())
    if problems:
        raise JobError(who, problems)
    return job


def _checked(
    content: dict[str, Any], source: Path, command: str, search: Search
) -> tuple[Job, list[str]]:
    """Return a job and what is wrong with it."""
    problems = list(itertools.islice(plain.problems(content), MOST_LINES))
    # Nothing after this could handle those; and what is left open is nothing to go by.
    if problems := problems or list(itertools.islice(plain.left_open(content), MOST_LINES)):
        return Job(source=source.absolute(), document=Document.model_construct()), problems
    document, problems = _validate(content)
    problems += rules.between_keys(document)
    problems += _needs(document, content, command)
    problems += file_checks(source, document, command, search)
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
    if problems := list(plain.problems({"extends": base})):
        raise JobError(str(source), problems)
    chain = (*chain, source.absolute())
    if absolute(source, base) in chain:
        raise JobError(str(source), [f"extends: {base} extends itself"])
    if len(chain) == _MOST_FILES:
        problem = f"extends: more than {_MOST_FILES} files, each on top of the next"
        raise JobError(str(source), [problem])
    inherited = _read_with_base(absolute(source, base), chain)
    inherited.pop("name", None)  # two jobs of one name would share a surface
    return matrix.merged(inherited, raw)


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
