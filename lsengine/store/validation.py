"""What a file holds, read with its types and shapes checked: the right kind of value, or a message.

Everything that comes out of a file of lsengine's formats comes through here.  Sizes and links
have been looked at before.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from lsengine.errors import LsengineError
from lsengine.wording import short

Shape = Sequence[int | None]  # None: any length
LONGEST_NAME = 255  # of quantities, in bytes
_LONGEST_TEXT = 2**24  # of an attribute, in characters
_DEEPEST = 100  # levels of JSON
_FARTHEST = 1e30  # coordinates along directions, whose powers pictures are made of
_KINDS = {
    "text": "a text",
    "integer": "an integer",
    "number": "a number",
    "numbers": "numbers in one row",
}


@dataclass(frozen=True, slots=True)
class Content:
    """A file or one of its groups, and the error that messages are raised as."""

    group: h5py.Group
    error: type[LsengineError]

    def __contains__(self, name: str) -> bool:
        return name in self.group

    def __iter__(self) -> Iterator[str]:
        return iter(self.group)

    def damage(self, what: str) -> LsengineError:
        """Return what to raise, with the file's name."""
        return self.error(f"{self.group.file.filename}: damaged: {what}; move the file away")

    def refuse_name(self, name: str) -> None:
        """Refuse what cannot be a name in other programs' files, or in a picture."""
        if not 0 < len(name.encode()) <= LONGEST_NAME or not name.isprintable():
            raise self.damage(
                f"{short(name)} is no name of a quantity: at most {LONGEST_NAME} characters that "
                "can be printed"
            )

    def path(self, name: str) -> str:
        """Return the name of a dataset as messages have it."""
        return f"{self.group.name}/{name}".lstrip("/")

    def inner(self, name: str) -> Content:
        """Return a group of this one.

        Raises:
            LsengineError: If it is none; like everything here, of the class ``error``.
        """
        inner = self.group.get(name)
        if not isinstance(inner, h5py.Group):
            what = "not there" if inner is None else "no group"
            raise self.damage(f"{self.path(name)} is {what}")
        return Content(inner, self.error)

    def dataset(self, name: str) -> h5py.Dataset:
        """Return a dataset that holds values."""
        dataset = self.group.get(name)
        if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
            what = "not there" if dataset is None else "no dataset with values"
            raise self.damage(f"{self.path(name)} is {what}")
        return dataset

    def array(self, name: str, dtypes: Collection[DTypeLike], shape: Shape) -> NDArray[Any]:
        """Return a dataset of one of some types and of a shape."""
        dataset = self.dataset(name)
        fits = len(dataset.shape) == len(shape) and all(
            wanted in (None, found) for wanted, found in zip(shape, dataset.shape, strict=True)
        )
        if dataset.dtype not in [np.dtype(dtype) for dtype in dtypes] or not fits:
            wanted = " or ".join(_type_name(np.dtype(dtype)) for dtype in dtypes)
            lengths = ", ".join("any" if n is None else str(n) for n in shape)
            raise self.damage(
                f"{self.path(name)} is {_type_name(dataset.dtype)} of shape "
                f"{tuple(dataset.shape)}; expected {wanted} of shape ({lengths})"
            )
        return np.asarray(dataset[()])

    def floats(self, name: str, shape: Shape) -> NDArray[np.float64]:
        """Return a float64 dataset of a shape."""
        return self.array(name, (np.float64,), shape)

    def finite(
        self, name: str, shape: Shape, dtypes: Collection[DTypeLike] = (np.float64,)
    ) -> NDArray[Any]:
        """Return a dataset of one of some types without NaN and infinity."""
        values = self.array(name, dtypes, shape)
        if not np.isfinite(values).all():
            raise self.damage(f"{self.path(name)} has values that are not finite")
        return values

    def places(
        self, name: str, shape: Shape, dtypes: Collection[DTypeLike] = (np.float64,)
    ) -> NDArray[Any]:
        """Return coordinates along directions: of a size that arithmetic bears."""
        values = self.finite(name, shape, dtypes)
        size = np.abs(values[values != 0])
        if (size > _FARTHEST).any() or (size < 1 / _FARTHEST).any():
            raise self.damage(
                f"{self.path(name)} has values of a size beyond {_FARTHEST:g} or below "
                f"{1 / _FARTHEST:g}"
            )
        return values

    def fixed_texts(self, name: str, shape: Shape) -> NDArray[np.bytes_]:
        """Return a dataset of texts of one length, as bytes of UTF-8."""
        dtype = self.dataset(name).dtype
        if dtype.kind != "S":
            raise self.damage(f"{self.path(name)} is {dtype}; expected texts of fixed length")
        values = self.array(name, (dtype,), shape)
        for text in values.ravel():
            self._decoded(name, text)
        return values

    def texts(self, name: str, count: int | None = None) -> tuple[str, ...]:
        """Return a dataset (``count``,) of texts."""
        dataset = self.dataset(name)
        if h5py.check_string_dtype(dataset.dtype) is None or len(dataset.shape) != 1:
            raise self.damage(f"{self.path(name)} is no row of texts")
        if count not in (None, len(dataset)):
            raise self.damage(f"{self.path(name)} has {len(dataset)} texts; expected {count}")
        return tuple(self._decoded(name, text) for text in dataset[()])

    def text(self, name: str) -> str:
        """Return a dataset that is one text; an empty text if there is none of this name."""
        if name not in self.group:
            return ""
        dataset = self.dataset(name)
        if h5py.check_string_dtype(dataset.dtype) is None or dataset.shape != ():
            raise self.damage(f"{self.path(name)} is no text")
        return self._decoded(name, dataset[()])

    def flag(self, name: str, attribute: str) -> bool:
        """Return whether a dataset has an attribute that is not zero."""
        value = _valued(self.dataset(name).attrs.get(attribute, 0))[1]
        if not isinstance(value, int | float):
            raise self.damage(f"{self.path(name)}: its attribute {attribute} is no number")
        return bool(value)

    def _decoded(self, name: str, value: Any) -> str:
        try:
            return bytes(value).decode()
        except (TypeError, ValueError):
            raise self.damage(f"{self.path(name)} is no text in UTF-8") from None

    def json(self, name: str, text: str) -> Any:
        """Return what a text of the file says; ``name`` is that of the text in messages."""
        try:
            value = json.loads(text)
        except RecursionError:
            raise self.damage(f"{name} is JSON with too many levels") from None
        except ValueError as error:
            raise self.damage(f"{name} is no JSON: {error}") from None
        if _levels(value) > _DEEPEST:
            raise self.damage(f"{name} is JSON of more than {_DEEPEST} levels")
        return value

    def attributes(
        self, kinds: Mapping[str, str], required: Collection[str] = ()
    ) -> dict[str, Any]:
        """Return the attributes as values of Python's own, and rows of numbers.

        ``kinds`` are those of known ones: ``text``, ``integer``, ``number`` or ``numbers``.
        Others are left out if they are none of these.
        """
        found = {}
        for name in required:
            if name not in self.group.attrs:
                raise self.damage(f"attribute {name} is not there")
        for name in self.group.attrs:
            kind, value = _valued(self.group.attrs[name])
            wanted = kinds.get(name)
            if wanted is None:
                if kind is not None:
                    found[name] = value
            elif kind == wanted or (wanted in ("number", "numbers") and kind in _NUMBERS[wanted]):
                found[name] = value
            else:
                what = short(value) if kind else "of another type"
                where = f"attribute {name}" if self.group.name == "/" else self.path(name)
                raise self.damage(f"{where} is {what}; expected {_KINDS[wanted]}")
        return found


