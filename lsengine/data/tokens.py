"""A text file as the tokens of a local tokenizer: one stream, or documents with padding.

Nothing is downloaded, and no code of a folder is run.

Shapes: N samples, T tokens of a sample.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lsengine.data import text
from lsengine.data.dataset import NO_LABEL, RawData
from lsengine.errors import UsageError
from lsengine.external.hugging_face import offline, transformers
from lsengine.external.optional import library
from lsengine.files import check_folder, is_folder, is_regular
from lsengine.job.checkpoint_paths import absolute
from lsengine.wording import did_you_mean, short

ARGUMENTS = ("tokenizer", "documents", "pad")
_DOCUMENTS = {"line": r"\n", "paragraph": r"\n\s*\n"}


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What turns text into numbers.

    Attributes:
        encode: From a text, and whether it is a whole document, to numbers.
        number: From a token to its number, None if there is none.
        pad: The number of its own token for padding, None if it has none.
    """

    encode: Callable[[str, bool], list[int]]
    number: Callable[[str], int | None]
    pad: int | None


def tokenized(
    file: Path, splits: Collection[str], args: Mapping[str, Any], job_folder: Path
) -> RawData:
    """Load a UTF-8 file by a tokenizer.

    As one stream: ``x``, int64 (N, T), and ``y``, each token's next one, as `lsengine.data.text`
    cuts it.  As ``documents``, one a line or one a paragraph: ``input_ids`` and ``attention_mask``
    (N, T), and ``y``, with padding on the right, which has mask 0 and `NO_LABEL`.  A longer one
    than the context becomes several samples; a token is the target of one of them.

    Args:
        file: Absolute.
        splits: Those that are asked for; others may be too short.
        args: Those of ``data.args``: ``tokenizer``, relative to the job's folder, ``documents``
            (line or paragraph), ``pad`` (a token or its number), ``context``, ``stride``,
            ``test_fraction``.
        job_folder: Where relative paths begin.

    Raises:
        UsageError: If an argument is wrong, the file or the tokenizer cannot be read, a split is
            too short, or nothing is there to pad with.
        EnvironmentUnfit: If a library is missing.
    """
    if "tokenizer" not in args:
        raise UsageError(
            f"data.args.{next(a for a in ARGUMENTS if a in args)}: needs data.args.tokenizer"
        )
    if "unit" in args:
        raise UsageError("data.args.unit: a tokenizer has units of its own; leave one of them out")
    cut, kind = text.cut_of(args), args.get("documents")
    tokenizer, content = load_tokenizer(args["tokenizer"], job_folder), text.read(file)
    if kind is None:
        if "pad" in args:
            raise UsageError("data.args.pad: only documents are padded; leave it out")
        stream = np.asarray(tokenizer.encode(content, False), np.int64)
        pairs = text.samples(stream, splits, cut, f"data.root: {file}", "token")
    else:
        pairs = _documents(content, tokenizer, args, cut, splits, f"data.root: {file}")
    largest = max(int(y.max()) for _, y in pairs.values())
    return RawData(splits=pairs, classes=largest + 1, no_label=NO_LABEL)


def _documents(
    content: str,
    tokenizer: Tokenizer,
    args: Mapping[str, Any],
    cut: text.Cut,
    splits: Collection[str],
    where: str,
) -> dict[str, tuple[Any, Tensor]]:
    kind = args["documents"]
    if kind not in _DOCUMENTS:
        near = did_you_mean(kind, _DOCUMENTS) if isinstance(kind, str) else ""
        allowed = f"allowed: {', '.join(_DOCUMENTS)}"
        raise UsageError(f"data.args.documents: got {short(kind)}; {allowed}{near}")
    if "stride" in args:
        raise UsageError("data.args.stride: documents are cut end to end; leave it out")
    pad = _pad(args.get("pad", tokenizer.pad), tokenizer)
    found = [part for part in re.split(_DOCUMENTS[kind], content) if part.strip()]
    border = len(found) - int(cut.test_fraction * len(found))
    pieces = {
        name: [p for part in parts for p in _pieces(tokenizer.encode(part, True), cut.context)]
        for name, parts in (("train", found[:border]), ("test", found[border:]))
    }
    for name in splits:
        if not pieces[name]:
            raise UsageError(
                f"{where}: the {name} split has no {kind} of two tokens or more; give a longer "
                "text, or another data.args.test_fraction, or ask for the other split only"
            )
    longest = max(len(piece) for several in pieces.values() for piece in several) - 1
    text.check_room(map(len, pieces.values()), longest, where)
    return {name: _padded(several, longest, pad) for name, several in pieces.items() if several}


