"""Values of pickles are told apart by what they are, not by what they hold."""

from __future__ import annotations

from lsengine.models.pickle_values import Foreign, Made, Named, Row


def test_values_are_compared_by_identity():
    """Two dicts are two, even if they are empty; a name is what it says."""
    assert Made("dict") != Made("dict")
    assert Row([1]) != Row([1])
    assert Named("torch.Size") == Named("torch.Size")
    assert Foreign("a.B").name == "a.B"
