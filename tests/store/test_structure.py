"""What an HDF5 file may be made of, and what is refused by name before it is read or written."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

from lsengine import store
from lsengine.errors import SurfaceError, UsageError
from lsengine.store import file as file_module
from lsengine.store import structure
from lsengine.surface.records import History
from tests.support.surfaces import edited

SECRET = b"precious text, " * 40


@pytest.fixture
def path(layout, tmp_path):
    """A surface, and beside it a text and another surface that nobody may read or write here."""
    store.create(tmp_path / "s.h5", layout)
    store.create(tmp_path / "other.h5", layout)
    (tmp_path / "secret").write_bytes(SECRET)
    return tmp_path / "s.h5"


def changed(path, change):
    """Apply a change to the open file."""
    with h5py.File(path, "r+") as file:
        change(file)


def replaced(file, name, **how):
    """Make a dataset anew, of the shape it had and with its scales."""
    old = file[name]
    shape, scales = old.shape, [old.dims[i][0] for i in range(old.ndim)]
    del file[name]
    new = file.create_dataset(name, shape=how.pop("shape", shape), dtype="f8", **how)
    for axis, scale in zip(new.dims, scales, strict=True):
        axis.attach_scale(scale)


def _external_data(file):
    folder = file.filename.rpartition("/")[0]
    replaced(file, "train_loss", external=[(f"{folder}/secret", 0, h5py.h5f.UNLIMITED)])


def _external_link(file):
    del file["train_loss"]
    file["train_loss"] = h5py.ExternalLink("other.h5", "/train_loss")


def _external_link_to_a_group(file):
    del file["directions"]
    file["directions"] = h5py.ExternalLink("other.h5", "/directions")


def _soft_link(file):
    del file["train_loss"]
    file["train_loss"] = h5py.SoftLink("/train_accuracy")


def _link_to_itself(file):
    del file["precision_error"]
    file["precision_error"] = h5py.SoftLink("/precision_error")


def _virtual(file):
    layout = h5py.VirtualLayout(shape=file["train_loss"].shape, dtype="f8")
    layout[...] = h5py.VirtualSource("other.h5", "train_loss", shape=layout.shape)
    del file["train_loss"]
    file.create_virtual_dataset("train_loss", layout)


def _virtual_of_itself(file):
    layout = h5py.VirtualLayout(shape=file["train_loss"].shape, dtype="f8")
    layout[...] = h5py.VirtualSource(".", "train_loss", shape=layout.shape)
    del file["train_loss"]
    file.create_virtual_dataset("train_loss", layout)


def _second_name(file):
    file["directions/again"] = file["train_loss"]


def _circle(file):
    file["directions/again"] = file["directions"]


def _datatype(file):
    file["kind"] = np.dtype("f8")


def _no_space(file):
    del file["status"]
    file["status"] = h5py.Empty("u1")


def _not_stored(file):
    del file["train_loss"]
    file.create_dataset("train_loss", shape=(40_000, 40_000), dtype="f8")


def _lists(file):
    file.create_dataset("lists", shape=(2,), dtype=h5py.vlen_dtype(np.int32))


def _references(file):
    file["references"] = np.array([file["status"].ref], dtype=h5py.ref_dtype)


def _records(file):
    file["records"] = np.zeros(2, "f8,i4")


def _odd_float(file):
    kind = h5t.IEEE_F64LE.copy()
    kind.set_fields(60, 50, 10, 0, 50)
    h5d.create(file.id, b"odd", kind, h5s.create(h5s.SCALAR))


def _deep(file):
    file.create_group("/".join("abcdefghij"))


def _name_with_escape(file):
    file["\x1b[31mred"] = 1.0


def _long_name(file):
    file["x" * 2000] = 1.0


def _many_attributes(file):
    group = file.create_group("crowd", track_order=True)
    for number in range(1001):
        group.attrs[f"a{number}"] = 1


def _empty_attribute(file):
    file.attrs["created"] = h5py.Empty("f4")


def _reference_attribute(file):
    file.attrs["created"] = file["status"].ref


def _scale_class(file):
    file["alpha"].attrs["CLASS"] = np.arange(3)


REFUSED = {
    _external_data: "train_loss has its data in other files",
    _external_link: "train_loss is an external link",
    _external_link_to_a_group: "directions is an external link",
    _soft_link: "train_loss is a soft link",
    _link_to_itself: "precision_error is a soft link",
    _virtual: "train_loss is a virtual dataset",
    _virtual_of_itself: "train_loss is a virtual dataset",
    _second_name: "is the same object as",
    _circle: "directions/again is the same object as directions",
    _datatype: "kind is a datatype",
    _no_space: "status is empty",
    _not_stored: "train_loss has 40,000 x 40,000 values of 8 bytes",
    _lists: "lists is of the type lists",
    _references: "references is of the type something else",
    _records: "records is of the type records",
    _odd_float: "odd is of the type a float that is not",
    _deep: "levels deep",
    _name_with_escape: r"/ has the name \"\\u001b\[31mred\"",
    _long_name: "names are printable, of at most 1024 bytes",
    _many_attributes: "crowd has 1,001 attributes",
    _empty_attribute: "attribute created is empty",
    _reference_attribute: "attribute created is something else",
    _scale_class: r"attribute CLASS of alpha is number of the shape \(3,\)",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__.strip("_"))
def test_what_is_no_plain_dataset_is_refused_by_readers_and_writers(path, layout, change):
    """One message with the file and the object; no byte of this or any other file changes."""
    changed(path, change)
    before = {p: p.read_bytes() for p in path.parent.iterdir()}
    whole = path.parent / "merged.h5"
    for act in (
        lambda: store.read(path),
        lambda: store.read_directions(path),
        lambda: store.Writer(path),
        lambda: store.adopt(path, path.parent / "other.h5"),
        lambda: store.amend(path, {"writing": "parallel"}),
    ):
        with pytest.raises(SurfaceError, match=REFUSED[change]) as refusal:
            act()
        assert str(refusal.value).startswith(f"{path}: ")
        assert str(refusal.value).isprintable()
    assert not whole.exists()
    assert {p: p.read_bytes() for p in path.parent.iterdir()} == before


@pytest.mark.parametrize(
    "value",
    ["x", np.uint64(2**64 - 1), h5py.Empty("i4"), np.zeros((2, 2, 2)), np.bytes_(b"bad"), True],
    ids=str,
)
@pytest.mark.parametrize("name", ["DIMENSION_LIST", "REFERENCE_LIST"])
def test_scales_are_not_touched_if_their_attributes_are_of_another_type(path, name, value):
    """HDF5 crashes over them."""
    item = "status" if name == "DIMENSION_LIST" else "alpha"
    changed(path, lambda file: file[item].attrs.__setitem__(name, value))
    with pytest.raises(SurfaceError, match=f"damaged: attribute {name} of {item} is "):
        store.read(path)


def test_references_of_other_axes_are_refused(path):
    """A list for three axes at a dataset of two is one that HDF5 writes beyond."""

    def change(file):
        kind = file["status"].attrs.get_id("DIMENSION_LIST").get_type()
        del file["status"].attrs["DIMENSION_LIST"]
        h5py.h5a.create(file["status"].id, b"DIMENSION_LIST", kind, h5s.create_simple((3,)))

    changed(path, change)
    with pytest.raises(
        SurfaceError, match=r"DIMENSION_LIST of status is references of axes of the shape"
    ):
        store.read(path)


def test_data_that_lie_over_each_other_are_refused(path):
    """Two datasets share bytes if one byte of a header says where they are."""
    with h5py.File(path) as file:
        one, other = (file[n].id.get_offset() for n in ("train_loss", "train_accuracy"))
    text = path.read_bytes()
    assert text.count(one.to_bytes(8, "little")) == 1
    path.write_bytes(text.replace(one.to_bytes(8, "little"), other.to_bytes(8, "little")))
    with pytest.raises(SurfaceError, match=r"train_\w+ and train_\w+ lie over each other"):
        store.read(path)


def test_data_beyond_the_end_of_the_file_are_refused(path):
    """Where a dataset lies is checked against the size of the file."""
    with h5py.File(path) as file:
        start = file["train_loss"].id.get_offset()
    text, far = path.read_bytes(), 2**40
    path.write_bytes(text.replace(start.to_bytes(8, "little"), far.to_bytes(8, "little")))
    says = (
        "train_loss (has 3 x 4 values of 8 bytes, which are not|cannot be opened)"  # HDF5 2 looks
    )
    with pytest.raises(SurfaceError, match=says):
        store.read(path)


def test_readers_take_chunks_and_writers_refuse_them(path):
    """Values of a compressed dataset are read; nothing is written into one."""
    changed(path, lambda file: replaced(file, "train_loss", chunks=(2, 2), compression="gzip"))
    with edited(path) as file:
        file["train_loss"][...] = 1
        file["status"][...] = 1
    assert (store.read(path).quantities["train_loss"] == 1).all()
    with pytest.raises(SurfaceError, match="train_loss is not contiguous"):
        store.Writer(path)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"shape": (6000, 6000), "chunks": (1000, 1000)}, "6,000 x 6,000 values of 8 bytes"),
        ({"shape": (2000, 2000), "chunks": (2, 2)}, "lies in too many chunks"),
        ({"chunks": (10_000, 10_000), "maxshape": (None, None)}, "3 x 4 values of 8 bytes"),
        ({"chunks": (2, 2), "scaleoffset": 2}, "has a filter that is none of"),
    ],
    ids=["large", "many chunks", "large chunks", "filter"],
)
def test_chunks_have_limits(path, how, says):
    """A few bytes cannot ask for a lot of memory or time."""
    changed(path, lambda file: replaced(file, "train_loss", **how))
    with pytest.raises(SurfaceError, match=says):
        store.read(path)


def test_files_of_other_formats_are_refused_with_their_own_error(tmp_path):
    """A history is no surface: its error is that of a wrong file."""
    columns = {"epoch": np.arange(2), "train_loss": np.zeros(2)}
    history = History(
        columns=columns,
        parameters=("w",),
        layer_norms=np.zeros((2, 1)),
        attributes={"name": "x", "epochs": 1},
        source="",
    )
    store.write_history(tmp_path / "h.h5", history)
    assert store.format_of(tmp_path / "h.h5") == "lsengine-history"
    assert store.read_history(tmp_path / "h.h5").parameters == ("w",)
    changed(tmp_path / "h.h5", _external_link)
    with pytest.raises(UsageError, match=r"h\.h5: train_loss is an external link"):
        store.read_history(tmp_path / "h.h5")
    assert store.format_of(tmp_path / "h.h5") is None


def test_complex_vectors_and_names_of_any_length_are_plain(tmp_path):
    """What our own formats have passes."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["vectors"] = np.zeros((2, 3), np.complex64)
        file["names"] = np.array(["a", "b"], dtype=h5py.string_dtype())
        file.attrs["texts"] = np.array(["a", "b"], dtype=h5py.string_dtype())
        file.create_dataset("none", data=np.zeros((0, 3)))
        file.flush()
        structure.check(file, file.id.get_filesize())


