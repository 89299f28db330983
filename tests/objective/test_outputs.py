"""What networks return, as losses see it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from lsengine.objective.outputs import logits_of, nested_output

LOGITS, LOSS, HIDDEN = torch.zeros(2, 3), torch.tensor(1.0), torch.ones(2, 4)


@dataclass
class Returned(OrderedDict):
    """As transformers' ``ModelOutput``: a dataclass whose entries are what is not None."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    past_key_values: object | None = None

    def __post_init__(self):
        self.update({k: v for k, v in vars(self).items() if v is not None})


@dataclass
class Plain:
    """A dataclass of one's own."""

    logits: Tensor
    features: Tensor | None = None


class Named(NamedTuple):
    """A named tuple."""

    logits: Tensor
    hidden: Tensor


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        {"logits": LOGITS, "hidden": HIDDEN},
        Returned(loss=LOSS, logits=LOGITS),
        Plain(LOGITS),
        Named(LOGITS, HIDDEN),
        SimpleNamespace(logits=LOGITS),
    ],
)
def test_logits_are_found_in_whatever_has_them(output):
    """In a tensor, a dict, a dataclass, a named tuple and any object with that attribute."""
    assert logits_of(output) is LOGITS


@pytest.mark.parametrize("output", [(LOGITS, HIDDEN), {"out": LOGITS}, None, {"logits": [1.0]}])
def test_outputs_without_logits_are_refused(output):
    """The message says what to return."""
    with pytest.raises(ValueError, match="let it return one tensor, or a dict with logits"):
        logits_of(output)


@pytest.mark.parametrize(
    ("output", "nested"),
    [
        (LOGITS, LOGITS),
        (
            Returned(logits=LOGITS, hidden_states=(HIDDEN,), past_key_values=object()),
            {"logits": LOGITS, "hidden_states": (HIDDEN,)},
        ),
        (Plain(LOGITS), {"logits": LOGITS}),
        (Named(LOGITS, HIDDEN), {"logits": LOGITS, "hidden": HIDDEN}),
        ([LOGITS, {"h": HIDDEN, "n": None}], (LOGITS, {"h": HIDDEN})),
        (SimpleNamespace(logits=LOGITS, loss=LOSS), {"logits": LOGITS, "loss": LOSS}),
    ],
)
def test_a_nesting_has_the_tensors_of_an_output(output, nested):
    """Named outputs become dicts; None and caches are left out."""
    assert _same(nested_output(output), nested)


@pytest.mark.parametrize("output", [None, 1.0, "text", {}, {"a": None}, (LOGITS, None)])
def test_outputs_without_tensors_are_refused(output):
    """Also a tuple with a place that holds none: what is where would change."""
    with pytest.raises(ValueError, match="expected a tensor, or dicts and tuples"):
        nested_output(output)


def _same(a, b):
    if isinstance(a, Tensor):
        return a is b
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
