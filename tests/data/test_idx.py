"""MNIST's files, gzipped or not, in whichever folder."""

from __future__ import annotations

import gzip
import os
import struct

import numpy as np
import pytest

from lsengine.data import idx
from lsengine.errors import UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
LABELS = np.arange(7, dtype=np.uint8)


def as_idx(array):
    """Return the bytes of a file in MNIST's format."""
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


def write_idx(folder, split="train", sign="-", suffix=""):
    """Write the images and labels of a split."""
    folder.mkdir(parents=True, exist_ok=True)
    pack = gzip.compress if suffix else bytes
    for kind, array in ((f"images{sign}idx3", IMAGES), (f"labels{sign}idx1", LABELS)):
        (folder / f"{split}-{kind}-ubyte{suffix}").write_bytes(pack(as_idx(array)))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("sign", ["-", "."])
@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
def test_both_files_are_read(tmp_path, suffix, sign, split, prefix):
    """Images and labels are those that were written, whatever the names of the two files."""
    write_idx(tmp_path / "b", prefix, sign, suffix)
    x, y = idx.read([tmp_path / "a", tmp_path / "b"], split)
    np.testing.assert_array_equal(x[:, 0].numpy(), IMAGES)
    np.testing.assert_array_equal(y.numpy(), LABELS)


def test_the_first_folder_with_both_files_counts(tmp_path):
    """Images without labels are no split."""
    write_idx(tmp_path / "a")
    (tmp_path / "a" / "train-labels-idx1-ubyte").unlink()
    assert idx.read([tmp_path / "a"], "train") is None
    write_idx(tmp_path / "b")
    x, _ = idx.read([tmp_path / "a", tmp_path / "b"], "train")
    np.testing.assert_array_equal(x[:, 0].numpy(), IMAGES)


def test_gzipped_and_not_go_together(tmp_path):
    """Whoever has unpacked one of the files need not unpack the other."""
    write_idx(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte"
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    _, y = idx.read([tmp_path], "train")
    np.testing.assert_array_equal(y.numpy(), LABELS)


WHOLE = as_idx(IMAGES)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it ends in its head"),
        (WHOLE[:15], "it ends in its head"),
        (b"nonsense, and more of it", "it begins with 0x6e6f6e73; expected 0x803"),
        (as_idx(IMAGES[:, :, :27]), "its shape is .*27.*; expected up to .* images of 28x28"),
        (as_idx(IMAGES[:0]), "its shape is .0, 28, 28."),
        (struct.pack(">4I", 0x803, 2**32 - 1, 28, 28), "its shape is .4294967295"),
        (struct.pack(">4I", 0x803, 100_000, 28, 28), "78,400,000 bytes, and has 0"),
        (WHOLE[:-1], "5,488 bytes, and has 5,487"),
        (WHOLE + b"\0", "5,488 bytes, and has more"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_damaged_file_is_named(tmp_path, content, says, suffix):
    """What the head says is compared with what there is, before memory is taken for it."""
    write_idx(tmp_path, suffix=suffix)
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(UsageError, match=rf"^data\.root: {path} is damaged: .*{says}"):
        idx.read([tmp_path], "train")


@pytest.mark.parametrize("content", [gzip.compress(WHOLE)[:-900], b"nonsense", b"\x1f\x8b" * 20])
def test_a_damaged_archive_is_named(tmp_path, content):
    """A cut download, and what is no archive."""
    write_idx(tmp_path, suffix=".gz")
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(UsageError, match=r"images-idx3-ubyte\.gz is damaged: "):
        idx.read([tmp_path], "train")


def test_nothing_waits_for_what_is_no_file(tmp_path):
    """A FIFO under the name of a file ends with a message."""
    write_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    os.mkfifo(tmp_path / "train-images-idx3-ubyte")
    with pytest.raises(UsageError, match=r"^data\.root: .* is a FIFO"):
        idx.read([tmp_path], "train")
