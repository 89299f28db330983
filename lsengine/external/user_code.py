"""The user's own modules: networks, data sets and losses that a job names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lsengine.errors import UsageError
from lsengine.wording import did_you_mean

_in_job_folders: dict[str, Path] = {}  # the folder of each module from one


def call(spec: str, args: dict[str, Any], *, key: str, job_folder: Path) -> Any:
    """Call the user's factory ``package.module:factory`` as ``factory(**args)``.

    Raises:
        UsageError: If there is no such factory, or it fails; with the factory's own error.
    """
    factory = lookup(spec, key=key, job_folder=job_folder)
    with _importable(job_folder):
        try:
            return factory(**args)
        except (Exception, SystemExit) as error:  # a script may leave by sys.exit
            raise UsageError(
                f"{key}: {spec} called with {args or 'no arguments'} failed: "
                f"{type(error).__name__}: {error}"
            ) from error


def lookup(spec: str, *, key: str, job_folder: Path) -> Callable[..., Any]:
    """Return the callable that ``package.module:name`` names, without calling it.

    The module is looked for on PYTHONPATH first, then in ``job_folder``.  Messages begin with
    the key path of ``spec`` in the job.

    Raises:
        UsageError: If the module or the name in it is missing, or importing it fails.
    """
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


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules of ``folder`` be imported, after everything else, within the context.

    Modules that came from another job's folder are forgotten: the same name may mean
    something else here.
    """
    folder = folder.absolute()
    for name in [name for name, origin in _in_job_folders.items() if origin != folder]:
        sys.modules.pop(name, None)
        del _in_job_folders[name]
    before, path = set(sys.modules), list(sys.path)
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if sys.path and sys.path[-1] == str(folder):
            sys.path.pop()
        else:
            sys.path[:] = path  # the user's module changed it
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin and Path(origin).is_relative_to(folder):
                _in_job_folders[name] = folder
