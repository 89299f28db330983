"""What the end of a command has to agree with: the good surface, bit by bit."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from tests.fuzz.warm import Check, Ended
from tests.fuzz.world import PROVENANCE

_OTHERS = {"precision_error", "layout_digest", "checksum"}


def nothing(_: Ended) -> str:
    """Ask nothing more than what holds for every command."""
    return ""


def warned(ended: Ended) -> str:
    """A run that goes on in a file without digest says so."""
    return "" if ended.code or "digest" in ended.text else "went on without digest, unsaid"


def ended_with_0(check: Check) -> Check:
    """Return a check that asks for exit code 0, too."""
    return lambda ended: check(ended) if ended.code == 0 else f"exit code {ended.code}, not 0"


def same_cells(good: Path, path: Path) -> Check:
    """Return a check: a command that ends with 0 leaves the good surface's values in a file."""

    def check(ended: Ended) -> str:
        return _compare(_contents(good), _contents(path)) if ended.code == 0 else ""

    return check


def _contents(path: Path) -> dict[str, np.ndarray]:
    found = {}

    def visit(name: str, item: object) -> None:
        last = name.rpartition("/")[2]
        if isinstance(item, h5py.Dataset) and last not in PROVENANCE and last not in _OTHERS:
            found[name] = np.asarray(item[()])

    with h5py.File(path, "r", locking=False) as file:
        file.visititems(visit)
    return found


def _compare(good: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> str:
    for name, values in good.items():
        if name not in found:
            return f"ended with 0 without {name}"
        if values.dtype != found[name].dtype or values.tobytes() != found[name].tobytes():
            return f"ended with 0 and another {name}"
    return ""


def same_arrays(good: Path, path: Path) -> Check:
    """Return a check: exported arrays have the good surface's values where cells are done.

    Other values are missing.  A surface that has changed otherwise may be shown with a warning.
    """

    def check(ended: Ended) -> str:
        if ended.code or not path.exists():
            return ""
        wanted = _contents(good)
        with np.load(path) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        problem = _shown(wanted, found)
        said = any(word in ended.text for word in ("digest", "damaged", "does not fit"))
        return "" if said else problem

    return check


def _shown(wanted: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> str:
    status = found.get("status")
    for name in ("alpha", "beta", "repeat"):
        if name in wanted and found.get(name, np.zeros(0)).tobytes() != wanted[name].tobytes():
            return f"shows another {name}"
    for name, values in found.items():
        if name not in wanted or values.dtype != np.float64 or values.shape != wanted[name].shape:
            continue
        shown = ~np.isnan(values)
        if values.ndim and status is not None and values.shape == status.shape:
            shown &= status == 1
        if values[shown].tobytes() != wanted[name][shown].tobytes():
            return f"shows another {name}"
    return ""
