"""Every block of code in README and docs is run, or says why not; what it asks for exists."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import shutil
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from lsengine.cli import build_parser
from lsengine.job.schema import json_schema
from lsengine.render import style
from tests.support.jobs import write_job
from tests.support.pages import KINDS, PAGES, ROOT, Block, Reader, blocks

OWN_NETWORK = ROOT / "docs" / "tutorial" / "own-network.md"
BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN = sorted({b.page for b in BLOCKS if b.kind in ("sh", "python") and b.mark != "not run"})
RUN.remove(OWN_NETWORK)  # is run first, for all others
_WRITTEN = re.compile(r"(?:--output|-o|savefig\(|\.save\()\s*[\"']?([\w./-]+\.[a-z0-9]+)")


def _of(*kinds: str) -> list[pytest.param]:
    return [pytest.param(b, id=b.place) for b in BLOCKS if b.kind in kinds]


_schema = functools.cache(json_schema)


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_every_block_is_of_a_known_kind() -> None:
    """So that none is left out because of a misspelt language."""
    assert not [b.place for b in BLOCKS if b.kind not in KINDS]


def test_code_is_between_fences_only() -> None:
    """An indented block has no language, and nobody would run it."""
    indented = re.compile(r"\n\n    (?:lsengine|python|mpirun|srun|make|import) ")
    assert not [_name(page) for page in PAGES if indented.search(page.read_text())]


@pytest.mark.parametrize("block", _of("sh"))
def test_every_command_is_one_that_there_is(block: Block) -> None:
    """Names, options and choices are the parser's, also of blocks that are not run."""
    parser = build_parser()
    for words in block.commands():
        if words[0] != "lsengine" or "..." in words:
            continue
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
            parser.parse_args(words[1:])
        assert not said.getvalue(), block.place


@pytest.mark.parametrize("block", _of("yaml"))
def test_every_job_has_keys_and_values_that_a_job_may_have(block: Block) -> None:
    """By the schema that editors use; a part of a job need not have all keys."""
    schema = _schema()
    if block.mark == "site file":
        schema = {"$defs": schema["$defs"], **schema["$defs"]["LaunchSpec"]}
    jsonschema.validate(yaml.safe_load(block.text), schema)


@pytest.mark.parametrize("block", _of("toml"))
def test_every_style_is_one_that_pictures_take(block: Block, tmp_path: Path) -> None:
    """A style file of a page is read as it stands."""
    (tmp_path / "style.toml").write_text(block.text)
    tomllib.loads(block.text)
    style.find(str(tmp_path / "style.toml"))


def _world(folder: Path, quick: bool) -> Path:
    """Make what a reader has who did the second tutorial, and files that pages speak of."""
    for name, place in (("surface-v2", "surface.h5"), ("history-v2", "run/history.h5")):
        (folder / place).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "tests" / "archive" / f"{name}.h5", folder / place)
    write_job(folder, "job")
    with contextlib.chdir(folder):
        reader = Reader(quick)
        for block in blocks(OWN_NETWORK):
            reader.read(block)
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder with few cells."""
    return _world(tmp_path_factory.mktemp("world"), quick=True)


@pytest.fixture(scope="session")
def whole_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder as the tutorial makes it."""
    return _world(tmp_path_factory.mktemp("whole"), quick=False)


def _read(page: Path, world: Path, folder: Path, quick: bool) -> None:
    """Run all of a page in a copy of the world; whatever it writes is there."""
    shutil.copytree(world, folder)
    written = set()
    with contextlib.chdir(folder):
        reader = Reader(quick)
        for block in blocks(page):
            reader.read(block)
            if reader.printed is not None and block.kind in ("sh", "python"):
                written |= set(_WRITTEN.findall(block.text))
        assert not [name for name in written if not Path(name).exists()]


@pytest.mark.parametrize("page", RUN, ids=_name)
def test_a_reader_can_do_what_a_page_says(page: Path, world: Path, tmp_path: Path) -> None:
    """All blocks, one after the other, where the second tutorial ends."""
    _read(page, world, tmp_path / "here", quick=True)


@pytest.mark.slow
@pytest.mark.parametrize("page", [*RUN, OWN_NETWORK], ids=_name)
def test_a_reader_can_do_all_of_a_page(page: Path, whole_world: Path, tmp_path: Path) -> None:
    """Nothing is left out or made smaller, as `make test` does."""
    _read(page, whole_world, tmp_path / "here", quick=False)
