"""From which commit lsengine is, and what installs more of it."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import lsengine
from lsengine.external import installation

ROOT = Path(__file__).parents[2]


def _git(folder, *words):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    done = subprocess.run(
        ["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with two commits, on a branch."""
    folder = tmp_path_factory.mktemp("repository")
    _git(folder, "init", "-q", "-b", "some/branch")
    for message in ("one", "two"):
        _git(folder, "commit", "-q", "--allow-empty", "-m", message)
    return folder


@pytest.mark.parametrize("way", ["branch", "packed", "detached", "worktree"])
def test_the_commit_is_the_one_that_git_names(repository, tmp_path, way):
    """Wherever git keeps it: a branch's own file, all branches' file, HEAD, or another folder."""
    folder = repository
    if way == "worktree":
        folder = tmp_path / "worktree"
        _git(repository, "worktree", "add", "-q", "-b", "other", folder, "some/branch~1")
    if way == "packed":
        _git(folder, "pack-refs", "--all")
    if way == "detached":
        _git(folder, "checkout", "-q", "HEAD~1")
    assert installation.commit(folder) == _git(folder, "rev-parse", "HEAD")


@pytest.mark.parametrize("head", [None, "ref: refs/heads/none", "ref: ../../secret", "nonsense"])
def test_what_names_no_commit_gives_none(tmp_path, head):
    """A folder without git, a branch without a commit, and text that is no hash."""
    (tmp_path / "secret").write_text("a word")
    if head is not None:
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git" / "HEAD").write_text(head)
    assert installation.commit(tmp_path) == ""


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Return what makes the package look installed, with what pip has noted of its source."""

    def install(source):
        class Installed:
            requires = ('trimesh>=4.4; extra == "mesh"', 'vtk>=9.3; extra == "vtk"', "numpy")

            def read_text(self, name):
                return json.dumps(source) if source and name == "direct_url.json" else None

        monkeypatch.setattr(metadata, "distribution", lambda name: Installed())
        monkeypatch.setattr(installation, "_PACKAGE", tmp_path / "site-packages" / "lsengine")

    return install


def test_a_checkout_is_installed_where_it_is():
    """The tests' own package: the extra is added to the folder that the modules are in."""
    _, words = installation.install("mesh").split(" -e ")
    assert shlex.split(words) == [f"{ROOT}[mesh]"]


def test_the_hint_names_the_folder_that_lsengine_was_installed_from(installed, tmp_path):
    """With a space and an umlaut in its name, which a shell reads as one word."""
    folder = tmp_path / "my földer"
    folder.mkdir()
    (folder / "setup.cfg").touch()
    installed({"url": folder.as_uri(), "dir_info": {}})
    words = shlex.split(installation.install("mesh"))
    assert words == ["pip", "install", f"{folder}[mesh]"]


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        (None, "pip install 'lsengine[mesh]'"),
        ({"url": "file:///gone", "dir_info": {}}, "pip install 'trimesh>=4.4'"),
        ({"url": "file:///a.whl", "archive_info": {}}, "pip install 'trimesh>=4.4'"),
        ({"url": "https://a.b/c.git", "vcs_info": {}}, "pip install 'trimesh>=4.4'"),
    ],
)
def test_the_hint_works_without_a_folder(installed, source, hint):
    """From an index by name; else the libraries are named, which every installation can take."""
    installed(source)
    assert installation.install("mesh") == hint


def test_every_extra_that_a_message_names_exists():
    """The word beside the call, wherever it is one; setup.cfg has all extras."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = [path.read_text() for path in (ROOT / "lsengine").rglob("*.py")]
    calls = r'library\(\s*"[\w.]+",\s*"(\w+)",|installation\.install\(["\'](\w+)["\']\)'
    named = {extra for text in texts for match in re.findall(calls, text) for extra in match}
    assert {"mesh", "html", "lit", "arrow"} <= named - {""} <= {*config["options.extras_require"]}
    assert not [text for text in texts if re.search(r"pip install '?\"?(lsengine|\.)\[", text)]


def test_the_docs_list_every_extra():
    """In the table of `docs/INSTALL.md`."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "INSTALL.md").read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert named == {*config["options.extras_require"]}


def test_the_citation_file_says_what_the_command_says():
    """Version, titles, year and the number of the preprint."""
    cff = (ROOT / "CITATION.cff").read_text()
    bibtex = (ROOT / "lsengine" / "cli" / "citation.bib").read_text()
    assert f"\nversion: {lsengine.__version__}\n" in cff
    for field in ("title", "author", "eprint", "year", "booktitle"):
        for value in re.findall(rf"  {field} = {{{{?(.*?)}}?}},?\n", bibtex):
            names = re.findall(r"(\w+), (\w+)", value) if field == "author" else []
            people = [f"family-names: {family}, given-names: {given}" for family, given in names]
            if (field, value) != ("year", "2026"):
                assert all(text in cff for text in people or [value]), value


