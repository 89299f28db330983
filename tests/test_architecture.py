"""The layers: imports point down only, and one module stands before each foreign library."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "lsengine"
DRAWING = TESTS.parent / "docs" / "ARCHITECTURE.md"
LONGEST_FILE, LONGEST_INIT, LONGEST_FUNCTION = 400, 40, 40
MOST_FILES = 7  # beside the folders
# Folders of tests that go across rooms; all others have one file for one module.
ACROSS = {"system", "launch", "slurm", "archive", "support", "fuzz", "docs"}

FEW = 10  # statements of a module that needs no tests of its own
TESTED_THROUGH_OTHERS = {  # module: the test file that covers it
    "api/child": "api/test_workers.py",
    "api/team": "api/test_workers.py",
    "cli/speaking": "cli/test_entry.py",
    "convolution/cudnn": "convolution/test_convolution.py",
    "convolution/steps": "convolution/test_convolution.py",
    "curvature/batches": "curvature/test_hessian.py",
    "curvature/culprit": "curvature/test_choice.py",
    "curvature/differences": "curvature/test_choice.py",
    "curvature/plain": "curvature/test_choice.py",
    "curvature/products": "curvature/test_hessian.py",
    "data/torchvision": "data/test_known.py",
    "engine/messages": "engine/protocol/test_coordinator.py",
    "engine/prepare/twin_values": "engine/prepare/test_twin.py",
    "engine/protocol/roster": "engine/protocol/test_coordinator.py",
    "engine/protocol/worker": "engine/protocol/test_coordinator.py",
    "external/hugging_face": "models/test_pretrained.py",
    "engine/prepare/tokens": "system/test_hugging_face.py",
    "models/densenet": "models/test_checkpoint.py",
    "models/library_names": "models/test_pretrained.py",
    "objective/batches": "objective/test_splits.py",
    "objective/device_state": "objective/test_objective.py",
    "objective/fused_layers": "objective/test_fused.py",
    "objective/means": "objective/test_splits.py",
    "objective/summary": "objective/test_criterion.py",
    "render/landscapes/terrain": "render/landscapes/test_shaded.py",
    "render/lines/curvature": "render/planes/test_curvature.py",
    "render/lines/curve_data": "render/lines/test_curves.py",
    "render/lines/panel": "render/lines/test_history.py",
    "render/page/contour_labels": "render/planes/test_planes.py",
    "training/curve_training": "engine/test_connect.py",
}

LIGHT = {"cli", "render", "report", "export", "store", "job", "surface"}
ONLY = {  # foreign library: the modules or folders that may import it
    "mpi4py": ("ranks/",),
    "h5py": ("store/",),
    "pyarrow": ("data/tables",),
    "yaml": ("job/",),
    "triton": ("convolution/kernels", "render/landscapes/vtk_scene"),
    "matplotlib": ("render/", "api/surface"),
    "PIL": ("data/image_file", "render/"),
    "torchvision": ("external/torchvision",),
    "trimesh": ("export/",),
    "vtkmodules": ("export/", "render/"),
    "plotly": ("render/html/",),
    "subprocess": (
        *("submit/slurm", "doctor/", "data/decoding", "data/parquet_sizes", "api/team"),
        "store/guard",
    ),
}


def _name(path: Path) -> str:
    """Return a module as `engine/run`, a folder as `engine/`."""
    name = path.relative_to(PACKAGE).with_suffix("").as_posix()
    return name.removesuffix("__init__")


def _drawn() -> dict[str, tuple[int, int]]:
    """Return row and place of every module in the drawing of the house, counted downwards."""
    drawing = re.search(r"```text\n(.*?)```", DRAWING.read_text(), re.DOTALL)
    assert drawing is not None
    places: dict[str, tuple[int, int]] = {}
    for row, line in enumerate(drawing[1].splitlines()):
        folder, *modules = line.split()
        for place, module in enumerate(modules):
            name = module if folder == "." else f"{folder.rstrip('/')}/{module}"
            assert name not in places, f"{name} is drawn twice"
            places[name] = (row, place)
    return places


SOURCES = {_name(p): ast.parse(p.read_text()) for p in sorted(PACKAGE.rglob("*.py"))}
PLACES = _drawn()
INIT = {name for name in SOURCES if name == "" or name.endswith("/")}
MODULES = SOURCES.keys() - INIT - {"__main__"}


def _imports(tree):
    """Yield the dotted names that a module imports anywhere, by a function that does it, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("import_module", "library")
        ):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant))


def _ours(dotted):
    """Return the module or folder of ours that an import reads, or None."""
    parts = dotted.split(".")[1:]
    for end in (len(parts), len(parts) - 1):
        name = "/".join(parts[:end])
        if name in MODULES:
            return name
        if name and f"{name}/" in INIT:
            return f"{name}/"
    return None


