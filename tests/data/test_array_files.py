"""Arrays with names, whatever file they are in."""

from __future__ import annotations

import io
import os
import sys
import zipfile

import numpy as np
import pytest
import torch

from lsengine import data
from lsengine.data.array_files import read
from lsengine.data.naming import Choice
from lsengine.errors import EnvironmentUnfit, UsageError
from tests.support.datasets import load

RNG = np.random.default_rng(1)
SPLITS = {
    split: {
        "ids": RNG.integers(0, 50, (count, 4)),
        "mask": RNG.integers(0, 2, (count, 4)).astype(bool),
        "size": RNG.normal(size=count).astype("f4"),
        "y": RNG.integers(0, 3, count),
    }
    for split, count in (("train", 7), ("test", 5))
}


def written(folder, kind):
    """Write the arrays into files of a kind; return the root of the job."""
    flat = {f"{n}_{s}": a for s, named in SPLITS.items() for n, a in named.items()}
    path = folder / f"data.{kind}"
    if kind == "npz":
        np.savez(path, **flat)
    elif kind == "safetensors":
        save_file = pytest.importorskip("safetensors.numpy").save_file
        save_file({f"{s}/{n}": a for s, named in SPLITS.items() for n, a in named.items()}, path)
    else:
        pa = pytest.importorskip("pyarrow")
        path = folder / "tables"
        path.mkdir()
        for split, named in SPLITS.items():
            columns = {n: pa.array(a.tolist() if a.ndim > 1 else a) for n, a in named.items()}
            _write_table(pa.table(columns), path / f"{split}.{kind}")
    return path


def _write_table(table, path):
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow.parquet").write_table(table, path)
    else:
        pytest.importorskip("pyarrow.feather").write_feather(table, path)


@pytest.mark.parametrize("kind", ["npz", "safetensors", "parquet", "feather", "arrow"])
def test_the_same_arrays_are_the_same_data_in_every_file(tmp_path, kind):
    """The digest is that of a loader over the same numbers in memory, and so are the numbers."""
    found = load("arrays", root=written(tmp_path, kind))
    (tmp_path / "memory.py").write_text("def give(): return of\n")
    from lsengine.external import user_code

    give = user_code.lookup("memory:give", key="data.dataset", job_folder=tmp_path)
    give.__globals__["of"] = {
        split: data.from_memory(
            {name: torch.from_numpy(array)[start : start + 2] for name, array in named.items()}
            for start in range(0, len(named["y"]), 2)
        )
        for split, named in SPLITS.items()
    }
    in_memory = load("memory:give", job_folder=tmp_path)
    assert found.sha256 == in_memory.sha256
    assert (found.classes, found.target_kind) == (3, "classes")
    for dataset in (found, in_memory):
        for split, named in SPLITS.items():
            x, y = dataset.splits[split].x, dataset.splits[split].y
            assert set(x) == {"ids", "mask", "size"}
            for name, tensor in {**x, "y": y}.items():
                np.testing.assert_array_equal(tensor.numpy(), named[name])
                assert tensor.numpy().dtype == named[name].dtype


def test_a_folder_has_one_file_for_each_split(tmp_path):
    """Of any kind, in which the names have no split; two of one split are refused."""
    choice = Choice()
    with pytest.raises(UsageError, match=r"is a directory; expected an .npz file.*train\.parquet"):
        read(tmp_path, choice, None)
    np.savez(tmp_path / "train.npz", x=np.zeros(3), y=np.ones(3))
    assert set(read(tmp_path, choice, None)) == {"train"}
    assert set(read(tmp_path, choice, None)["train"]) == {"x", "y"}
    (tmp_path / "train.parquet").write_text("")
    with pytest.raises(UsageError, match=r"train.npz and .*train.parquet are both there"):
        read(tmp_path, choice, None)


def test_what_only_tables_have_is_refused_elsewhere(tmp_path):
    """Arrays have rows of one length."""
    with pytest.raises(UsageError, match=r"data\.args\.pad: .* has arrays"):
        read(written(tmp_path, "npz"), Choice(), 0)


@pytest.mark.parametrize("kind", ["safetensors", "parquet", "feather"])
def test_a_library_that_is_missing_is_named_with_its_extra(tmp_path, kind, monkeypatch):
    """In one message that says how to install it."""
    path = tmp_path / f"a.{kind}"
    path.write_text("")
    module, extra = (
        ("safetensors", "safetensors") if kind == "safetensors" else ("pyarrow", "arrow")
    )
    for name in [n for n in sys.modules if n.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        EnvironmentUnfit, match=rf"{path} needs {module}.*pip install .*\[{extra}\]"
    ):
        read(path, Choice(), None)


def test_a_file_that_is_damaged_or_absent_is_named(tmp_path):
    """Safetensors, too."""
    pytest.importorskip("safetensors")
    path = tmp_path / "a.safetensors"
    with pytest.raises(UsageError, match=f"no such file: {path}; expected an .npz file"):
        read(path, Choice(), None)
    path.write_text("hello")
    with pytest.raises(UsageError, match=f"{path} is not a readable .safetensors file"):
        read(path, Choice(), None)


def header(shape, kind="<f4", content=b""):
    """An array that says of itself what it likes."""
    buffer = io.BytesIO()
    described = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue() + content


ODD = {
    "larger than it is": header((10**12,), content=bytes(8)),
    "numbers of two gigabytes": header((), "|V2000000000"),
    "objects": header((3,), "|O", bytes(24)),
    "negative": header((-1, -5), content=bytes(20)),
    "no array": b"nonsense",
}


@pytest.mark.parametrize("case", ODD)
def test_arrays_that_are_not_there_are_refused(tmp_path, case):
    """Before room is made for them."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x_train.npy", ODD[case])
    with pytest.raises(UsageError, match=r"is not a readable \.npz file of plain arrays"):
        read(tmp_path / "a.npz", Choice(), None)


def test_an_array_by_another_name_is_measured_too(tmp_path):
    """NumPy knows arrays by their first bytes; what is none of them is no matter of sizes."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x_train", ODD["larger than it is"])
    with pytest.raises(UsageError, match=r"x_train of shape .* is not all there"):
        read(tmp_path / "a.npz", Choice(), None)


@pytest.mark.parametrize("second", ["x_train.npy", "x_train"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name_are_refused(tmp_path, second):
    """Which of them another reader would take is not known."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        for name, value in (("x_train.npy", 0.0), (second, 1.0)):
            file.writestr(name, header((1,), content=np.array([value], "<f4").tobytes()))
    with pytest.raises(UsageError, match="two of its arrays have one name"):
        read(tmp_path / "a.npz", Choice(), None)


def test_compressed_arrays_are_bounded(tmp_path):
    """Zeros of many times the file are refused; what compresses well is read."""
    np.savez_compressed(tmp_path / "a.npz", x_train=np.zeros(2**22), y_train=np.zeros(3))
    assert len(read(tmp_path / "a.npz", Choice(), None)["train"]["x"]) == 2**22
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x_train.npy", header((2**28,), "|u1", bytes(2**28)))
    with pytest.raises(UsageError, match=r"would take 0\.25 GiB, more than 50 times what it has"):
        read(tmp_path / "b.npz", Choice(), None)


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors", "a.parquet"])
def test_what_is_no_file_is_never_opened(tmp_path, name):
    """A FIFO would keep it waiting for ever."""
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match="is a FIFO; expected a file"):
        read(tmp_path / name, Choice(), None)
