"""The scale of a figure."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine.errors import UsageError
from lsengine.render.page.scales import Scale, choose, linear_text, power_text
from lsengine.surface.quantities import describe

LOSS, ACCURACY = describe("train_loss"), describe("test_accuracy")


def fitted(values, scale="auto", levels=None, limits=None, quantity=LOSS) -> Scale:
    """Choose with defaults."""
    return choose(np.asarray(values, dtype=float), quantity, scale, levels, limits)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.0, 2.0, 30.0], "linear"),
        ([1.0, 2.0, 40.0], "log"),
        (np.linspace(-3, 5, 50), "linear"),
        ([*np.linspace(-1, 1, 50), 1e5], "symlog"),
        ([0.0, *np.geomspace(0.01, 10, 50)], "log"),
    ],
)
def test_auto_takes_the_logarithm_beyond_one_and_a_half_decades(values, kind):
    """Log where positive values span more than 1.5 decades; negative ones are legitimate."""
    assert fitted(values).kind == kind


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("wanted", [None, 4, 30])
def test_levels_increase_are_round_and_enclose_what_is_not_clipped(seed, wanted):
    """Levels are strictly increasing, with few digits, and no value is outside unannounced."""
    random = np.random.default_rng(seed)
    values = random.normal(size=300) * 10.0 ** random.integers(-6, 6)
    values = np.exp(random.uniform(0.1, 3) * random.normal(size=300)) if seed % 2 else values
    scale = fitted(values, levels=wanted)
    assert (np.diff(scale.levels) > 0).all()
    assert all(float(f"{v:.3g}") == pytest.approx(v, rel=1e-9) for v in scale.levels)
    assert (values.min() < scale.low) == (scale.extend in ("min", "both"))
    assert (values.max() > scale.high) == (scale.extend in ("max", "both"))
    texts = [scale.text(float(v)) for v in scale.levels]
    assert len(set(texts)) == len(texts), "two levels would be labelled alike"


def test_the_number_of_levels_is_about_the_one_wished():
    """Levels asked for are met within what round numbers allow."""
    for wanted in (5, 10, 20):
        for values in (np.linspace(0, 7.3, 99), np.geomspace(0.03, 40, 99)):
            assert wanted / 2 <= fitted(values, levels=wanted).levels.size <= 2 * wanted


def test_a_few_cliffs_do_not_push_the_basin_out_of_the_colours():
    """Five cells at a million among a thousand below ten: the top is clipped, and says so."""
    values = np.r_[np.random.default_rng(0).uniform(0.5, 9, 1000), np.full(5, 1e6)]
    for kind in ("auto", "linear"):
        scale = fitted(values, kind)
        assert scale.high < 1e4
        assert scale.extend == "max"


def test_the_basin_is_never_clipped_on_a_log_scale():
    """The lowest cells of a deep narrow minimum keep their own colour."""
    values = np.r_[0.02, 0.05, np.random.default_rng(0).uniform(2, 9, 1000)]
    assert fitted(values).low <= 0.02
    assert fitted(values, "log").low <= 0.02


@pytest.mark.parametrize("kind", ["auto", "linear", "log"])
@pytest.mark.parametrize("seed", range(8))
def test_few_values_are_beyond_the_scale(kind, seed):
    """However they are spread, about three of a hundred values lie beyond either end at most."""
    random = np.random.default_rng(seed)
    values = np.exp(random.normal(size=121) ** 2 * random.uniform(0.1, 4))
    scale = fitted(values, kind)
    assert (values > scale.high).sum() <= 4
    assert (values < scale.low).sum() <= 4


def test_the_basin_is_never_clipped_on_a_linear_scale():
    """A lowest loss far below all others keeps its own colour, which no other low value does."""
    values = np.r_[1.2, np.random.default_rng(0).uniform(8, 9, 1000)]
    assert fitted(values, "linear").low <= 1.2
    assert fitted(values, "linear", quantity=describe("grad_norm")).low > 1.2


def test_accuracies_are_never_clipped():
    """The best cell of a small basin among chance has its own colour, and so has the worst."""
    for few, many in ((81.4, 10.0), (10.0, 90.0)):
        values = np.r_[few, many + np.random.default_rng(0).uniform(-1, 1, 1000)]
        scale = fitted(values, quantity=ACCURACY)
        assert scale.low <= values.min()
        assert values.max() <= scale.high
        assert scale.extend == "neither"


def test_limits_of_the_user_are_kept_exactly():
    """Limits given are the ends of the scale; clipped values are announced."""
    scale = fitted([0.1, 5.0, 70.0], limits=(0.33, 41.0))
    assert (scale.low, scale.high, scale.extend) == (0.33, 41.0, "both")


def test_percentages_stay_linear_between_0_and_100():
    """Accuracy has no log scale and no level above 100 %."""
    scale = fitted([0.01, 40.0, 99.9], quantity=ACCURACY)
    assert scale.kind == "linear"
    assert (scale.low, scale.high) == (0.0, 100.0)


def test_log_of_negative_values_is_refused_with_their_number():
    """An explicit log scale says how many values stand in its way."""
    with pytest.raises(UsageError, match=r"2 of 3 values are not positive; use --scale auto"):
        fitted([-1.0, 0.0, 3.0], "log")


@pytest.mark.parametrize("value", [0.0, 2.303, -7.0, 1e6, 1e-9])
def test_a_constant_gets_a_scale_around_it(value):
    """One value alone lies inside the scale and is known to be constant."""
    scale = fitted([value] * 4)
    assert scale.low < value < scale.high
    assert scale.constant


def test_forward_keeps_order_and_nan():
    """Scaled coordinates increase with the value on every kind of scale."""
    for values in (np.geomspace(0.01, 99, 40), np.r_[np.linspace(-1, 1, 40), 1e5]):
        scale = fitted(values)
        assert (np.diff(scale.forward(np.sort(values))) > 0).all()
        assert np.isnan(scale.forward(np.array([np.nan]))).all()


@pytest.mark.parametrize(
    ("low", "plain"), [(4e-4, ["0.001", "0.01", "0.1", "1", "10"]), (4e-5, ["$10^{-4}$"])]
)
def test_the_numbers_of_a_bar_are_plain_where_all_of_them_are_short(low, plain):
    """What lies beyond the outermost number, at an end of the scale, does not count."""
    scale = fitted(np.geomspace(low, 90.0, 500))
    shown = scale.labelled(9)
    texts = [scale.tick_text(float(value), shown) for value in shown]
    assert set(plain) <= set(texts)
    assert len({text.startswith("$") for text in texts}) == 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (power_text(0.05), "0.05"),
        (power_text(1e4), "$10^{4}$"),
        (power_text(-3e5), r"$-3\times10^{5}$"),
        (power_text(-20.0), "\N{MINUS SIGN}20"),
        (linear_text(1.5, 0.5, 3.0), "1.5"),
        (linear_text(1e6 + 2e-4, 1e-4, 1e6 + 1), "1000000.0002"),
        (linear_text(2e-5, 1e-5, 9e-5), r"$2\times10^{-5}$"),
    ],
)
def test_numbers_are_printed_as_in_a_paper(text, wanted):
    """Plain numbers where short, powers of ten otherwise, a real minus sign."""
    assert text == wanted
