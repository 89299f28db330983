"""The claims of Li et al. (2018, arXiv:1712.09913) that `launch/claims.py` checks, by figure.

Each claim has its rule here, fixed before any network was trained: what is measured, and for which
values the claim holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from measures import Kept, NotRunError, UndecidedError, bootstrap, spearman

HOLDS, IN_PART, NOT = "holds", "holds in part", "does not hold here"
NOT_RUN, UNDECIDED = "not run yet", "not decided here"
SMOOTH, CHAOTIC = 0.05, 0.10  # shares of cells in which the loss falls away from the centre
ALIKE = 2.0  # areas that differ by less than this factor are almost the same

DECAYS = ("wd0", "wd5e-4")
WIDTHS = ("w8", "w16", "w32")
NETWORKS = ("resnet20", "resnet20_noshort", "resnet56", "resnet56_noshort")
Numbers = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """A verdict, the numbers behind it, and both in words."""

    verdict: str
    here: str
    numbers: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """What the paper says, in short, and how it is judged."""

    key: str  # the figure, and a letter
    paper: str
    judge: Callable[[Kept], Outcome]

    @property
    def figure(self) -> str:
        """The figure that the claim belongs to."""
        return self.key.rstrip("abcdefgh")

    def outcome(self, kept: Kept) -> Outcome:
        """Judge the claim; what is missing or not decided is a verdict, too."""
        try:
            return self.judge(kept)
        except NotRunError as missing:
            return Outcome(NOT_RUN, f"needs {missing}")
        except UndecidedError as error:
            return Outcome(UNDECIDED, str(error))


CLAIMS: list[Claim] = []


def claim(key: str, paper: str) -> Callable[[Callable[[Kept], Outcome]], Claim]:
    """Make a claim of the function that judges it."""

    def made(judge: Callable[[Kept], Outcome]) -> Claim:
        CLAIMS.append(Claim(key, paper, judge))
        return CLAIMS[-1]

    return made


def _by_count(right: Sequence[bool]) -> str:
    """Return the verdict on a claim of several parts."""
    return HOLDS if all(right) else IN_PART if any(right) else NOT


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _pairs(
    kept: Kept,
    measured: Callable[[str], float],
    sign: Sequence[float],
    form: Callable[[float], str],
) -> Outcome:
    """Judge small against large batch, by SGD, for both weight decays.

    ``sign`` is 1 where the small batch's number has to be the greater one, -1 where it must not.
    """
    numbers: Numbers = {}
    right, words = [], []
    for decay, wanted in zip(DECAYS, sign, strict=True):
        small, large = (measured(f"sgd-{decay}-{batch}") for batch in ("bs128", "bs1024"))
        numbers |= {f"{decay}_small": small, f"{decay}_large": large}
        right.append(wanted * (small - large) > 0)
        words.append(f"{decay}: {form(small)} and {form(large)}")
    return Outcome(_by_count(right), "; ".join(words), numbers)


def minima(kept: Kept) -> list[str]:
    """Return the minima of VGG-9: SGD's, and Adam's if all were trained."""
    names = {
        optimizer: [f"{optimizer}-{d}-{b}" for d in DECAYS for b in ("bs128", "bs1024")]
        for optimizer in ("sgd", "adam")
    }
    has_adam = all(f"filter-{name}" in kept.names for name in names["adam"])
    return names["sgd"] + (names["adam"] if has_adam else [])


def planes(kept: Kept) -> dict[str, str]:
    """Return the planes of all trained networks, and the trainings that they belong to."""
    of_minima = {f"plane-{name}": name for name in minima(kept)}
    wide = [f"resnet20{kind}-{width}" for kind in ("", "_noshort") for width in WIDTHS]
    return of_minima | {n: n for n in NETWORKS} | {f"width-{n}": n for n in wide}


@claim("1a", "without skip connections the surface of ResNet-56 is chaotic: in large regions the "
       "loss does not fall towards the minimiser; with them it is a bowl")  # fmt: skip
def _chaos(kept: Kept) -> Outcome:
    plain, short = kept.away("resnet56_noshort"), kept.away("resnet56")
    holds = short <= SMOOTH and plain >= CHAOTIC
    verdict = HOLDS if holds else IN_PART if plain > short else NOT
    said = f"the loss falls away from the centre in {_percent(plain)} of the cells without them, "
    return Outcome(verdict, f"{said}in {_percent(short)} with", {"without": plain, "with": short})


@claim("1b", "test errors: 13.31 % without skip connections, 5.89 % with")
def _errors_56(kept: Kept) -> Outcome:
    plain, short = kept.error("resnet56_noshort"), kept.error("resnet56")
    words = f"{_percent(plain)} and {_percent(short)}"
    return Outcome(HOLDS if plain > short else NOT, words, {"without": plain, "with": short})


def _line(kept: Kept, decay: str, is_small_wider: bool) -> Outcome:
    name = f"interpolation-sgd-{decay}"
    small, large = kept.figure(name, "width"), kept.figure(name, "other_width")
    words = f"width {small:.3g} at the small batch, {large:.3g} at the large one"
    verdict = HOLDS if (small > large) == is_small_wider and small != large else NOT
    return Outcome(verdict, words, {"small": small, "large": large})


@claim("2a", "on the line, without weight decay, the small batch's minimum is the wider one")
def _line_without(kept: Kept) -> Outcome:
    return _line(kept, "wd0", True)


@claim("2b", "with weight decay the verdict of the line reverses")
def _line_with(kept: Kept) -> Outcome:
    return _line(kept, "wd5e-4", False)


@claim("2c", "small batches have the smaller test error: 7.37 and 11.07 % without weight decay, "
       "6.0 and 10.19 % with")  # fmt: skip
def _errors_of_batches(kept: Kept) -> Outcome:
    return _pairs(kept, kept.error, (-1, -1), _percent)


@claim("2d", "the large batch's weights are the smaller ones without weight decay, the larger "
       "ones with it")  # fmt: skip
def _norms(kept: Kept) -> Outcome:
    return _pairs(kept, kept.weight_norm, (1, -1), "{:.3g}".format)


@claim("3a", "filter-normalised curves: large batches have the sharper minima")
def _widths(kept: Kept) -> Outcome:
    return _pairs(kept, lambda n: kept.figure(f"filter-{n}", "width"), (1, 1), "{:.3g}".format)


@claim("3b", "the same of filter-normalised planes")
def _areas(kept: Kept) -> Outcome:
    return _pairs(kept, lambda n: kept.figure(f"plane-{n}", "area"), (1, 1), "{:.3g}".format)


@claim("3c", "flatness goes with a small test error if filters are normalised, and not if they "
       "are not")  # fmt: skip
def _raw(kept: Kept) -> Outcome:
    names = minima(kept)
    errors = [kept.error(name) for name in names]
    found = {
        kind: spearman([kept.figure(f"{kind}-{name}", "width") for name in names], errors)
        for kind in ("filter", "raw")
    }
    holds = found["filter"] <= -0.5 and found["raw"] >= found["filter"] + 0.2
    verdict = HOLDS if holds else IN_PART if found["filter"] < min(0.0, found["raw"]) else NOT
    said = f"Spearman's correlation of width and error over {len(names)} minima: "
    return Outcome(verdict, f"{said}{found['filter']:+.2f} and {found['raw']:+.2f}", found)


@claim("3d", "flatter minima consistently have the smaller test error, over all networks")
def _all_networks(kept: Kept) -> Outcome:
    of = planes(kept)
    areas = [kept.figure(plane, "area") for plane in of]
    errors = [kept.error(name) for name in of.values()]
    rho, (low, high) = spearman(areas, errors), bootstrap(areas, errors)
    verdict = HOLDS if high < 0 else IN_PART if rho < 0 else NOT
    words = f"Spearman's correlation of area and error over {len(of)} networks: {rho:+.2f}, 95 % "
    numbers = {"rho": rho, "low": low, "high": high}
    return Outcome(verdict, f"{words}interval {low:+.2f} to {high:+.2f}", numbers)


@claim("5a", "without skip connections depth turns a nearly convex surface into a chaotic one")
def _depth_without(kept: Kept) -> Outcome:
    few, many = kept.away("resnet20_noshort"), kept.away("resnet56_noshort")
    holds = few <= SMOOTH and many >= CHAOTIC
    words = f"the loss falls away from the centre in {_percent(few)} of the cells of 20 layers, "
    verdict = HOLDS if holds else IN_PART if many > few else NOT
    return Outcome(verdict, f"{words}{_percent(many)} of 56", {"layers20": few, "layers56": many})


def _alike(kept: Kept, one: str, other: str) -> Outcome:
    """Judge whether two surfaces are smooth, and have basins of about the same area."""
    first, second = (kept.figure(name, "area") for name in (one, other))
    rough = [kept.away(one), kept.away(other)]
    right = [max(first, second) <= ALIKE * min(first, second), max(rough) <= SMOOTH]
    words = f"areas {first:.3g} and {second:.3g}; the loss falls away from the centre in "
    numbers = {"area": first, "other_area": second, "away": rough[0], "other_away": rough[1]}
    said = f"{words}{_percent(rough[0])} and {_percent(rough[1])} of the cells"
    return Outcome(_by_count(right), said, numbers)


@claim("5b", "with skip connections depth changes little: the basins are almost the same")
def _depth_with(kept: Kept) -> Outcome:
    return _alike(kept, "resnet20", "resnet56")


@claim("5c", "at 20 layers the effect of skip connections is hardly noticed")
def _shallow(kept: Kept) -> Outcome:
    return _alike(kept, "resnet20", "resnet20_noshort")


@claim("5d", "test errors: ResNet-20 7.37 %, ResNet-56 5.89 %; without skip connections 8.18 and "
       "13.31 %")  # fmt: skip
def _errors_of_depths(kept: Kept) -> Outcome:
    errors = {name: kept.error(name) for name in NETWORKS}
    short, plain, deep, deep_plain = errors.values()
    words = f"{_percent(short)}, {_percent(deep)}; {_percent(plain)} and {_percent(deep_plain)}"
    return Outcome(_by_count([deep < short, short < plain, plain < deep_plain]), words, errors)


def _over_widths(measured: Callable[[str], float], sign: float) -> tuple[str, Numbers]:
    """Judge whether a number rises (or falls) with the width, with skip connections and without."""
    rows = {
        kind: [measured(f"{kind}-{width}") for width in WIDTHS]
        for kind in ("resnet20", "resnet20_noshort")
    }
    right = [all(sign * (b - a) > 0 for a, b in pairwise(row)) for row in rows.values()]
    named = {
        f"{kind}_{width}": n
        for kind, row in rows.items()
        for width, n in zip(WIDTHS, row, strict=True)
    }
    return _by_count(right), named


@claim("6a", "wider networks have smaller test errors: from 5.89 to 3.93 % at eight times the "
       "width, without skip connections from 13.31 to 8.70 % (56 layers)")  # fmt: skip
def _errors_of_widths(kept: Kept) -> Outcome:
    verdict, numbers = _over_widths(kept.error, -1)
    shown = [_percent(number) for number in numbers.values()]
    return Outcome(verdict, f"{', '.join(shown[:3])}; without {', '.join(shown[3:])}", numbers)


@claim("6b", "wider networks have flatter minima")
def _areas_of_widths(kept: Kept) -> Outcome:
    verdict, numbers = _over_widths(lambda name: kept.figure(f"width-{name}", "area"), 1)
    shown = [f"{number:.3g}" for number in numbers.values()]
    return Outcome(
        verdict, f"areas {', '.join(shown[:3])}; without {', '.join(shown[3:])}", numbers
    )


def _negative(kept: Kept, reach: float = math.inf) -> Numbers:
    names = {"with": "curvature-resnet20", "without": "curvature-resnet20_noshort"}
    return {key: kept.negative_share(name, reach) for key, name in names.items()}


@claim("7a", "where the surface looks convex, negative eigenvalues are small beside the positive "
       "ones (DenseNet: less than 1 %)")  # fmt: skip
def _convex(kept: Kept) -> Outcome:
    found = _negative(kept, 0.5)
    most = max(found.values())
    shown = f"{_percent(found['with'])} with skip connections, {_percent(found['without'])} without"
    said = f"up to 0.5 from the centre the smallest is of the largest (median): {shown}"
    return Outcome(HOLDS if most < 0.1 else IN_PART if most < 0.25 else NOT, said, found)


@claim("7b", "without skip connections more of the curvature is negative")
def _more_negative(kept: Kept) -> Outcome:
    found = _negative(kept)
    words = f"median of all cells: {_percent(found['without'])}, with {_percent(found['with'])}"
    return Outcome(HOLDS if found["without"] > found["with"] else NOT, words, found)


@claim("8a", "two random directions show almost none of a training's motion")
def _random(kept: Kept) -> Outcome:
    share = kept.displacement("trajectory-random")
    said = f"they show {100 * share:.2g} % of the squared distances"
    return Outcome(HOLDS if share < 0.01 else NOT, said, {"share": share})


@claim("8b", "with one direction towards the start, all motion is along it")
def _toward(kept: Kept) -> Outcome:
    ratio = kept.sideways("trajectory-toward")
    words = f"the path's extent along the random direction is {100 * ratio:.2g} % of that"
    return Outcome(HOLDS if ratio < 0.05 else NOT, words, {"ratio": ratio})


@claim("9a", "between 40 and 90 % of the variation of a path lies in two dimensions")
def _two_dimensions(kept: Kept) -> Outcome:
    runs = [f"sgd-{decay}-{batch}" for decay in DECAYS for batch in ("bs128", "bs1024")]
    found = {run: kept.variance(f"trajectory-{run}") for run in runs}
    in_range = [0.4 <= share <= 0.9 for share in found.values()]
    verdict = HOLDS if all(in_range) else IN_PART if min(found.values()) >= 0.4 else NOT
    words = "; ".join(f"{run}: {_percent(share)}" for run, share in found.items())
    return Outcome(verdict, words, found)
