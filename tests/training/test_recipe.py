"""The arithmetic of recipes."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from lsengine.job.schema import TrainSpec
from lsengine.training import recipe
from tests.support.networks import build


def test_the_learning_rate_drops_where_the_paper_drops_it():
    """Tenfold after epochs 150, 225 and 275 of 300."""
    settings = TrainSpec(output="x", epochs=300, lr=0.1)
    rates = [recipe.learning_rate(settings, epoch) for epoch in range(1, 301)]
    drops = [e for e in range(1, 300) if rates[e] < rates[e - 1]]
    assert drops == [150, 225, 275]
    assert rates[0] == 0.1
    assert rates[-1] == pytest.approx(1e-4)


def test_milestones_may_be_given_or_left_out_altogether():
    """Any order; an empty list keeps the rate."""
    given = TrainSpec(output="x", epochs=9, lr=1.0, milestones=[6, 2], gamma=0.5)
    assert [recipe.learning_rate(given, e) for e in (2, 3, 6, 7)] == [1.0, 0.5, 0.5, 0.25]
    assert recipe.milestones(TrainSpec(output="x", epochs=1)) == [1, 1, 1]  # nothing drops early
    constant = TrainSpec(output="x", epochs=9, lr=1.0, milestones=[])
    assert recipe.learning_rate(constant, 9) == 1.0


@pytest.mark.parametrize("warmup", [0, 0.5, 2])
def test_the_cosine_is_torchs_after_a_straight_warmup(warmup):
    """Step by step, at 4 steps an epoch."""
    epochs, steps = 5, 4
    settings = TrainSpec(output="x", epochs=epochs, lr=0.3, schedule="cosine", warmup=warmup)
    rates = [
        recipe.learning_rate(settings, epoch, step, steps)
        for epoch in range(1, epochs + 1)
        for step in range(steps)
    ]
    warm = int(warmup * steps)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps - warm)
    expected = [0.3 * (step + 1) / warm for step in range(warm)]
    for _ in range(epochs * steps - warm):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(expected, rel=1e-12)


def test_a_warmup_goes_with_milestones_too():
    """The rate of the epoch, and a part of it at first."""
    settings = TrainSpec(output="x", epochs=4, lr=1.0, milestones=[2], gamma=0.5, warmup=1.5)
    rates = [recipe.learning_rate(settings, e, s, 2) for e in (1, 2, 3) for s in (0, 1)]
    assert rates == pytest.approx([1 / 3, 2 / 3, 1, 1, 0.5, 0.5])


def test_only_weights_decay_with_adamw():
    """No bias, no gain, no embedding; a tied embedding is in one group once."""
    model = build("gpt", channels=4, classes=5, size=None, depth=1, width=8, positions="learned")
    model.blocks[0].norm2.weight.requires_grad_(False)
    settings = TrainSpec(output="x", epochs=1, optimizer="adamw", weight_decay=0.3)
    groups = recipe.optimizer_of(settings, model).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    decaying = {names[id(p)] for g in groups if g["weight_decay"] == 0.3 for p in g["params"]}
    others = {names[id(p)] for g in groups if g["weight_decay"] == 0.0 for p in g["params"]}
    layers = [f"attention.{n}" for n in ("query", "key", "value", "output")] + [
        "mlp.up",
        "mlp.down",
    ]
    assert decaying == {f"blocks.0.{layer}.weight" for layer in layers}
    assert others == {*names.values()} - decaying - {"blocks.0.norm2.weight"}
    assert sum(len(g["params"]) for g in groups) == len(names) - 1


def test_checkpoints_are_kept_at_the_epochs_asked_for():
    """The first, every so many, those named and the last."""
    settings = TrainSpec(output="x", epochs=25, save_every=10, save_epochs=[1, 3])
    assert recipe.saved_epochs(settings) == {0, 1, 3, 10, 20, 25}


@pytest.mark.parametrize(
    ("samples", "size", "sizes"),
    [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (3, 8, [3]), (8, 4, [4, 4]), (3, 1, [1, 2])],
)
def test_an_epoch_sees_every_sample_once(samples, size, sizes):
    """The rest is a batch of its own; a single sample joins the batch before it."""
    found = recipe.batches(samples, size, recipe.generator_of(0, "x"))
    assert [len(b) for b in found] == sizes
    assert sorted(torch.cat(found).tolist()) == list(range(samples))


@pytest.mark.parametrize("crop", [0, 1, 4])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_augmentation_is_a_window_of_the_padded_image(crop, flip, dtype):
    """Each result is one of the windows that brute force finds, mirrored or not."""
    x = (torch.rand(60, 2, 4, 5, generator=recipe.generator_of(1, "x")) * 250 + 1).to(dtype)
    found = recipe.augmented(x, crop=crop, flip=flip, generator=recipe.generator_of(0, "x"))
    assert found.dtype == dtype
    seen = set()
    for image, result in zip(x, found, strict=True):
        padded = torch.zeros(2, 4 + 2 * crop, 5 + 2 * crop, dtype=dtype)
        padded[:, crop : crop + 4, crop : crop + 5] = image
        windows = {
            (row, column, mirrored): padded[:, row : row + 4, column : column + 5]
            for row in range(2 * crop + 1)
            for column in range(2 * crop + 1)
            for mirrored in (False, True)
        }
        fits = [k for k, w in windows.items() if torch.equal(w.flip(2) if k[2] else w, result)]
        assert fits
        seen.add(fits[0])
    assert len({k[2] for k in seen}) == (2 if flip else 1)
    assert len({k[:2] for k in seen}) >= min(9, (2 * crop + 1) ** 2)


def test_label_noise_replaces_an_exact_fraction():
    """A quarter of the labels is wrong, always the same ones, and no class is spared."""
    y = torch.arange(1000) % 10
    noisy = recipe.with_label_noise(y, 10, 0.25, seed=3)
    assert int((noisy != y).sum()) == 250
    assert set(noisy.unique().tolist()) == set(range(10))
    assert torch.equal(noisy, recipe.with_label_noise(y, 10, 0.25, seed=3))
    assert not torch.equal(noisy, recipe.with_label_noise(y, 10, 0.25, seed=4))
    assert torch.equal(y, recipe.with_label_noise(y, 10, 0.0, seed=3))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_a_state_is_taken_up_in_any_layout_of_memory(kind, fused):
    """The next step is the same, whichever way the filters of the machine before were laid out."""
    settings = TrainSpec(output="x", epochs=1, optimizer=kind)
    after = []
    for layouts in product((torch.contiguous_format, torch.channels_last), repeat=2):
        torch.manual_seed(0)
        network, state, x_NCHW = torch.nn.Conv2d(4, 8, 3), None, torch.randn(2, 4, 5, 5)
        for layout in layouts:
            with torch.no_grad():
                network.weight.data = network.weight.data.contiguous(memory_format=layout)
            optimizer = recipe.optimizer_of(settings, network, fused=fused)
            if state is not None:
                recipe.take_up(optimizer, state)
            network.zero_grad()
            network(x_NCHW).square().sum().backward()
            optimizer.step()
            state = optimizer.state_dict()
        after.append(network.weight.detach().clone(memory_format=torch.contiguous_format))
    for weight in after[1:]:
        torch.testing.assert_close(weight, after[0], rtol=1e-5, atol=1e-6)


def test_a_parameter_with_gaps_in_memory_is_not_stepped_over():
    """A network's own parameter may be every other number of something, which stays as it is."""
    whole = torch.arange(32.0).view(4, 8)
    network = torch.nn.Module()
    network.every_other = torch.nn.Parameter(whole[:, ::2])
    settings = TrainSpec(output="x", epochs=1, lr=0.5, weight_decay=0.0, momentum=0.0)
    optimizer = recipe.optimizer_of(settings, network, fused=True)
    network.every_other.sum().backward()
    optimizer.step()
    expected = torch.arange(32.0).view(4, 8)
    expected[:, ::2] -= 0.5
    assert torch.equal(whole, expected)
