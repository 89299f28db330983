"""Patterns of checkpoints, compared with pathlib's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lsengine.errors import UsageError
from lsengine.job import checkpoint_search
from lsengine.job.checkpoint_search import Search


@pytest.fixture
def tree(tmp_path):
    """Three levels of folders with files, a hidden one, a link to a folder and a FIFO."""
    for folder in ("a", "a/b", "a/b/c", "d", "[x]"):
        (tmp_path / folder).mkdir()
        for name in ("1.pt", "2.pt", "3.txt", ".4.pt"):
            (tmp_path / folder / name).touch()
    (tmp_path / "link").symlink_to("a")
    os.mkfifo(tmp_path / "d" / "5.pt")
    return tmp_path


@pytest.mark.parametrize(
    "pattern",
    [
        "a/*.pt",
        "a/1.pt",
        "*/1.pt",
        "**/*.pt",
        "a/**/[12].pt",
        "**/b/**/?.pt",
        "link/*.pt",
        "gone/*.pt",
        "a/b/../*.pt",
        "[[]x]/*.pt",
        "**/**/c/*",
        "*/*/*/*.pt",
        "d/5.pt",
    ],
)
def test_the_same_files_as_with_pathlib(tree, pattern):
    """Regular ones that are not hidden, each once, sorted."""
    pattern = os.path.normpath(pattern)
    expected = {p for p in tree.glob(pattern) if p.is_file() and not p.name.startswith(".")}
    found = Search().find("key", str(tree / pattern)).checkpoints
    assert found == sorted(expected)


def test_a_walk_over_the_disk_ends(tree, monkeypatch):
    """All patterns of a search together have so many names to look at."""
    monkeypatch.setattr(checkpoint_search, "_MOST_NAMES", 120)
    search = Search()
    assert len(search.find("key", f"{tree}/**/1.pt").checkpoints) == 5
    assert len(search.find("key", f"{tree}/**/1.pt").checkpoints) == 5  # known
    search.find("key", f"{tree}/**/2.pt")
    with pytest.raises(UsageError, match=r"^key: .* more than 120 names .*; name the folder$"):
        search.find("key", f"{tree}/**/3.pt")


def test_folders_deeper_than_python_calls(tmp_path):
    """1,200 levels are walked through."""
    folder, here = tmp_path / "deep", Path.cwd()
    folder.mkdir()
    try:
        os.chdir(folder)
        for _ in range(1200):
            Path("d").mkdir()
            os.chdir("d")
        Path("x.pt").touch()
        os.chdir(here)
        found = Search().find("key", f"{folder}/**/*.pt").checkpoints
    finally:
        os.chdir(here)
        subprocess.run(["rm", "-rf", folder], check=True)  # pytest could not
    assert [p.name for p in found] == ["x.pt"]
