"""Which source files the user's own code is made of."""

from __future__ import annotations

import hashlib

import pytest

from lsengine.external.user_code import lookup, source_digests

FILES = {
    "net.py": "import torch, json, lsengine, typing\nfrom parts import blocks as b\n"
    "if typing.TYPE_CHECKING:\n    import unused\n"
    "def make():\n    import late\n    import importlib\n"
    "    importlib.import_module('named')\n",
    "parts/__init__.py": "",
    "parts/blocks.py": "from .deep import x\nfrom .. import nothing\n",
    "parts/deep.py": "from net import make\nx = 1",
    "late.py": "this is no Python",
    "named.py": "",
    "unused.py": "",
    "other.py": "",
}
FOUND = {"net.py", "parts/__init__.py", "parts/blocks.py", "parts/deep.py", "late.py", "named.py"}


@pytest.fixture
def folder(tmp_path):
    """A job's folder with the files above."""
    (tmp_path / "parts").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_everything_that_a_module_imports_from_the_folder_is_found(folder):
    """Early and late, relative and in circles; no library, and nothing that no one imports."""
    found = source_digests(["net"], folder)
    assert set(found) == FOUND
    assert found["late.py"] == hashlib.sha256(b"this is no Python").hexdigest()
    assert source_digests(["torch.nn.modules.linear", "json", "lsengine.job"], folder) == {}


def test_modules_on_the_python_path_and_compiled_ones_count(folder, tmp_path_factory, monkeypatch):
    """By their path below the folder they are found in, wherever that is."""
    assert source_digests([], folder) == {}  # now; else an earlier test's folder would come back
    path = tmp_path_factory.mktemp("path")
    (path / "shared.py").write_text("import fast")
    (path / "fast.so").write_bytes(b"machine code")
    installed = path / "site-packages"
    installed.mkdir()
    (installed / "package.py").write_text("")
    monkeypatch.syspath_prepend(path)
    monkeypatch.syspath_prepend(installed)
    found = source_digests(["shared", "package"], folder)
    assert set(found) == {"shared.py", "fast.so"}
    assert found["fast.so"] == hashlib.sha256(b"machine code").hexdigest()


def test_no_source_of_another_job_counts(folder, tmp_path_factory):
    """Also where a job of this process before it had a module of the same name."""
    other = tmp_path_factory.mktemp("other")
    (other / "net.py").write_text("def make(): return 'other'")
    assert lookup("net:make", key="model.arch", job_folder=other)() == "other"
    assert set(source_digests(["net"], folder)) == FOUND
    assert set(source_digests(["net"], other)) == {"net.py"}
