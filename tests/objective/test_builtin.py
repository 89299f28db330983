"""The built-in losses against torch's over a whole split, whatever the batches."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lsengine.curvature.products import Products, Way
from lsengine.objective import builtin, naive, naive_losses
from lsengine.objective.losses import of_samples

NONE = -100
OPTIONS = {
    "cross_entropy": (
        {},
        {"label_smoothing": 0.2},
        {"weight": [0.5, 2.0, 1.0, 0.1, 3.0]},
        {"label_smoothing": 0.3, "weight": [0.5, 2.0, 1.0, 0.1, 3.0]},
    ),
    "nll": ({}, {"weight": [0.0, 2.0, 1.0, 0.1, 3.0]}),
}
CASES = [(name, options) for name, several in OPTIONS.items() for options in several]


def _drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _labels(*shape, classes=5, none=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, shape, generator=generator)
    return labels.where(torch.rand(shape, generator=generator) >= none, NONE)


def _mean(loss, output, target, sizes):
    """Return the mean over all samples from those of batches, by their weights."""
    total = weight = 0.0
    for o, t in zip(output.split(sizes), target.split(sizes), strict=True):
        of_batch = of_samples(loss, o, t)
        total += float(of_batch.mean()) * of_batch.total_weight()
        weight += of_batch.total_weight()
    return total / weight


def _torch(name, output, target, options):
    """Return torch's mean over a whole split, classes on the second axis."""
    function = {"cross_entropy": F.cross_entropy, "nll": F.nll_loss}[name]
    how = {
        k: torch.tensor(v, dtype=torch.float64) if k == "weight" else v for k, v in options.items()
    }
    return float(function(output, target, **how))


@pytest.mark.parametrize(("name", "options"), CASES)
@settings(max_examples=12, deadline=None)
@given(
    cut=st.integers(1, 6),
    positions=st.sampled_from([(), (3,), (2, 4)]),
    last=st.booleans(),
    none=st.sampled_from([0.0, 0.4]),
    seed=st.integers(0, 99),
)
def test_losses_of_classes_are_torchs_mean_over_the_split(
    name, options, cut, positions, last, none, seed
):
    """Batches of any sizes, classes on either axis, with options and labels that are none."""
    output = _drawn(7, 5, *positions, seed=seed)
    target = _labels(7, *positions, none=none, seed=seed)
    target[0] = 1
    expected = _torch(name, output, target, options)
    given = output.movedim(1, -1) if last else output
    loss = builtin.of_name(name, options, lacks_labels=none > 0)
    assert _mean(loss, given, target, [cut, 7 - cut]) == pytest.approx(expected, rel=1e-12)
    plain = naive_losses.of_name(name, options, lacks_labels=none > 0)
    batches = [(o, t) for o, t in zip(given.split(cut), target.split(cut), strict=True)]
    assert naive.values_of(batches, plain).loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("options", OPTIONS["cross_entropy"])
@pytest.mark.parametrize("axis", [None, "last"])
def test_probabilities_are_targets_of_cross_entropy(options, axis):
    """As torch takes them: there a class weight does not change what a sample counts."""
    output, target = _drawn(6, 5, 4), _drawn(6, 5, 4, seed=1).softmax(1)
    expected = _torch("cross_entropy", output, target, options)
    options = options if axis is None else {**options, "class_axis": axis}
    given = [t.movedim(1, -1) if axis else t for t in (output, target)]
    for made in (builtin, naive_losses):
        loss = made.of_name("cross_entropy", options, lacks_labels=False)
        assert _mean(loss, *given, [2, 4]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["cross_entropy", "nll"])
def test_each_token_counts_alike_by_a_plain_loop(name):
    """Sentences of unlike lengths: the mean is over tokens, by a loop in float64."""
    output, target = _drawn(4, 6, 5), _labels(4, 6)
    for row, length in enumerate((6, 1, 3, 0)):
        target[row, length:] = NONE
    losses = []
    for row, column in itertools.product(range(4), range(6)):
        if (label := int(target[row, column])) != NONE:
            logits = output[row, column].tolist()
            total = math.log(sum(map(math.exp, logits))) if name == "cross_entropy" else 0.0
            losses.append(total - logits[label])
    loss = builtin.of_name(name, {}, lacks_labels=True)
    values, weights = loss(output, target)
    assert weights.tolist() == [6, 1, 3, 0]
    assert float(values[3]) == 0
    found = [_mean(loss, output, target, sizes) for sizes in ([4], [1, 3], [2, 2], [1, 1, 1, 1])]
    assert found == pytest.approx([math.fsum(losses) / 10] * 4, rel=1e-13)


