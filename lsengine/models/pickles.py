"""What a pickle would do, found out by walking over its opcodes: nothing is imported or called.

A few bytes can ask for gigabytes, by calls that are harmless but for the size of what they make.
Here a pickle's values are known by their kinds alone.  `Rules` say which calls may happen.
Opcodes, integers, names and nesting have limits.  Only what torch and the pickles of
torch.distributed.checkpoint use is understood, and all else counts as damage.
"""

from __future__ import annotations

import _compat_pickle
import struct
from collections.abc import Callable
from typing import Any

from lsengine.models.pickle_values import Foreign, Made, Named, Row, Rules, Unsound

_FEWEST_STEPS = 1_500_000  # that every pickle may take
_BYTES_PER_STEP = 1000  # of the file, for more
_MOST_INT = 1000  # bytes of one integer
_MOST_TEXT = 100_000  # characters of a text whose content counts
_MOST_LINE = 500  # of the name of a global
_MOST_WEIGHT = 100_000  # of a tuple: all that is in it, however deep
_MOST_KEY = 64  # the same, of a tuple by which something is found
_DEEPEST = 64  # tuples in tuples
_LARGEST_KEY = 2**60  # larger integers can be made to collide
_B, _I, _Q = (struct.Struct(f"<{letter}") for letter in "BIQ")
# What Python raises where a file is not as it should be.
DAMAGE = (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error)


def walk(data: Any, start: int, rules: Rules, size: int) -> tuple[Any, int]:
    """Return what the pickle at an offset makes, and the offset of its end.

    ``data`` is bytes, or what slices into them; ``size`` is that of the file, by which the
    number of opcodes is limited.

    Raises:
        Unsound, Foreign: See there.
    """
    walker, at, opcodes = _Walker(data, rules), start, _OPCODES
    steps = _FEWEST_STEPS + size // _BYTES_PER_STEP
    try:
        for _ in range(steps):
            opcode = data[at]
            if opcode == _STOP:
                return walker.stack.pop(), at + 1
            at = opcodes[opcode](walker, at + 1)
    except DAMAGE as error:
        raise Unsound("damaged") from error
    raise Unsound(f"it has more than {steps:,} instructions")


class _Walker:
    """The stack and the memory of a pickle that is being walked."""

    __slots__ = ("data", "marks", "memo", "rules", "stack")

    def __init__(self, data: Any, rules: Rules) -> None:
        self.data, self.rules = data, rules
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items


Step = Callable[[_Walker, int], int]
"""Does what an opcode does, whose arguments are at an offset, and returns the offset behind."""


def _behind(walker: _Walker, at: int, count: int) -> int:
    """Return an offset by so many bytes further on, which must be there."""
    if not 0 <= count <= len(walker.data) - at:
        raise Unsound("damaged")
    return at + count


def _ignored(count: int) -> Step:
    return lambda walker, at: at + count


def _constant(value: Any) -> Step:
    def step(walker: _Walker, at: int) -> int:
        walker.stack.append(value)
        return at

    return step


def _empty(kind: str) -> Step:
    def step(walker: _Walker, at: int) -> int:
        walker.stack.append(Made(kind))
        return at

    return step


def _byte(walker: _Walker, at: int) -> int:
    walker.stack.append(walker.data[at])
    return at + 1


def _number(form: struct.Struct) -> Step:
    def step(walker: _Walker, at: int) -> int:
        walker.stack.append(form.unpack_from(walker.data, at)[0])
        return at + form.size

    return step


def _long(form: struct.Struct) -> Step:
    def step(walker: _Walker, at: int) -> int:
        length = form.unpack_from(walker.data, at)[0]
        if length > _MOST_INT:
            raise Unsound(f"it has an integer of {length:,} bytes")
        start = at + form.size
        at = _behind(walker, start, length)
        walker.stack.append(int.from_bytes(walker.data[start:at], "little", signed=True))
        return at

    return step


def _text(form: struct.Struct, is_bytes: bool = False) -> Step:
    """Texts that are long are known by their length."""

    def step(walker: _Walker, at: int) -> int:
        length = form.unpack_from(walker.data, at)[0]
        start = at + form.size
        at = _behind(walker, start, length)
        if length > _MOST_TEXT:
            walker.stack.append(Made("bytes" if is_bytes else "text", length))
            return at
        found = bytes(walker.data[start:at])
        walker.stack.append(found if is_bytes else found.decode("utf-8", "surrogatepass"))
        return at

    return step


def _mark(walker: _Walker, at: int) -> int:
    walker.marks.append(walker.stack)
    walker.stack = []
    return at


def _put_byte(walker: _Walker, at: int) -> int:
    walker.memo[walker.data[at]] = walker.stack[-1]
    return at + 1


def _put(walker: _Walker, at: int) -> int:
    place = _I.unpack_from(walker.data, at)[0]
    if place > len(walker.data):  # Python's own reader makes room for all places up to it
        raise Unsound("damaged")
    walker.memo[place] = walker.stack[-1]
    return at + 4


def _memoize(walker: _Walker, at: int) -> int:
    walker.memo[len(walker.memo)] = walker.stack[-1]
    return at


def _get_byte(walker: _Walker, at: int) -> int:
    walker.stack.append(walker.memo[walker.data[at]])
    return at + 1


def _get(walker: _Walker, at: int) -> int:
    walker.stack.append(walker.memo[_I.unpack_from(walker.data, at)[0]])
    return at + 4


