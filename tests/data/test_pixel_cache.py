"""Images are decoded once, and again whenever that could matter."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch

from lsengine import data, devices, files
from lsengine.data import decoding, pixel_cache, pixel_stack
from lsengine.job import schema

Image = pytest.importorskip("PIL.Image")
COUNT = 150


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("LSENGINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    """A folder of 300 small images of two classes."""
    tmp_path = tmp_path / "images"
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
    files, decode = [], decoding.decode

    def counted(file, resize):
        files.append(file)
        return decode(file, resize)

    monkeypatch.setattr(decoding, "decode", counted)
    return files


def _load(root, **options):
    spec = schema.DataSpec(dataset="image_folder", root=str(root), splits=["train"], **options)
    return data.load(spec, root=root, job_folder=Path(), seed=0)


def test_a_second_load_decodes_nothing(root, cache, decodings):
    """The same tensors and digest, from a file in the cache; the data's folder is left alone."""
    before = sorted(root.rglob("*"))
    first, second = _load(root), _load(root)
    assert len(decodings) == 2 * COUNT
    assert second.sha256 == first.sha256
    path = pixel_cache.cache_file(root)
    assert set(cache.iterdir()) == {path, path.with_suffix(".lock")}
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize(("free", "is_mapped"), [(8 * 2 * COUNT * 18, False), (0, True)])
def test_pixels_that_are_much_stay_in_the_file(root, monkeypatch, decodings, free, is_mapped):
    """Above an eighth of the memory that is free; the first run, too, has them from there."""
    expected = _load(root).sha256
    pixel_cache.cache_file(root).unlink()
    monkeypatch.setattr(devices, "free_host_bytes", lambda: free)
    for _ in range(2):
        split = _load(root).splits["train"]
        assert split.is_mapped is is_mapped
        stored = np.load(pixel_cache.cache_file(root))  # an array that others can read, too
        np.testing.assert_array_equal(split.x.numpy(), stored)
        assert _load(root).sha256 == expected
    assert len(decodings) == 4 * COUNT


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    """The cluster's variable, the desktop's, the home; folders of one name have files apart."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert pixel_cache.cache_file(tmp_path / "a").parent == tmp_path / "cache"
    names = {pixel_cache.cache_file(tmp_path / folder / "images").name for folder in "ab"}
    assert len(names) == 2
    assert all(name.startswith("decoded-images-") for name in names)
    monkeypatch.delenv("LSENGINE_CACHE")
    assert pixel_cache.cache_file(tmp_path).parent == tmp_path / "xdg/lsengine"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert pixel_cache.cache_file(tmp_path).parent == tmp_path / "home/.cache/lsengine"


def test_a_file_of_an_older_lsengine_beside_the_images_is_not_used(root, decodings):
    """It may be anybody's who can write to the data's folder."""
    first = _load(root)
    pixel_cache.cache_file(root).rename(root / ".lsengine-decoded.npz")
    assert _load(root).sha256 == first.sha256
    assert len(decodings) == 4 * COUNT


@pytest.mark.parametrize("kind", ["a FIFO", "a directory"])
def test_what_is_no_file_is_no_cache_and_not_waited_for(root, decodings, caplog, kind):
    """The images are decoded each time, with a warning that says what is in the way."""
    path = pixel_cache.cache_file(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path) if kind == "a FIFO" else path.mkdir()
    first, second = _load(root), _load(root)
    assert first.sha256 == second.sha256
    assert len(decodings) == 4 * COUNT
    assert f"decoded images are not kept: {path}: is {kind}" in caplog.text


def test_the_longest_name_of_a_folder_has_a_cache(tmp_path):
    """A file's name need not hold all of it."""
    name = pixel_cache.cache_file(tmp_path / ("x" * 255)).name
    assert not pixel_cache.files.misfit(tmp_path / name)


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


