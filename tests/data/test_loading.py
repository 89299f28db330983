"""Data sets as whole tensors: what is read, what is refused, what is drawn."""

from __future__ import annotations

import fcntl
import gzip
import importlib.util
import pickle
import struct
import subprocess
import sys
import threading
import time
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch

from lsengine import data
from lsengine.data import image_folder
from lsengine.errors import UsageError
from lsengine.external import torchvision
from lsengine.job import schema

DIGITS_SHA256 = "1a9314bde077c7924db62ee2dc43a71adc96fb3990a85d7787f7a1cba06668f5"


def load(dataset, *, root=None, job_folder=Path(), seed=0, **options):
    """Load as a job would."""
    spec = schema.DataSpec(dataset=dataset, root=None if root is None else str(root), **options)
    return data.load(spec, root=root, job_folder=job_folder, seed=seed)


def test_digits_are_the_same_for_ever():
    """1,437 and 360 images with fixed contents: surfaces of other machines compare."""
    digits = load("digits")
    assert digits.splits["train"].x.shape == (1437, 1, 8, 8)
    assert digits.splits["test"].x.shape == (360, 1, 8, 8)
    assert (digits.channels, digits.size, digits.classes, digits.outputs) == (1, (8, 8), 10, 10)
    assert digits.sha256 == DIGITS_SHA256


