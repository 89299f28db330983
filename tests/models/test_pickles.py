"""Pickles are walked over without making anything of them."""

from __future__ import annotations

import pickle
from collections import OrderedDict

import pytest

from lsengine.models import pickles
from lsengine.models.pickle_values import Foreign, Made, Unsound
from tests.support.pickled import integer, text


class Lenient:
    """Rules that keep what they are asked."""

    def __init__(self):
        self.names, self.calls = [], []

    def name(self, name):
        """Keep a name."""
        self.names.append(name)

    def call(self, function, arguments):
        """Keep a call."""
        self.calls.append((function.name, len(arguments)))
        return Made("dict")

    def build(self, made, state):
        """Allow all."""

    fill = build


def walked(content, size=0):
    """Return what is found, and the rules that were asked."""
    rules = Lenient()
    value, end = pickles.walk(content, 0, rules, size)
    assert end == len(content)
    return value, rules


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_is_understood(protocol):
    """Plain values come as they are, containers as their kinds, and every name is asked for."""
    value = {"a": (1, 2.5, None, True, b"b", "é", 2**100, -5, -(2**40)), "l": [{1}, []]}
    value["o"] = OrderedDict(x=1)
    found, rules = walked(pickle.dumps(value, protocol))
    assert (found.kind, found.facts) == ("dict", ["a", "l", "o"])
    assert "collections.OrderedDict" in rules.names
    assert ("collections.OrderedDict", 0) in rules.calls
    plain, _ = walked(pickle.dumps((1, 2.5, None, "é", 2**100, -(2**40)), protocol))
    assert plain.items == [1, 2.5, None, "é", 2**100, -(2**40)]


def test_names_of_python_2_are_those_of_python_3():
    """As the libraries of pickles have them."""
    assert walked(b"c__builtin__\nset\n.")[1].names == ["builtins.set"]


def doubled(levels):
    """A tuple in a tuple, twice each."""
    value = (1,)
    for _ in range(levels):
        value = (value, value)
    return pickle.dumps(value, 2)


BAD = {
    "nothing": (b"", "damaged"),
    "cut": (pickle.dumps({"a": [1, 2, 3]}, 2)[:-3], "damaged"),
    "an unknown opcode": (b"\x80\x02S'a'\n.", "damaged"),
    "text beyond the end": (b"X\xff\xff\xff\xff.", "damaged"),
    "no mark": (b"e.", "damaged"),
    "more items than there are": (b"K\x01\x86.", "damaged"),
    "a far place in its memory": (b"}r\xff\xff\xff\x7f.", "damaged"),
    "no such place": (b"h\x05.", "damaged"),
    "a long name": (b"c" + b"a" * 600 + b"\nb\n.", "damaged"),
    "a large integer": (b"\x8b\x00\x10\x00\x00" + bytes(4096) + b".", "integer of 4,096 bytes"),
    "deep tuples": (b")" + b"\x85" * 1000 + b".", "tuples in tuples"),
    "wide tuples": (doubled(40), "tuples in tuples"),
    "a tuple as a key": (b"}(" + b"K\x01" * 100 + b"tK\x01s.", "key that is a long tuple"),
    "integers of one hash": (b"}" + integer(2**61 - 1) + b"K\x01s.", "large integer"),
    "a call of a text": (text("a") + b")R.", "a call"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_takes_too_much_is_refused(case):
    """Without taking it."""
    content, said = BAD[case]
    with pytest.raises((Unsound, Foreign), match=said):
        walked(content)


def test_instructions_are_counted(monkeypatch):
    """A file may have many that take no bytes; a large one may have more."""
    monkeypatch.setattr(pickles, "_FEWEST_STEPS", 100)
    content = b"](" + b"}" * 200 + b"e."
    with pytest.raises(Unsound, match="more than 101 instructions"):
        walked(content, 1000)
    assert len(walked(content, 200_000)[0].facts) == 200
