"""Fixtures of the pictures' tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from landscapes import make_curve, make_plane

from lsengine.surface import Surface


@pytest.fixture
def plane() -> Callable[..., Surface]:
    """Make planes."""
    return make_plane


@pytest.fixture
def curve() -> Callable[..., Surface]:
    """Make curves."""
    return make_curve
