"""Data files with odd arrays, headers, archives, images, texts and bytes; a job that reads them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fuzz import odd
from tests.fuzz.checkpoints import archive, members_of, packed_archive, zeros
from tests.fuzz.warm import Command
from tests.fuzz.world import World

_HUGE = ((10**10, 1, 2, 2), (2**62, 4), (0, 1, 2, 2), (), (20, 10**9), (-1,), (20, 1, 2, 2))


def prepare(world: World, folder: Path, number: int) -> list[Command]:
    """Write data into the case's folder, and return a command that reads it."""
    rng = Random(f"data {number}")
    kind, root, args = rng.choice(_WRITERS)(rng, world, folder)
    data: dict[str, Any] = {"dataset": kind, "root": str(root)} | ({"args": args} if args else {})
    if rng.random() < 0.1 or kind == "image_folder":
        data["resize"] = [2, 2]
    checkpoint = str(world.folder / "run/epoch_003.pt")
    model = {"arch": "mlp", "args": {"hidden": [5]}, "checkpoint": checkpoint}
    grid = {"alpha": [-1, 1, 2]}
    job = world.job("curve", folder, "dt", model=model, data=data, grid=grid, repeats=1)
    train = ["train", world.job("curve", folder, "tr", data=data, train=_TRAIN)]
    return [Command([*rng.choice((["eval", job], ["eval", job], train)), "--progress", "none"])]


_TRAIN = {"output": "made", "epochs": 1, "batch_size": 16, "lr": 0.1, "save_every": 1}


def _arrays(world: World) -> dict[str, NDArray[Any]]:
    with np.load(world.folder / "data.npz") as file:
        return {name: file[name] for name in file.files}


def _odd_array(rng: Random, array: NDArray[Any]) -> Any:
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: array[:0],
        lambda: array[:-1],
        lambda: array[..., None],
        lambda: np.full(array.shape, rng.choice((np.nan, np.inf, -1, 1e30))),
        lambda: array.astype(rng.choice(("f2", ">f4", "g", "c16", "i8", "u8", "?", "S3", "U4"))),
        lambda: np.full(array.shape, 2**62),
        lambda: np.full(array.shape, -5),
        lambda: array.astype(object),
        lambda: np.zeros(array.shape, [("a", "f4"), ("b", "i4")]),
        lambda: np.zeros(array.shape, "M8[s]"),
        lambda: np.asfortranarray(array),
        lambda: np.float64(1),
        lambda: np.array("text"),
        lambda: array * 10**9,
        lambda: np.arange(len(array)) * 10**6,
    )
    return rng.choice(kinds)()


def _npz(rng: Random, world: World, folder: Path) -> tuple[str, Path, Any]:
    arrays = _arrays(world)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(arrays))
        what = rng.random()
        if what < 0.7:
            arrays[name] = _odd_array(rng, arrays[name])
        elif what < 0.85:
            arrays[rng.choice([n for n in odd.NAMES if "/" not in n])[:100]] = arrays.pop(name)
        else:
            arrays |= {f"q{n}_train": np.zeros(20) for n in range(rng.choice((1, 300)))}
    file = io.BytesIO()
    (np.savez_compressed if rng.random() < 0.3 else np.savez)(file, **arrays)
    path = folder / "data.npz"
    path.write_bytes(odd.flawed(rng, file.getvalue()) if rng.random() < 0.3 else file.getvalue())
    return "arrays", path, None


def _header(rng: Random, world: World, folder: Path) -> tuple[str, Path, Any]:
    """An array whose header asks for more than there is, or says nonsense."""
    members = members_of((world.folder / "data.npz").read_bytes())
    name = rng.choice(list(members))
    dtype = rng.choice(("<f4", "<i8", "|O", "|V2000000000", "<U500000000", "|S9999999999", "x"))
    shape = str(rng.choice(_HUGE))
    said = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}"
    text = rng.choice((said, said, said, "(" * 5000, odd.text(rng), "{}"))
    body = text.encode(errors="replace")
    size = rng.choice((len(body), len(body), 0, 2**31))
    members[name] = b"\x93NUMPY\x02\x00" + struct.pack("<I", size) + body + bytes(64)
    path = folder / "data.npz"
    path.write_bytes(archive(members, deflated=rng.random() < 0.3))
    return "arrays", path, None


def _packed(rng: Random, world: World, folder: Path) -> tuple[str, Path, Any]:
    members = members_of((world.folder / "data.npz").read_bytes())
    name = rng.choice(list(members))
    size = 3 * 2**29
    said = rng.choice((size, len(members[name])))
    path = folder / "data.npz"
    path.write_bytes(packed_archive(members, name, zeros(world, size), said))
    return "arrays", path, None


