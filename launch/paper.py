"""The claims of Li et al. (2018, arXiv:1712.09913) that `launch/claims.py` checks, by figure.

Each claim has its rule here: what is measured, and for which values the claim holds.
docs/REPRODUCTION.md says when the rules were made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from measures import Kept, Ranked, UndecidedError
from trained import BATCHES, DECAYS, WIDTHS, minima, planes
from verdicts import (
    HOLDS,
    IN_PART,
    NOT,
    Claim,
    Numbers,
    Outcome,
    by_count,
    exactly,
    graded,
    is_greater,
    percent,
    shown,
)

SMOOTH, CHAOTIC = 0.05, 0.10  # shares of cells in which the loss falls on the way out
TWICE = 2.0  # what differs by less than this factor is almost the same
FEW = 5  # cells that decide nothing

PAPER = {  # test errors in per cent: table 1, figure 5
    "resnet20": 7.37,
    "resnet20_noshort": 8.18,
    "resnet56": 5.89,
    "resnet56_noshort": 13.31,
    "sgd-wd0-bs128": 7.37,
    "sgd-wd0-bs1024": 11.07,
    "sgd-wd5e-4-bs128": 6.0,
    "sgd-wd5e-4-bs1024": 10.19,
}


CLAIMS: list[Claim] = []


def claim(key: str, paper: str, rule: str) -> Callable[[Callable[[Kept], Outcome]], Claim]:
    """Make a claim of the function that judges it."""

    def made(judge: Callable[[Kept], Outcome]) -> Claim:
        CLAIMS.append(Claim(key, paper, rule, judge))
        return CLAIMS[-1]

    return made


def _errors(kept: Kept, names: Sequence[str]) -> tuple[list[float], str]:
    """Return test errors, and them in words beside the paper's."""
    errors = [kept.error(name) for name in names]
    times = [f"{100 * error / PAPER[n]:.1f}" for n, error in zip(names, errors, strict=True)]
    words = " and ".join([", ".join(map(percent, errors[:-1])), percent(errors[-1])])
    factors = " and ".join([", ".join(times[:-1]), times[-1]])
    return errors, f"{words}: {factors} times the paper's"


def _chaos(kept: Kept, smooth: str, chaotic: str, called: tuple[str, str]) -> Outcome:
    """Judge whether the loss of one network falls on the way out, and that of the other not."""
    few, many = kept.away(smooth), kept.away(chaotic)
    near = [percent(kept.away(name, reach=1.0)) for name in (smooth, chaotic)]
    holds = few <= SMOOTH and many >= CHAOTIC
    verdict = HOLDS if holds else IN_PART if many >= max(TWICE * few, SMOOTH) else NOT
    return Outcome(
        verdict,
        f"the loss falls on the way out in {percent(many)} of the cells {called[1]}, in "
        f"{percent(few)} {called[0]}; up to 1 from the centre in {near[1]} and {near[0]}",
        {"smooth": few, "chaotic": many},
    )


_FALLS = (
    "the loss falls on the way out in at least 10 % of the cells {}, and in at most 5 % {}; in "
    "part if in twice as many, and in more than 5 %"
)


@claim(
    "1a",
    "without skip connections the surface of ResNet-56 is chaotic: in large regions the loss does "
    "not fall towards the minimiser; with them it is a bowl",
    _FALLS.format("without them", "with them"),
)
def _skips(kept: Kept) -> Outcome:
    return _chaos(kept, "resnet56", "resnet56_noshort", ("with", "without"))


@claim(
    "1b", "test errors: 13.31 % without skip connections, 5.89 % with", "their order is the same"
)
def _errors_56(kept: Kept) -> Outcome:
    errors, words = _errors(kept, ("resnet56_noshort", "resnet56"))
    verdict = HOLDS if errors[0] > errors[1] else NOT
    return Outcome(verdict, words, dict(zip(("without", "with"), errors, strict=True)))


