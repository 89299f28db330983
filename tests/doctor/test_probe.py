"""What a rank finds where it is."""

from __future__ import annotations

import sys

from lsengine.doctor import probe
from lsengine.doctor.probe import look, try_device, within


def test_what_takes_too_long_is_left_behind():
    """A check that hangs gives its place to another answer; one that works gives its own."""
    import threading

    assert within(0.05, threading.Event().wait, otherwise=False) is False
    assert within(60, lambda: 3, 0) == 3


def test_the_device_is_really_used():
    """The CPU multiplies without a mistake, and a card that is not there cannot."""
    assert try_device(None, 1) == ""
    assert try_device(63, 1) != ""


def test_a_companion_that_cannot_be_imported_is_found(tmp_path, monkeypatch):
    """A torchvision that looks for an operator that torch does not have; one that is not there."""
    (tmp_path / "torchvision.py").write_text("import torch\ntorch.ops.torchvision.nothing.default")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(probe, "_COMPANIONS", ("torchvision", "no_such_library"))
    assert look().companions == ()
    (found,) = look(companions=True).companions
    assert found.name == "torchvision"
    assert "nothing" in found.error
