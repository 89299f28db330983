"""CIFAR and MNIST: read from folders and files, found in a package, downloaded."""

from __future__ import annotations

import gzip
import os
import pickle
import sys
import threading
import time
import urllib.error
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch

from lsengine import data, files
from lsengine.data import known
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.external import torchvision as library
from tests.data.test_idx import IMAGES, LABELS, write_idx
from tests.support.datasets import load


def write_cifar10(root):
    """Write a folder in CIFAR-10's format: five batches of four images and a test batch."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        batch = {
            "data": rng.integers(0, 256, (4, 3072), dtype=np.uint8),
            "labels": rng.integers(0, 10, 4).tolist(),
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    labels = {"label_names": [f"class{i}" for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(labels))
    return folder


@pytest.fixture
def no_checksums(monkeypatch):
    """Let torchvision accept files that are not the published ones."""
    vision = library.torchvision()
    monkeypatch.setattr(vision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(vision.datasets.cifar, "check_integrity", lambda *_: True)


def test_cifar10_is_read_from_its_folder(tmp_path, no_checksums):
    """Images, labels and the usual normalisation arrive, channels first."""
    folder = write_cifar10(tmp_path)
    dataset = load("cifar10", root=tmp_path)
    assert dataset.splits["train"].x.shape == (20, 3, 32, 32)
    assert dataset.classes == 10
    first = pickle.loads((folder / "data_batch_1").read_bytes())
    expected = first["data"].reshape(4, 3, 32, 32)
    np.testing.assert_array_equal(dataset.splits["train"].x[:4].numpy(), expected)
    assert dataset.splits["train"].y[:4].tolist() == first["labels"]
    red = data.normalized(dataset, "train", torch.float64)[0, 0, 0, 0]
    assert float(red) == pytest.approx((expected[0, 0, 0, 0] - 125.3) / 63.0, rel=1e-12)


@pytest.fixture
def offline(monkeypatch):
    """Let every download fail, and no package be installed."""

    def fail(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    without = replace(known._KNOWN["fashion_mnist"], package=Path("/nothing/here"))
    monkeypatch.setitem(known._KNOWN, "fashion_mnist", without)


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("cifar10", ["cifar-10-python.tar.gz", "cifar-10-batches-py", "npz"]),
        ("mnist", ["train-images-idx3-ubyte", "MNIST/raw", "npz"]),
        ("fashion_mnist", ["dataset-fashion-mnist", "t10k-labels-idx1-ubyte", "npz"]),
    ],
)
def test_a_network_that_is_not_there_is_explained(tmp_path, offline, name, ways):
    """Without data and network the message names all ways to have the data."""
    with pytest.raises(UsageError, match=f"^data.root: {name} is not.*no route to host") as error:
        load(name, root=tmp_path / "data")
    assert [way for way in ways if way not in str(error.value)] == []


def test_without_a_root_there_is_only_the_package(offline):
    """Where no package is found, a message says so, and nothing is downloaded to nowhere."""
    with pytest.raises(UsageError, match=r"^data\.root: fashion_mnist is not in /nothing"):
        load("fashion_mnist")
    with pytest.raises(UsageError, match=r"^data\.root: required for dataset mnist"):
        load("mnist")


def test_a_torchvision_that_is_not_there_is_needed_for_some_forms_only(tmp_path, monkeypatch):
    """The message says which forms do without; one of them does."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for name in ("cifar10", "mnist"):
        with pytest.raises(EnvironmentUnfit, match=rf"^data\.root: for {name}.*\.npz file with x_"):
            load(name, root=tmp_path / name)
    write_idx(tmp_path, "train", suffix=".gz")
    assert load("mnist", root=tmp_path, splits=["train"]).splits["train"].y.tolist() == [*LABELS]


def test_a_root_that_cannot_be_made_is_named(tmp_path):
    """A file where a folder above it should be: the cause and the code of all commands."""
    (tmp_path / "data").write_text("")
    with pytest.raises(EnvironmentUnfit, match=r"^data\.root: .*cannot be made"):
        load("cifar10", root=tmp_path / "data" / "cifar")


def test_one_process_downloads_and_the_others_wait(tmp_path, monkeypatch, no_checksums, caplog):
    """While another process holds the folder's lock, nobody starts to download."""
    monkeypatch.setattr(files, "_POLL_S", 0.01)
    cls = library.torchvision().datasets.CIFAR10
    monkeypatch.setattr(
        cls, "_check_integrity", lambda self: (tmp_path / "cifar-10-batches-py").exists()
    )
    monkeypatch.setattr(cls, "download", lambda self: pytest.fail("downloaded twice"))
    loaded = []
    thread = threading.Thread(target=lambda: loaded.append(load("cifar10", root=tmp_path)))
    with caplog.at_level("INFO", "lsengine"), filelock.FileLock(tmp_path / ".download.lock"):
        thread.start()
        while "waiting for another process that downloads into" not in caplog.text:
            time.sleep(0.01)
        assert not loaded
        write_cifar10(tmp_path)  # the other process has downloaded it
    thread.join(20)
    assert loaded[0].splits["train"].x.shape[0] == 20


