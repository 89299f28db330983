"""Scripts of launch/ as modules."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from tests.support.launchers import ROOT

SCRIPTS = ("claims", "keep", "measures", "minima", "paper", "trained", "verdicts")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import scripts of launch/, which import one another."""
    monkeypatch.syspath_prepend(str(ROOT / "launch"))
    yield lambda name: __import__(name)
    for name in SCRIPTS:
        sys.modules.pop(name, None)
