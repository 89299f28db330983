"""The loss that a network returns itself."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lsengine.errors import UsageError
from lsengine.objective import naive, naive_losses
from lsengine.objective.losses import hits_of, of_samples
from lsengine.objective.reported import ReportedLoss, kind_of

NONE = -100


def _logits(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _labels(*shape, classes=5, none=0.3):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, classes, shape, generator=generator)
    return labels.where(torch.rand(shape, generator=generator) >= none, NONE)


def _next(logits, labels):
    """As a causal language model has it."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


CASES = {
    "next": ((6, 7, 5), _labels(6, 7), _next),
    "last": (
        (6, 7, 5),
        _labels(6, 7),
        lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten()),
    ),
    "second": ((6, 5, 7, 2), _labels(6, 7, 2), F.cross_entropy),
    "answers": ((6, 3), _logits(6, 3).sigmoid(), F.binary_cross_entropy_with_logits),
    "numbers": ((6, 1), _logits(6, seed=2), lambda o, t: F.mse_loss(o[:, 0], t)),
}


def _output(logits, labels, loss):
    """Return what a network returns, its loss rounded as in float32."""
    return {"loss": loss(logits, labels).float().double(), "logits": logits}


def _batches(shape, labels, loss):
    return [(_output(_logits(*shape, seed=seed), labels, loss), labels) for seed in (3, 4)]


@pytest.mark.parametrize("kind", CASES)
def test_the_kind_of_a_mean_is_found_and_is_right_over_batches(kind):
    """From batches of unlike labels the mean over the split is what the network has for all."""
    shape, labels, loss = CASES[kind]
    assert kind_of(_batches(shape, labels, loss)) == kind
    logits = _logits(*shape, seed=5)
    expected = float(loss(logits, labels))
    has_none = bool((labels == NONE).any())
    plain = naive_losses.of_name("output", {}, lacks_labels=has_none, kind=kind)
    for sizes in ([6], [1, 5], [2, 2, 2]):
        parts = list(zip(logits.split(sizes), labels.split(sizes), strict=True))
        named = [(_output(o, t, loss), t) for o, t in parts]
        found = [of_samples(ReportedLoss(kind, lacks_labels=has_none), *b) for b in named]
        total = sum(float(f.mean()) * f.total_weight() for f in found)
        assert total / sum(f.total_weight() for f in found) == pytest.approx(expected, rel=1e-12)
        assert naive.values_of(named, plain).loss == pytest.approx(expected, rel=1e-12)
        assert not any(f.is_mean for f in found)


def test_a_causal_answer_is_for_the_next_label():
    """The first label is nobody's answer."""
    logits, labels = _logits(6, 7, 5), _labels(6, 7)
    output = _output(logits, labels, _next)
    found = hits_of(ReportedLoss("next", lacks_labels=True), output, labels)
    for row in range(6):
        pairs = [(int(logits[row, t].argmax()), int(labels[row, t + 1])) for t in range(6)]
        right = [answer == label for answer, label in pairs if label != NONE]
        assert float(found[row]) == pytest.approx(sum(right) / max(1, len(right)))
    plain = naive_losses.of_name("output", {}, lacks_labels=True, kind="next")
    assert torch.equal(plain.hits(output, labels), found)


def test_another_loss_is_taken_as_the_number_of_its_batch():
    """A smoothed one, for instance; and which label an output is for is then not known."""
    shape, labels, _ = CASES["last"]

    def smoothed(logits, labels):
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1)

    batches = _batches(shape, labels, smoothed)
    assert kind_of(batches) is None
    losses = of_samples(ReportedLoss(None), *batches[0])
    assert losses.is_mean
    assert float(losses.mean()) == pytest.approx(float(batches[0][0]["loss"]))
    with pytest.raises(ValueError, match="does not say which label"):
        hits_of(ReportedLoss(None), *batches[0])


def test_one_number_for_each_sample_is_taken_as_it_is():
    """A network of one's own may return these as its loss."""
    output = {"loss": torch.tensor([1.0, 3.0]).double(), "logits": _logits(2, 3)}
    assert kind_of([(output, _labels(2, classes=3, none=0))]) is None
    losses = of_samples(ReportedLoss(None), output, torch.zeros(2, dtype=torch.int64))
    assert losses.values.tolist() == [1, 3]


def test_a_network_without_a_loss_is_refused():
    """With how its labels get to it."""
    for output in ({"logits": _logits(2, 3)}, _logits(2, 3)):
        with pytest.raises(UsageError, match="returns no loss; it needs its labels among"):
            kind_of([(output, torch.zeros(2, dtype=torch.int64))])