@pytest.mark.parametrize("limit", ["TEXTS", "TEXT_BYTES"])
def test_texts_without_end_are_refused(tmp_path, monkeypatch, limit):
    """Strings whose length nobody knows before they are read are counted, and measured in parts."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["names"] = np.array(["a" * 100] * 400, dtype=h5py.string_dtype())
        file.flush()
        size = file.id.get_filesize()
        structure.check(file, size)
        monkeypatch.setattr(structure, limit, 399 if limit == "TEXTS" else 399 * 100)
        with pytest.raises(structure.Unfit, match=r"names has .* of any length"):
            structure.check(file, size)


def test_a_file_is_looked_at_once_unless_it_changes(path, monkeypatch):
    """Opening it again costs nothing; what has been exchanged is looked at."""
    calls = []
    monkeypatch.setattr(file_module.structure, "check", lambda *a, **k: calls.append(a))
    store.read(path)
    store.read_status(path)
    assert len(calls) == 1
    changed(path, lambda file: file.attrs.__setitem__("writing", "parallel"))
    store.read(path)
    assert len(calls) == 2


def test_an_old_group_of_links_is_read(tmp_path):
    """Groups of both kinds, old and new, are walked."""
    for version in ("earliest", "latest"):
        with h5py.File(tmp_path / f"{version}.h5", "w", libver=version) as file:
            for number in range(50):
                file[f"many/d{number}"] = 1.0
            plist = h5p.create(h5p.DATASET_CREATE)
            plist.set_layout(h5d.COMPACT)
            h5d.create(file.id, b"compact", h5t.IEEE_F64LE, h5s.create_simple((2,)), dcpl=plist)
            file.flush()
            assert len(structure.check(file, file.id.get_filesize()).headers) == 53
            file["many/again"] = file["many/d7"]
            with pytest.raises(structure.Unfit, match="many/d7 is the same object as many/again"):
                structure.check(file, file.id.get_filesize())
