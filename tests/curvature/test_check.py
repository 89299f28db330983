"""Verdicts on values by difference quotients."""

from __future__ import annotations

import math

import pytest
import torch

from lsengine.curvature.check import Quotients, verdict

STEPS = (1e-2, 1e-3, 1e-4)


def _quotients(function):
    """Yield the quotients of a function of one number at zero."""
    for step in STEPS:
        above, here, below = (function(torch.tensor(s).double()) for s in (step, 0.0, -step))
        yield Quotients((above - here) / step, (here - below) / step)


def _distance(a, b):
    return float((a - b).abs() / (b.abs() + 1e-12))


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        (torch.sin, 1.0, True),
        (torch.sin, 1.01, False),
        (torch.sin, math.nan, False),
        (lambda x: torch.sin(x) + x.abs(), 1.5, None),  # a kink at zero itself
        (lambda x: torch.sin(x) + x.abs(), 2.0, True),  # the slope of one side
        (lambda x: torch.round(1e3 * torch.sin(x)) / 1e3, 0.5, False),
        (lambda x: x.sign() * x.abs().sqrt(), 1.0, None),
        (lambda x: x * math.nan, 1.0, None),
    ],
)
def test_only_what_is_steady_and_smooth_speaks_against_a_value(function, value, expected):
    """A slope agrees, another value does not; kinks and infinite slopes say nothing."""
    found = verdict(torch.tensor(value).double(), _quotients(function), _distance)
    assert found is expected
