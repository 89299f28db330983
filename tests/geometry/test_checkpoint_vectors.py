"""Checkpoints read as vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lsengine.geometry.checkpoint_vectors import CheckpointVectors
from lsengine.geometry.principal import gram
from tests.support.walks import NAMES, named, vectors, walk


def test_foreign_checkpoints_are_named():
    """Missing parameters, other shapes and numbers that are not finite are told by index."""
    rows = walk(6)

    def changed(index, **tensors):
        def load(t):
            loaded = {**named(rows[t]), **(tensors if t == index else {})}
            return {n: v for n, v in loaded.items() if v is not None}

        return load

    with pytest.raises(ValueError, match="checkpoint 2 lacks scale"):
        gram(CheckpointVectors(changed(2, scale=None), 6, NAMES))
    with pytest.raises(ValueError, match=r"checkpoint 1: scale has shape \[2\], elsewhere \[\]"):
        gram(CheckpointVectors(changed(1, scale=torch.ones(2)), 6, NAMES))
    with pytest.raises(ValueError, match="checkpoint 3: scale holds numbers that are not finite"):
        gram(CheckpointVectors(changed(3, scale=torch.tensor(math.nan)), 6, NAMES))
    huge = torch.full((5,), 2e38, dtype=torch.float32)  # finite, though its sum is not
    large = CheckpointVectors(lambda _: {"fc.bias": huge}, 2, ["fc.bias"])
    assert np.isfinite(gram(large).norms).all()
    with pytest.raises(ValueError, match="no parameter"):
        gram(vectors(rows, []))
    with pytest.raises(ValueError, match="at least 1; got 0"):
        vectors(rows[:0])


def test_messages_call_checkpoints_as_the_caller_does():
    """What is wrong with a file is said with its name, not with a number."""
    found = CheckpointVectors(
        lambda _: {"scale": torch.ones(())}, 2, ["fc.bias"], "epoch_{}.pt".format
    )
    with pytest.raises(ValueError, match=r"^epoch_1\.pt lacks fc\.bias$"):
        found(1)


def test_a_vector_is_cut_into_parameters_again():
    """Names, shapes and numbers come back, in float32."""
    (row,) = walk(1)
    reader = vectors(row[None])
    pieces = reader.named(reader(0))
    for name, tensor in named(row).items():
        torch.testing.assert_close(pieces[name], tensor.float())
