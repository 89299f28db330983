"""Checkpoints with odd content, changed pickles, archives, headers and bytes; what reads them."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from tests.fuzz import odd
from tests.fuzz.warm import Command
from tests.fuzz.world import World

_State = dict[Any, Any]


def prepare(world: World, folder: Path, number: int) -> list[Command]:
    """Write a checkpoint into the case's folder, and return a command that reads it."""
    rng = Random(f"checkpoints {number}")
    torch.manual_seed(number)
    good = torch.load(world.folder / "run/epoch_003.pt", weights_only=True)
    path = rng.choice(_WRITERS)(rng, world, folder, good)
    job = world.job(
        "curve",
        folder,
        "ck",
        model={"arch": "mlp", "args": {"hidden": [5]}, "checkpoint": str(path)},
        grid={"alpha": [-1, 1, 2]},
        repeats=1,
        output="ck.h5",
        trajectory={"checkpoints": str(folder / "ck*")} if rng.random() < 0.15 else None,
    )
    kinds: list[list[object]] = [
        ["eval", job, "--progress", "none"],
        ["eval", job, "--progress", "none"],
        ["eval", job, "--progress", "none"],
        ["histogram", path, "-o", folder / "out.h5"],
        ["init", "--list", job],
        ["submit", job, "--dry-run", "--probe", "0"],
    ]
    return [Command(rng.choice(kinds), refused_without_change=[path])]


def _key(rng: Random, state: _State) -> Any:
    return rng.choice(list(state))


def _odd_tensor(rng: Random, tensor: torch.Tensor) -> Any:
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: tensor.to("meta"),
        lambda: tensor.to_sparse(),
        lambda: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        lambda: tensor.to(torch.complex64) + 3j,
        lambda: tensor.to(rng.choice((torch.float64, torch.float16, torch.bfloat16, torch.int8))),
        lambda: tensor.to(torch.float8_e4m3fn),
        lambda: tensor > 0,
        lambda: torch.nested.nested_tensor([tensor, tensor]),
        lambda: tensor.reshape(-1),
        lambda: tensor[:0],
        lambda: tensor[..., None],
        lambda: tensor.sum(),
        lambda: tensor.sum().expand(10**5, 10**5),
        lambda: tensor.sum().expand(tensor.shape),
        lambda: torch.full_like(tensor, rng.choice((np.nan, np.inf, 1e38, 1e-45))),
        lambda: torch.nn.Parameter(tensor),
        lambda: tensor.numpy(),
        lambda: np.float64(1),
        lambda: odd.json_value(rng),
        lambda: 10**400,
        lambda: float("nan"),
        lambda: None,
        lambda: "x" * rng.choice((1, 10**5)),
        lambda: {"a": tensor},
        lambda: [tensor] * 3,
        lambda: torch.device("cuda:7"),
        lambda: torch.Size([2**40]),
        lambda: torch.Generator().get_state(),
        lambda: tensor.conj() if tensor.is_complex() else tensor.t().conj(),
        lambda: torch._neg_view(tensor),
    )
    return rng.choice(kinds)()


def _nested(rng: Random, value: Any) -> Any:
    for _ in range(rng.choice((10, 100, 400))):
        value = rng.choice(({"model": value}, [value], (value,)))
    return value


def _changed(rng: Random, good: dict[str, Any]) -> Any:
    """Return a checkpoint that torch can save, but no run would have written."""
    state = OrderedDict(good["state_dict"])
    what = rng.randrange(9)
    if what < 3:
        for _ in range(rng.choice((1, 1, 4))):
            key = _key(rng, state)
            if isinstance(state[key], torch.Tensor):
                state[key] = _odd_tensor(rng, state[key])
    elif what == 3:
        names = (5, -1, None, True, 1.5, ("a", 1), b"x", "", "a" * 10**5, *odd.NAMES[:22])
        state[rng.choice(names)] = state.pop(_key(rng, state)) if rng.random() < 0.5 else 1
    elif what == 4:
        state |= {f"k{n}": torch.zeros(1) for n in range(rng.choice((20, 2000)))}
    elif what == 5:
        del state[_key(rng, state)]
    elif what == 6:
        cycle: dict[str, Any] = {"state_dict": state}
        cycle[rng.choice(("model", "state_dict", "x"))] = cycle
        return cycle
    elif what == 7:
        return _nested(rng, state)
    else:
        return rng.choice((state, [state], {"epoch": odd.number(rng), "model": state}, None, 5, {},
                           [], "x", {"state_dict": {}}, {"state_dict": None}))  # fmt: skip
    number = odd.number(rng) if rng.random() < 0.5 else 10**400
    holder = {rng.choice(("state_dict", "model", "net", "x")): state}
    return holder | {rng.choice(("epoch", "lr", "x")): number}


