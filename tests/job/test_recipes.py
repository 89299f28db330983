"""What a recipe may say, and its defaults."""

from __future__ import annotations

import pytest
import torch

from lsengine.job.schema import TrainSpec


def test_adam_has_its_own_default_rate():
    """0.001 instead of 0.1, unless the job says otherwise."""
    assert TrainSpec(output="x", epochs=1, optimizer="adam").lr == 0.001
    assert TrainSpec(output="x", epochs=1, optimizer="adam", lr=0.1).lr == 0.1
    assert TrainSpec(output="x", epochs=1).lr == 0.1


def test_adamw_has_torchs_own_defaults():
    """Of rate and decay; the job may say otherwise."""
    settings, torchs = TrainSpec(output="x", epochs=1, optimizer="adamw"), torch.optim.AdamW
    defaults = torchs([torch.zeros(1)]).defaults
    assert (settings.lr, settings.weight_decay) == (defaults["lr"], defaults["weight_decay"])
    assert TrainSpec(output="x", epochs=1, optimizer="adamw", weight_decay=0.3).weight_decay == 0.3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"schedule": "cosine", "milestones": [2]}, "cosine has no milestones; leave one"),
        ({"warmup": 4}, "warmup: got 4, but there are 4 epochs"),
        ({"clip_norm": 0}, "greater than 0"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(settings, said):
    """Each with what was found."""
    with pytest.raises(ValueError, match=said):
        TrainSpec(output="x", epochs=4, **settings)
