"""No test of submissions reads the user's own site file."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_site_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("LSENGINE_SITE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