def test_a_folder_that_cannot_be_locked_is_downloaded_into_all_the_same(
    tmp_path, monkeypatch, no_checksums, caplog
):
    """Some file systems know no locks; a line says so, and the data are there."""

    def refuse(*_, **__):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    cls = library.torchvision().datasets.CIFAR10
    monkeypatch.setattr(
        cls, "_check_integrity", lambda self: (tmp_path / "cifar-10-batches-py").exists()
    )
    monkeypatch.setattr(cls, "download", lambda self: write_cifar10(tmp_path))
    assert len(load("cifar10", root=tmp_path).splits["test"].y) == 4
    assert "cannot be locked ([Errno 37] No locks available); going on without" in caplog.text


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "MNIST/raw"),
        ("mnist", "raw"),
        ("mnist", "."),
        ("fashion_mnist", "FashionMNIST/raw"),
        ("fashion_mnist", "."),
    ],
)
def test_mnist_is_read_from_its_folder(tmp_path, name, folder, suffix):
    """28x28 grey images have one channel."""
    for split in ("train", "t10k"):
        write_idx(tmp_path / folder, split, suffix=suffix)
    dataset = load(name, root=tmp_path)
    np.testing.assert_array_equal(dataset.splits["test"].x[:, 0].numpy(), IMAGES)
    assert dataset.splits["train"].y.tolist() == LABELS.tolist()
    assert (dataset.channels, dataset.classes) == (1, 10)


def test_mnist_is_what_torchvision_reads(tmp_path):
    """Pixels and labels are torchvision's of the same files."""
    for split in ("train", "t10k"):
        write_idx(tmp_path / "MNIST" / "raw", split)
    expected = library.torchvision().datasets.MNIST(str(tmp_path), train=False)
    test = load("mnist", root=tmp_path).splits["test"]
    assert torch.equal(test.x[:, 0], expected.data)
    assert torch.equal(test.y, expected.targets)


def test_a_damaged_data_set_is_named(tmp_path):
    """A file that cannot be parsed leads to a message, not to a traceback."""
    write_idx(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(gzip.compress(b"nonsense"))
    with pytest.raises(UsageError, match=r"^data\.root: .*damaged"):
        load("mnist", root=tmp_path, splits=["train"])


def test_what_another_process_is_writing_is_waited_for(tmp_path, monkeypatch, caplog):
    """A file that is half there is damaged only if nobody downloads."""
    monkeypatch.setattr(files, "_POLL_S", 0.01)
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw)
    (raw / "train-labels-idx1-ubyte").write_bytes(b"")
    loaded = []
    thread = threading.Thread(
        target=lambda: loaded.append(load("mnist", root=tmp_path, splits=["train"]))
    )
    with caplog.at_level("INFO", "lsengine"), filelock.FileLock(tmp_path / ".download.lock"):
        thread.start()
        while "waiting for another process that downloads into" not in caplog.text:
            time.sleep(0.01)
        write_idx(raw)
    thread.join(20)
    assert loaded[0].splits["train"].y.tolist() == LABELS.tolist()


def test_fashion_mnist_is_found_in_its_package(tmp_path, monkeypatch):
    """With no root, and with one that has no such files; what the root has goes first."""
    package = replace(known._KNOWN["fashion_mnist"], package=tmp_path / "package")
    monkeypatch.setitem(known._KNOWN, "fashion_mnist", package)
    write_idx(tmp_path / "package", suffix=".gz")
    for root in (None, tmp_path / "nothing"):
        train = load("fashion_mnist", root=root, splits=["train"]).splits["train"]
        np.testing.assert_array_equal(train.x[:, 0].numpy(), IMAGES)
    (tmp_path / "root").mkdir()
    np.savez(tmp_path / "root.npz", x_train=255 - IMAGES, y_train=LABELS)
    train = load("fashion_mnist", root=tmp_path / "root.npz", splits=["train"]).splits["train"]
    np.testing.assert_array_equal(train.x[:, 0].numpy(), 255 - IMAGES)


