"""Links of README and docs lead somewhere; files that the texts name exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.support.pages import PAGES, ROOT

_CODE = re.compile(r"^ *(```+).*?^ *\1$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")
_NAMED = re.compile(r"`((?:docs|jobs|launch|benchmarks|tests|docker|lsengine)/[\w./-]+\.\w+)`")
_INDEX = ROOT / "docs" / "index.md"


def _text(page: Path) -> str:
    return _CODE.sub("", page.read_text())


@cache
def _anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", _text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page: Path) -> None:
    """Of the repository; `make docs-links` asks other sites."""
    for link in _LINK.findall(_text(page)):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor and target.name != "python-api.md":  # which is made when the site is built
            assert anchor in _anchors(target), link


def test_files_that_are_named_exist() -> None:
    """A page that speaks of a file of the repository speaks of one that there is."""
    named = {(page, name) for page in PAGES for name in _NAMED.findall(_text(page))}
    assert len(named) > 20
    assert not [(p.name, name) for p, name in named if not (ROOT / name).exists()]


def test_every_page_is_in_the_navigation() -> None:
    """The site's lists of pages name each page of docs once."""
    listed = []
    for page in PAGES:
        for tree in re.findall(r"```{toctree}\n(.*?)```", page.read_text(), re.DOTALL):
            lines = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed += [(page.parent / f"{line}.md").resolve() for line in lines]
    assert sorted(listed) == sorted({*PAGES} - {ROOT / "README.md", _INDEX})
