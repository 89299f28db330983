"""What does not fit is refused with the names and the cure."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support.state_dicts import Settings, network, other, prefixed, refused, write

REFUSED = {
    "two that differ": (
        lambda s: {"student": s, "teacher": other(s)},
        r"several state dicts.* differ: student, teacher; choose .*model\.checkpoint_key: student",
    ),
    "a layer more": (
        lambda s: {"model": {**s, "extra.weight": torch.ones(2)}},
        r"unexpected: extra\.weight",
    ),
    "a head that is left out": (
        lambda s: {**prefixed(s, "backbone."), "head2.weight": torch.ones(2, 2)},
        r'others beside: head2\.weight; .* model\.strip_prefix: "backbone\."',
    ),
    "renamed": (
        lambda s: {n.replace("head", "heads"): t for n, t in s.items()},
        r"missing: head\.weight, head\.bias.*nearest in the file: head\.weight \(heads\.weight\)",
    ),
    "adapters": (
        lambda s: {
            **{n.replace("head.", "head.base."): t for n, t in s.items()},
            "head.lora_A.weight": torch.ones(2, 2),
        },
        "merge_and_unload",
    ),
    "parametrised": (
        lambda s: {n.replace("head.weight", "head.parametrizations.weight.original"): t
                   for n, t in s.items()},
        "remove_parametrizations",
    ),
    "partitioned": (
        lambda s: {"module": {n: torch.empty(0) for n in s}},
        "empty tensors are parts of other ranks.*zero_to_fp32",
    ),
    "complex": (
        lambda s: {n: t.to(torch.complex64) if n == "head.weight" else t for n, t in s.items()},
        r"head\.weight is complex, and real in the model",
    ),
    "infinite": (
        lambda s: {**s, "head.weight": s["head.weight"].double() * 1e300},
        r"head\.weight has numbers beyond float32",
    ),
    "integers": (
        lambda s: {n: t.mul(100).to(torch.int8) for n, t in s.items()},
        r"body\.0\.weight is int8, as in quantised networks",
    ),
    "quantised": (
        lambda s: {**s, "head.weight": torch.quantize_per_tensor(
            s["head.weight"], 0.1, 0, torch.qint8)},
        r"holds no plain numbers for head\.weight",
    ),
    "without numbers": (
        lambda s: {**s, "head.weight": s["head.weight"].to("meta")},
        r"holds no plain numbers for head\.weight",
    ),
    "layers of the same shape": (
        lambda _: nn.Sequential(*(nn.Linear(4, 2) for _ in range(3))).state_dict(),
        "does not fit the model: missing",
    ),
    "weight normalisation": (
        lambda s: {n.replace("head.weight", "head.weight_g"): t for n, t in s.items()},
        "remove_weight_norm",
    ),
    "a layer more, in dicts of dicts": (
        lambda s: {"params": {
            "body": {n[5:]: t for n, t in s.items() if n.startswith("body.")},
            "head": {n[5:]: t for n, t in s.items() if n.startswith("head.")},
            "neck": {"weight": torch.ones(4, 4)},
        }},
        r"unexpected: neck\.weight",
    ),
    "two ends": (
        lambda s: {**prefixed(s, "left."), **prefixed(other(s), "right.")},
        "differ: left, right; choose one",
    ),
    "a model of one's own": (lambda s: {"model": Settings()}, r"Python objects.*Settings"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_explained(tmp_path, state, case):
    """With the cure, and the model is not changed."""
    wrap, says = REFUSED[case]
    refused(write(tmp_path / "a.pt", wrap(state)), says)


def test_more_outputs_than_labels_show(tmp_path):
    """A label that never occurs must not shrink the network: the key is named."""
    path = write(tmp_path / "a.pt", {"state_dict": network(classes=10).state_dict()})
    refused(path, r"head\.weight \(10x4, in the model 7x4\).*data\.args\.classes: 10",
            network(classes=7))  # fmt: skip
    path = write(tmp_path / "b.pt", {"state_dict": network(width=8).state_dict()})
    refused(path, r"other shapes; check model\.args")
