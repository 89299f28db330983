"""The bundled digits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from lsengine import data
from lsengine.data import digits
from tests.support.datasets import load

DIGITS_SHA256 = "1a9314bde077c7924db62ee2dc43a71adc96fb3990a85d7787f7a1cba06668f5"


def test_digits_are_the_same_for_ever():
    """1,437 and 360 images with fixed contents: surfaces of other machines compare."""
    dataset = load("digits")
    assert dataset.splits["train"].x.shape == (1437, 1, 8, 8)
    assert dataset.splits["test"].x.shape == (360, 1, 8, 8)
    assert (dataset.channels, dataset.size, dataset.classes, dataset.outputs) == (1, (8, 8), 10, 10)
    assert dataset.sha256 == DIGITS_SHA256


def test_digits_and_the_zoo_need_no_other_library():
    """They come with lsengine: scikit-learn and torchvision are neither imported nor looked for."""
    code = (
        "import sys; sys.modules['sklearn'] = sys.modules['torchvision'] = None\n"
        "from pathlib import Path; from lsengine import data, models\n"
        "models.zoo()\n"
        "from lsengine.job import schema\n"
        "spec = schema.DataSpec(dataset='digits')\n"
        "digest = data.load(spec, root=None, job_folder=Path(), seed=0).sha256\n"
        f"sys.exit(digest != {DIGITS_SHA256!r})"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_bundled_file_is_scikit_learns():
    """The same numbers in the same order, and its licence lies beside it."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    np.testing.assert_array_equal(digits.digits_table(), np.column_stack([pixels, labels]))
    licence = Path(digits.__file__).with_name("digits.csv.gz.LICENSE.txt").read_text()
    assert "BSD 3-Clause License" in licence
    assert "Optical Recognition of Handwritten Digits" in licence


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