def _row(items: list[Any]) -> Row:
    row = Row(items, len(items) + 1)
    for item in items:
        if type(item) is Row:
            row.weight += item.weight
            row.depth = max(row.depth, item.depth + 1)
    if row.weight > _MOST_WEIGHT or row.depth > _DEEPEST:
        raise Unsound(f"it has tuples in tuples, {row.depth} deep, with {row.weight:,} items")
    return row


def _tuple_of(count: int) -> Step:
    def step(walker: _Walker, at: int) -> int:
        stack = walker.stack
        if len(stack) < count:
            raise Unsound("damaged")
        items = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        stack.append(_row(items))
        return at

    return step


def _tuple(walker: _Walker, at: int) -> int:
    items = walker.since_mark()
    walker.stack.append(_row(items))
    return at


def key(found: Any) -> Any:
    """Return a key, or an item of a set; refuse those that take long to find.

    Raises:
        Unsound: If it is such.
    """
    kind = type(found)
    if (kind is Row and found.weight > _MOST_KEY) or (
        kind is int and not -_LARGEST_KEY < found < _LARGEST_KEY
    ):
        raise Unsound("it has a key that is a long tuple or a large integer")
    if kind is Made and found.kind in ("dict", "list", "set"):
        raise Unsound("damaged")
    return found


def _filled(walker: _Walker, kind: str, items: list[Any]) -> None:
    """Fill what is on the stack."""
    made = walker.stack[-1]
    if type(made) is not Made:
        raise Unsound("damaged")
    if made.kind != kind:
        walker.rules.fill(made, kind)
    else:
        made.facts = made.facts or []  # few are filled more than once
        keys = items[::2] if kind == "dict" else items
        made.facts.extend(keys if kind == "list" else map(key, keys))


def _fill(kind: str) -> Step:
    def step(walker: _Walker, at: int) -> int:
        _filled(walker, kind, walker.since_mark())
        return at

    return step


def _append(walker: _Walker, at: int) -> int:
    item = walker.stack.pop()
    _filled(walker, "list", [item])
    return at


def _set_item(walker: _Walker, at: int) -> int:
    value, name = walker.stack.pop(), walker.stack.pop()
    _filled(walker, "dict", [name, value])
    return at


def _frozen(walker: _Walker, at: int) -> int:
    items = walker.since_mark()
    walker.stack.append(Made("frozen", [key(item) for item in items]))
    return at


def _pushed_name(walker: _Walker, module: str, name: str) -> None:
    """Push a global by its name in Python 3."""
    if (module, name) in _compat_pickle.NAME_MAPPING:
        module, name = _compat_pickle.NAME_MAPPING[module, name]
    else:
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
    full = f"{module}.{name}"
    walker.rules.name(full)
    walker.stack.append(Named(full))


def _global(walker: _Walker, at: int) -> int:
    module, name, _ = bytes(walker.data[at : at + _MOST_LINE]).split(b"\n", 2)
    _pushed_name(walker, module.decode(), name.decode())
    return at + len(module) + len(name) + 2


def _stack_global(walker: _Walker, at: int) -> int:
    name, module = walker.stack.pop(), walker.stack.pop()
    if type(name) is not str or type(module) is not str or len(name) + len(module) > _MOST_LINE:
        raise Unsound("damaged")
    _pushed_name(walker, module, name)
    return at


def _call(walker: _Walker, at: int) -> int:
    arguments, function = walker.stack.pop(), walker.stack.pop()
    if type(arguments) is not Row:
        raise Unsound("damaged")
    if type(function) is not Named:
        raise Foreign(str(function.facts) if type(function) is Made else "a call")
    walker.stack.append(walker.rules.call(function, arguments.items))
    return at


def _build(walker: _Walker, at: int) -> int:
    state, made = walker.stack.pop(), walker.stack[-1]
    if type(made) is not Made:
        raise Unsound("damaged")
    walker.rules.build(made, state)
    return at


def _stored(walker: _Walker, at: int) -> int:
    walker.stack.append(walker.rules.stored(walker.stack.pop()))
    return at


_STOP = ord(".")
_OPCODES: dict[int, Step] = {
    0x80: _ignored(1),  # the protocol
    0x95: _ignored(8),  # a frame
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord("J"): _number(struct.Struct("<i")),
    ord("K"): _byte,
    ord("M"): _number(struct.Struct("<H")),
    ord("G"): _number(struct.Struct(">d")),
    0x8A: _long(_B),
    0x8B: _long(_I),
    ord("X"): _text(_I),
    0x8C: _text(_B),
    0x8D: _text(_Q),
    ord("U"): _text(_B),  # of Python 2
    ord("T"): _text(_I),
    ord("C"): _text(_B, is_bytes=True),
    ord("B"): _text(_I, is_bytes=True),
    0x8E: _text(_Q, is_bytes=True),
    ord("("): _mark,
    ord("q"): _put_byte,
    ord("r"): _put,
    0x94: _memoize,
    ord("h"): _get_byte,
    ord("j"): _get,
    ord(")"): _tuple_of(0),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("t"): _tuple,
    ord("}"): _empty("dict"),
    ord("]"): _empty("list"),
    0x8F: _empty("set"),
    ord("s"): _set_item,
    ord("u"): _fill("dict"),
    ord("a"): _append,
    ord("e"): _fill("list"),
    0x90: _fill("set"),
    0x91: _frozen,
    ord("c"): _global,
    0x93: _stack_global,
    ord("R"): _call,
    0x81: _call,  # of a class, to make an object
    ord("b"): _build,
    ord("Q"): _stored,
}
