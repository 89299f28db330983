"""Text by a tokenizer: one stream of tokens, or documents with padding."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from lsengine import data
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.job.schema import DataSpec

tokenizers = pytest.importorskip("tokenizers")
WORDS = ["<pad>", "<s>", "?", "a", "b", "c", "d", "e"]
NUMBERS = {word: number for number, word in enumerate(WORDS)}
TEXT = "a b c d\ne a\n\nb b c\nd e a b c d e a b c\nq a\na\nb a\n"


@pytest.fixture
def folder(tmp_path):
    """A text and a tokenizer of words, which begins each document with ``<s>``."""
    model = tokenizers.models.WordLevel(NUMBERS, unk_token="?")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    made.enable_truncation(3)  # as some files say, which would cut the text
    made.save(str(tmp_path / "plain.json"))
    made.enable_padding(pad_id=0, pad_token="<pad>", length=9)
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


def _load(folder, splits=("train", "test"), **args):
    args = {"tokenizer": "tokenizer.json", "context": 4, "test_fraction": 0.25} | args
    spec = DataSpec(dataset="text", root="text.txt", args=args, splits=[*splits])
    return data.load(spec, root=folder / "text.txt", job_folder=folder, seed=0)


def test_a_stream_is_cut_into_contexts(folder):
    """Every token's target is the next one; words that are not known have a number, too."""
    numbers = [NUMBERS.get(word, 2) for word in TEXT.split()]
    dataset = _load(folder)
    border = len(numbers) - len(numbers) // 4
    for split, part in (("train", numbers[:border]), ("test", numbers[border:])):
        starts = range(0, len(part) - 4, 4)
        assert dataset.splits[split].x.tolist() == [part[i : i + 4] for i in starts]
        assert dataset.splits[split].y.tolist() == [part[i + 1 : i + 5] for i in starts]
    assert dataset.target_kind == "positions"
    assert dataset.classes == len(WORDS)
    assert len(_load(folder, stride=1).splits["train"].x) == border - 4


@pytest.mark.parametrize("documents", ["line", "paragraph"])
def test_documents_are_padded_with_mask_and_without_labels(folder, documents):
    """Each token of a document is the target of one sample, as counted by hand."""
    dataset = _load(folder, documents=documents, test_fraction=0.5)
    separator = {"line": "\n", "paragraph": "\n\n"}[documents]
    whole = [d.split() for d in TEXT.split(separator) if d.strip()]
    border = len(whole) - len(whole) // 2
    for split, parts in (("train", whole[:border]), ("test", whole[border:])):
        x, y = dataset.splits[split].x, dataset.splits[split].y
        rows = []
        for words in parts:
            ids = [1, *(NUMBERS.get(word, 2) for word in words)]
            rows += [ids[i : i + 5] for i in range(0, len(ids) - 1, 4)]
        assert [*x] == ["input_ids", "attention_mask"]
        assert x["input_ids"].shape == y.shape == (len(rows), 4)
        for row, ids, mask, labels in zip(
            rows, x["input_ids"].tolist(), x["attention_mask"].tolist(), y.tolist(), strict=True
        ):
            count = len(row) - 1
            assert ids == row[:-1] + [0] * (4 - count)
            assert mask == [1] * count + [0] * (4 - count)
            assert labels == row[1:] + [-100] * (4 - count)
    assert dataset.lacks_labels


def test_padding_is_by_the_token_that_is_named(folder):
    """By its text or its number, where the tokenizer has none of its own."""
    for pad in ("<s>", 1):
        dataset = _load(folder, documents="line", tokenizer="plain.json", pad=pad)
        x = dataset.splits["train"].x
        assert bool((x["input_ids"][x["attention_mask"] == 0] == 1).all())


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"tokenizer": "no.json"}, ["data.args.tokenizer", "no.json", "nothing is downloaded"]),
        ({"tokenizer": "gpt2"}, ["data.args.tokenizer", "nothing is downloaded"]),
        ({"tokenizer": 3}, ["data.args.tokenizer", "got 3"]),
        ({"tokenizer": "text.txt"}, ["data.args.tokenizer", "is not a tokenizer.json"]),
        ({"unit": "byte"}, ["data.args.unit", "leave one of them out"]),
        ({"documents": "lines"}, ["data.args.documents", "line, paragraph"]),
        ({"documents": "line", "stride": 2}, ["data.args.stride"]),
        ({"pad": "<pad>"}, ["data.args.pad", "only documents"]),
        ({"documents": "line", "pad": "<eos>"}, ["data.args.pad", "<eos>"]),
        ({"documents": "line", "tokenizer": "plain.json"}, ["data.args.pad", "no token for"]),
        ({"documents": "line", "test_fraction": 0.0}, ["data.root", "the test split has no line"]),
        ({"context": 40}, ["data.root", "tokens", "data.args.context"]),
        ({"tokenizer": None}, ["data.args.tokenizer"]),
    ],
)
def test_what_a_tokenizer_cannot_do_is_refused(folder, args, says):
    """With the argument, what was found and what is allowed."""
    with pytest.raises(UsageError) as caught:
        _load(folder, **args)
    assert all(part in str(caught.value) for part in says), str(caught.value)


def test_a_tokenizer_that_fails_at_the_text_is_named(folder, capfd):
    """A pattern of its own may take for ever, which its library counts."""
    content = json.loads((folder / "plain.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}
    content["pre_tokenizer"] = split | {"invert": False}
    (folder / "slow.json").write_text(json.dumps(content))
    (folder / "text.txt").write_text("a" * 40 + "b")
    with pytest.raises(UsageError, match=r"slow\.json fails at the text: .*retry-limit"):
        _load(folder, tokenizer="slow.json")


def test_documents_need_a_tokenizer(folder):
    """Characters and bytes have no token for padding."""
    spec = DataSpec(dataset="text", root="text.txt", args={"documents": "line"})
    with pytest.raises(UsageError, match=r"data\.args\.documents.*tokenizer"):
        data.load(spec, root=folder / "text.txt", job_folder=folder, seed=0)


def test_a_missing_library_is_named_with_its_extra(folder, monkeypatch):
    """The message says how to install it."""
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(EnvironmentUnfit, match=r"tokenizers.*pip install .*\[transformers\]"):
        _load(folder)


def test_another_tokenizer_makes_other_data(folder):
    """The digest is of the numbers; where the tokenizer is does not matter."""
    first = _load(folder).sha256
    (folder / "moved.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert _load(folder, tokenizer="moved.json").sha256 == first
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"] |= {"a": 4, "b": 3}
    (folder / "moved.json").write_text(json.dumps(content))
    assert _load(folder, tokenizer="moved.json").sha256 != first
    assert torch.equal(_load(folder).splits["train"].x, _load(folder).splits["train"].x)
