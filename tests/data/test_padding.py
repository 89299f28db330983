"""Sequences of different lengths, and their masks."""

from __future__ import annotations

import pytest
import torch

from lsengine.data.padding import check_masks, fill
from lsengine.errors import UsageError

IDS, MASK = torch.zeros(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.bool)
SHORT, PIXELS = MASK[:, :4], torch.zeros(2, 3, 7)


def test_a_mask_of_another_length_is_refused_where_it_is_known_whose_it_is():
    """Of the only array of integers, or of the array in its name; else nothing is known."""
    for nested, said in (
        ({"ids": IDS, "mask": SHORT}, r"mask has shape \[2, 4\], ids \[2, 5\]"),
        ({"ids": IDS, "attention_mask": SHORT, "x": PIXELS}, "attention_mask has shape"),
        ({"ids": IDS, "mask": SHORT.double()}, r"mask has shape \[2, 4\]"),
        ({"ids": IDS, "mask": SHORT[:, :1].float()}, r"mask has shape \[2, 1\]"),
        ({"x": PIXELS, "ids": IDS, "x_mask": MASK}, r"x_mask has shape \[2, 5\], x \[2, 3, 7\]"),
    ):
        with pytest.raises(UsageError, match=f"f: {said}.* as many positions"):
            check_masks("f", nested)
    for nested in (
        {"ids": IDS, "mask": MASK},
        {"ids": IDS, "decoder_ids": IDS[:, :3], "mask": SHORT},
        {"ids": IDS, "image_mask": SHORT},
        {"ids": IDS, "mask": MASK.double()},
        {"x": PIXELS, "mask": MASK},
        (IDS, SHORT),
    ):
        check_masks("f", nested)


def test_what_is_padded_counts_nowhere():
    """Masks with 0, labels with -100; only where nothing could leave it out it is refused."""
    long, real = torch.int64, torch.float32
    assert fill("ids", long, 7, is_target=False, where="f") == 7
    assert fill("ids_mask", long, 7, is_target=False, where="f") == 0
    assert fill("seen", torch.bool, 7, is_target=False, where="f") == 0
    assert fill("x", real, 0.5, is_target=False, where="f") == 0.5
    assert fill("labels", long, 7, is_target=True, where="f") == -100
    with pytest.raises(UsageError, match="y has targets of different lengths and type float32"):
        fill("y", real, 0, is_target=True, where="f")
    with pytest.raises(UsageError, match="y has targets of different lengths and type uint8"):
        fill("y", torch.uint8, 0, is_target=True, where="f")
    with pytest.raises(UsageError, match=r"cannot be padded with 0\.5"):
        fill("ids", long, 0.5, is_target=False, where="f")