def _saved(rng: Random, content: Any, *, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def _odd(rng: Random, _: World, folder: Path, good: dict[str, Any]) -> Path:
    path = folder / rng.choice(("ck.pt", "ck.pth", "ck.bin", "ck.tar", "ck", "ck.safetensors"))
    path.write_bytes(_saved(rng, _changed(rng, good), legacy=rng.random() < 0.3))
    return path


def _flawed(rng: Random, _: World, folder: Path, good: dict[str, Any]) -> Path:
    path = folder / "ck.pt"
    path.write_bytes(odd.flawed(rng, _saved(rng, good, legacy=rng.random() < 0.4)))
    return path


def members_of(content: bytes) -> dict[str, bytes]:
    """Return the members of an archive by name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive(members: dict[str, bytes], *, deflated: bool = False) -> bytes:
    """Return an archive of members."""
    file = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", how) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return file.getvalue()


def _other_pickle(rng: Random, world: World, folder: Path, good: dict[str, Any]) -> Path:
    """The pickle of an archive, changed in its operations."""
    members = members_of(_saved(rng, good))
    name = next(n for n in members if n.endswith("data.pkl"))
    members[name] = rng.choice(_PICKLES)(rng, members[name])
    path = folder / "ck.pt"
    path.write_bytes(archive(members, deflated=rng.random() < 0.2))
    return path


def _plain_pickle(rng: Random, world: World, folder: Path, good: dict[str, Any]) -> Path:
    """The same without an archive, or in torch's older form."""
    path = folder / rng.choice(("ck.pt", "ck.pkl", "ck.ckpt"))
    content = rng.choice(_PICKLES)(rng, pickle.dumps({"a": [1, 2.5, "x"]}, protocol=2))
    if rng.random() < 0.5:
        head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        content = b"".join(pickle.dumps(x, protocol=2) for x in head) + content + content
    path.write_bytes(content)
    return path


def _spliced(rng: Random, stream: bytes) -> bytes:
    """Put operations into a pickle, or change bytes of it."""
    operations = (
        b"0", b"1", b"2", b"(", b"N", b"}", b"]", b")", b"a", b"s", b"u", b"e", b"R", b"b", b"o",
        b"\x81", b"\x85", b"\x86", b"\x87", b"Q", b".", b"q\x00", b"h\x00", b"h\xff",
        b"J\xff\xff\xff\xff",
        b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f", b"X\x01\x00\x00\x00a",
        b"T\xff\xff\xff\xff", b"\x8b\xff\xff\xff\x7f", b"\x8a\xff" + b"\x7f" * 255, b"I1\n",
        b"L99L\n",
        b"I" + b"9" * 5000 + b"\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n", b"cos\nsystem\n",
        b"ctorch\nfloat32\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nSize\n",
        b"cbuiltins\nbytearray\n", b"ccollections\nOrderedDict\n",
        b"ctorch.storage\nUntypedStorage\n",
        b"cbuiltins\nlist\n", b"ctorch._utils\n_rebuild_parameter\n", b"P1\n", b"S'x'\n",
        b"V\\ud800\n",
        b"\x80\x05", b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x94", b"\x93", b"\x8f", b"\x90",
        b"\x97",
    )  # fmt: skip
    body = bytearray(stream)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(2, len(body))
        if rng.random() < 0.5:
            body[at:at] = rng.choice(operations) * rng.choice((1, 1, 1, 50))
        elif rng.random() < 0.5:
            body[at] = rng.randrange(256)
        else:
            del body[at : at + rng.choice((1, 4, 30))]
    return bytes(body)


def _numbers(rng: Random, stream: bytes) -> bytes:
    """Change sizes, strides, offsets and counts: the small integers of a pickle."""
    body = bytearray(stream)
    places = [n for n in range(len(body) - 1) if body[n] == ord("K")]
    huge = (b"J\xff\xff\xff\x7f", b"J\xff\xff\xff\xff", b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
            b"\x8a\x05\x00\x00\x00\x00\x01", b"K\x00", b"K\xff", b"N", b"G" + struct.pack(">d",
            1.5),
            b"\x8a\xff" + b"\x7f" * 255, b"M\xff\xff")  # fmt: skip
    for at in sorted(rng.sample(places, min(len(places), rng.choice((1, 2, 8)))), reverse=True):
        body[at : at + 2] = rng.choice(huge)
    return bytes(body)


def _bomb(rng: Random, _: bytes) -> bytes:
    """Return a pickle of bytes that asks for gigabytes."""
    inner = b"c_codecs\nencode\nX\x10\x00\x00\x00" + b"A" * 16 + b"X\x06\x00\x00\x00latin1\x86R"
    for _level in range(rng.choice((3, 28))):
        inner = b"c_codecs\nencode\n" + inner + b"X\x09\x00\x00\x00hex_codec\x86R"
    size = rng.choice((10, 2_000_000_000, 10**12))
    void = b"cnumpy\ndtype\nX" + struct.pack("<I", len(f"V{size}")) + f"V{size}".encode() + b"\x85R"
    scalar = b"cnumpy.core.multiarray\nscalar\n" + void + b"\x85R"
    doubled = b"]q\x00" + b"(h\x00h\x00lq\x00" * 40
    tuples = b"K\x01" + b"\x85" * rng.choice((100, 20_000, 200_000))
    lists = b"]" * 50_000 + b"a" * 49_999
    many = b"(" + b"K\x01" * 1_000_000 + b"l"
    array = b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x01\x85R"
    storage = b"ctorch.storage\nUntypedStorage\n\x8a\x05\x00\x00\x00\x00\x02\x85R"
    what = (inner, scalar, doubled, tuples, lists, many, array, storage, void)
    return b"\x80\x02}X\x01\x00\x00\x00a" + rng.choice(what) + b"s."


_PICKLES: tuple[Callable[[Random, bytes], bytes], ...] = (
    _spliced, _spliced, _numbers, _numbers, _bomb, odd.flawed,
)  # fmt: skip


def _other_archive(rng: Random, world: World, folder: Path, good: dict[str, Any]) -> Path:
    """The archive itself: members missing, twice, elsewhere, packed, or of other sizes."""
    members = members_of(_saved(rng, good))
    names = list(members)
    name = rng.choice(names)
    what = rng.randrange(7)
    if what == 0:
        del members[name]
    elif what == 1:
        members[rng.choice(("../x", "/x", "archive/data/99", "a\nb", "x" * 60_000))] = b"x"
    elif what == 2:
        members[name] = odd.flawed(rng, members[name] or b"x")
    elif what == 3:
        data = rng.choice([n for n in names if "/data/" in n])
        members[data] = b"" if rng.random() < 0.3 else members[data][: rng.randrange(9)]
    elif what == 4:
        members |= {f"archive/data/{n}": b"x" for n in range(50, rng.choice((60, 3000)))}
    elif what == 5:
        version = next(n for n in names if n.endswith("version"))
        members[version] = rng.choice((b"99999999999999999999", b"-1", b"", b"x" * 1000, b"2\n"))
    else:
        return _packed(rng, world, folder, members, name)
    content = bytearray(archive(members, deflated=rng.random() < 0.3))
    if rng.random() < 0.4:  # sizes and offsets of the central directory
        at = content.rfind(b"PK\x01\x02") + rng.choice((8, 10, 20, 24, 28, 42))
        content[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 2**31, 2**32 - 1)))
    path = folder / "ck.pt"
    path.write_bytes(content)
    return path


