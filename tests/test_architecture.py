"""The layers: imports point down only, and one module stands before each foreign library."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "lsengine"
LARGEST = 450

# From top to bottom; a module imports from rows below its own, or from its own package.
LAYERS = """
    __main__
    cli
    watch
    trainings trajectories connect inputs compare spectrum export submit doctor
    engine train render status weights merge
    learner
    objective store ranks slurm lock history
    resident grouping
    losses
    data extremes
    images checkpoint devices
    models fusion directions curvature principal curve recipe flatness
    job
    checks
    matrix problems surface records layout naming memory_order decoded convolution
    schema grid log disk extras
    errors __version__
"""
LEVEL = {name: -row for row, names in enumerate(LAYERS.splitlines()) for name in names.split()}
MATHEMATICS = {
    "data",
    "extremes",
    "models",
    "fusion",
    "directions",
    "curvature",
    "principal",
    "curve",
} | {*("recipe", "flatness", "grid", "memory_order", "grouping", "convolution")}
LIGHT = {
    "cli",
    "watch",
    "inputs",
    "compare",
    "render",
    "status",
    "export",
    "store",
    "lock",
    "history",
} | {
    *(
        "flatness",
        "job",
        "checks",
        "matrix",
        "problems",
        "surface",
        "records",
        "schema",
        "grid",
        "errors",
        "extras",
    )
}
ONLY = {  # foreign library: the modules that may import it
    "mpi4py": {"ranks"},
    "h5py": {"store", "history"},
    "yaml": {"job"},
    "matplotlib": {"render"},
    "sklearn": {"data"},
    "PIL": {"images", "render"},
    "torchvision": {"models"},
    "trimesh": {"export"},
    "vtkmodules": {"export", "render"},
    "plotly": {"render"},
    "subprocess": {"slurm", "doctor"},
}


def _sources():
    """Yield every module of the package: its name at the top level, its path, its tree."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if name != "__init__":
            yield name, path, ast.parse(path.read_text())


IMPORTING = ("import_module", "library")


def _imports(tree):
    """Yield the dotted names that a module imports anywhere, by a function that does it, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(IMPORTING):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant))


EDGES = {
    (name, path.relative_to(PACKAGE).as_posix(), imported)
    for name, path, tree in _sources()
    for imported in _imports(tree)
}
INNER = sorted((n, p, i.split(".")[1]) for n, p, i in EDGES if i.startswith("lsengine."))
OUTER = sorted((n, p, i.partition(".")[0]) for n, p, i in EDGES)


def test_every_module_has_a_layer():
    """A new module is put into the table above, where its imports are judged."""
    assert {name for name, _, _ in _sources()} <= LEVEL.keys()


def test_imports_point_down_only():
    """Nothing knows who uses it; modules of one row do not know each other."""
    wrong = [f"{p} imports {i}" for n, p, i in INNER if i != n and LEVEL[i] >= LEVEL[n]]
    assert not wrong, wrong


def test_mathematics_knows_no_job_no_file_and_no_rank():
    """It is called with values, and returns values."""
    doors = {"job", "store", "ranks", "lock", "history", "slurm"}
    wrong = [f"{p} imports {i}" for n, p, i in INNER if n in MATHEMATICS and i in doors]
    assert not wrong, wrong


@pytest.mark.parametrize("library", ONLY)
def test_one_door_for_each_foreign_library(library):
    """Who wants to exchange the library has one place to look at."""
    wrong = [p for n, p, i in OUTER if i == library and n not in ONLY[library]]
    assert not wrong, wrong


def test_what_reads_surfaces_imports_no_torch():
    """Neither directly nor through a module of ours, but in commands that need it."""
    wrong = [p for n, p, i in OUTER if n in LIGHT and i == "torch"]
    assert not wrong, wrong


def test_modules_are_small_and_named_for_what_they_are():
    """No module is longer than one can read at a sitting, none is a drawer for odds and ends."""
    for _, path, _ in _sources():
        assert len(path.read_text().splitlines()) <= LARGEST, path
        assert path.stem not in ("utils", "util", "helpers", "common", "misc"), path


def test_every_test_says_what_it_shows():
    """A sentence as docstring."""
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"
