"""What is known about a quantity from its name: words, unit, and which end is good."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass


@dataclass(frozen=True, slots=True)
class Quantity:
    """How one dataset is drawn: label with unit, factor from the stored value to the drawn one.

    The cell at the end ``best`` (``low``, ``high`` or empty) is marked.
    """

    name: str
    label: str
    _: KW_ONLY
    factor: float = 1.0
    best: str = ""

    @property
    def is_percent(self) -> bool:
        """Whether this is a fraction drawn in percent, and so always on a linear scale."""
        return self.factor != 1.0


_KNOWN = {
    "eigenvalue_min": "smallest Hessian eigenvalue",
    "eigenvalue_max": "largest Hessian eigenvalue",
}


def describe(name: str) -> Quantity:
    """Return what the name of a dataset tells, with a plain reading for unknown ones."""
    split, _, measure = name.partition("_")
    words = {"train": "training", "test": "test"}.get(split)
    if words and measure == "loss":
        return Quantity(name, f"{words} loss", best="low")
    if words and measure == "accuracy":
        return Quantity(name, f"{words} accuracy (%)", factor=100.0, best="high")
    if words and measure == "loss_se":
        return Quantity(name, f"standard error of the {words} loss")
    if words and measure:  # a metric of an objective
        of, is_error = measure.removesuffix("_se").replace("_", " "), measure.endswith("_se")
        return Quantity(
            name, f"standard error of the {words} {of}" if is_error else f"{words} {of}"
        )
    return Quantity(name, _KNOWN.get(name, name.replace("_", " ")))


def preferred(names: Iterable[str]) -> str:
    """Return the quantity drawn when none is asked for.

    Raises:
        ValueError: If there is no name at all.
    """
    best = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
    known = set(names)
    return next((name for name in best if name in known), None) or min(known)