def zeros(world: World, count: int) -> bytes:
    """Return a zip's member of so many zeros, packed."""
    kept = world.folder / f"zeros-{count}"
    if not kept.exists():
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        block = bytes(2**24)
        parts = [packer.compress(block) for _ in range(count // len(block))]
        kept.write_bytes(b"".join([*parts, packer.flush()]))
    return kept.read_bytes()


def packed_archive(members: dict[str, bytes], name: str, packed: bytes, size: int) -> bytes:
    """Return an archive in which a member is these packed bytes, and says that it has a size."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for other, content in members.items():
            if other != name:
                archive.writestr(other, content)
        archive.writestr(name, packed)
        info = archive.getinfo(name)
        info.compress_type, info.file_size = zipfile.ZIP_DEFLATED, size
    content = bytearray(file.getvalue())
    at = info.header_offset
    content[at + 8 : at + 10] = struct.pack("<H", zipfile.ZIP_DEFLATED)
    content[at + 22 : at + 26] = struct.pack("<I", size)
    return bytes(content)


def _packed(rng: Random, world: World, folder: Path, members: dict[str, bytes], name: str) -> Path:
    size = 3 * 2**29
    said = rng.choice((size, len(members[name])))
    path = folder / "ck.pt"
    path.write_bytes(packed_archive(members, name, zeros(world, size), said))
    return path


def _safetensors(rng: Random, world: World, folder: Path, good: dict[str, Any]) -> Path:
    """The other format: its header changed, or its bytes."""
    from safetensors.torch import save

    content = save({k: v.contiguous() for k, v in good["state_dict"].items()})
    size = struct.unpack("<Q", content[:8])[0]
    header, body = content[8 : 8 + size].decode(), content[8 + size :]
    what = rng.randrange(5)
    if what < 3:
        header = odd.changed_json(rng, header) if what else odd.json_text(rng)
        text = header.encode(errors="replace")
        content = struct.pack("<Q", len(text)) + text + body
    elif what == 3:
        content = struct.pack("<Q", rng.choice((0, 1, size + 1, 2**40, 2**64 - 1))) + content[8:]
    else:
        content = odd.flawed(rng, content)
    path = folder / "ck.safetensors"
    path.write_bytes(content)
    return path


def _distributed(rng: Random, world: World, folder: Path, good: dict[str, Any]) -> Path:
    """A folder of torch's distributed checkpoints, with a file changed or gone."""
    from torch.distributed import checkpoint

    path = folder / "ck_folder"
    checkpoint.save({"model": dict(good["state_dict"])}, checkpoint_id=path, no_dist=True)
    file = rng.choice(sorted(p for p in path.iterdir() if p.is_file()))
    what = rng.randrange(6)
    if what == 0:
        file.unlink()
    elif what == 1:
        file.write_bytes(odd.flawed(rng, file.read_bytes()))
    elif what in (2, 3):
        change = (_spliced, _numbers)[what - 2]
        (path / ".metadata").write_bytes(change(rng, (path / ".metadata").read_bytes()))
    elif what == 4:
        file.unlink()
        rng.choice((lambda: os.mkfifo(file), file.mkdir, lambda: file.symlink_to("/dev/zero")))()
    else:
        (path / ".metadata").write_bytes(_bomb(rng, b""))
    return path


def _index(rng: Random, world: World, folder: Path, good: dict[str, Any]) -> Path:
    """An index of several files, as Hugging Face's, that names odd ones."""
    from safetensors.torch import save_file

    state = {k: v.contiguous() for k, v in good["state_dict"].items()}
    save_file(state, folder / "model-1.safetensors")
    files = ("model-1.safetensors", "../x", "/dev/zero", "fifo", "", "a\0b", "x" * 300, 5, None, [])
    os.mkfifo(folder / "fifo")
    odd_ones = {name: rng.choice(files) if rng.random() < 0.4 else files[0] for name in state}
    text = json.dumps({"metadata": {"total_size": odd.number(rng)}, "weight_map": odd_ones})
    path = folder / "ck.safetensors.index.json"
    path.write_text(odd.changed_json(rng, text) if rng.random() < 0.5 else text)
    return path


def _special(rng: Random, world: World, folder: Path, good: dict[str, Any]) -> Path:
    path = folder / "ck.pt"
    kinds: tuple[Callable[[], object], ...] = (
        lambda: os.mkfifo(path),
        path.mkdir,
        path.touch,
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to(path),
        lambda: path.symlink_to(folder),
        lambda: path.write_bytes(bytes(rng.choice((1, 100, 2**20)))),
        lambda: path.write_bytes(b"PK\x03\x04" + rng.randbytes(200)),
        lambda: path.write_bytes(b"\x80\x02" + rng.randbytes(200)),
        lambda: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        lambda: path.write_text("<html>"),
    )
    rng.choice(kinds)()
    return path


_WRITERS = (
    _odd, _odd, _odd, _flawed, _other_pickle, _other_pickle, _other_pickle, _plain_pickle,
    _other_archive, _other_archive, _safetensors, _distributed, _index, _special,
)  # fmt: skip