_NUMBERS = {"number": ("integer",), "numbers": ("number", "integer")}


def _valued(value: Any) -> tuple[str | None, Any]:
    """Return of which kind an attribute's value is, None if of none, and the value."""
    if isinstance(value, bytes | str):
        try:
            text = value.decode() if isinstance(value, bytes) else value
            text.encode()  # h5py reads bytes that are no UTF-8, too
        except ValueError:
            return None, None
        return ("text", text) if len(text) <= _LONGEST_TEXT else (None, None)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8 or array.ndim > 1:
        return None, None
    if array.ndim:
        return "numbers", array
    return "number" if array.dtype.kind == "f" else "integer", array.item()


def _levels(value: Any) -> int:
    """Return how deep lists and objects are nested."""
    levels, layer = 0, [value]
    while layer and levels <= _DEEPEST:
        inner = [v.values() if isinstance(v, dict) else v for v in layer if _is_nest(v)]
        layer = [item for items in inner for item in items if _is_nest(item)]
        levels += bool(inner)
    return levels


def _is_nest(value: Any) -> bool:
    return isinstance(value, dict | list)


def _type_name(dtype: np.dtype[Any]) -> str:
    if h5py.check_string_dtype(dtype) is not None:
        return f"texts of {dtype.itemsize} bytes" if dtype.kind == "S" else "texts"
    return dtype.name
