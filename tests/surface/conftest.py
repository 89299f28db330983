"""Made surfaces for tests of what readers see."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lsengine.surface import Surface
from tests.support.landscapes import make_curve, make_plane


@pytest.fixture
def plane() -> Callable[..., Surface]:
    """Make planes."""
    return make_plane


@pytest.fixture
def curve() -> Callable[..., Surface]:
    """Make curves."""
    return make_curve
