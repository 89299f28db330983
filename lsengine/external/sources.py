"""Which source files the user's own code is made of, and what is in them.

Imports are read from the sources, also those inside functions, so what is found depends neither
on what has run nor on what other code has imported before.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from lsengine import files

_OURS = Path(__file__).resolve().parents[1]
_INSTALLED = {"site-packages", "dist-packages"}
_PYTHONS = [Path(sysconfig.get_paths()[k]).resolve() for k in ("stdlib", "platstdlib")]


def digests(modules: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of the files of modules, and of all that these import, by path.

    A path is relative to the folder of the search path where Python finds the module.  Only the
    user's own modules count: none of the standard library, of lsengine, and of what is installed.
    A compiled module counts by its bytes.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        waiting += [name.rpartition(".")[0]] if "." in name else []
        spec = _spec(name, sys.path)
        file = Path(spec.origin) if spec and spec.has_location and spec.origin else None
        if file is None or not is_own(file):
            continue
        is_package = file.stem == "__init__"
        folders = name.split(".") if is_package else name.split(".")[:-1]
        if file.is_file():
            found["/".join([*folders, file.name])] = files.sha256(file)
        if file.is_file() and file.suffix == ".py":
            package = name if is_package else name.rpartition(".")[0]
            waiting += _imports(file, package)
    return dict(sorted(found.items()))


def _spec(name: str, path: list[str]) -> ModuleSpec | None:
    """Return where a module is, without importing it or a package that it is in."""
    above, _, _ = name.rpartition(".")
    try:
        if above:
            package = _spec(above, path)
            if package is None or package.submodule_search_locations is None:
                return None
            path = list(package.submodule_search_locations)
        spec = PathFinder.find_spec(name, path)
    except (ImportError, KeyError, ValueError):
        spec = None
    return spec or getattr(sys.modules.get(name), "__spec__", None)


def is_own(file: Path) -> bool:
    """Whether a file is neither of the standard library, nor of lsengine, nor installed."""
    file = file.resolve()
    others = any(file.is_relative_to(folder) for folder in (_OURS, *_PYTHONS))
    return not others and _INSTALLED.isdisjoint(file.parts)


def _imports(file: Path, package: str) -> Iterator[str]:
    """Yield the names of what a source imports; some may be no modules, but what is in one."""
    try:
        waiting: list[ast.AST] = [ast.parse(file.read_bytes())]
    except (SyntaxError, ValueError):
        return
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and _is_never_run(node.test):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in ("import_module", "__import__"):
                yield str(node.args[0].value)


def _is_never_run(test: ast.expr) -> bool:
    names = {n.id for n in ast.walk(test) if isinstance(n, ast.Name)}
    names |= {n.attr for n in ast.walk(test) if isinstance(n, ast.Attribute)}
    return bool(names & {"TYPE_CHECKING", "__name__"})
