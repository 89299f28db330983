"""Folders of image files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lsengine.errors import UsageError
from tests.support.datasets import load


def write_images(root, *names, size=(5, 4), mode="RGB"):
    """Write one random image for each name, and return the pixels."""
    from PIL import Image

    rng, pixels = np.random.default_rng(len(names)), []
    shape = (*size, 3) if mode == "RGB" else size
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels.append(rng.integers(0, 256, shape, dtype=np.uint8))
        Image.fromarray(pixels[-1]).save(root / name)
    return pixels


def test_a_folder_of_images_is_read(tmp_path):
    """Classes are numbered by name, images by file name; hidden and other files are left."""
    names = ("train/b/1.png", "train/b/2.png", "train/a/9.PNG", "val/a/1.png", "val/b/1.png")
    pixels = write_images(tmp_path, *names)
    (tmp_path / "train/a/notes.txt").write_text("not an image")
    (tmp_path / "train/.cache").mkdir()
    dataset = load("image_folder", root=tmp_path)
    assert (dataset.classes, dataset.channels, dataset.size) == (2, 3, (5, 4))
    assert dataset.splits["train"].y.tolist() == [0, 1, 1]
    expected = np.stack([pixels[2], pixels[0], pixels[1]]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(dataset.splits["train"].x.numpy(), expected)
    assert dataset.splits["test"].y.tolist() == [0, 1]


def test_a_folder_of_classes_is_a_training_split(tmp_path):
    """Grey images have one channel, a mixture becomes RGB."""
    write_images(tmp_path, "a/1.png", "b/1.png", mode="L")
    assert load("image_folder", root=tmp_path, splits=["train"]).channels == 1
    with pytest.raises(UsageError, match=r"data\.splits: test is asked for"):
        load("image_folder", root=tmp_path)
    write_images(tmp_path, "b/2.png")
    mixed = load("image_folder", root=tmp_path, splits=["train"]).splits["train"].x
    assert mixed.shape == (3, 3, 5, 4)
    assert torch.equal(mixed[0, 0], mixed[0, 2])


def test_what_is_wrong_with_a_folder_is_named(tmp_path):
    """The first image of another size, a class that one split lacks, no images, no folder."""
    options = {"splits": ["train"]}
    with pytest.raises(UsageError, match="no such folder"):
        load("image_folder", root=tmp_path / "absent")
    with pytest.raises(UsageError, match="no images in"):
        load("image_folder", root=tmp_path)
    write_images(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png")
    with pytest.raises(UsageError, match="test has no folder b"):
        load("image_folder", root=tmp_path, **options)
    write_images(tmp_path, "test/b/odd.png", size=(6, 4))
    with pytest.raises(UsageError, match=r"odd\.png is 6x4, but .*1\.png is 5x4"):
        load("image_folder", root=tmp_path, **options)
    (tmp_path / "test/b/odd.png").write_bytes(b"\x89PNG nonsense")
    with pytest.raises(UsageError, match=r"odd\.png is not a readable image"):
        load("image_folder", root=tmp_path, **options)