def _line(kept: Kept, decay: str, is_small_wider: bool) -> Outcome:
    small, large = kept.reaches(f"interpolation-sgd-{decay}")
    if np.isclose(small, large):
        raise UndecidedError(f"both reach {small:.3g} of the line")
    words = f"{small:.3g} of the line from the small batch's minimum, {large:.3g} from the other"
    verdict = HOLDS if (small > large) == is_small_wider else NOT
    return Outcome(verdict, words, {"small": small, "large": large})


@claim(
    "2a",
    "on the line, without weight decay, the small batch's minimum is the wider one",
    "from its end the line can be followed farther, with a loss of at most 0.1 above the end's, "
    "than from the other",
)
def _line_without(kept: Kept) -> Outcome:
    return _line(kept, "wd0", True)


@claim(
    "2b",
    "with weight decay the verdict of the line reverses",
    "it can be followed less far from there",
)
def _line_with(kept: Kept) -> Outcome:
    return _line(kept, "wd5e-4", False)


def _pairs(
    one: Callable[[str], float], sign: Sequence[int], form: Callable[[float], str]
) -> Outcome:
    """Judge small against large batch, by SGD, for both weight decays.

    ``sign`` is 1 where the small batch's number has to be the greater one, -1 where it must not.
    """
    numbers: Numbers = {}
    right, words = [], []
    for decay, wanted in zip(DECAYS, sign, strict=True):
        small, large = (one(f"sgd-{decay}-{batch}") for batch in BATCHES)
        numbers |= {f"{decay}_small": small, f"{decay}_large": large}
        right.append(wanted * (small - large) > 0)
        words.append(f"{decay}: {form(small)} and {form(large)}")
    return Outcome(by_count(right), "; ".join(words), numbers)


@claim(
    "2c",
    "small batches have the smaller test error: 7.37 and 11.07 % without weight decay, 6.0 and "
    "10.19 % with",
    "the order is the same in both pairs",
)
def _errors_of_batches(kept: Kept) -> Outcome:
    return _pairs(kept.error, (-1, -1), percent)


@claim(
    "2d",
    "the large batch's weights are the smaller ones without weight decay, the larger ones with it",
    "their lengths have this order in both pairs",
)
def _norms(kept: Kept) -> Outcome:
    return _pairs(kept.weight_norm, (1, -1), "{:.3g}".format)


def _flatter(kept: Kept, kind: str, figure: str) -> Outcome:
    """Judge whether the small batch's minimum is the wider one, by SGD, for both weight decays."""
    numbers: Numbers = {}
    right, words = [], []
    for decay in DECAYS:
        small, large = (kept.figure(f"{kind}-sgd-{decay}-{b}", figure) for b in BATCHES)
        right.append(is_greater(small, large))
        numbers |= {f"{decay}_small": small.value or 0.0, f"{decay}_large": large.value or 0.0}
        words.append(f"{decay}: {shown(small)} and {shown(large)}")
    return Outcome(by_count(right), "; ".join(words), numbers)


@claim(
    "3a",
    "filter-normalised curves: large batches have the sharper minima",
    "the small batch's minimum is the wider one in both pairs",
)
def _widths(kept: Kept) -> Outcome:
    return _flatter(kept, "filter", "width")


@claim("3b", "the same of filter-normalised planes", "its basin is the larger one in both pairs")
def _basins(kept: Kept) -> Outcome:
    return _flatter(kept, "plane", "basin")


@claim(
    "3c",
    "flatness goes with a small test error if filters are normalised, and not if they are not",
    "in all pairs of small and large batch the wider minimum has the smaller error if filters are "
    "normalised; in some it has not if they are not",
)
def _raw(kept: Kept) -> Outcome:
    pairs = [(small, small.replace("bs128", "bs1024")) for small in minima(kept)[::2]]
    right = {
        kind: sum(
            is_greater(
                kept.figure(f"{kind}-{small}", "width"), kept.figure(f"{kind}-{large}", "width")
            )
            == (kept.error(small) < kept.error(large))
            for small, large in pairs
        )
        for kind in ("filter", "raw")
    }
    count = len(pairs)
    verdict = NOT if right["filter"] < count else IN_PART if right["raw"] == count else HOLDS
    words = f"normalised in {right['filter']} of {count} pairs, as drawn in {right['raw']}"
    return Outcome(verdict, words, {kind: float(number) for kind, number in right.items()})


