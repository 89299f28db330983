"""What is measured on kept surfaces, against closed forms and SciPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.support.kept_surfaces import bowl, make_surface


def test_slopes_are_counted_as_the_closed_form_has_them(scripts: Any) -> None:
    """None of a bowl falls on the way out, and three quarters of a wave; NaN do not count."""
    falls = scripts("measures").falls
    axis = np.linspace(-1, 1, 81)
    x, y = np.meshgrid(axis, axis)
    r = np.hypot(x, y)

    def share(loss: Any) -> float:
        found, counts, distance = falls(axis, axis, loss)
        assert np.array_equal(distance, r)
        assert not counts[40, 40]
        return float(found[counts].mean())

    assert share(x**2 + 3 * y**2) == 0.0
    assert share(-r) == 1.0
    wave = np.where(r <= 1, -np.cos(2 * np.pi * r), np.nan)  # rises up to 0.5, falls from there
    assert share(wave) == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("seed", range(10))
def test_a_convex_surface_falls_hardly_anywhere(scripts: Any, seed: int) -> None:
    """Sums of convex functions along random lines: only creases between the cells are seen so."""
    rng = np.random.default_rng(seed)
    axis = np.linspace(-1, 1, 31)
    x, y = np.meshgrid(axis, axis)
    along = [np.cos(t) * x + np.sin(t) * y for t in rng.uniform(0, np.pi, 3)]
    loss = abs(along[0]) ** rng.uniform(1, 2) + np.exp(2 * abs(along[1])) + along[2] ** 4
    found, counts, _ = scripts("measures").falls(axis, axis, loss)
    assert found[counts].mean() < 0.02


def test_noise_is_not_left_behind(scripts: Any, tmp_path: Path) -> None:
    """The share with noise is another one, and what is measured afterwards is as before."""
    bowl(tmp_path / "flat.h5", steepness=0.05)
    one, other = (scripts("measures").Kept(tmp_path) for _ in range(2))
    before = one.figure("flat", "area"), one.away("flat")
    assert other.away("flat", noise=0.01) > before[1] == 0.0
    assert (other.figure("flat", "area"), other.away("flat")) == before


def test_correlations_are_those_of_scipy(scripts: Any) -> None:
    """With ties, too; the interval contains the value, and is that of any run."""
    ranked = scripts("measures").Ranked
    rng = np.random.default_rng(3)
    x, y = rng.integers(5, size=30), rng.integers(5, size=30)
    assert ranked(x, y).correlation() == pytest.approx(stats.spearmanr(x, y).statistic)
    assert np.isnan(ranked([1, 1], [1, 2]).correlation())
    low, high = ranked(x, y).interval()
    assert low < ranked(x, y).correlation() < high
    assert (low, high) == ranked(x, y).interval()
    rising = [*range(8)]
    assert ranked(rising, rising).interval() == (pytest.approx(1.0), pytest.approx(1.0))


def test_an_interval_is_that_of_scipys_bootstrap(scripts: Any) -> None:
    """Percentiles over pairs drawn with replacement."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=25)
    y = x + rng.normal(size=25)
    wanted = stats.bootstrap(
        (x, y),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        random_state=1,
    ).confidence_interval
    low, high = scripts("measures").Ranked(x, y).interval()
    assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=0.04)


def test_what_differs_between_families_does_not_count(scripts: Any) -> None:
    """Families that are apart correlate; within them, ranks are as they are in each alone."""
    ranked = scripts("measures").Ranked
    rng = np.random.default_rng(0)
    families = np.repeat([0, 1, 2], 30)
    x, y = rng.normal(size=90) - 9 * families, rng.normal(size=90) + 9 * families
    assert ranked(x, y).correlation() < -0.8
    assert abs(ranked(x, y, families.tolist()).correlation()) < 0.25
    low, high = ranked(x, y, families.tolist()).interval()
    assert low < 0 < high
    falling = np.r_[[3, 2, 1], [30, 20, 10]]
    assert ranked(falling, [1, 2, 3, 1, 2, 3], list("aaabbb")).correlation() == pytest.approx(-1)


def test_shares_of_negative_curvature_are_those_of_converged_cells(
    scripts: Any, tmp_path: Path
) -> None:
    """A cell without a negative eigenvalue counts as 0, an unconverged one not at all."""
    axis = [-1.0, 0.0, 1.0]
    low = np.array([[-9.0, -0.3, -9.0], [-0.1, 0.5, -0.2], [-9.0, 0.4, -9.0]])
    converged = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 0]], float)
    quantities = {"eigenvalue_min": low, "eigenvalue_max": np.full((3, 3), 2.0)}
    quantities |= {"converged": converged, "train_loss": np.hypot(*np.meshgrid(axis, axis))}
    make_surface(tmp_path / "c.h5", {"beta": axis, "alpha": axis}, quantities)
    share, falls = scripts("measures").Kept(tmp_path).negative("c")
    assert sorted(share) == pytest.approx([0.0, 0.05, 0.1, 0.15, 4.5, 4.5, 4.5])
    assert not falls.any()


def test_the_standard_error_is_the_median_over_cells(scripts: Any, tmp_path: Path) -> None:
    """Each cell's is a part of its own loss; a cell without a finite loss does not count."""
    quantities = {"train_loss": [1.0, 2.0, np.inf, 4.0], "train_loss_se": [0.1, 0.6, 0.9, 0.2]}
    make_surface(tmp_path / "c.h5", {"alpha": [-1, 0, 1, 2]}, quantities)
    assert scripts("measures").Kept(tmp_path).standard_error("c") == pytest.approx(0.1)


def test_lines_are_followed_from_their_ends(scripts: Any) -> None:
    """As far as the loss is at most 0.1 above the end's, linear between the steps."""
    reaches = scripts("measures").reaches
    alpha = [-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5]
    assert reaches(alpha, [9, 1, 1.05, 1.15, 2, 0, np.nan]) == pytest.approx((0.375, 0.0125))
    assert reaches(alpha, [9, 1, 0.5, 1.05, np.inf, 1, 0]) == (0.5, 0.0)
    assert reaches(alpha, [9, 1, 1, 1.05, np.nan, 1.05, 9]) == (0.5, 0.0)
    assert reaches(alpha, [9, 1, 1, 1.09, 1, 1, 9]) == (1.0, 1.0)


def test_studies_measure_lines_outwards(scripts: Any) -> None:
    """Half a line beyond each end; not as far where a loss is not finite."""
    rises = scripts("minima").rises
    alpha = [-0.5, -0.25, 0.0, 0.5, 1.0, 1.25, 1.5]
    assert rises(alpha, [0.75, 0.5, 0.25, 9.0, 0.5, 1.0, 3.0]) == (0.5, 0.5, 2.5)
    assert rises(alpha, [np.nan, 0.5, 0.25, 9.0, 0.5, 1.0, 3.0]) == (0.25, 0.25, 0.5)
    assert np.isnan(rises(alpha, [0.75, 0.5, 0.25, 9.0, 0.5, np.inf, np.nan])).all()
