"""Warnings about what a job has loaded."""

from __future__ import annotations

import torch

from lsengine.engine import Options, evaluate


def test_an_undefined_checkpoint_is_warned_of(make_job, tmp_path, capsys):
    """A parameter that is NaN is named; the surface is what it is, and no check has passed."""
    job = make_job(directions={"alpha": {"kind": "random"}}, grid={"alpha": [0, 1, 2]})
    content = torch.load(tmp_path / "centre.pt")
    content["state_dict"]["0.weight"][0, 0] = float("nan")
    torch.save(content, tmp_path / "centre.pt")
    assert evaluate([job], Options(progress="none"), world=None) == 0
    text = capsys.readouterr().err
    assert "model.checkpoint: 0.weight holds NaN" in text
    assert "check passed" not in text


def test_a_pattern_that_ignores_nothing_is_warned_of(make_job, capsys):
    """A typing mistake in `ignore` would change the picture without a word."""
    directions = {"alpha": {"kind": "random", "ignore": ["layer9.*", "bias"]}}
    job = make_job(directions=directions, grid={"alpha": [0, 1, 2]})
    assert evaluate([job], Options(progress="none"), world=None) == 0
    assert "directions.alpha.ignore: layer9.* fits no parameter" in capsys.readouterr().err