@claim(
    "3d",
    "flatter minima consistently have the smaller test error, over all networks",
    "within the families of networks, the 95 % interval of Spearman's correlation of basin and "
    "error is below zero; in part from -0.3 on",
)
def _all_networks(kept: Kept) -> Outcome:
    of = planes(kept)
    errors = [kept.error(training) for training, _ in of.values()]
    basins = [exactly(kept.figure(plane, "basin")) for plane in of]
    numbers: Numbers = {}
    words = []
    for key, families in (("within", [family for _, family in of.values()]), ("all", None)):
        ranked = Ranked(basins, errors, families)
        rho, (low, high) = ranked.correlation(), ranked.interval()
        numbers |= {key: rho, f"{key}_low": low, f"{key}_high": high}
        words.append(f"{rho:+.2f} ({low:+.2f} to {high:+.2f})")
    verdict = HOLDS if numbers["within_high"] < 0 else graded(-numbers["within"], np.inf, 0.3)
    said = f"{words[0]} within families; {words[1]} over all {len(of)} networks"
    return Outcome(verdict, said, numbers)


@claim(
    "5a",
    "without skip connections depth turns a nearly convex surface into a chaotic one",
    _FALLS.format("of 56 layers", "of 20"),
)
def _depth_without(kept: Kept) -> Outcome:
    return _chaos(kept, "resnet20_noshort", "resnet56_noshort", ("of 20", "of 56 layers"))


def _alike(kept: Kept, one: str, other: str) -> Outcome:
    """Judge whether two surfaces are smooth, and have basins of about the same area."""
    first, second = (exactly(kept.figure(name, "basin")) for name in (one, other))
    rough = [kept.away(one), kept.away(other)]
    right = [max(first, second) <= TWICE * min(first, second), max(rough) <= SMOOTH]
    words = f"basins of {first:.3g} and {second:.3g}; the loss falls on the way out in "
    numbers = {"basin": first, "other_basin": second, "away": rough[0], "other_away": rough[1]}
    said = f"{words}{percent(rough[0])} and {percent(rough[1])} of the cells"
    return Outcome(by_count(right), said, numbers)


_ALIKE = "one basin has less than twice the other's area; the loss falls in at most 5 % of both"


@claim("5b", "with skip connections depth changes little: the basins are almost the same", _ALIKE)
def _depth_with(kept: Kept) -> Outcome:
    return _alike(kept, "resnet20", "resnet56")


@claim("5c", "at 20 layers the effect of skip connections is hardly noticed", _ALIKE)
def _shallow(kept: Kept) -> Outcome:
    return _alike(kept, "resnet20", "resnet20_noshort")


@claim(
    "5d",
    "test errors: ResNet-56 5.89 %, ResNet-20 7.37 %; without skip connections 8.18 % for 20 "
    "layers, 13.31 % for 56",
    "the order is the same in all three steps",
)
def _errors_of_depths(kept: Kept) -> Outcome:
    names = ("resnet56", "resnet20", "resnet20_noshort", "resnet56_noshort")
    errors, words = _errors(kept, names)
    right = [first < second for first, second in pairwise(errors)]
    return Outcome(by_count(right), words, dict(zip(names, errors, strict=True)))


def _over_widths(one: Callable[[str], float], sign: int, form: Callable[[float], str]) -> Outcome:
    """Judge whether a number rises (or falls) with the width, with skip connections and without."""
    kinds = ("resnet20", "resnet20_noshort")
    rows = {kind: [one(f"{kind}-{width}") for width in WIDTHS] for kind in kinds}
    right = [all(sign * (b - a) > 0 for a, b in pairwise(row)) for row in rows.values()]
    words = "; without ".join(", ".join(map(form, row)) for row in rows.values())
    numbers = {
        f"{kind}_{width}": n
        for kind, row in rows.items()
        for width, n in zip(WIDTHS, row, strict=True)
    }
    return Outcome(by_count(right), words, numbers)


