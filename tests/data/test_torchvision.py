"""Data sets of torchvision's, read and downloaded."""

from __future__ import annotations

import gzip
import pickle
import struct
import threading
import time
import urllib.error

import filelock
import numpy as np
import pytest
import torch

from lsengine import data, files
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.external import torchvision as library
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


def test_a_network_that_is_not_there_is_explained(tmp_path, monkeypatch):
    """Without data and network the message names the files and where they go."""

    def offline(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    for name, file in (("cifar10", "cifar-10-python.tar.gz"), ("mnist", "MNIST/raw/")):
        with pytest.raises(UsageError, match=f"^data.root: {name} is not.*{file}"):
            load(name, root=tmp_path / "data")


def test_a_root_that_cannot_be_made_is_named(tmp_path):
    """A file where the folder should be: the cause and the code of all commands."""
    (tmp_path / "data").write_text("")
    with pytest.raises(EnvironmentUnfit, match=r"^data\.root: .*cannot be made"):
        load("cifar10", root=tmp_path / "data")


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


def write_idx(path, array):
    """Write an array in MNIST's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(head + array.tobytes())


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")]
)
def test_mnist_is_read_from_its_folder(tmp_path, name, folder):
    """28x28 grey images have one channel."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    labels = np.arange(7, dtype=np.uint8)
    for split in ("train", "t10k"):
        write_idx(tmp_path / folder / "raw" / f"{split}-images-idx3-ubyte", pixels)
        write_idx(tmp_path / folder / "raw" / f"{split}-labels-idx1-ubyte", labels)
    dataset = load(name, root=tmp_path)
    np.testing.assert_array_equal(dataset.splits["test"].x[:, 0].numpy(), pixels)
    assert dataset.splits["train"].y.tolist() == labels.tolist()
    assert (dataset.channels, dataset.classes) == (1, 10)


def test_a_damaged_data_set_is_named(tmp_path):
    """A file that cannot be parsed leads to a message, not to a traceback."""
    for split in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            path = tmp_path / "MNIST" / "raw" / f"{split}-{kind}-ubyte"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(b"nonsense"))
    with pytest.raises(UsageError, match=r"^data\.root: .*damaged"):
        load("mnist", root=tmp_path)
