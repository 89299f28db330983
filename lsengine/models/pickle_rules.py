"""What the pickle of a checkpoint may ask for, so that torch can be let at it.

torch calls only what it knows.  But some of that makes as many numbers as it is told, or looks
beyond what is stored.  Here every call is compared with the size of the file.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch

from lsengine.models.pickle_values import Foreign, Made, Named, Row, Unsound
from lsengine.models.pickles import key

# Whoever names these in a file means harm; nothing of such a file is used.
_HOSTILE: tuple[str, ...] = ("os", "posix", "nt", "sys", "subprocess", "runpy", "pty", "importlib")
_HOSTILE += ("shutil", "socket", "ctypes", "code", "pickle", "marshal")
# What of `builtins` the pickles of settings name: types, and how members of classes are found.
_TYPES: tuple[str, ...] = ("list", "dict", "tuple", "set", "frozenset", "int", "float", "str")
_TYPES += ("bool", "bytes", "object", "type", "slice", "range", "getattr")
_MOST_CLASSES = 200  # that a file may name and torch does not know
_ROOM = 2**26  # bytes that tensors may take beyond what the file has for them
_TIMES = 4  # the same, in sizes of the file
_LARGEST = 2**62
_BYTES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2}
_BYTES |= {"Char": 1, "Byte": 1, "Bool": 1, "ComplexFloat": 8, "ComplexDouble": 16, "QInt8": 1}
_BYTES |= {"QUInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1, "Untyped": 1}
_STORAGE = re.compile(r"torch\.(?:cuda\.|storage\.)?(\w+)Storage")
_PLAIN_DTYPE = re.compile(r"[<>=|]?(?:(\?)|b(1)|[iu]([1248])|f(2|4|8|16)|c(8|16|32)|[mM](8))")
_TEXT_DTYPE = re.compile(r"[<>=|]?([SU])(\d{1,4})")
_CONSTANTS = {"torch.Tensor", "torch.nn.parameter.Parameter"}
_OWN_TENSOR = re.compile(r"torch\.(?:cuda\.)?\w+Tensor")


class TorchRules:
    """The rules for files of torch's.

    Attributes:
        foreign: What torch does not know, by name: whether it is filled like a ``dict`` or a
            ``list``, or neither (``object``).
        stored_bytes: Bytes by the key of each storage that is used.

    Args:
        size: Of the file, in bytes.
        records: Bytes of each storage by its key; None in files before torch 1.6, where they come
            behind the pickle.
    """

    def __init__(self, size: int, records: Mapping[str, int] | None = None) -> None:
        self.foreign: dict[str, str] = {}
        self.stored_bytes: dict[str, int] = {}
        self._there, self._records = size, records
        self._beyond, self._copied = 0, 0

    def name(self, name: str) -> None:
        """Let known names pass, refuse those that mean harm, and keep the others."""
        if name in _CALLS or name in self.foreign or _is_constant(name):
            return
        module, _, rest = name.partition(".")
        is_hostile = rest not in _TYPES if module == "builtins" else module in _HOSTILE
        if is_hostile or len(self.foreign) >= _MOST_CLASSES:
            raise Foreign(name.removeprefix("builtins."))
        self.foreign[name] = "object"

    def call(self, function: Named, arguments: list[Any]) -> Made:
        """Return what a call makes; objects of other classes are made of nothing."""
        if function.name in self.foreign:
            return Made("foreign", function.name)
        if _OWN_TENSOR.fullmatch(function.name) and not arguments:
            return Made("empty tensor")
        known = _CALLS.get(function.name)
        if known is None:
            raise Unsound(f"it calls {function.name}")
        return known(self, *arguments)

    def build(self, made: Made, state: Any) -> None:
        """Look at a state: of other classes it is not used."""
        if made.kind == "dict":
            _check_names(state, OrderedDict)
        elif made.kind == "numpy type":
            _check_numpy_state(made.facts, state)
        elif made.kind == "empty tensor" and type(state) is Row:
            made.facts = self._strided(*state.items).facts
        elif made.kind != "foreign":
            raise Unsound("damaged")

    def fill(self, made: Made, kind: str) -> None:
        """Keep that objects of other classes are filled."""
        if made.kind != "foreign" or kind == "set":
            raise Unsound("damaged")
        if self.foreign[made.facts] not in ("object", kind):
            raise Foreign(made.facts)
        self.foreign[made.facts] = kind

    def stored(self, identity: Any) -> Made:
        """Return a storage, whose size the file must have."""
        if type(identity) is not Row or identity.items[0] != "storage":
            raise Foreign("torch.nn.Module")
        kind, name, _, count, *view = identity.items[1:]
        each = _BYTES.get(_storage(kind.name), 0)
        if not each or type(count) is not int or type(name) is not str or count < 0:
            raise Unsound("damaged")
        size = count * each
        if self._records is not None and (view or size > self._records.get(name, -1)):
            raise Unsound(f"storage {name[:40]} has fewer bytes than its tensors")
        if self._records is None and view and view[0] is not None:
            _, start, length = view[0].items
            if not 0 <= start <= start + length <= count:
                raise Unsound(f"a part of storage {name[:40]} is not in it")
            count = length
        if self.stored_bytes.setdefault(name, size) != size:
            raise Unsound(f"storage {name[:40]} has two sizes")
        return Made("storage", (count * each, each))

    def copies(self, count: int) -> None:
        """Count what calls copy: more than is in the file they need not."""
        self._copied += count
        if self._copied > self._there + _ROOM // 64:
            raise Unsound("its calls copy more than is in it")

    def takes(self, size: int) -> None:
        """Count bytes that tensors take beyond what the file has for them."""
        self._beyond += size
        if self._beyond > _ROOM + _TIMES * self._there:
            raise Unsound(
                f"its sparse or expanded tensors would take {self._beyond / 2**30:,.2f} GiB, many "
                "times the file"
            )

    def _strided(self, storage: Any, offset: Any, size: Any, stride: Any, each: int = 0) -> Made:
        """Return a tensor, whose numbers must all be in its storage."""
        if storage.kind != "storage":
            raise Unsound("damaged")
        there, own = storage.facts
        each = each or own
        sizes, strides = _integers(size), _integers(stride)
        (start,) = _integers([offset])
        if len(sizes) != len(strides):
            raise Unsound("damaged")
        count = math.prod(sizes)
        last = start + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
        if count and (last + 1) * each > there:
            raise Unsound(f"a tensor of shape {sizes} is larger than what is stored for it")
        if count * each > there:
            self.takes(count * each)
        return Made("tensor", (count, each))

    # What follows are calls that torch knows, by their arguments.

    def _tensor(self, *arguments: Any) -> Made:
        return self._strided(*arguments[:4])

    def _tensor_v3(self, *arguments: Any) -> Made:
        storage, offset, size, stride, _, _, dtype, *_ = arguments
        return self._strided(storage, offset, size, stride, _dtype(dtype).itemsize)

    def _quantised(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Made:
        made = self._strided(storage, offset, size, stride)
        if made.facts[0] * made.facts[1] > storage.facts[0]:
            raise Unsound("a quantised tensor is larger than what is stored for it")
        return made

    def _parameter(self, data: Any, _: Any, __: Any, state: Any = None) -> Made:
        _check_names(state, torch.Tensor)
        return _a_tensor(data)

    def _of_type(self, function: Any, kind: Named, arguments: Row, state: Any) -> Made:
        if kind.name not in _CONSTANTS:
            raise Foreign(kind.name)
        _check_names(state, torch.Tensor)
        return _a_tensor(self.call(function, arguments.items))

    def _sparse(self, layout: Any, data: Row) -> Made:
        if layout.kind != "layout":
            raise Unsound("damaged")
        values, size = data.items[1:3] if layout.facts == "torch.sparse_coo" else data.items[2:4]
        each = _a_tensor(values).facts[1]
        count = math.prod(_integers(size))
        self.takes(count * each)
        return Made("tensor", (count, each))

    def _meta(self, _: Any, size: Any, stride: Any, *__: Any) -> Made:
        count = math.prod(_integers(size))
        if count > _LARGEST or len(_integers(stride)) != len(_integers(size)):
            raise Unsound("damaged")
        return Made("tensor", (count, 1))

    def _odd(self, *_: Any) -> Made:
        raise Unsound("it has nested tensors, or those of a class of their own")

    def _bytes(self, text: Any, codec: Any) -> Made:
        is_text = type(text) is str or (type(text) is Made and text.kind == "text")
        if not is_text or codec not in ("latin1", "latin-1"):
            raise Unsound("it makes bytes in another way than torch does")
        self.copies(_length(text))
        return Made("bytes", _length(text))

    def _byte_array(self, content: Any = b"", codec: Any = None) -> Made:
        if codec is not None:
            return self._bytes(content, codec)
        if type(content) is not bytes and (type(content) is not Made or content.kind != "bytes"):
            raise Unsound("damaged")
        self.copies(_length(content))
        return Made("other")

    def _set(self, items: Any = None) -> Made:
        found = [key(item) for item in (items.facts if items else [])]
        self.copies(len(found))
        return Made("set", found)

    def _dict(self, items: Any = None) -> Made:
        found = items.facts if items else []
        self.copies(len(found))
        if items and items.kind == "list":
            pairs = [item.items if type(item) is Row else item.facts for item in found]
            found = [key(first) for first, _ in pairs]
        return Made("dict", [*found])

    def _size(self, items: Any) -> Made:
        return Made("size", _integers(items))

    def _small(self, *arguments: Any) -> Made:
        if any(type(item) not in (int, float, str, bool) for item in arguments):
            raise Unsound("damaged")
        return Made("other")

    def _layout(self, name: str) -> Made:
        return Made("layout", name)

    def _numpy_type(self, name: str, *_: Any) -> Made:
        plain, text = _PLAIN_DTYPE.fullmatch(name), _TEXT_DTYPE.fullmatch(name)
        if plain:
            return Made("numpy type", int((plain[plain.lastindex or 1]).replace("?", "1")))
        if text:
            return Made("numpy type", int(text[2]) * (4 if text[1] == "U" else 1))
        raise Unsound(f"it has numbers of NumPy's type {name[:40]}")

    def _numpy_number(self, kind: Made, content: Any) -> Made:
        if kind.kind != "numpy type" or _length(content) > kind.facts:
            raise Unsound("damaged")
        return Made("other")


def _is_constant(name: str) -> bool:
    """Whether a name is of what torch knows and nobody calls."""
    if name in _CONSTANTS or name.startswith("numpy.dtypes.") or _storage(name):
        return True
    module, _, last = name.rpartition(".")
    found = getattr(torch, last, None) if module == "torch" else None
    return isinstance(found, torch.dtype | torch.qscheme) or bool(_OWN_TENSOR.fullmatch(name))


def _storage(name: str) -> str:
    found = _STORAGE.fullmatch(name)
    return found[1] if found and found[1] in _BYTES else ""


def _dtype(named: Named) -> torch.dtype:
    found = getattr(torch, named.name.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise Unsound("damaged")
    return found


def _a_tensor(made: Any) -> Made:
    if type(made) is not Made or made.kind not in ("tensor", "empty tensor"):
        raise Unsound("damaged")
    return made


def _integers(found: Any) -> list[int]:
    """Return integers that are no negative ones and fit into 64 bits."""
    items = found if type(found) is list else found.items if type(found) is Row else found.facts
    if len(items) > 64 or any(type(n) is not int or not 0 <= n <= _LARGEST for n in items):
        raise Unsound("a tensor has a shape that cannot be")
    return list(items)


def _length(text: Any) -> int:
    return int(text.facts) if type(text) is Made else len(text)


def _check_names(state: Any, kind: type) -> None:
    """Refuse attributes that a class has by itself."""
    for part in state.items if type(state) is Row else [state]:
        if part is None:
            continue
        if type(part) is not Made or part.kind != "dict":
            raise Unsound("damaged")
        for name in part.facts:
            if type(name) is not str or hasattr(kind, name):
                raise Unsound(f"it sets {str(name)[:40]} of a {kind.__name__}")


def _check_numpy_state(size: int, state: Any) -> None:
    version, order, *nothing, width, aligned, flags = state.items[:8]
    is_plain = nothing == [None] * 3 and flags in (0, 8) and order in ("<", ">", "|", "=")
    is_sized = width in (-1, size) and aligned in (-1, 1, 4)
    if version not in (3, 4) or not is_plain or not is_sized or state.weight > 20:
        raise Unsound("damaged")


_OF_TENSORS = "torch._utils._rebuild_"
_CALLS: dict[str, Callable[..., Made]] = {
    f"{_OF_TENSORS}tensor": TorchRules._tensor,
    f"{_OF_TENSORS}tensor_v2": TorchRules._tensor,
    f"{_OF_TENSORS}tensor_v3": TorchRules._tensor_v3,
    f"{_OF_TENSORS}qtensor": TorchRules._quantised,
    f"{_OF_TENSORS}parameter": TorchRules._parameter,
    f"{_OF_TENSORS}parameter_with_state": TorchRules._parameter,
    f"{_OF_TENSORS}sparse_tensor": TorchRules._sparse,
    f"{_OF_TENSORS}meta_tensor_no_storage": TorchRules._meta,
    f"{_OF_TENSORS}nested_tensor": TorchRules._odd,
    f"{_OF_TENSORS}wrapper_subclass": TorchRules._odd,
    f"{_OF_TENSORS}device_tensor_from_numpy": TorchRules._odd,
    f"{_OF_TENSORS}device_tensor_from_cpu_tensor": TorchRules._odd,
    "torch._tensor._rebuild_from_type_v2": TorchRules._of_type,
    "torch.Size": TorchRules._size,
    "torch.device": TorchRules._small,
    "torch.serialization._get_layout": TorchRules._layout,
    "collections.OrderedDict": TorchRules._dict,
    "collections.Counter": TorchRules._dict,
    "_codecs.encode": TorchRules._bytes,
    "builtins.bytearray": TorchRules._byte_array,
    "builtins.set": TorchRules._set,
    "builtins.complex": TorchRules._small,
    "numpy.dtype": TorchRules._numpy_type,
    "numpy.core.multiarray.scalar": TorchRules._numpy_number,
    "numpy._core.multiarray.scalar": TorchRules._numpy_number,
}