def _table(rng: Random, world: World, folder: Path) -> tuple[str, Path, Any]:
    import pyarrow
    from pyarrow import feather, ipc, parquet

    columns: dict[str, Any] = {
        "x": [[0.5, 1.0, 2.0, 3.0]] * 20,
        "y": [1] * 20,
        "split": ["train"] * 12 + ["test"] * 8,
    }
    odd_ones = ([None] * 20, [[1.0]] * 19 + [None], ["a"] * 20, [[]] * 20, [[[1]]] * 20,
                [{"a": 1}] * 20, [float("nan")] * 20, [2**62] * 20, [b"x"] * 20,
                [[1.0], [1.0, 2.0]] * 10)  # fmt: skip
    if rng.random() < 0.6:
        columns[rng.choice(list(columns))] = rng.choice(odd_ones)
    table = pyarrow.table(columns)
    file, suffix = io.BytesIO(), rng.choice((".parquet", ".arrow", ".feather"))
    if suffix == ".parquet":
        parquet.write_table(table, file)
    elif suffix == ".feather":
        feather.write_feather(table, file)
    else:
        with ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    content = file.getvalue()
    path = folder / f"data{suffix}"
    path.write_bytes(odd.flawed(rng, content) if rng.random() < 0.6 else content)
    return "arrays", path, {"inputs": "x", "targets": "y"} if rng.random() < 0.5 else None


def _safetensors(rng: Random, world: World, folder: Path) -> tuple[str, Path, Any]:
    from safetensors.numpy import save

    content = save(_arrays(world))
    size = struct.unpack("<Q", content[:8])[0]
    text = odd.changed_json(rng, content[8 : 8 + size].decode()).encode(errors="replace")
    path = folder / "data.safetensors"
    path.write_bytes(
        struct.pack("<Q", len(text)) + text + content[8 + size :]
        if rng.random() < 0.6
        else odd.flawed(rng, content)
    )
    return "arrays", path, None


def _png(width: int, height: int, rows: bytes) -> bytes:
    """Return a picture that says a size, whatever rows it has."""

    def chunk(name: bytes, body: bytes) -> bytes:
        sum_ = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", sum_)

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _images(rng: Random, world: World, folder: Path) -> tuple[str, Path, Any]:
    root = folder / "images"
    good = _png(3, 3, b"\0\1\2\3" * 3)
    for split in ("train", "test"):
        for name in ("a", "b", "c"):
            (root / split / name).mkdir(parents=True)
            for number in range(3):
                (root / split / name / f"{number}.png").write_bytes(good)
    path = rng.choice(sorted(root.rglob("*.png")))
    size = rng.choice((3, 0, 2**31 - 1, 60_000, 20_000))
    kinds: tuple[Callable[[], object], ...] = (
        lambda: path.write_bytes(odd.flawed(rng, good)),
        lambda: path.write_bytes(_png(size, size, b"\0\1\2\3" * 3)),
        lambda: path.write_bytes(b"P6 100000 100000 255\n" + bytes(100)),
        lambda: path.write_bytes(b"GIF89a" + struct.pack("<HH", 65535, 65535) + rng.randbytes(99)),
        lambda: path.write_bytes(b"BM" + rng.randbytes(200)),
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(_icc(good)),
        lambda: (path.unlink(), os.mkfifo(path)),
        lambda: (path.unlink(), path.mkdir()),
        lambda: (path.unlink(), path.symlink_to("/dev/zero")),
        lambda: (path.unlink(), path.symlink_to(path)),
        lambda: (path.parent / "loop").symlink_to(root),
        lambda: path.rename(path.with_name("\x1b[31m\n.png")),
        lambda: (path.unlink(), path.symlink_to(world.outside / "private")),
    )
    rng.choice(kinds)()
    return "image_folder", root, {"channels": 1} if rng.random() < 0.5 else None


def _icc(good: bytes) -> bytes:
    """Return a picture with a text that unpacks to much."""
    body = b"Comment\0\0" + zlib.compress(bytes(2**26))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + body))
    return good[:33] + chunk + good[33:]


def _text(rng: Random, world: World, folder: Path) -> tuple[str, Path, Any]:
    path = folder / "text.txt"
    kinds: tuple[Callable[[], object], ...] = (
        lambda: path.write_bytes(b"\xff\xfe" + rng.randbytes(300)),
        lambda: path.write_text("".join(chr(rng.randrange(32, 50_000)) for _ in range(500))),
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(bytes(3000)),
        lambda: os.mkfifo(path),
        path.mkdir,
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.write_text("\x1b[31m\x07" * 100),
    )
    rng.choice(kinds)()
    huge = rng.choice((2, 0, -1, 10**9, 2**63, 1.5, "x", None))
    args = {"context": huge} if rng.random() < 0.4 else {}
    return "text", path, args | {rng.choice(("unit", "stride", "test_fraction")): odd.number(rng)}


def _special(rng: Random, world: World, folder: Path) -> tuple[str, Path, Any]:
    path = folder / rng.choice(("data.npz", "data.parquet", "data.safetensors", "data.npy", "x"))
    kinds: tuple[Callable[[], object], ...] = (
        lambda: os.mkfifo(path),
        path.mkdir,
        path.touch,
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to(path),
        lambda: path.write_bytes(b"\x93NUMPY\x01\x00"),
        lambda: path.write_bytes(b"PK\x05\x06" + bytes(18)),
        lambda: path.write_bytes(b"PAR1" + bytes(20) + b"PAR1"),
    )
    rng.choice(kinds)()
    if path.is_dir() and rng.random() < 0.7:
        os.mkfifo(path / rng.choice(("train.npz", "train.parquet", "test.safetensors")))
    return rng.choice(("arrays", "arrays", "image_folder", "text", "cifar10", "mnist")), path, None


_WRITERS = (_npz, _npz, _header, _header, _packed, _table, _table, _safetensors, _images, _images,
            _text, _special)  # fmt: skip
