"""The pages of the reference that `make reference` writes into docs/reference."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.pages import ROOT

GENERATED: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "generated.py"))


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other Pythons word options otherwise")
@pytest.mark.parametrize("page", GENERATED["PAGES"], ids=lambda page: page.stem)
def test_page_says_what_the_code_says(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of any width."""
    monkeypatch.setenv("COLUMNS", "40")
    is_current = page.read_text() == GENERATED["written"](page)
    assert is_current, f"{page.name} is not what the code says now: make reference"


def test_pages_name_every_section_and_command() -> None:
    """Known ones, in tables that a reader finds in the repository itself."""
    keys, commands = (page.read_text() for page in GENERATED["PAGES"])
    assert "| `batch_norm` |" in keys
    assert "## launch\n" in keys
    assert "## eval\n" in commands
    assert "`--workers N`" in commands
