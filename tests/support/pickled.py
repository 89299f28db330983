"""Pickles written opcode by opcode, and the files of torch's around them."""

from __future__ import annotations

import io
import struct
import zipfile

REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(words):
    """A text."""
    return b"X" + struct.pack("<I", len(words)) + words.encode()


def integer(number):
    """An integer of any size."""
    content = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def row(*items):
    """A tuple."""
    return b"(" + b"".join(items) + b"t"


def call(name, *arguments):
    """A call of a global ``module name``."""
    return b"c" + name.replace(" ", "\n").encode() + b"\n" + row(*arguments) + b"R"


def storage(key, count, kind="Float", *more):
    """A storage of so many numbers, which is outside the pickle."""
    named = f"ctorch\n{kind}Storage\n".encode()
    return row(text("storage"), named, text(key), text("cpu"), integer(count), *more) + b"Q"


def tensor(stored, size, stride, offset=0):
    """A tensor of a storage."""
    sizes, strides = (row(*map(integer, numbers)) for numbers in (size, stride))
    hooks = call("collections OrderedDict")
    return REBUILD + row(stored, integer(offset), sizes, strides, b"\x89", hooks) + b"R"


def mapping(**values):
    """The pickle of a dict."""
    items = b"".join(text(name) + value for name, value in values.items())
    return b"\x80\x02}(" + items + b"u."


def archive(pickled, records=(), method=zipfile.ZIP_STORED):
    """A file of torch's since 1.6, with the bytes of each storage by key."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("a/data.pkl", pickled)
        file.writestr("a/version", "3\n")
        for key, content in dict(records).items():
            file.writestr(f"a/data/{key}", content)
    return buffer.getvalue()


def legacy(pickled, keys, contents):
    """A file of torch's before 1.6; of contents with their number of elements."""
    head = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03." + b"\x80\x02}."
    named = b"\x80\x02](" + b"".join(map(text, keys)) + b"e."
    behind = b"".join(struct.pack("<q", count) + content for count, content in contents)
    return head + pickled + named + behind