def test_digits_do_not_wait_for_scikit_learn(monkeypatch):
    """They are read from its folder; where they lie elsewhere, it is asked for the same numbers."""
    code = (
        "import sys; from pathlib import Path; from lsengine import data\n"
        "from lsengine.job import schema\n"
        "spec = schema.DataSpec(dataset='digits')\n"
        f"found = data.load(spec, root=None, job_folder=Path(), seed=0).sha256 == {DIGITS_SHA256!r}\n"
        "sys.exit('sklearn' in sys.modules or not found)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert load("digits").sha256 == DIGITS_SHA256


def test_the_digits_test_split_is_stratified_and_disjoint():
    """Each class has its share, and both splits together are scikit-learn's images."""
    from sklearn.datasets import load_digits

    splits, bunch = load("digits").splits, load_digits()
    share = torch.from_numpy(bunch.target).bincount() * 360 / 1797
    assert ((splits["test"].y.bincount() - share).abs() < 1).all()
    both = torch.cat([splits["train"].x, splits["test"].x]).mul(16).flatten(1).numpy()
    assert sorted(map(tuple, both)) == sorted(map(tuple, bunch.data))


def test_normalized_digits_have_mean_zero_and_deviation_one():
    """The constants are those of the training split, to their four digits."""
    for dtype in (torch.float32, torch.float64):
        x = data.normalized(load("digits"), "train", dtype)
        assert x.dtype == dtype
        assert abs(float(x.mean())) < 1e-3
        assert abs(float(x.std()) - 1) < 1e-3


def arrays(folder, **more):
    """Write an .npz of six tiny images; more arrays replace or, if None, remove."""
    rng = np.random.default_rng(0)
    content = {
        "x_train": rng.integers(0, 256, (6, 2, 3, 4), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": rng.integers(0, 256, (3, 2, 3, 4), dtype=np.uint8),
        "y_test": np.array([0, 1, 3]),
        **more,
    }
    np.savez(folder / "a.npz", **{k: v for k, v in content.items() if v is not None})
    return folder / "a.npz"


def test_bytes_are_scaled_and_normalized_per_channel(tmp_path):
    """(x / 255 - mean) / std, as an independent formula in float64 says."""
    path = arrays(tmp_path)
    normalize = schema.NormalizeSpec(mean=[0.25, 0.5], std=[0.5, 2.0])
    dataset = load("arrays", root=path, normalize=normalize)
    raw = np.load(path)["x_train"].astype(np.float64)
    expected = (raw / 255 - np.array([0.25, 0.5])[:, None, None]) / np.array([0.5, 2.0])[
        :, None, None
    ]
    found = data.normalized(dataset, "train", torch.float64).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-15, atol=1e-15)
    single = data.normalized(dataset, "train", torch.float32).numpy()
    np.testing.assert_allclose(single, expected, rtol=1e-6, atol=1e-6)
    assert dataset.splits["train"].x.dtype == torch.uint8  # the stored data are not touched


def test_floats_are_used_as_they_are(tmp_path):
    """No scaling, no normalisation, float32, of any shape."""
    x = np.linspace(-300, 300, 30).reshape(6, 5)
    dataset = load("arrays", root=arrays(tmp_path, x_train=x, x_test=x[:3]), splits=["train"])
    torch.testing.assert_close(
        data.normalized(dataset, "train", torch.float32),
        torch.from_numpy(x).float(),
        rtol=0,
        atol=0,
    )
    assert (dataset.channels, dataset.size) == (5, None)


def test_classes_are_counted_over_the_whole_source(tmp_path):
    """A class that only the test split has counts even when only train is asked for."""
    path = arrays(tmp_path)
    assert load("arrays", root=path, splits=["train"]).classes == 4
    assert load("arrays", root=path, args={"classes": 9}).classes == 9


def test_real_numbers_to_predict_make_no_classes(tmp_path):
    """Float labels are values, (N,) is one of them."""
    path = arrays(tmp_path, y_train=np.ones(6), y_test=np.ones(3, np.float32))
    dataset = load("arrays", root=path)
    assert dataset.classes is None
    assert dataset.outputs == 1
    assert dataset.splits["train"].y.shape == (6, 1)


def test_foreign_byte_order_is_understood(tmp_path):
    """Big-endian files give the same tensors and the same digest."""
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    x_test = x[:3]
    little = load("arrays", root=arrays(tmp_path, x_train=x, x_test=x_test))
    swapped = arrays(tmp_path, x_train=x.astype(">f4"), x_test=x_test.astype(">f4"))
    assert load("arrays", root=swapped).sha256 == little.sha256


def test_the_digest_knows_contents_labels_shapes_and_splits(tmp_path):
    """Any change of what is evaluated changes it; where the file lies does not."""
    base = load("arrays", root=arrays(tmp_path)).sha256
    (tmp_path / "moved").mkdir()
    assert load("arrays", root=arrays(tmp_path / "moved")).sha256 == base
    pixels = np.load(tmp_path / "a.npz")["x_train"]
    changed = pixels.copy()
    changed[0, 0, 0, 0] ^= 1
    others = [
        load("arrays", root=arrays(tmp_path, x_train=changed)).sha256,
        load("arrays", root=arrays(tmp_path, y_train=np.array([1, 1, 2, 0, 1, 2]))).sha256,
        load("arrays", root=arrays(tmp_path), splits=["train"]).sha256,
        load("arrays", root=arrays(tmp_path), splits=["test"]).sha256,
        load("arrays", root=arrays(tmp_path), subset=2).sha256,
        load(
            "arrays",
            root=arrays(
                tmp_path, x_train=pixels.reshape(6, 2, 4, 3), x_test=np.zeros((3, 2, 4, 3), "u1")
            ),
            splits=["train"],
        ).sha256,
    ]
    assert len({base, *others}) == 7


NAN = np.full((6, 2), np.nan, np.float32)
BROKEN = {
    "no inputs": ({"x_train": None}, "has y_train, but no x_train"),
    "no labels": ({"y_test": None}, "has x_test, but no y_test"),
    "no split": ({"x_test": None, "y_test": None}, "^data.splits: test is asked for.*has: train"),
    "empty": ({"x_train": np.zeros((0, 2, 3, 4), "u1"), "y_train": np.zeros(0, int)}, "is empty"),
    "lengths": ({"y_train": np.zeros(5, int)}, "train: 6 inputs, but 5 labels"),
    "scalar": ({"x_train": np.zeros(6)}, r"inputs have shape \[6\]"),
    "nan": ({"x_train": NAN, "x_test": NAN[:3]}, "6 of 6 inputs have NaN.*index 0"),
    "nan labels": ({"y_train": NAN[:, 0], "y_test": NAN[:3, 0]}, "labels have NaN"),
    "negative": ({"y_train": np.array([0, 1, 2, 0, -1, 2])}, "train has the label -1"),
    "huge": ({"y_train": np.array([0, 1, 2, 0, 1, 2**40])}, "label 1099511627776"),
    "one-hot": ({"y_train": np.eye(6, dtype=int)}, r"int64 of shape \[6, 6\]"),
    "last": ({"x_train": np.zeros((6, 8, 8, 3), "u1")}, "channels last"),
    "flat bytes": ({"x_train": np.zeros((6, 4), "u1")}, "bytes are images"),
    "integers": ({"x_train": np.zeros((6, 4), int)}, "inputs are int64"),
    "text": ({"y_train": np.array(["cat"] * 6)}, "labels: not an array of numbers"),
    "sizes": ({"x_test": np.zeros((3, 2, 3, 5), "u1")}, "the splits differ"),
    "kinds": ({"y_test": np.zeros(3)}, "the splits differ: train labels are int64"),
    "nothing": ({k: None for k in ("x_train", "y_train", "x_test", "y_test")}, "found nothing"),
}


@pytest.mark.parametrize(("content", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_wrong_with_arrays_is_named(tmp_path, content, said):
    """Each mistake gives one message that starts with the key path."""
    path = arrays(tmp_path, **content)
    with pytest.raises(UsageError, match=said) as caught:
        load("arrays", root=path)
    assert str(caught.value).startswith("data.")


@pytest.mark.parametrize("kind", ["text", "cut", "absent", "folder", "pickled"])
def test_what_is_no_npz_is_named(tmp_path, kind):
    """Damaged and foreign files are refused, and nothing is unpickled."""
    path = arrays(tmp_path)
    if kind == "text":
        path.write_text("hello")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "absent":
        path = tmp_path / "absent.npz"
    elif kind == "folder":
        path = tmp_path
    else:
        np.savez(path, x_train=np.array([{}], dtype=object))
    with pytest.raises(UsageError, match=r"^data\.root: "):
        load("arrays", root=path)


def test_labels_beyond_the_declared_classes_are_refused(tmp_path):
    """The range that is allowed is named."""
    with pytest.raises(UsageError, match="test has the label 3; expected 0 to 2"):
        load("arrays", root=arrays(tmp_path), args={"classes": 3})


def test_other_keys_of_the_section_are_checked(tmp_path):
    """Arguments nobody takes, a normalisation of other channels, a root that is missing."""
    with pytest.raises(UsageError, match=r"data.args.size: dataset digits takes none"):
        load("digits", args={"size": 3})
    with pytest.raises(UsageError, match=r"data.normalize: mean has 3 values.* 1 channels"):
        load("digits", normalize=schema.NormalizeSpec(mean=[0.0] * 3, std=[1.0] * 3))
    with pytest.raises(UsageError, match=r"data.root: required"):
        load("cifar10")


def test_a_subset_is_stratified_and_belongs_to_the_seed():
    """Shares are right to one sample; a seed draws the same samples, another one others."""
    whole, part = load("digits").splits["train"], load("digits", subset=100).splits["train"]
    share = whole.y.bincount() * 100 / len(whole.y)
    assert len(part.y) == 100
    assert ((part.y.bincount() - share).abs() < 1).all()
    assert torch.equal(load("digits", subset=100).splits["train"].x, part.x)
    assert not torch.equal(load("digits", subset=100, seed=1).splits["train"].x, part.x)
    assert len(load("digits", subset=400).splits["test"].y) == 360


def test_a_subset_keeps_the_order_and_the_pairs():
    """Its samples are a subsequence of the whole, each with its own label."""
    whole, part = load("digits").splits["test"], load("digits", subset=37).splits["test"]
    rows = [(x.tolist(), int(y)) for x, y in zip(whole.x, whole.y, strict=True)]
    position = -1
    for x, y in zip(part.x, part.y, strict=True):
        position = rows.index((x.tolist(), int(y)), position + 1)


def test_a_subset_of_values_is_uniform(tmp_path):
    """Without classes any samples may be drawn, none twice."""
    y = np.arange(6.0)
    path = arrays(tmp_path, y_train=y, y_test=y[:3])
    drawn = load("arrays", root=path, subset=4).splits["train"].y.flatten().tolist()
    assert len(set(drawn)) == 4
    assert drawn == sorted(drawn)


MODULE = """
import numpy as np
import torch

def make(n, classes=None):
    more = {} if classes is None else {"classes": classes}
    return {"x_train": torch.zeros(n, 2), "y_train": np.zeros(n, dtype=np.int64), **more}

def wrong():
    return [1]

def fails():
    raise OSError("disk on fire")
"""


def test_a_users_module_makes_data(tmp_path):
    """Arrays and tensors are taken, its own errors are shown."""
    (tmp_path / "userdata.py").write_text(MODULE)
    options = {"beside": tmp_path, "splits": ["train"]}
    assert load("userdata:make", args={"n": 5}, **options).splits["train"].x.shape == (5, 2)
    assert load("userdata:make", args={"n": 5, "classes": 4}, **options).classes == 4
    for name, said in (("wrong", "returned list"), ("fails", "OSError: disk on fire")):
        with pytest.raises(UsageError, match=f"data.dataset: userdata:{name}.*{said}"):
            load(f"userdata:{name}", **options)
    with pytest.raises(UsageError, match=r"data.dataset: userdata:make.*is empty"):
        load("userdata:make", args={"n": 0}, **options)
    with pytest.raises(UsageError, match="classes: expected an integer"):
        load("userdata:make", args={"n": 1, "classes": "ten"}, **options)


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
    vision = torchvision.torchvision()
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
    """A file where the folder should be is a usage error."""
    (tmp_path / "data").write_text("")
    with pytest.raises(UsageError, match=r"^data\.root: .*nothing can be written there"):
        load("cifar10", root=tmp_path / "data")


def test_one_process_downloads_and_the_others_wait(tmp_path, monkeypatch, no_checksums):
    """While another process holds the folder's lock, nobody starts to download."""
    monkeypatch.setattr(image_folder, "_POLL_S", 0.01)
    cls = torchvision.torchvision().datasets.CIFAR10
    monkeypatch.setattr(
        cls, "_check_integrity", lambda self: (tmp_path / "cifar-10-batches-py").exists()
    )
    monkeypatch.setattr(cls, "download", lambda self: pytest.fail("downloaded twice"))
    found = []
    with (tmp_path / ".download.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=lambda: found.append(load("cifar10", root=tmp_path)))
        thread.start()
        time.sleep(0.2)
        assert not found
        write_cifar10(tmp_path)  # the other process has downloaded it
    thread.join(20)
    assert found[0].splits["train"].x.shape[0] == 20


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


def test_arrays_need_neither_pillow_nor_scikit_learn(tmp_path):
    """Each library is imported by the data set that needs it only."""
    path = arrays(tmp_path)
    code = (
        "import sys; from pathlib import Path; from lsengine import data\n"
        "from lsengine.job import schema\n"
        f"spec = schema.DataSpec(dataset='arrays', root={str(path)!r})\n"
        f"data.load(spec, root=Path({str(path)!r}), job_folder=Path(), seed=0)\n"
        "sys.exit(any(m in sys.modules for m in ('torchvision', 'PIL', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