def _pieces(ids: Sequence[int], context: int) -> list[Sequence[int]]:
    """Return what samples are made of: each with one token more than it has inputs."""
    starts = range(0, max(len(ids) - 1, 0), context)
    return [ids[start : start + context + 1] for start in starts]


def _padded(pieces: Sequence[Sequence[int]], longest: int, pad: int) -> tuple[Any, Tensor]:
    ids = torch.full((len(pieces), longest), pad)
    labels, mask = torch.full_like(ids, NO_LABEL), torch.zeros_like(ids)
    for row, piece in enumerate(pieces):
        ids[row, : len(piece) - 1] = torch.tensor(piece[:-1])
        labels[row, : len(piece) - 1] = torch.tensor(piece[1:])
        mask[row, : len(piece) - 1] = 1
    return {"input_ids": ids, "attention_mask": mask}, labels


def _pad(asked: Any, tokenizer: Tokenizer) -> int:
    number = tokenizer.number(asked) if isinstance(asked, str) else asked
    if asked is None:
        raise UsageError(
            "data.args.pad: the tokenizer has no token for padding; name one of its tokens, such "
            'as "<pad>" or its end of text: what is padded has mask 0 and no label'
        )
    if number is None or isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise UsageError(
            f"data.args.pad: got {short(asked)}; expected a token of the tokenizer, or its number"
        )
    return number


def load_tokenizer(written: Any, job_folder: Path) -> Tokenizer:
    """Return the tokenizer of a file ``tokenizer.json`` or of a folder, relative to the job's.

    Raises:
        UsageError: If there is none.
        EnvironmentUnfit: If tokenizers, or of a folder transformers, is not installed.
    """
    where = "data.args.tokenizer"
    if not isinstance(written, str):
        raise UsageError(
            f"{where}: expected a file tokenizer.json or a folder with one, got {short(written)}"
        )
    path = absolute(job_folder / "job", written)
    if is_folder(path):
        return _of_folder(path, f"{where}: {path}")
    if not is_regular(path, where):
        raise UsageError(
            f"{where}: no such file or folder: {path}; expected a tokenizer.json, or a folder that "
            "save_pretrained of a tokenizer has written (nothing is downloaded)"
        )
    return _of_file(path, f"{where}: {path}")


@contextmanager
def _refused(problem: str) -> Iterator[None]:
    """Turn whatever a tokenizer stumbles over into an error of the user's."""
    try:
        yield
    except BaseException as error:  # the library raises its base class, or panics
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{problem}: {reason}") from None


def _of_file(path: Path, where: str) -> Tokenizer:
    read = library("tokenizers", "transformers", where).Tokenizer.from_file
    with _refused(f"{where} is not a tokenizer.json"):
        found = read(str(path))
    padding = found.padding
    found.no_truncation()
    found.no_padding()

    def encode(text: str, is_whole: bool) -> list[int]:
        with _refused(f"{where} fails at the text"):
            return list(found.encode(text, add_special_tokens=is_whole).ids)

    return Tokenizer(encode, found.token_to_id, padding["pad_id"] if padding else None)


def _of_folder(path: Path, where: str) -> Tokenizer:
    check_folder(path, where)
    whole = transformers(where)
    with offline():
        try:
            found = whole.AutoTokenizer.from_pretrained(
                str(path), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"{where} holds no tokenizer that transformers {whole.__version__} reads "
                f"({reason}); name a tokenizer.json, or a folder that save_pretrained of a "
                "tokenizer has written"
            ) from error

    def encode(text: str, is_whole: bool) -> list[int]:
        with _refused(f"{where} fails at the text"):
            return list(found(text, add_special_tokens=is_whole, verbose=False)["input_ids"])

    def number(token: str) -> int | None:
        known: int | None = found.get_vocab().get(token)
        return known

    return Tokenizer(encode, number, found.pad_token_id)
