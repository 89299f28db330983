"""What is changed in an open surface: links, datasets, attributes, scales, values, texts."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import h5py
import numpy as np

from tests.fuzz import odd
from tests.fuzz.world import World

Edit = Callable[[Random, h5py.File, World], None]
_TYPES = (
    "u1", "i1", "i4", ">i4", "i8", "f4", "f8", ">f8", "f2", "c16", "S5", "S160", "?", "g", "V7",
    h5py.string_dtype(), h5py.ref_dtype, h5py.regionref_dtype, h5py.vlen_dtype("i4"),
    h5py.enum_dtype({"a": 1, "b": 2}, "u1"), np.dtype([("a", "f8"), ("b", "i4")]),
    np.dtype(("f8", (2,))),
)  # fmt: skip


def _datasets(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visititems(
        lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
    )
    return names


def _one(rng: Random, file: h5py.File) -> str:
    """Return a dataset, cells and axes more often than the rest."""
    names = _datasets(file)
    root = [name for name in names if "/" not in name]
    return rng.choice(root if root and rng.random() < 0.6 else names)


def _holder(rng: Random, file: h5py.File) -> h5py.AttributeManager:
    names = ["/", "/", *_datasets(file), "directions", "trajectory"]
    name = rng.choice([n for n in names if n == "/" or n in file])
    return file[name].attrs


def set_attribute(rng: Random, file: h5py.File, _: World) -> None:
    """An attribute of another type or value."""
    holder = _holder(rng, file)
    name = rng.choice(list(holder) or ["x"])
    holder[name] = odd.attribute(rng)


def delete_attribute(rng: Random, file: h5py.File, _: World) -> None:
    """An attribute less."""
    holder = _holder(rng, file)
    if names := list(holder):
        del holder[rng.choice(names)]


def add_attributes(rng: Random, file: h5py.File, _: World) -> None:
    """Attributes more: odd names, or very many."""
    holder = _holder(rng, file)
    if rng.random() < 0.7:
        holder[rng.choice(odd.NAMES)] = odd.attribute(rng)
    else:
        for n in range(rng.choice((50, 3000))):
            holder[f"a{n}"] = n


def json_attribute(rng: Random, file: h5py.File, _: World) -> None:
    """The texts that are JSON or YAML, changed inside."""
    name = rng.choice(("identity", "job", "twin", "metrics", "products_by"))
    was = str(file.attrs.get(name, "{}"))
    file.attrs[name] = odd.changed_json(rng, was) if rng.random() < 0.7 else odd.text(rng)


def json_dataset(rng: Random, file: h5py.File, _: World) -> None:
    """The texts of the directions, changed inside."""
    name = f"directions/{rng.choice(('state', 'roles', 'drawn'))}"
    was = bytes(file[name][()]).decode() if name in file else "[]"
    if name in file:
        del file[name]
    text = odd.changed_json(rng, was) if rng.random() < 0.8 else odd.text(rng)
    file[name] = np.bytes_(text.encode(errors="replace") or b" ")


def delete(rng: Random, file: h5py.File, _: World) -> None:
    """A dataset or a group less."""
    del file[rng.choice((_one(rng, file), rng.choice(list(file)))) if rng.random() < 0.9 else "/"]


def move(rng: Random, file: h5py.File, _: World) -> None:
    """A dataset or group under another name, or two exchanged."""
    first = _one(rng, file)
    if rng.random() < 0.5:
        second = _one(rng, file)
        file.move(first, "between")
        file.move(second, first)
        file.move("between", second)
    else:
        file.move(first, rng.choice(odd.NAMES))


def _replace(file: h5py.File, name: str, **made: object) -> h5py.Dataset:
    scales = [[s.name for s in dim.values()] for dim in file[name].dims]
    del file[name]
    dataset = file.create_dataset(name, **made)
    for dim, names in zip(dataset.dims, scales, strict=False):
        for scale in names:
            if scale in file:
                dim.attach_scale(file[scale])
    return dataset


def other_type(rng: Random, file: h5py.File, _: World) -> None:
    """The same shape, of another type."""
    name = _one(rng, file)
    _replace(file, name, shape=file[name].shape, dtype=rng.choice(_TYPES))


def other_shape(rng: Random, file: h5py.File, _: World) -> None:
    """The same type, of another shape; also none, or huge."""
    name = _one(rng, file)
    dtype, shape = file[name].dtype, list(file[name].shape)
    what = rng.randrange(6)
    if what == 0:
        del file[name]
        file[name] = h5py.Empty(dtype)
    elif what == 1:
        _replace(file, name, shape=(10**9, 10**6), dtype=dtype, chunks=(1000, 1000))
    elif what == 2:
        _replace(file, name, shape=(), dtype=dtype)
    elif what == 3:
        _replace(file, name, shape=[*shape, 1], dtype=dtype)
    elif what == 4:
        _replace(file, name, shape=[0 for _ in shape], dtype=dtype)
    else:
        values, axis = file[name][()], rng.randrange(max(1, len(shape)))
        cut = np.take(values, range(max(0, shape[axis] - 1)), axis=axis)
        _replace(file, name, data=np.flip(values.T) if rng.random() < 0.3 else cut)


def other_storage(rng: Random, file: h5py.File, _: World) -> None:
    """Chunks, filters, compact, another fill, room for more."""
    name = _one(rng, file)
    values = file[name][()]
    made = rng.choice(
        (
            {"chunks": True},
            {"chunks": True, "compression": "gzip"},
            {"chunks": True, "compression": "gzip", "shuffle": True, "fletcher32": True},
            {"chunks": True, "maxshape": (None,) * values.ndim},
            {"chunks": True, "scaleoffset": 0},
            {"chunks": True, "compression": "lzf"},
        )
    )
    _replace(file, name, data=values, **made)


def bomb(rng: Random, file: h5py.File, _: World) -> None:
    """All cells at sizes that no file of this size can hold."""
    n = rng.choice((3_000, 20_000, 60_000))
    axes = [n] if "beta" not in file else [n, n]
    scales = ["alpha"] if "beta" not in file else ["beta", "alpha"]
    scales = ["repeat", "alpha"] if "repeat" in file else scales
    for name in [n for n in file if isinstance(file[n], h5py.Dataset)]:
        dtype = file[name].dtype
        if name in scales:
            del file[name]
            file.create_dataset(name, (n,), dtype, chunks=(1024,)).make_scale(name)
    for name in [n for n in file if isinstance(file[n], h5py.Dataset) and file[n].ndim == 2]:
        dtype = file[name].dtype
        del file[name]
        chunk = (1000,) * len(scales)
        data = file.create_dataset(
            name, (n,) * len(scales), dtype, chunks=chunk, compression="gzip", fillvalue=None
        )
        for dim, scale in zip(data.dims, scales, strict=True):
            dim.attach_scale(file[scale])
    _ = axes


def elsewhere(rng: Random, file: h5py.File, world: World) -> None:
    """Links and storage that lead out of the file, or around in it."""
    name = _one(rng, file)
    dataset = file[name]
    shape, dtype = dataset.shape, dataset.dtype
    outside = world.outside
    what = rng.randrange(8)
    if what == 0:
        target = rng.choice(
            (outside / "victim.h5", "outside/victim.h5", "../world/outside/victim.h5")
        )
        del file[name]
        file[name] = h5py.ExternalLink(str(target), f"/{name}")
    elif what == 1:
        where = outside / rng.choice(("precious", "private"))
        _replace(
            file, name, shape=shape, dtype=dtype, external=[(str(where), 0, h5py.h5f.UNLIMITED)]
        )
    elif what == 2:
        del file[name]
        file[name] = h5py.SoftLink(
            rng.choice((f"/{name}", "/", "/nowhere", "/train_loss", "/alpha"))
        )
    elif what == 3:
        other = _one(rng, file)
        del file[name]
        if other in file:
            file[name] = file[other]
    elif what == 4:
        _virtual(rng, file, name, str(outside / "victim.h5"))
    elif what == 5:
        file[rng.choice(("loop", "directions/loop", "trajectory/loop"))] = file["/"]
    elif what == 6:
        group = rng.choice(("directions", "trajectory", "curve"))
        if group in file:
            del file[group]
        file[group] = rng.choice(
            (h5py.ExternalLink(str(outside / "victim.h5"), f"/{group}"), h5py.SoftLink("/"))
        )
    else:
        file[rng.choice(odd.NAMES)] = h5py.ExternalLink(str(outside / "victim.h5"), "/train_loss")


def _virtual(rng: Random, file: h5py.File, name: str, other: str) -> None:
    shape, dtype = file[name].shape, file[name].dtype
    layout = h5py.VirtualLayout(shape=shape, dtype=dtype)
    source = rng.choice((".", other))
    layout[...] = h5py.VirtualSource(source, name, shape=shape)
    del file[name]
    file.create_virtual_dataset(name, layout)


def scales(rng: Random, file: h5py.File, _: World) -> None:
    """Axes without scales, with others, with scales that are none."""
    name = rng.choice([n for n in _datasets(file) if file[n].ndim])
    dataset = file[name]
    what = rng.randrange(6)
    if what == 0:
        dataset.attrs["DIMENSION_LIST"] = odd.attribute(rng)
    elif what == 1:
        file[rng.choice(_datasets(file))].attrs["REFERENCE_LIST"] = odd.attribute(rng)
    elif what == 2:
        dim = dataset.dims[rng.randrange(dataset.ndim)]
        for scale in list(dim.values()):
            dim.detach_scale(scale)
    elif what == 3:
        dataset.dims[rng.randrange(dataset.ndim)].attach_scale(file[_one(rng, file)])
    elif what == 4 and dataset.ndim > 1:
        first, second = (dataset.dims[n][0] for n in range(2))
        dataset.dims[0].detach_scale(first)
        dataset.dims[1].detach_scale(second)
        dataset.dims[0].attach_scale(second)
        dataset.dims[1].attach_scale(first)
    else:
        holder = file[_one(rng, file)].attrs
        holder[rng.choice(("CLASS", "NAME", "DIMENSION_LABELS"))] = odd.attribute(rng)


def values(rng: Random, file: h5py.File, _: World) -> None:
    """Other numbers in a dataset: one, some or all."""
    dataset = file[_one(rng, file)]
    if dataset.dtype.kind not in "fiu":
        content = rng.choice((b"\x1b[31m\x07", b"\xff\xfe", b"x\0y", b"a\nb", b"A" * 200))
        dataset[...] = np.bytes_(content[: dataset.dtype.itemsize])
        return
    array = dataset[()]
    value = odd.number(rng)
    with np.errstate(all="ignore"):
        value = np.array([value], "f8").astype(array.dtype)[0]
        what = rng.randrange(5)
        if what == 0 and array.ndim:
            array.reshape(-1)[rng.randrange(array.size)] = value
        elif what == 1:
            array = np.full_like(array, value)
        elif what == 2:
            array = array[::-1] if array.ndim else array
        elif what == 3:
            array = array * np.array(rng.choice((1e306, 1e-320, -1, 0)), "f8").astype(array.dtype)
        else:
            flat = array.reshape(-1)
            flat[: len(flat) // 2] = value
    dataset[...] = array


def status(rng: Random, file: h5py.File, _: World) -> None:
    """Cells that say they are done, missing, failed, or what no cell is."""
    group = file["trajectory"] if "trajectory" in file and rng.random() < 0.3 else file
    array = group["status"][()]
    for _cell in range(rng.choice((1, 3, array.size))):
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice((0, 1, 2, 3, 255))
    group["status"][...] = array
    if rng.random() < 0.5:
        group["failure"][...] = rng.choice((b"why", b"\x1b[2J\x07", b"\xff" * 160, b"a\nb"))


def add(rng: Random, file: h5py.File, _: World) -> None:
    """Quantities, groups and named types more, with odd names; or very many, or very deep."""
    what = rng.randrange(7)
    name = rng.choice(odd.NAMES)
    if what == 0:
        file[name] = np.dtype("f8")
    elif what == 1:
        group = file
        for _level in range(rng.choice((30, 400))):
            group = group.create_group("g")
    elif what == 2:
        for n in range(rng.choice((100, 2000))):
            file[f"q{n}"] = np.float64(n)
    elif what == 3:
        file.create_group(name)
    else:
        status = file["status"]
        dataset = file.create_dataset(name, data=np.ones(status.shape))
        for axis in range(status.ndim):
            dataset.dims[axis].attach_scale(status.dims[axis][0])


def kind(rng: Random, file: h5py.File, _: World) -> None:
    """A group where a dataset should be, a dataset or a type where a group should be."""
    name = rng.choice(
        (_one(rng, file), "directions", "trajectory", "curve", "directions/along_alpha")
    )
    if name in file:
        del file[name]
    what = rng.randrange(3)
    if what == 0:
        file.create_group(name)
    elif what == 1:
        file[name] = np.dtype("f8")
    else:
        file[name] = odd.attribute(rng)


def plane_curve(rng: Random, file: h5py.File, _: World) -> None:
    """A trained curve in the plane, right or not."""
    group = file.require_group("curve")
    for name, size in (("alpha", 5), ("beta", 5), ("control_alpha", 3), ("control_beta", 3),
                       ("control_distance", 3), ("t", 5), ("control", 3)):  # fmt: skip
        if rng.random() < 0.9 and name not in group:
            odd_one = rng.random() < 0.15
            group[name] = odd.attribute(rng) if odd_one else np.linspace(0, 1, size)
    group.attrs["shape"] = rng.choice(("bezier", "polygonal", "x", 5))
    group.attrs["bend"] = rng.choice((1, -1, 2**40, "x"))


def identify(rng: Random, file: h5py.File, _: World) -> None:
    """Another format, another version, another program."""
    name = rng.choice(("format", "format_version"))
    formats = ("lsengine-history", "lsengine-weights", "lsengine-spectrum", "x", "")
    versions = (1, 0, -1, 3, 10**9, np.inf, "2", np.uint64(2**64 - 1), np.array([2, 2]))
    file.attrs[name] = rng.choice(formats if name == "format" else versions)
    if rng.random() < 0.3:
        for axis in ("alpha", "beta"):
            if f"directions/along_{axis}" in file:
                file.move(f"directions/along_{axis}", f"directions/{axis}")
    if rng.random() < 0.2:
        file["dir_type"], file["xcoordinates"] = np.bytes_(b"states"), file["alpha"][()]


EDITS: tuple[Edit, ...] = (
    set_attribute, set_attribute, delete_attribute, add_attributes, json_attribute, json_dataset,
    delete, move, other_type, other_type, other_shape, other_shape, other_storage, bomb, elsewhere,
    elsewhere, elsewhere, scales, scales, values, values, status, add, add, kind, plane_curve,
    identify,
)  # fmt: skip
