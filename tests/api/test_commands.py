"""What the command line does to surfaces, as functions: the same files, the same numbers."""

from __future__ import annotations

import inspect
import pydoc
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import lsengine
from lsengine.cli import main
from lsengine.errors import UsageError
from tests.support.planes import finish, partial_plane

ARCHIVED = Path(__file__).parents[1] / "archive" / "surface-v2.h5"


@pytest.fixture
def surface(tmp_path, monkeypatch):
    """A surface in a folder of its own, which is the working folder."""
    shutil.copy(ARCHIVED, tmp_path / "s.h5")
    monkeypatch.chdir(tmp_path)
    return lsengine.open("s.h5")


def test_pictures_and_exports_are_the_command_lines(surface, tmp_path, capsys):
    """Of files and of values, byte by byte; the default names are the same, too."""
    assert main(["render", "s.h5"]) == 0
    drawn = Path(capsys.readouterr().out.strip())
    before = drawn.read_bytes()
    drawn.unlink()
    assert lsengine.render(surface) == drawn
    assert drawn.read_bytes() == before
    assert main(["export", "s.h5", "--to", "csv", "-o", "a.csv"]) == 0
    assert lsengine.export(surface, "csv", "b.csv") == [Path("b.csv")]
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()


def test_tables_are_the_command_lines(surface, capsys):
    """Of comparisons and of progress, as text and as values."""
    assert main(["compare", "s.h5"]) == 0
    comparison = lsengine.compare(surface)
    assert capsys.readouterr().out == f"{comparison}\n"
    assert comparison.rows[0].measures["train_loss"].value > 0
    assert lsengine.compare(["s.h5", surface], level=1.0).rows[1].measures["level"].value == 1.0
    assert main(["status", "s.h5"]) == 0
    (summary,) = lsengine.status("s.h5")
    assert capsys.readouterr().out == f"{summary}\n"
    assert (summary.done, summary.failed) == (8, 4)


def test_shards_become_one_surface(tmp_path):
    """Whose counts say what is missing."""
    shards = [partial_plane(tmp_path / f"{k}.h5") for k in range(2)]
    assert lsengine.merge(shards, tmp_path / "all.h5").counts()["missing"] == 2
    finish(shards[1], range(10, 12))
    assert lsengine.merge(shards, tmp_path / "all.h5").done.all()


def test_weights_are_counted(tmp_path):
    """Into a file of which there is a picture."""
    torch.save({"w": torch.ones(2, 3)}, tmp_path / "a.pt")
    checkpoints = [tmp_path / "a.pt", {"w": torch.zeros(2, 3)}, torch.nn.Linear(2, 1)]
    counted = lsengine.histogram(checkpoints, tmp_path / "w.h5", bins=5)
    assert counted.groups["weights"].sizes.sum(axis=1).tolist() == [6, 6, 2]
    assert counted.checkpoints == ("a", "1", "2")
    assert lsengine.render(tmp_path / "w.h5", tmp_path / "w.png").exists()


def test_what_cannot_be_is_said(surface):
    """No surface, a surface without a file."""
    with pytest.raises(UsageError, match="got none"):
        lsengine.compare([])
    with pytest.raises(UsageError, match="say output"):
        lsengine.render(replace(surface, source="memory"))


def test_folders_of_the_package_are_functions_in_any_order():
    """`render` and `export` stay what they were, before and after they are imported."""
    code = (
        "import lsengine\n"
        "assert callable(lsengine.render) and lsengine.render.figure\n"
        "import lsengine.export\n"
        "from lsengine.render import write\n"
        "assert callable(lsengine.export) and lsengine.export.FORMATS\n"
        "assert {'evaluate', 'render', 'open'} <= set(dir(lsengine))\n"
        "assert not hasattr(lsengine, 'nothing')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_help_of_a_folder_is_that_of_its_function():
    """With its arguments, which a notebook completes; one output is one file."""
    assert list(inspect.signature(lsengine.render).parameters)[:3] == ["surfaces", "output", "kind"]
    assert list(inspect.signature(lsengine.export).parameters)[:2] == ["surface", "to"]
    text = pydoc.plain(pydoc.render_doc(lsengine.render))
    assert "lsengine.render - render(surfaces" in text
    assert "Draw surfaces" in text
    with pytest.raises(UsageError, match="the name of one file"):
        lsengine.render("a.h5", ["a.pdf", "a.png"])  # type: ignore[arg-type]
