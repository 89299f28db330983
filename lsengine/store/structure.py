"""What an HDF5 file may be made of before anything else of it is read: `check`.

HDF5 follows links into other files, reads and writes raw data that lie outside of a file, asks
for the memory that a shape names, and crashes over attributes of other types than it expects.
So only plain datasets that lie in the file are let through; ``docs/FORMAT.md`` has the limits.

Only h5py's low-level calls are used here: they read one header at a time, and follow no link.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import h5py
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t, h5z

from lsengine.wording import short

OBJECTS, DEPTH, ATTRIBUTES = 200_000, 8, 1000
NAME_BYTES = 1024
ATTRIBUTE_BYTES = 2**24
CHUNKED_BYTES, CHUNKED_CELLS, CHUNKS = 2**28, 10**8, 100_000
TEXTS, TEXT_BYTES = 100_000, 2**26
_READ_BYTES = 2**30  # texts of any length that are read at once: no more than may have this
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_UNREADABLE = "not a readable HDF5 file ({}); it is damaged or of another kind; move it away"
_SUPERBLOCK_BYTES = 48
_SIZES_BYTES = (8, 8)  # of addresses and lengths, in the file
_POINTER_BYTES = 16  # of a string of any length, in the file
_FILTERS = (h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_LZF)
_FLOATS = (
    *(h5t.IEEE_F16LE, h5t.IEEE_F32LE, h5t.IEEE_F64LE),
    *(h5t.IEEE_F16BE, h5t.IEEE_F32BE, h5t.IEEE_F64BE),
)
_LINKS = {
    h5l.TYPE_SOFT: "a soft link, to another name",
    h5l.TYPE_EXTERNAL: "an external link, to another file",
}
_ALLOWED = "only groups and plain datasets that lie in the file are opened; get it anew"


class Unfit(Exception):
    """A file is not made as this package opens files: what was found, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a file has its object headers, and its datasets of texts: first byte, and the next."""

    headers: Sequence[int]
    texts: Sequence[tuple[int, int]]


@dataclass(slots=True, kw_only=True)
class _Seen:
    """What has been found so far in one file."""

    size: int
    is_written: bool
    objects: dict[int, str] = field(default_factory=dict)  # name by address
    ranges: list[tuple[int, int, str]] = field(default_factory=list)  # of raw data, with names
    referring: set[str] = field(default_factory=set)  # datasets whose texts lie elsewhere
    loose_bytes: int = 0  # of data whose size that of the file does not limit
    loose_cells: int = 0
    chunks: int = 0
    texts: int = 0
    text_bytes: int = 0
    kinds: dict[bytes, str] = field(default_factory=dict)  # of types by their code


def refuse_others(path: Path) -> None:
    """Refuse a file that is no HDF5 file; only its first bytes are read.

    Raises:
        Unfit: If it does not begin like one.
        OSError: If it is not there or the system refuses it.
    """
    with path.open("rb") as raw:
        is_hdf5 = raw.read(len(_SIGNATURE)) == _SIGNATURE
    if not is_hdf5:
        raise Unfit(_UNREADABLE.format("it does not begin like one"))


def opened(path: Path) -> h5py.File:
    """Open a file for reading, keeping nobody from writing it.  It is for `check` to look at.

    Raises:
        Unfit: If it is no HDF5 file.
        OSError: If it is not there or the system refuses it.
    """
    refuse_others(path)
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        if error.errno:
            raise
        raise Unfit(_UNREADABLE.format(error)) from None


def check(file: h5py.File, size: int, *, is_written: bool = False) -> Places:
    """Look at every object of an open file, and return where it refers to texts.

    ``size`` is that of the file in bytes.  One that ``is_written`` to has contiguous datasets only.

    Raises:
        Unfit: If something is not allowed; the message names it.
    """
    if (sizes := file.id.get_create_plist().get_sizes()) != _SIZES_BYTES:
        raise Unfit(f"its addresses and lengths have {_words(sizes)} bytes; expected are 8 x 8")
    seen = _Seen(size=size, is_written=is_written)
    root = h5o.open(file.id, b"/")
    seen.objects[h5o.get_info(root).addr] = "/"
    _attributes(seen, root, "/", None)
    for name, item in _items(seen, root, "", 1):
        if isinstance(item, h5d.DatasetID):
            _dataset(seen, item, name)
        else:
            _attributes(seen, item, name, None)
    _overlaps(seen)
    texts = [(start, stop) for start, stop, name in seen.ranges if name in seen.referring]
    return Places([*seen.objects], texts)


def _items(seen: _Seen, group: h5g.GroupID, where: str, depth: int) -> Iterator[tuple[str, object]]:
    """Give all datasets and groups below a group, with their paths."""
    if depth > DEPTH:
        raise Unfit(f"{where} is a group {DEPTH} levels deep; {_ALLOWED}, and fewer levels")
    if len(seen.objects) + group.get_num_objs() > OBJECTS:
        raise Unfit(f"{where or '/'} has {group.get_num_objs():,} links; allowed are {OBJECTS:,}")
    for raw in list(group):
        name = f"{where}{_name(raw, where or '/')}"
        info = group.links.get_info(raw)
        if info.type != h5l.TYPE_HARD:
            raise Unfit(
                f"{name} is {_LINKS.get(info.type, 'a link of a foreign kind')}; {_ALLOWED}"
            )
        if info.u in seen.objects:
            raise Unfit(f"{name} is the same object as {seen.objects[info.u]}; {_ALLOWED}")
        seen.objects[info.u] = name
        try:
            item = h5o.open(group, raw)
        except (LookupError, RuntimeError, ValueError) as error:
            raise Unfit(f"damaged: {name} cannot be opened: {error}") from None
        if isinstance(item, h5t.TypeID):
            raise Unfit(f"{name} is a datatype; {_ALLOWED}")
        yield name, item
        if isinstance(item, h5g.GroupID):
            yield from _items(seen, item, f"{name}/", depth + 1)


def _name(raw: bytes, where: str) -> str:
    """Return a name as text."""
    name = raw.decode(errors="replace")
    is_text = name.isprintable() and name.encode() == raw
    if not is_text or len(raw) > NAME_BYTES or name in ("", ".", "..") or "/" in name:
        found = short(raw.decode(errors="backslashreplace"))
        raise Unfit(
            f"{where} has the name {found}; names are printable, of at most {NAME_BYTES} bytes"
        )
    return name


def _dataset(seen: _Seen, dataset: h5d.DatasetID, name: str) -> None:
    """Check one dataset."""
    plist = dataset.get_create_plist()
    layout = plist.get_layout()
    if layout == h5d.VIRTUAL:
        raise Unfit(f"{name} is a virtual dataset, made of others; {_ALLOWED}")
    if plist.get_external_count():
        raise Unfit(f"{name} has its data in other files; {_ALLOWED}")
    found = dataset.get_type()
    kind = _kind(seen, found, name)
    if kind not in ("number", "text", "complex", "texts"):
        raise Unfit(f"{name} is of the type {kind}; allowed are integers, floats and strings")
    shape = _shape(dataset.get_space(), name)
    _attributes(seen, dataset, name, len(shape))
    itemsize = _POINTER_BYTES if kind == "texts" else found.get_size()
    _place(seen, dataset, name, shape, itemsize)
    if kind == "texts":
        _texts(seen, dataset, name, math.prod(shape))


def _place(
    seen: _Seen, dataset: h5d.DatasetID, name: str, shape: tuple[int, ...], itemsize: int
) -> None:
    """Check where the raw data are."""
    layout = dataset.get_create_plist().get_layout()
    if layout == h5d.CONTIGUOUS and (start := dataset.get_offset()) is not None:
        stored = dataset.get_storage_size()
        if stored != math.prod(shape) * itemsize or start + stored > seen.size:
            held = f"{_words(shape)} values of {itemsize} bytes"
            raise Unfit(f"damaged: {name} has {held}, which are not all in the file")
        seen.ranges.append((start, start + stored, name))
        return
    if seen.is_written and layout != h5d.CONTIGUOUS:
        raise Unfit(f"{name} is not contiguous; lsengine writes only to contiguous datasets")
    _loose(seen, dataset, name, shape, itemsize)


def _texts(seen: _Seen, dataset: h5d.DatasetID, name: str, count: int) -> None:
    """Measure strings of any length, of which the file says it only as they are read."""
    seen.referring.add(name)
    seen.texts += count
    if seen.texts > TEXTS or dataset.rank > 1:
        many = f"{count:,} strings of any length along {dataset.rank} axes"
        raise Unfit(f"{name} has {many}; allowed are {TEXTS:,} in a file, along one axis")
    step, held = max(1, _READ_BYTES // seen.size), h5py.Dataset(dataset)
    for start in range(0, count if dataset.rank else 0, step):
        seen.text_bytes += sum(len(text) for text in held[start : start + step])
        if seen.text_bytes > TEXT_BYTES:
            raise Unfit(f"{name} has strings of any length of over {TEXT_BYTES:,} bytes in all")


def _loose(
    seen: _Seen, dataset: h5d.DatasetID, name: str, shape: tuple[int, ...], itemsize: int
) -> None:
    """Check a dataset that may be larger than what is stored of it: chunked, or not stored yet."""
    plist, held = dataset.get_create_plist(), math.prod(length or 1 for length in shape)
    if plist.get_layout() == h5d.CHUNKED:
        chunk = plist.get_chunk()
        filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        if not set(filters) <= set(_FILTERS):
            raise Unfit(f"{name} has a filter that is none of deflate, shuffle, fletcher32, lzf")
        counts = (-(-length // step) for length, step in zip(shape, chunk, strict=True))
        seen.chunks += math.prod(counts)
        if seen.chunks > CHUNKS:
            raise Unfit(f"{name} lies in too many chunks; allowed are {CHUNKS:,} in a file")
        held = max(held, math.prod(chunk))
    seen.loose_cells += held
    seen.loose_bytes += held * itemsize
    if seen.loose_bytes > CHUNKED_BYTES or seen.loose_cells > CHUNKED_CELLS:
        raise Unfit(
            f"{name} has {_words(shape)} values of {itemsize} bytes; datasets that are chunked or "
            f"not stored may have {CHUNKED_BYTES // 2**20} MiB and {CHUNKED_CELLS:,} values in all"
        )


def _attributes(seen: _Seen, item: h5o.ObjectID, name: str, rank: int | None) -> None:
    """Check the attributes of an object; ``rank`` is a dataset's number of axes."""
    count = h5a.get_num_attrs(item)
    if count > ATTRIBUTES:
        raise Unfit(f"{name} has {count:,} attributes; allowed are {ATTRIBUTES:,}")
    for index in range(count):
        attribute = h5a.open(item, index=index)
        key = _name(attribute.name, f"an attribute of {name}")
        where = f"attribute {key}" if name == "/" else f"attribute {key} of {name}"
        kind, space = _kind(seen, attribute.get_type(), where), attribute.get_space()
        shape = _shape(space, where)
        stored, values = attribute.get_storage_size(), math.prod(shape)
        if stored > min(seen.size, ATTRIBUTE_BYTES):
            raise Unfit(f"{where} has {stored:,} bytes; allowed are {ATTRIBUTE_BYTES:,}")
        expected = "numbers or strings"
        if key == "DIMENSION_LIST":
            expected = "references, one list for each axis"
            fits = kind == "references of axes" and rank is not None and shape == (rank,)
        elif key == "REFERENCE_LIST":
            expected = "a list of references and integers"
            fits = kind == "references of scales" and len(shape) == 1
        elif key in ("CLASS", "NAME"):
            expected = "one string of fixed length"
            fits = kind == "text" and shape == ()
        elif kind == "texts":
            fits = values <= max(1, _READ_BYTES // seen.size)
        else:
            fits = kind in ("number", "text")
        if not fits:
            found = f"{kind} of the shape {shape}" if shape else kind
            raise Unfit(f"damaged: {where} is {found}; expected {expected}")


def _shape(space: h5s.SpaceID, name: str) -> tuple[int, ...]:
    """Return the shape of what has one."""
    if space.get_simple_extent_type() == h5s.NULL:
        raise Unfit(f"damaged: {name} is empty: it has no value at all")
    shape: tuple[int, ...] = space.get_simple_extent_dims()
    return shape


def _kind(seen: _Seen, found: h5t.TypeID, name: str) -> str:
    """Return what a type is, in one word where it is a plain one."""
    try:
        code = found.encode()
    except (RuntimeError, ValueError, TypeError) as error:
        raise Unfit(f"damaged: {name} is of a broken type: {error}") from None
    if code not in seen.kinds:
        seen.kinds[code] = _classified(found)
    return seen.kinds[code]


def _classified(found: h5t.TypeID) -> str:
    kind = found.get_class()
    if kind == h5t.INTEGER:
        size = found.get_size()
        is_plain = size in (1, 2, 4, 8) and found.get_precision() == 8 * size
        return "number" if is_plain and not found.get_offset() else "an integer of odd bits"
    if kind == h5t.FLOAT:
        is_plain = any(found.equal(one) for one in _FLOATS)
        return "number" if is_plain else "a float that is not IEEE's of 2, 4 or 8 bytes"
    if kind == h5t.STRING:
        return "texts" if found.is_variable_str() else "text"
    if kind == h5t.VLEN:
        return "references of axes" if _is_reference(found.get_super()) else "lists"
    if kind == h5t.COMPOUND and found.get_nmembers() == 2:
        members = [found.get_member_type(i) for i in (0, 1)]
        names = [found.get_member_name(i) for i in (0, 1)]
        if names == [b"dataset", b"dimension"] and _is_reference(members[0]):
            is_plain = _classified(members[1]) == "number" and members[1].get_class() == h5t.INTEGER
            return "references of scales" if is_plain else "records"
        if names == [b"r", b"i"] and members[0].equal(members[1]):
            is_plain = members[0].get_class() == h5t.FLOAT and _classified(members[0]) == "number"
            return (
                "complex"
                if is_plain and found.get_size() == 2 * members[0].get_size()
                else "records"
            )
    return {h5t.COMPOUND: "records", h5t.ENUM: "an enumeration"}.get(kind, "something else")


def _is_reference(found: h5t.TypeID) -> bool:
    return bool(found.get_class() == h5t.REFERENCE and found.equal(h5t.STD_REF_OBJ))


def _overlaps(seen: _Seen) -> None:
    """Refuse raw data that lie over each other, or over the head of an object or of the file."""
    heads = [(address, address + 1, name) for address, name in seen.objects.items()]
    ranges = [(start, stop, name) for start, stop, name in seen.ranges if start < stop]
    for (_, stop, one), (start, _, other) in pairwise(
        sorted([(0, _SUPERBLOCK_BYTES, "the head of the file"), *heads, *ranges])
    ):
        if start < stop:
            raise Unfit(f"damaged: {other} and {one} lie over each other")


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{length:,}" for length in shape) or "1"
