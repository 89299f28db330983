"""Images are decoded once, and again whenever that could matter."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from lsengine import data
from lsengine.data import image_folder, pixel_cache
from lsengine.job import schema

Image = pytest.importorskip("PIL.Image")
COUNT = 150


@pytest.fixture
def root(tmp_path):
    """A folder of 300 small images of two classes."""
    rng = np.random.default_rng(0)
    for kind in "ab":
        (tmp_path / "train" / kind).mkdir(parents=True)
        for number in range(COUNT):
            pixels = rng.integers(0, 256, (3, 2, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "train" / kind / f"{number:03d}.png")
    return tmp_path


@pytest.fixture
def decodings(monkeypatch):
    """A list that grows by every image file that is decoded."""
    files, decode = [], image_folder._decode

    def counted(file):
        files.append(file)
        return decode(file)

    monkeypatch.setattr(image_folder, "_decode", counted)
    return files


def _load(root):
    spec = schema.DataSpec(dataset="image_folder", root=str(root), splits=["train"])
    return data.load(spec, root=root, job_folder=Path(), seed=0)


def test_a_second_load_decodes_nothing(root, decodings):
    """The same tensors and the same digest of the data, from one file."""
    first, second = _load(root), _load(root)
    assert len(decodings) == 2 * COUNT
    assert second.sha256 == first.sha256
    assert (root / pixel_cache.NAME).exists()


def test_a_changed_image_is_seen(root, decodings):
    """Another content of one file, and a file more: all are decoded anew."""
    first = _load(root)
    changed = root / "train/a/007.png"
    Image.fromarray(np.zeros((3, 2, 3), np.uint8)).save(changed)
    os.utime(changed, ns=(1, 1))
    second = _load(root)
    assert len(decodings) == 4 * COUNT
    assert second.sha256 != first.sha256
    assert not second.splits["train"].x[7].any()
    Image.fromarray(np.ones((3, 2, 3), np.uint8)).save(root / "train/b/999.png")
    assert len(_load(root).splits["train"].y) == 2 * COUNT + 1


@pytest.mark.parametrize("damage", ["byte", "cut", "other"])
def test_a_damaged_file_is_made_anew(root, decodings, caplog, damage):
    """A wrong byte, a cut file or another file of its name costs a decoding, with a word."""
    first = _load(root)
    path = root / pixel_cache.NAME
    content = bytearray(path.read_bytes())
    if damage == "byte":
        content[-COUNT * 9] ^= 0xFF
    elif damage == "cut":
        del content[len(content) // 2 :]
    else:
        content = bytearray(b"something else")
    path.write_bytes(content)
    assert _load(root).sha256 == first.sha256
    assert len(decodings) == 4 * COUNT
    assert "decoding the images again" in caplog.text
    assert _load(root).sha256 == first.sha256
    assert len(decodings) == 4 * COUNT


def test_a_folder_that_cannot_be_written_to_is_read_all_the_same(root, decodings, monkeypatch):
    """Nothing is kept, nothing is left behind, and the data are there."""

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pixel_cache.np, "savez", refuse)
    assert len(_load(root).splits["train"].y) == 2 * COUNT
    assert not list(root.glob(f"{pixel_cache.NAME}*"))


def test_few_images_leave_no_file(tmp_path):
    """Below some hundreds of files reading them again takes no longer."""
    for kind in "ab":
        (tmp_path / kind).mkdir()
        Image.fromarray(np.zeros((3, 2), np.uint8)).save(tmp_path / kind / "1.png")
    assert len(_load(tmp_path).splits["train"].y) == 2
    assert not (tmp_path / pixel_cache.NAME).exists()