@pytest.mark.parametrize(
    ("library", "torch", "words"),
    [
        ("torchvision", "2.4.1", '"torchvision==0.19.*"'),
        ("torchvision", "2.13.0+cu130", '"torchvision==0.28.*" --index-url .*/whl/cu130'),
        ("torchvision", "2.13.0+cpu", '"torchvision==0.28.*" --index-url .*/whl/cpu'),
        ("torchvision", "2.13.0a0+git1234567", '"torchvision==0.28.*"'),
        ("torchaudio", "2.9.1+cpu", '"torchaudio==2.9.*" --index-url .*/whl/cpu'),
        ("torchaudio", "2.13.0", '"torchaudio==2.11.*"'),
    ],
)
def test_the_build_that_goes_with_a_torch(library, torch, words):
    """By the tables of torchvision and torchaudio; a build of one's own has no index."""
    whole = f"pip install --force-reinstall --no-deps {words}"
    assert re.fullmatch(whole, installation.fitting(library, torch))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A copy of the checkout, and its wheel, which is made from its sdist."""
    folder = tmp_path_factory.mktemp("built")
    listed = _git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    wanted = ("lsengine", "setup", "pyproject", "MANIFEST", "README", "LICENSE", "CITATION")
    names = [n for n in listed.split("\0") if n.startswith(wanted)]
    for name in [n for n in names if (ROOT / n).is_file()]:
        (folder / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "checkout" / name).write_bytes((ROOT / name).read_bytes())
    _git(folder / "checkout", "init", "-q")
    _git(folder / "checkout", "commit", "-q", "--allow-empty", "-m", "one")
    backend = "from setuptools import build_meta as b; b.build_{}('..')"
    unpack = "import glob, tarfile; tarfile.open(glob.glob('*.tar.gz')[0]).extractall('unpacked')"
    at = folder / "checkout"
    for program in (backend.format("sdist"), unpack, backend.format("wheel")):
        subprocess.run(
            [sys.executable, "-P", "-c", program], cwd=at, check=True, capture_output=True
        )
        at = folder if at != folder else next((folder / "unpacked").iterdir())
    return folder


def test_the_sdist_and_the_wheel_have_all_files_and_the_commit(built):
    """Everything that git tracks of the package is in the wheel that the sdist gives."""
    (wheel,) = built.glob("unpacked/*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("lsengine/")}
        recorded = archive.read("lsengine/commit.txt").decode().strip()
    package = built / "checkout" / "lsengine"
    tracked = {p.relative_to(package.parent).as_posix() for p in package.rglob("*") if p.is_file()}
    assert held == tracked | {"lsengine/commit.txt"}
    assert recorded == _git(built / "checkout", "rev-parse", "HEAD")
    assert [p.name for p in built.glob("unpacked/*/*") if p.suffix == ".cff"] == ["CITATION.cff"]


_SCRIPT = """
lsengine --version
lsengine init job.yaml
small="--progress none --set model.arch=mlp --set train.epochs=1 --set train.save_every=1"
small="$small --set model.checkpoint=checkpoints/starter/epoch_001.pt"
lsengine train job.yaml $small
lsengine eval job.yaml $small --set grid.alpha='[-1, 1, 3]' --set grid.beta='[-1, 1, 3]'
"""


def test_the_wheel_works_in_an_environment_of_its_own(built, tmp_path):
    """Starter job and digits come out of the wheel, not of the checkout; a surface is evaluated.

    The libraries are those of the environment that runs the tests.
    """
    (wheel,) = built.glob("unpacked/*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "new"], check=True)
    python = tmp_path / "new" / "bin" / "python"
    words = ("install", "-q", "--no-deps", "--no-index", wheel)
    pip = [sys.executable, "-m", "pip", "--python", python, *words]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(pip, env=environment, check=True, capture_output=True)
    (site,) = (tmp_path / "new" / "lib").glob("*/site-packages")
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries))
    done = subprocess.run(
        ["bash", "-euxc", f"PATH={python.parent}:$PATH\n{_SCRIPT}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    head = _git(built / "checkout", "rev-parse", "HEAD")
    assert done.stdout.startswith(f"lsengine {lsengine.__version__}+g{head[:12]}\n")
    assert [p.name for p in (tmp_path / "surfaces").iterdir()] == ["starter.h5"]
