"""The user's own code: networks, data sets and losses that a job names.

Most are in modules.  Some are objects of this process, which `provided` gives names such as
``memory:model``.

They may import their neighbours at any time, in a forward pass as well.  So the folder of the job
stays on the search path, behind everything else, until a job of another folder is used, or
`borrowed` ends.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lsengine.errors import LsengineError, UsageError
from lsengine.external import sources
from lsengine.wording import did_you_mean


@dataclass(frozen=True, slots=True)
class _InUse:
    """The folder of the job in use, what was imported before it, and what it adds to the path."""

    folder: Path
    modules: frozenset[str]
    added: list[str] = field(default_factory=list)


_in_use: list[_InUse] = []  # one at most
_MEMORY = "memory"
_provided: dict[str, Callable[..., Any]] = {}  # by spec


@contextmanager
def provided(objects: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Let ``memory:NAME`` name an object of this process within the context, by its name."""
    before = dict(_provided)
    _provided.update({f"{_MEMORY}:{name}": value for name, value in objects.items()})
    try:
        yield
    finally:
        _provided.clear()
        _provided.update(before)


@contextmanager
def borrowed() -> Iterator[None]:
    """Give the search path back after the context, as it was, and forget what jobs have imported.

    Modules stay that could be imported without a job: they are the caller's own.
    """
    path, in_use = list(sys.path), list(_in_use)
    try:
        yield
    finally:
        own = {Path(entry).absolute() for entry in path}
        if _in_use != in_use:
            folder = _in_use[0].folder
            for name in imported(folder) if folder not in own else ():
                del sys.modules[name]
            _in_use[:] = in_use  # its folder is on the path again, and must be found there to go
        sys.path[:] = path


def is_provided(spec: str) -> bool:
    """Whether a spec names an object of this process."""
    return spec in _provided


def call(spec: str, args: dict[str, Any], *, key: str, job_folder: Path) -> Any:
    """Call the user's factory ``package.module:factory`` as ``factory(**args)``.

    Raises:
        UsageError: If there is no such factory, or it fails; with the factory's own error.
        LsengineError: Those that the factory raises.
    """
    factory = lookup(spec, key=key, job_folder=job_folder)
    with nullcontext() if is_provided(spec) else _importable(job_folder):
        try:
            return factory(**args)
        except LsengineError:
            raise  # it says all by itself
        except (Exception, SystemExit) as error:  # a script may leave by sys.exit
            raise UsageError(
                f"{key}: {spec} called with {args or 'no arguments'} failed: "
                f"{type(error).__name__}: {error}"
            ) from error


def lookup(spec: str, *, key: str, job_folder: Path) -> Callable[..., Any]:
    """Return the callable that ``package.module:name`` names, without calling it.

    What is `provided` comes first.  A module is looked for on PYTHONPATH, then in ``job_folder``.
    Messages begin with the key path of ``spec`` in the job.

    Raises:
        UsageError: If the module or the name in it is missing, or importing it fails.
    """
    if is_provided(spec):
        return _provided[spec]
    name, _, attribute = spec.partition(":")
    if not name or not attribute:
        raise UsageError(f'{key}: got "{spec}"; expected module:name or package.module:name')
    with _importable(job_folder):
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:
            raise UsageError(_import_failure(name, error, key, job_folder)) from error
    try:
        named = getattr(module, attribute)
    except AttributeError:
        near = did_you_mean(attribute, dir(module))
        where = getattr(module, "__file__", None) or name
        raise UsageError(f'{key}: no "{attribute}" in {where}{near}') from None
    if not callable(named):
        kind = type(named).__name__
        raise UsageError(f"{key}: {spec} is {kind}; expected a function or a class")
    return named  # type: ignore[no-any-return]


def _import_failure(name: str, error: BaseException, key: str, job_folder: Path) -> str:
    # Its own absence or that of a package it is in; what it imports may be missing as well.
    if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
        return f'{key}: no module "{error.name}", neither on PYTHONPATH nor in {job_folder}'
    return f'{key}: importing "{name}" failed: {type(error).__name__}: {error}'


def imported(job_folder: Path) -> list[str]:
    """Return the user's modules of a job's folder that it has imported so far, sorted."""
    folder = job_folder.absolute()
    if not _in_use or _in_use[0].folder != folder:
        return []
    below = str(folder).rstrip(os.sep) + os.sep  # compared as text: there are thousands of modules
    files = {
        name: getattr(module, "__file__", None)
        for name, module in sys.modules.items()
        if name not in _in_use[0].modules
    }
    return sorted(
        name
        for name, file in files.items()
        if isinstance(file, str) and file.startswith(below) and sources.is_own(Path(file))
    )


def source_digests(modules: Iterable[str], job_folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the sources of a job's modules, by path; see `sources.digests`.

    They are looked for where `lookup` does, and nowhere in the folder of another job.
    """
    with _importable(job_folder):
        return sources.digests(modules)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules of ``folder`` be imported, after everything else, from now on.

    Modules that came from another job's folder are forgotten: the same name may mean
    something else here.  So are the places that they have added to the search path.
    """
    folder = folder.absolute()
    if _in_use and _in_use[0].folder != folder:
        for name in imported(_in_use[0].folder):
            del sys.modules[name]
        gone = _in_use.pop().added
        sys.path[:] = [entry for entry in sys.path if entry not in gone]
    if not _in_use:
        _in_use.append(_InUse(folder, frozenset(sys.modules)))
    before = list(sys.path)
    if str(folder) not in before:
        sys.path.append(str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        _in_use[0].added.extend(entry for entry in sys.path if entry not in before)
