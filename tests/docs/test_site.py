"""The site of `make docs`, in a browser: words find their pages, nothing is broken or too wide."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.pages import PAGES, ROOT

SPHINX = ROOT / ".venv-docs" / "bin" / "sphinx-build"
DOCS = [page for page in PAGES if page != ROOT / "README.md"]
FOUND = {  # what a reader looks for: what the first page found is about
    "checkpoint": "checkpoint",
    "colours": "colours",
    "LoRA": "LoRA",
    "notebook": "notebook",
    "ParaView": "ParaView",
    "resume": "resume",
    "SLURM": "SLURM",
    "threads": "threads",
    "titles": "titles",
    "tokens": "tokens",
    "transformer": "transformer",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site; a warning fails the build."""
    if not SPHINX.exists():
        pytest.skip("no .venv-docs: run make docs first")
    folder = tmp_path_factory.mktemp("site")
    command = [SPHINX, "--quiet", "--fail-on-warning", "--keep-going", ROOT / "docs", folder]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    built = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=environment, check=False
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """A page of a headless Chromium."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium.new_page()
        chromium.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_broken_or_too_wide(site: Path, page: Any, width: int) -> None:
    """On a telephone and on a screen: all pictures load, no page scrolls sideways or calls out."""
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or wrong.append(r.url))
    page.set_viewport_size({"width": width, "height": 800})
    for source in DOCS:
        name = source.relative_to(ROOT / "docs").with_suffix(".html")
        page.goto((site / name).as_uri())
        too_wide = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        pictures = page.evaluate("[...document.images].filter(i => !i.naturalWidth).length")
        if too_wide > 0 or pictures:
            wrong.append(f"{name}: {too_wide} too wide, {pictures} pictures missing")
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("word", FOUND)
def test_a_word_finds_its_page_first(site: Path, page: Any, word: str) -> None:
    """By the site's own search, which needs no server."""
    page.goto(f"{(site / 'search.html').as_uri()}?q={word}")
    page.wait_for_selector("ul.search li > a", timeout=30_000)
    page.wait_for_timeout(500)  # results are sorted as they come
    titles = [link.inner_text() for link in page.query_selector_all("ul.search li > a")]
    assert any(FOUND[word].lower() in title.lower() for title in titles[:2]), titles[:5]
