"""Random parts of a data set."""

from __future__ import annotations

import numpy as np
import torch

from tests.support.datasets import arrays, load


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
