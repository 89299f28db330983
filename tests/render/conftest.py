"""Fixtures of the pictures' tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

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


@pytest.fixture
def no_warning() -> Iterator[None]:
    """A warning from matplotlib or NumPy is a defect of the picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