@pytest.mark.parametrize("classes", [2, 10, 65, 1000])
def test_uniform_logits_give_the_logarithm_of_the_vocabulary(classes):
    """Whatever the constant, the axis, the labels and the smoothing."""
    output, target = torch.full((3, 7, classes), -4.5).double(), _labels(3, 7, classes=classes)
    for options in ({}, {"label_smoothing": 0.1}):
        loss = builtin.of_name("cross_entropy", options, lacks_labels=False)
        assert loss(output, target).tolist() == pytest.approx([math.log(classes)] * 3, rel=1e-12)


def test_a_permuted_vocabulary_changes_nothing():
    """Classes are names: with the columns, the labels and the weights permuted alike."""
    output, target, order = _drawn(4, 6, 5), _labels(4, 6, none=0.3), torch.tensor([3, 0, 4, 1, 2])
    place, weight = order.argsort(), [0.5, 2.0, 1.0, 0.1, 3.0]
    renamed = torch.where(target == NONE, NONE, place[target.clamp(min=0)])
    options = {"label_smoothing": 0.1}
    before = builtin.of_name("cross_entropy", {**options, "weight": weight}, lacks_labels=True)
    permuted = {**options, "weight": [weight[k] for k in order]}
    after = builtin.of_name("cross_entropy", permuted, lacks_labels=True)
    for a, b in zip(before(output, target), after(output[..., order], renamed), strict=True):
        assert a.tolist() == pytest.approx(b.tolist(), rel=1e-13)


@pytest.mark.parametrize("pos_weight", [None, 2.5, [0.5, 1.0, 4.0]])
@pytest.mark.parametrize("kind", ["integers", "probabilities"])
def test_answers_are_torchs_binary_cross_entropy(pos_weight, kind):
    """Of several answers to each sample, certain or as probabilities."""
    output = 5 * _drawn(7, 3)
    target = _labels(7, 3, classes=2) if kind == "integers" else _drawn(7, 3).sigmoid()
    factor = None if pos_weight is None else torch.tensor(pos_weight, dtype=torch.float64)
    expected = F.binary_cross_entropy_with_logits(output, target.double(), pos_weight=factor)
    options = {} if pos_weight is None else {"pos_weight": pos_weight}
    for made in (builtin, naive_losses):
        loss = made.of_name("bce_with_logits", options, lacks_labels=False)
        assert _mean(loss, output, target, [3, 4]) == pytest.approx(float(expected), rel=1e-12)


def test_answers_that_are_none_do_not_count():
    """The mean is over the answers that there are, in all samples."""
    output, target = _drawn(7, 3), _labels(7, 3, classes=2, none=0.5)
    known = target != NONE
    expected = F.binary_cross_entropy_with_logits(output[known], target[known].double())
    for made in (builtin, naive_losses):
        loss = made.of_name("bce_with_logits", {}, lacks_labels=True)
        for sizes in ([7], [1, 6], [3, 4]):
            found = _mean(loss, output, target, sizes)
            assert found == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 3), (7, 2, 3)])
@pytest.mark.parametrize(
    ("name", "options", "function"),
    [
        ("mse", {}, F.mse_loss),
        ("l1", {}, F.l1_loss),
        ("huber", {}, F.huber_loss),
        ("huber", {"delta": 0.3}, lambda o, t: F.huber_loss(o, t, delta=0.3)),
    ],
)
def test_losses_of_numbers_are_torchs_mean(name, options, function, shape):
    """Targets may lack an axis of one that outputs have."""
    output, target = _drawn(*shape), 2 * _drawn(*shape, seed=1)
    expected = float(function(output, target))
    given = target[:, 0] if shape == (7, 1) else target
    for made in (builtin, naive_losses):
        loss = made.of_name(name, options, lacks_labels=False)
        assert _mean(loss, output, given, [2, 5]) == pytest.approx(expected, rel=1e-12)


def test_classes_are_one_hot_vectors_for_losses_of_numbers():
    """Integer targets (N,) of outputs (N, K)."""
    output, target = _drawn(6, 4), _labels(6, classes=4)
    wide = F.one_hot(target, 4).double()
    for name, function in (("mse", F.mse_loss), ("l1", F.l1_loss), ("huber", F.huber_loss)):
        loss = builtin.of_name(name, {}, lacks_labels=False)
        assert float(loss(output, target).mean()) == pytest.approx(float(function(output, wide)))