@pytest.mark.skipif(not known._DEBIAN.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_the_package_has_all_of_fashion_mnist():
    """70,000 images, 7,000 of each class, with the mean and deviation that are subtracted."""
    dataset = load("fashion_mnist")
    assert [len(split) for split in dataset.splits.values()] == [60_000, 10_000]
    for split in dataset.splits.values():
        assert split.y.bincount().tolist() == [len(split) // 10] * 10
    x = dataset.splits["train"].x.to(torch.float64) / 255
    assert dataset.mean.tolist() == pytest.approx([float(x.mean())], abs=5e-5)
    assert dataset.std.tolist() == pytest.approx([float(x.std())], abs=5e-5)


def npz(path, x, y, **more):
    """Write both splits, of the same samples."""
    np.savez(path, **{"x_train": x, "y_train": y, "x_test": x, "y_test": y, **more})
    return path


def test_a_file_is_the_same_data_as_the_folder(tmp_path, no_checksums):
    """Channels first or last, labels of any integer type: one digest for all forms of CIFAR-10."""
    write_cifar10(tmp_path)
    folder = load("cifar10", root=tmp_path)
    arrays = {}
    for name, split in folder.splits.items():
        arrays |= {f"x_{name}": split.x.numpy(), f"y_{name}": split.y.numpy()}
    first = tmp_path / "first.npz"
    np.savez(first, **arrays)
    last = tmp_path / "last.npz"
    np.savez(last, **{n: a.transpose(0, 2, 3, 1) if a.ndim == 4 else np.uint8(a)[:, None]
                      for n, a in arrays.items()})  # fmt: skip
    for file in (first, last):
        dataset = load("cifar10", root=file)
        assert dataset.sha256 == folder.sha256
        assert torch.equal(
            data.normalized(dataset, "test", torch.float32),
            data.normalized(folder, "test", torch.float32),
        )
    subsets = [load("cifar10", root=root, subset=7).sha256 for root in (first, tmp_path)]
    assert subsets[0] == subsets[1] != folder.sha256
    changed = first.with_name("changed.npz")
    np.savez(changed, **arrays | {"x_test": 255 - arrays["x_test"]})
    assert load("cifar10", root=changed).sha256 != folder.sha256


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_grey_images_of_a_file_have_a_channel(tmp_path, name):
    """(N, 28, 28), (N, 1, 28, 28) and (N, 28, 28, 1) are the same images as MNIST's files."""
    for split in ("train", "t10k"):
        write_idx(tmp_path, split)
    expected = load(name, root=tmp_path)
    for x in (IMAGES, IMAGES[:, None], IMAGES[..., None]):
        assert load(name, root=npz(tmp_path / "a.npz", x, LABELS)).sha256 == expected.sha256


def test_a_split_that_a_file_has_not(tmp_path):
    """A job asks for what is there."""
    np.savez(tmp_path / "a.npz", x_train=IMAGES, y_train=LABELS)
    assert len(load("mnist", root=tmp_path / "a.npz", splits=["train"]).splits["train"]) == 7
    with pytest.raises(UsageError, match=r"^data\.splits: test .* data\.root: .*a\.npz has: train"):
        load("mnist", root=tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (IMAGES / 255, LABELS, r"x_train is float64 \[7, 28, 28\]; mnist has uint8"),
        (IMAGES[:, :20], LABELS, r"x_train is uint8 \[7, 20, 28\]"),
        (IMAGES.reshape(7, -1), LABELS, r"x_train is uint8 \[7, 784\]"),
        (IMAGES[:, None].repeat(3, 1), LABELS, r"x_train is uint8 \[7, 3, 28, 28\]"),
        (IMAGES[0, 0, 0], LABELS, r"x_train is uint8 \[\]"),
        (IMAGES, LABELS / 2, r"y_train is float64 \[7\]; expected integers"),
        (IMAGES, LABELS[:, None].repeat(2, 1), r"y_train is uint8 \[7, 2\]; expected integers"),
        (IMAGES, LABELS + 9, "train has the label 15; expected 0 to 9"),
        (IMAGES, LABELS[:6], "train: 7 inputs, but 6 labels"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, x, y, says):
    """Other images, or no classes: where, what was found, what is allowed."""
    file = npz(tmp_path / "a.npz", x, y)
    with pytest.raises(UsageError, match=rf"^data\.root: {file}: {says}"):
        load("mnist", root=file)


def test_arrays_of_other_names_are_refused(tmp_path):
    """Images have the name x."""
    np.savez(tmp_path / "a.npz", images_train=IMAGES, y_train=LABELS)
    with pytest.raises(UsageError, match="needs x_train and y_train"):
        load("mnist", root=tmp_path / "a.npz", splits=["train"])


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("gone.npz", r"gone\.npz is not there; for mnist name a folder with train-images"),
        ("a.tar.gz", r"a\.tar\.gz is no file of arrays; for mnist name a folder"),
        ("fifo.npz", r"fifo\.npz is a FIFO"),
        ("text.npz", r"text\.npz is not a readable \.npz file"),
    ],
)
def test_a_root_that_is_no_data_set(tmp_path, file, says):
    """One line, without a download."""
    (tmp_path / "a.tar.gz").write_bytes(b"")
    (tmp_path / "text.npz").write_text("text")
    os.mkfifo(tmp_path / "fifo.npz")
    with pytest.raises(UsageError, match=rf"^data\.root: .*{says}"):
        load("mnist", root=tmp_path / file)