@claim(
    "6a",
    "wider networks have smaller test errors: from 5.89 to 3.93 % at eight times the width, "
    "without skip connections from 13.31 to 8.70 % (56 layers)",
    "they fall from width to width, with skip connections and without",
)
def _errors_of_widths(kept: Kept) -> Outcome:
    return _over_widths(kept.error, -1, percent)


@claim("6b", "wider networks have flatter minima", "their basins grow, with and without")
def _basins_of_widths(kept: Kept) -> Outcome:
    def basin(name: str) -> float:
        return exactly(kept.figure(f"width-{name}", "basin"))

    return _over_widths(basin, 1, "{:.3g}".format)


CURVED = ("curvature-resnet20", "curvature-resnet20_noshort")


@claim(
    "7a",
    "where the surface looks convex, negative eigenvalues are small beside the positive ones "
    "(DenseNet: less than 1 %)",
    "where the loss rises on the way out, the median share is below 1 %; in part below 10 %",
)
def _convex(kept: Kept) -> Outcome:
    found = {}
    for name in CURVED:
        share, falls = kept.negative(name)
        found[name.removeprefix("curvature-")] = float(np.median(share[~falls]))
    verdict = graded(-max(found.values()), -0.01, -0.1)
    short, plain = map(percent, found.values())
    return Outcome(verdict, f"{short} with skip connections, {plain} without", found)


@claim(
    "7b",
    "chaotic regions have large negative curvature",
    "where the loss falls on the way out, the median share is at least twice that elsewhere; in "
    "part if it is larger",
)
def _chaotic(kept: Kept) -> Outcome:
    both = [kept.negative(name) for name in CURVED]
    share, falls = (np.concatenate(parts) for parts in zip(*both, strict=True))
    if falls.sum() < FEW:
        raise UndecidedError(f"the loss falls on the way out in {falls.sum()} cells only")
    there, elsewhere = float(np.median(share[falls])), float(np.median(share[~falls]))
    words = f"{percent(there)} in {falls.sum()} cells, {percent(elsewhere)} elsewhere"
    verdict = HOLDS if there >= TWICE * elsewhere else IN_PART if there > elsewhere else NOT
    return Outcome(verdict, words, {"falls": there, "rises": elsewhere})


@claim(
    "8a",
    "two random directions show almost none of a training's motion",
    "they show less than 1 % of the squared distances",
)
def _random(kept: Kept) -> Outcome:
    share, chance = kept.displacement("trajectory-random")
    words = f"{percent(share)}; directions that have nothing to do with it show {percent(chance)}"
    return Outcome(HOLDS if share < 0.01 else NOT, words, {"share": share, "chance": chance})


@claim(
    "8b",
    "with one direction towards the start, all motion is along it",
    "the path's extent along the random one is less than 5 % of that",
)
def _toward(kept: Kept) -> Outcome:
    ratio = kept.sideways("trajectory-toward")
    return Outcome(HOLDS if ratio < 0.05 else NOT, percent(ratio), {"ratio": ratio})


@claim(
    "9a",
    "between 40 and 90 % of the variation of a path lies in two dimensions",
    "so it is in all four trainings; in part with at least 40 % in all",
)
def _two_dimensions(kept: Kept) -> Outcome:
    runs = [f"sgd-{decay}-{batch}" for decay in DECAYS for batch in BATCHES]
    found = {run: kept.variance(f"trajectory-{run}") for run in runs}
    in_range = [0.4 <= share <= 0.9 for share in found.values()]
    verdict = HOLDS if all(in_range) else IN_PART if min(found.values()) >= 0.4 else NOT
    return Outcome(verdict, "; ".join(f"{run}: {percent(s)}" for run, s in found.items()), found)
