"""Odd values, names and texts, drawn by all kinds of cases."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import h5py
import numpy as np

NAMES = (
    "file", "name", "data", "x", "alpha", "beta", "status", "train_loss", "checksum", "a/b", "é",
    "日本", "<a&b>\"'", "a b", "-x", "--help", "..", "a\nb", "a\tb", "\x1b[31mred", "\x1b]0;t\x07",
    "\x7f",
    "x" * 300, "x" * 5000, "arr_0", "0", "train_loss\u202e", "%s%n{0}", "$(touch x)", "\udcff",
    "plane_train_loss", "test_x", "train_", "_se", "[", "**", "epoch", "n5_0", "nan",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 3, 2**31, 2**32, 2**63 - 1, -(2**63), 2**64 - 1, 1e306, -1e306, 1e-310, 0.5,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip


def number(rng: Random) -> Any:
    """Return a number at the edge of something."""
    return rng.choice((*NUMBERS, rng.randint(-100, 100), rng.uniform(-10, 10)))


def text(rng: Random) -> str:
    """Return a text that some reader trips over."""
    kinds = (
        lambda: rng.choice(NAMES),
        lambda: "",
        lambda: json_text(rng),
        lambda: "x" * rng.choice((100, 5_000, 60_000)),
        lambda: str(number(rng)),
        lambda: rng.choice(("cuda", "cpu", "float32", "bfloat16", "gather", "parallel", "1e400")),
        lambda: "".join(chr(rng.randrange(1, 256)) for _ in range(20)),
    )
    return rng.choice(kinds)()


def json_value(rng: Random, depth: int = 0) -> Any:
    """Return a small value of JSON's types, nested a little."""
    if depth > 3 or rng.random() < 0.5:
        return rng.choice((None, True, rng.choice(NAMES[:12]), number(rng), 10**30, []))
    if rng.random() < 0.5:
        return [json_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(NAMES[:9]): json_value(rng, depth + 1) for _ in range(rng.randrange(4))}


def json_text(rng: Random) -> str:
    """Return JSON, well formed or not."""
    kinds = (
        lambda: json.dumps(json_value(rng)),
        lambda: rng.choice(("[", '{"a":')) * rng.choice((10, 2_000, 30_000)),
        lambda: "[" * 900 + "]" * 900,
        lambda: "1" * rng.choice((20, 4000, 5000)),
        lambda: json.dumps(json_value(rng))[:-1],
        lambda: '{"a": 1, "a": [NaN, Infinity, -Infinity, 1e999]}',
    )
    return rng.choice(kinds)()


def changed_json(rng: Random, text: str) -> str:
    """Return JSON with one value, key or nesting changed."""
    try:
        document = json.loads(text)
    except ValueError:
        return json_text(rng)
    places = list(_places(document))
    if not places:
        return json_text(rng)
    holder, key = rng.choice(places)
    what = rng.randrange(4)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[rng.choice(NAMES[:20])] = holder.pop(key)
    elif what == 2 and isinstance(holder, list):
        holder.extend(holder[:1] * rng.choice((1, 2000)))
    else:
        holder[key] = json_value(rng)
    return json.dumps(document)


def _places(value: Any) -> Any:
    for key in range(len(value)) if isinstance(value, list) else list(value):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def attribute(rng: Random) -> Any:
    """Return what an attribute may hold besides what it should."""
    kinds = (
        lambda: number_or_text(rng),
        lambda: h5py.Empty(rng.choice(("f4", "S10", "O", "u1", h5py.string_dtype()))),
        lambda: np.zeros(rng.choice(((0,), (3,), (2, 2), (1, 1, 1), (7000,))), "f8"),
        lambda: np.array([text(rng).replace("\0", "") for _ in range(3)], h5py.string_dtype()),
        lambda: np.bytes_(rng.randbytes(rng.choice((1, 30, 4000)))),
        lambda: np.bool_(True),
        lambda: np.float16(1),
        lambda: np.longdouble(1),
        lambda: np.complex64(1j),
        lambda: np.array((1, 2.0), [("a", "i4"), ("b", "f8")]),
        lambda: np.void(b"12345"),
        lambda: np.array(3, h5py.enum_dtype({"a": 1, "b": 3}, "i4")),
        lambda: np.zeros(2, h5py.ref_dtype),
    )
    return rng.choice(kinds)()


def number_or_text(rng: Random) -> Any:
    """Return a NumPy number of some width, or a text, as HDF5 takes it."""
    if rng.random() < 0.5:
        value = number(rng)
        return np.float64(value) if isinstance(value, float) or abs(value) >= 2**63 else value
    return text(rng).replace("\0", "").encode("utf-8", "replace").decode()


def flawed(rng: Random, content: bytes) -> bytes:
    """Return bytes that a broken disk or transfer makes of them."""
    body = bytearray(content)
    size = max(1, len(body))
    at, length = rng.randrange(size), rng.choice((1, 8, 64, 512, 4096))
    what = rng.randrange(8)
    if what == 0:
        del body[at:]
    elif what == 1:
        body += rng.choice((bytes(length), rng.randbytes(length), body[-length:]))
    elif what == 2:
        body[at : at + length] = bytes(len(body[at : at + length]))
    elif what == 3:
        body[at : at + length] = rng.randbytes(len(body[at : at + length]))
    elif what == 4:
        del body[at : at + length]
    elif what == 5:
        body[at:at] = rng.randbytes(length)
    elif what == 6:
        other = rng.randrange(size)
        body[at : at + length], body[other : other + length] = (
            body[other : other + length],
            body[at : at + length],
        )
    else:
        for _ in range(rng.choice((1, 2, 10))):
            body[rng.randrange(size)] = rng.choice((0, 255, rng.randrange(256)))
    return bytes(body)
