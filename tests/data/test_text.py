"""Text files as tokens."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from lsengine.data import text
from lsengine.errors import UsageError
from tests.support.datasets import load

TEXT = "höhle\nabc" * 4  # 36 characters, 40 bytes


@pytest.fixture
def file(tmp_path):
    """A text of a few characters."""
    path = tmp_path / "t.txt"
    path.write_bytes(TEXT.encode())
    return path


def test_characters_are_numbered_by_code_point(file):
    """Samples, and their targets one further, by hand; the ragged end is dropped."""
    dataset = load("text", root=file, args={"context": 5, "test_fraction": 0.25})
    assert dataset.vocabulary == "\nabcehlö"
    assert (dataset.classes, dataset.target_kind, dataset.channels) == (8, "positions", 5)
    ids = [dataset.vocabulary.index(c) for c in TEXT]
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert train.x.tolist() == [ids[i : i + 5] for i in (0, 5, 10, 15, 20)]  # of 27 characters
    assert train.y.tolist() == [ids[i + 1 : i + 6] for i in (0, 5, 10, 15, 20)]
    assert test.x.tolist() == [ids[27:32]]  # of 9
    assert test.y.tolist() == [ids[28:33]]
    assert train.x.dtype == torch.int64


def test_the_stride_is_from_sample_to_sample(file):
    """The last sample still has its target."""
    args = {"context": 4, "stride": 1, "test_fraction": 0}
    x = load("text", root=file, args=args, splits=["train"]).splits["train"].x
    assert x.shape == (32, 4)
    windows = np.lib.stride_tricks.sliding_window_view([*TEXT[:-1]], 4)
    vocabulary = sorted(set(TEXT))
    assert ["".join(vocabulary[i] for i in row) for row in x] == ["".join(w) for w in windows]


def test_bytes_are_their_own_numbers(file):
    """Of 256, whatever the text; there is no vocabulary to be known."""
    args = {"unit": "byte", "context": 8, "test_fraction": 0}
    dataset = load("text", root=file, args=args, splits=["train"])
    assert (dataset.classes, dataset.vocabulary) == (256, None)
    assert bytes(dataset.splits["train"].x.flatten().tolist()) == TEXT.encode()[:32]


def test_a_subset_is_drawn_as_of_other_data(file):
    """Some of the samples, in order, targets with them."""
    args = {"context": 3, "stride": 1}
    whole = load("text", root=file, args=args, splits=["train"]).splits["train"]
    part = load("text", root=file, args=args, splits=["train"], subset=6).splits["train"]
    assert len(part.x) == 6
    rows = [next(i for i, x in enumerate(whole.x) if torch.equal(x, row)) for row in part.x]
    assert len(set(rows)) == 6
    torch.testing.assert_close(part.x[:, 1:], part.y[:, :-1])


def test_the_vocabulary_is_part_of_the_data(tmp_path):
    """Two texts of the same tokens in other characters have other digests."""
    digests = set()
    for letters in ("abc", "xyz"):
        path = tmp_path / f"{letters}.txt"
        path.write_text(letters * 9)
        dataset = load("text", root=path, args={"context": 3}, splits=["train"])
        assert dataset.splits["train"].x[0].tolist() == [0, 1, 2]
        digests.add(dataset.sha256)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("content", "args", "said"),
    [
        (b"", {}, r"t.txt is empty"),
        (b"ab\xff", {}, r"t.txt is not UTF-8: byte 2 is 0xff; convert it"),
        (b"abc" * 20, {}, r"the train split has 54 characters, fewer than the 65 of a sample"),
        (b"abc" * 9, {"context": 5}, r"the test split has 2 characters, fewer than the 6 of"),
        (b"abc", {"unit": "word"}, r'data.args.unit: got "word"; allowed: character, byte'),
        (b"abc", {"context": 1}, r"data.args.context: expected an integer of at least 2, got 1"),
        (b"abc", {"stride": 0}, r"data.args.stride: expected an integer of at least 1, got 0"),
        (b"abc", {"test_fraction": 1}, r"data.args.test_fraction: expected a number from 0 to"),
        (b"abc", {"contxt": 3}, r"data.args.contxt: dataset text takes unit and context"),
        (None, {}, r"no such file: .*t.txt; expected a text file"),
    ],
    ids=str,
)
def test_what_is_no_text_is_named(tmp_path, content, args, said):
    """Files and arguments that cannot be used, each with what to do."""
    if content is not None:
        (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(UsageError, match=said):
        load("text", root=tmp_path / "t.txt", args=args)


def test_samples_beyond_memory_are_refused(file, monkeypatch):
    """Long ones that begin at every token take the square of the text."""
    monkeypatch.setattr(text, "free_host_bytes", lambda: 1000)
    with pytest.raises(UsageError, match=r"\d+ samples of 5 tokens would take 0\.0 GiB"):
        load("text", root=file, args={"context": 5, "stride": 1, "test_fraction": 0.5})


def test_what_is_no_file_is_never_opened(tmp_path):
    """A FIFO would keep it waiting for ever."""
    os.mkfifo(tmp_path / "t.txt")
    with pytest.raises(UsageError, match="is a FIFO; expected a file"):
        load("text", root=tmp_path / "t.txt", args={"context": 5})
