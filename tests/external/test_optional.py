"""Libraries that not everybody has."""

from __future__ import annotations

import importlib
import sys

import pytest

from lsengine.errors import EnvironmentUnfit
from lsengine.external import installation
from lsengine.external.optional import library


def test_a_library_that_is_there_is_handed_on():
    """The module asked for, not the package that it is in."""
    assert library("xml.dom", "extra", "a test") is importlib.import_module("xml.dom")


def test_a_library_that_is_missing_is_named_with_its_purpose_and_its_extra(monkeypatch):
    """The package is named, not the module in it; Python's reason is in the message and kept."""
    monkeypatch.setitem(sys.modules, "absent", None)
    monkeypatch.setitem(sys.modules, "absent.part", None)
    with pytest.raises(EnvironmentUnfit) as missing:
        library("absent.part", "mesh", "--to glb")
    text = str(missing.value)
    assert text.startswith("--to glb needs absent, which cannot be imported (")
    assert text.endswith(f'install it with "{installation.install("mesh")}"')
    assert isinstance(missing.value.__cause__, ImportError)
