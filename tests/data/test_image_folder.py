"""Folders of image files.

One file as numbers is in test_image_file.py.
"""

from __future__ import annotations

import re

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


def write(path, pixels):
    """Write one image."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


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
    with pytest.raises(UsageError, match=r"odd\.png is 6x4, but .*1\.png is 5x4.*resize: \[5, 4\]"):
        load("image_folder", root=tmp_path, **options)
    (tmp_path / "test/b/odd.png").write_bytes(b"\x89PNG nonsense")
    with pytest.raises(UsageError, match=r"odd\.png is not a readable image"):
        load("image_folder", root=tmp_path, **options)


def test_16_bits_and_floats_are_scaled_by_their_range(tmp_path):
    """65535 is 1, a float is itself, and a mixture keeps both; exact is float64."""
    deep = np.arange(20, dtype=np.uint16).reshape(5, 4) * 3449
    write(tmp_path / "train/a/1.png", deep)
    found = load("image_folder", root=tmp_path, splits=["train"]).splits["train"].x
    np.testing.assert_array_equal(found.numpy()[0, 0], (deep / 65535).astype(np.float32))
    wide = load("image_folder", root=tmp_path, splits=["train"], exact=True).splits["train"].x
    np.testing.assert_array_equal(wide.numpy()[0, 0], deep / 65535)
    bytes_ = np.arange(20, dtype=np.uint8).reshape(5, 4) * 13
    write(tmp_path / "train/b/1.png", bytes_)
    both = load("image_folder", root=tmp_path, splits=["train"], exact=True).splits["train"].x
    np.testing.assert_array_equal(both.numpy()[:, 0], np.stack([deep / 65535, bytes_ / 255]))
    floats = np.linspace(0, 1, 20, dtype=np.float32).reshape(5, 4)
    write(tmp_path / "train/b/2.tif", floats)
    write(tmp_path / "train/b/3.png", np.stack([bytes_] * 3, 2))
    mixed = load("image_folder", root=tmp_path, splits=["train"]).splits["train"].x
    assert (mixed.shape, mixed.dtype) == ((4, 3, 5, 4), torch.float32)
    expected = np.stack([deep / 65535, bytes_ / 255, floats, bytes_ / 255])
    np.testing.assert_allclose(mixed.numpy()[:, 1], expected, rtol=1e-7)


def test_grey_images_are_for_three_channels_if_asked(tmp_path):
    """As torchvision's ImageFolder has them; another number is refused."""
    pixels = write_images(tmp_path, "train/a/1.png", mode="L")
    options = {"root": tmp_path, "splits": ["train"]}
    found = load("image_folder", args={"channels": 3}, **options).splits["train"].x
    np.testing.assert_array_equal(found.numpy()[0], np.stack([pixels[0]] * 3))
    with pytest.raises(UsageError, match=r"data\.args\.channels: got 4; allowed: 3"):
        load("image_folder", args={"channels": 4}, **options)


def test_images_in_folders_of_a_class_are_its_images(tmp_path, caplog):
    """At any depth; where the root has no train folder they may be of another split."""
    names = ("train/a/1.png", "train/a/images/x/1.png", "train/b/images/1.png")
    pixels = write_images(tmp_path, *names)
    (tmp_path / "train/a/.cache").mkdir()
    write_images(tmp_path, "train/a/.cache/1.png")
    dataset = load("image_folder", root=tmp_path, splits=["train"])
    assert dataset.splits["train"].y.tolist() == [0, 0, 1]
    expected = np.stack(pixels).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(dataset.splits["train"].x.numpy(), expected)
    with pytest.raises(UsageError, match=r"images/x/1\.png lies too deep"):
        load("image_folder", root=tmp_path / "train", splits=["train"])


def test_what_is_left_out_is_said(tmp_path, caplog):
    """Files that are no images, and images beside the class folders."""
    write_images(tmp_path, "train/a/1.png", "train/7.png")
    (tmp_path / "train/a/2.npy").write_bytes(b"")
    load("image_folder", root=tmp_path, splits=["train"])
    assert re.search(r"in no class folder of .*train are left out: 7\.png", caplog.text)
    assert re.search(r"no images by their names are left out: .*a/2\.npy", caplog.text)


def test_classes_without_images_count(tmp_path):
    """A list names every class by its label; a number says how many follow."""
    write_images(tmp_path, "train/b/1.png", "train/d/1.png", "test/d/1.png")
    options = {"root": tmp_path}
    with pytest.raises(UsageError, match=r"test has no folder b.*data\.args\.classes lists"):
        load("image_folder", **options)
    listed = load("image_folder", args={"classes": ["d", "a", "b", "c"]}, **options)
    assert (listed.classes, listed.outputs) == (4, 4)
    assert listed.splits["train"].y.tolist() == [0, 2]
    assert listed.splits["test"].y.tolist() == [0]
    with pytest.raises(UsageError, match=r"data\.args\.classes: b is not in it, but .*train/b"):
        load("image_folder", args={"classes": ["d", "a"]}, **options)
    with pytest.raises(UsageError, match="the name of each class, once"):
        load("image_folder", args={"classes": ["d", "d", "b"]}, **options)
    write_images(tmp_path, "test/b/1.png")
    assert load("image_folder", args={"classes": 5}, **options).classes == 5
    assert load("image_folder", **options).classes == 2
    with pytest.raises(UsageError, match="got 1; expected a list of names, or a number"):
        load("image_folder", args={"classes": 1}, **options)


def test_images_of_unlike_sizes_are_brought_to_one(tmp_path):
    """Rows first; the digest is of what comes out."""
    write_images(tmp_path, "train/a/1.png", "train/b/1.png")
    write_images(tmp_path, "train/b/odd.png", size=(9, 4), mode="L")
    found = load("image_folder", root=tmp_path, splits=["train"], resize=[3, 7])
    assert found.splits["train"].x.shape == (3, 3, 3, 7)
    other = load("image_folder", root=tmp_path, splits=["train"], resize=[7, 3])
    assert other.sha256 != found.sha256


def test_a_link_to_itself_is_refused(tmp_path):
    """There is no endless walk."""
    write_images(tmp_path, "train/a/1.png")
    (tmp_path / "train/a/again").symlink_to(tmp_path / "train/a")
    with pytest.raises(UsageError, match="is a link to itself in it"):
        load("image_folder", root=tmp_path, splits=["train"])