def test_distances_of_complex_numbers_are_moduli():
    """Huber's loss has none."""
    output, target = torch.complex(_drawn(4, 3), _drawn(4, 3, seed=1)), torch.zeros(4, 3) + 0j
    l1, huber = (builtin.of_name(name, {}, lacks_labels=False) for name in ("l1", "huber"))
    assert torch.allclose(l1(output, target), output.abs().mean(1))
    with pytest.raises(ValueError, match="huber needs real numbers"):
        huber(output, target)


@pytest.mark.parametrize(
    ("name", "options", "target"),
    [
        ("cross_entropy", {"weight": [0.5, 2.0, 1.0], "label_smoothing": 0.1}, "classes"),
        ("nll", {"weight": [0.5, 2.0, 1.0]}, "classes"),
        ("bce_with_logits", {"pos_weight": 3.0}, "answers"),
        ("huber", {"delta": 0.7}, "numbers"),
    ],
)
def test_hessian_products_are_torchs(name, options, target):
    """Of the mean over a split in two batches, with labels that are none, in every way."""
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = _drawn(8, 4)
    y = {
        "classes": _labels(8, classes=3, none=0.3),
        "answers": _labels(8, 3, classes=2, none=0.3),
        "numbers": _drawn(8, 3, seed=5),
    }[target]

    def mean():
        known = y != NONE
        how = {k: v for k, v in options.items() if k in ("label_smoothing", "delta")}
        factors = {k: torch.tensor(v, dtype=torch.float64) for k, v in options.items()}
        if target == "classes":
            function = F.cross_entropy if name == "cross_entropy" else F.nll_loss
            return function(network(x), y, weight=factors["weight"], **how)
        if target == "answers":
            function, how = (
                F.binary_cross_entropy_with_logits,
                {"pos_weight": factors["pos_weight"]},
            )
            return function(network(x)[known], y[known].double(), **how)
        return F.huber_loss(network(x), y, **how)

    parameters = [*network.parameters()]
    vector = _drawn(sum(p.numel() for p in parameters), seed=9)
    gradient = _flat(torch.autograd.grad(mean(), parameters, create_graph=True))
    expected = _flat(torch.autograd.grad(gradient @ vector, parameters))
    loss = builtin.of_name(name, options, lacks_labels=target != "numbers")
    products = Products(network, loss, dict(network.named_parameters()))
    batches = [(x[:3], y[:3]), (x[3:], y[3:])]
    for kind in ("forward", "reverse", "differences"):
        way = Way(kind=kind)
        found = products.product(batches, products.shares(batches, way), vector, way)
        near = {"rtol": 1e-5, "atol": 1e-7} if kind == "differences" else {"rtol": 1e-11}
        assert torch.allclose(found, expected, **near)


def _flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


@pytest.mark.parametrize(
    ("name", "options", "shape", "target", "match"),
    [
        ("cross_entropy", {"weight": [1.0, 2.0]}, (4, 3), _labels(4, classes=3), "2 values for 3"),
        ("nll", {}, (4, 3), _drawn(4, 3).softmax(1), "nll needs integer labels"),
        ("bce_with_logits", {}, (4, 2), _labels(4, classes=2), "not as many numbers per sample"),
        (
            "bce_with_logits",
            {"pos_weight": [1.0, 2.0]},
            (4, 3),
            _labels(4, 3, classes=2),
            "pos_weight has 2 values",
        ),
        ("l1", {}, (4, 3), _drawn(4, 2), "not as many numbers per sample"),
        ("mse", {}, (4, 1, 5, 6), _drawn(4, 6, 5), "rows and columns transposed"),
        ("huber", {}, (4, 2, 6), _drawn(4, 3, 4), "in other places"),
        ("bce_with_logits", {}, (4, 5, 6), _drawn(4, 6, 5).sigmoid(), "in other places"),
        ("cross_entropy", {}, (4, 5, 5), _labels(4, 5), "say which"),
    ],
)
def test_what_does_not_fit_is_refused(name, options, shape, target, match):
    """With what was found."""
    loss = builtin.of_name(name, options, lacks_labels=False)
    with pytest.raises(ValueError, match=match):
        loss(_drawn(*shape), target)


def test_logits_of_named_outputs_are_taken():
    """A dict with logits is as good as a tensor."""
    output, target = _drawn(4, 3), _labels(4, classes=3)
    for name in ("cross_entropy", "mse"):
        loss = builtin.of_name(name, {}, lacks_labels=False)
        named = loss({"logits": output, "hidden": _drawn(4, 9)}, target)
        assert torch.equal(named, loss(output, target))
