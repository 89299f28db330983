"""Whether tokens and labels of the data are those that a network of transformers takes."""

from __future__ import annotations

from torch import Tensor, nn

from lsengine import data, models
from lsengine.data.dataset import NO_LABEL
from lsengine.data.nesting import leaves
from lsengine.errors import UsageError

_TOKENS = ("input_ids", "decoder_input_ids", "")  # the last is of one array alone


def refuse_unknown_tokens(model: nn.Module, dataset: data.Dataset) -> None:
    """Refuse tokens that have no row in the network's input embedding, wherever in the data.

    Raises:
        UsageError: With the token, the size of the vocabulary and what to do.
    """
    size = models.vocabulary(model)
    if size is None:
        return
    for name, split in dataset.splits.items():
        for place, ids in leaves(split.x):
            if place not in _TOKENS or not _are_integers(ids):
                continue
            smallest, largest = int(ids.min()), int(ids.max())
            if smallest < 0 or largest >= size:
                what = f"{place} has" if place else "the inputs have"
                raise UsageError(
                    f"data: {what} the token {largest if largest >= size else smallest} in {name}, "
                    f"but the network has a vocabulary of {size}, from 0; take the tokenizer that "
                    "the network was trained with, or resize_token_embeddings of the network"
                )


def refuse_unshifted_labels(model: nn.Module, dataset: data.Dataset) -> None:
    """Refuse labels that are the tokens themselves, for a loss of outputs and labels.

    In such data, the usual ones of transformers, the network's own loss shifts the labels by one.

    Raises:
        UsageError: If all labels of all splits are.
    """
    if models.vocabulary(model) is None:
        return
    for split in dataset.splits.values():
        inputs, labels = dict(leaves(split.x)), split.y
        ids = next((inputs[place] for place in _TOKENS if place in inputs), None)
        if ids is None or not isinstance(labels, Tensor) or ids.shape != labels.shape:
            return
        counted = labels != NO_LABEL
        if not bool(counted.any()) or not ids[counted].equal(labels[counted]):
            return
    raise UsageError(
        "data: the labels are the tokens themselves, and not the next ones; transformers shifts "
        "them in the network's own loss: say loss: output, or store labels that are shifted by one"
    )


def _are_integers(ids: Tensor) -> bool:
    return not (ids.is_floating_point() or ids.is_complex()) and bool(ids.numel())