def _place(name):
    """Return the place of a module, of a folder that of the highest module that it hands on."""
    if not name.endswith("/"):
        return PLACES[name]
    handed = {_ours(i) for i in _imports(SOURCES[name]) if i.startswith("lsengine.")} - {None}
    return min((PLACES[n] for n in handed), default=(len(PLACES), 0))


EDGES = [(name, imported) for name in SOURCES for imported in _imports(SOURCES[name])]
INNER = [(n, _ours(i)) for n, i in EDGES if i.startswith("lsengine.") and _ours(i)]
OUTER = [(n, i.partition(".")[0]) for n, i in EDGES]


def test_every_module_is_in_the_drawing():
    """Who adds a module says where it stands; what is drawn exists."""
    assert PLACES.keys() == MODULES


def test_imports_point_down_only():
    """A module imports from rows below its own, and in its own row from what stands to the right.

    So nothing knows who uses it, between folders and inside them.
    """
    wrong = [f"{n} imports {i}" for n, i in INNER if n in MODULES and _place(i) <= PLACES[n]]
    assert not wrong, wrong


def test_folders_hand_on_only_their_own():
    """The `__init__` of a folder is a list of names, and of no other folder's."""
    for name in INIT - {""}:
        tree, lines = SOURCES[name], (PACKAGE / name / "__init__.py").read_text().splitlines()
        assert len(lines) <= LONGEST_INIT, name
        kinds = (ast.ImportFrom, ast.Expr)
        logic = [ast.unparse(n) for n in tree.body if not isinstance(n, kinds)]
        assert all(line.startswith("__all__") for line in logic), f"{name}: {logic}"
        foreign = [i for n, i in INNER if n == name and not i.startswith(name)]
        assert not foreign, f"{name} hands on {foreign}"


@pytest.mark.parametrize("library", ONLY)
def test_one_door_for_each_foreign_library(library):
    """Who wants to exchange the library has one place to look at."""
    wrong = [n for n, i in OUTER if i == library and not n.startswith(ONLY[library])]
    assert not wrong, wrong


def test_what_reads_surfaces_imports_no_torch():
    """Neither directly nor through a module of ours, but in commands that need it."""
    wrong = [n for n, i in OUTER if n.partition("/")[0] in LIGHT and i == "torch"]
    assert not wrong, wrong


def test_files_and_functions_are_small_and_named_for_what_they_are():
    """No file is longer than one can read at a sitting, none is a drawer for odds and ends."""
    assert len([n for n in SOURCES if "/" not in n]) <= MOST_FILES
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= LONGEST_FILE, path
        assert path.stem not in ("utils", "util", "helpers", "common", "misc"), path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[bool(ast.get_docstring(node)) :]
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                assert lines <= LONGEST_FUNCTION, f"{path}: {node.name} has {lines} lines"


def test_long_dataclasses_are_made_by_keyword():
    """At most three fields go by their place; more would be exchanged unseen."""
    for name, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and "dataclass(" in str(_decorators(node)):
                assert "kw_only=True" in str(_decorators(node)) or len(_by_place(node)) <= 3, (
                    f"{name}: {node.name}"
                )


def _decorators(node):
    return [ast.unparse(decorator) for decorator in node.decorator_list]


def _by_place(node):
    """Return the fields of a dataclass that may be given without their names."""
    fields = [ast.unparse(n) for n in node.body if isinstance(n, ast.AnnAssign)]
    marks = [place for place, field in enumerate(fields) if field.endswith("KW_ONLY")]
    before = fields[: marks[0]] if marks else fields
    return [field for field in before if "kw_only=True" not in field]


def test_tests_mirror_the_package():
    """The tests of `store/lock.py` are in `tests/store/test_lock.py`."""
    for path in TESTS.rglob("test_*.py"):
        folder, _, name = path.relative_to(TESTS).with_suffix("").as_posix().rpartition("/")
        if folder and folder.partition("/")[0] not in ACROSS:
            assert f"{folder}/{name.removeprefix('test_')}" in MODULES, path


def test_every_module_has_its_test_file():
    """Those that are tested through another file are named, and only they."""
    long = {n for n in MODULES if sum(isinstance(s, ast.stmt) for s in ast.walk(SOURCES[n])) > FEW}
    own = {n for n in MODULES if (TESTS / n).with_name(f"test_{Path(n).name}.py").exists()}
    assert long - own == TESTED_THROUGH_OTHERS.keys()
    assert all((TESTS / file).exists() for file in TESTED_THROUGH_OTHERS.values())


def test_every_test_says_what_it_shows():
    """A sentence as docstring."""
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"