def test_another_size_or_other_rules_decode_anew(root, decodings, monkeypatch):
    """What was decoded in another way is not taken for the pixels that are wanted."""
    whole = _load(root)
    small = _load(root, resize=[2, 1])
    assert small.splits["train"].x.shape[2:] == (2, 1)
    assert len(decodings) == 4 * COUNT
    assert _load(root).sha256 == whole.sha256
    assert len(decodings) == 6 * COUNT
    monkeypatch.setattr(pixel_cache, "_RULES", "those of next year")
    assert _load(root).sha256 == whole.sha256
    assert len(decodings) == 8 * COUNT


def test_deep_images_and_what_was_said_are_kept(root, decodings, caplog):
    """Types survive, and notes are said again without decoding."""
    deep = np.array([[0, 4000], [65535, 3], [1, 2]], np.uint16)
    Image.fromarray(deep).save(root / "train/a/007.png")
    clear = np.zeros((3, 2, 4), np.uint8)
    Image.fromarray(clear).save(root / "train/b/000.png")
    first = _load(root)
    assert first.splits["train"].x.dtype == torch.float32
    assert "images are transparent: " in caplog.text
    caplog.clear()
    second = _load(root)
    assert second.sha256 == first.sha256
    assert len(decodings) == 2 * COUNT
    assert "images are transparent: " in caplog.text
    expected = (deep / 65535).astype(np.float32)
    np.testing.assert_array_equal(second.splits["train"].x[7, 0].numpy(), expected)


@pytest.mark.parametrize("damage", ["byte", "cut", "other"])
def test_a_damaged_file_is_made_anew(root, decodings, caplog, damage):
    """A wrong byte, a cut file or another file of its name costs a decoding, with a word."""
    first = _load(root)
    path = pixel_cache.cache_file(root)
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


@pytest.mark.parametrize("obstacle", ["disk", "folder", "home"])
def test_a_cache_that_cannot_be_written_to_is_no_error(
    root, cache, decodings, monkeypatch, obstacle
):
    """Nothing is kept, nothing is left behind, and the data are there."""

    def refuse(stack, facts):
        raise OSError(28, "No space left on device")

    if obstacle == "disk":
        monkeypatch.setattr(pixel_stack.PixelStack, "describe", refuse)
    elif obstacle == "folder":
        cache.write_text("a file where the folder should be")
    else:
        monkeypatch.delenv("LSENGINE_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    for _ in range(2):
        assert len(_load(root).splits["train"].y) == 2 * COUNT
    assert len(decodings) == (8 if obstacle == "disk" else 4) * COUNT
    assert not cache.is_dir() or not list(cache.glob("[!.]*.npy")) + list(cache.glob(".*"))


def test_few_images_leave_no_file(tmp_path, cache):
    """Below some hundreds of files reading them again takes no longer."""
    for kind in "ab":
        (tmp_path / kind).mkdir()
        Image.fromarray(np.zeros((3, 2), np.uint8)).save(tmp_path / kind / "1.png")
    assert len(_load(tmp_path).splits["train"].y) == 2
    assert not cache.exists()


def test_of_several_processes_one_decodes(root, cache, caplog, decodings, monkeypatch):
    """Who comes while another one has the lock waits, and takes its file."""
    monkeypatch.setattr(files, "_POLL_S", 0.01)
    expected, path = _load(root).sha256, pixel_cache.cache_file(root)
    path.rename(cache / "being made")
    found = []
    other = threading.Thread(target=lambda: found.append(_load(root).sha256))
    with caplog.at_level("INFO", "lsengine"), filelock.FileLock(path.with_suffix(".lock")):
        other.start()
        while "waiting for another process that decodes" not in caplog.text and other.is_alive():
            other.join(0.01)
        (cache / "being made").rename(path)
    other.join()
    assert found == [expected]
    assert len(decodings) == 2 * COUNT


def test_what_a_killed_process_has_left_is_removed(root, cache):
    """A piece of a file, by whoever makes it next."""
    cache.mkdir()
    piece = cache / f".{pixel_cache.cache_file(root).name}.0123abcd.part.npy"
    piece.write_bytes(b"a part")
    _load(root)
    assert not piece.exists()
