"""What writers of formats share: a file that costs no surface, and the quantity for a height."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lsengine import files, store
from lsengine.errors import UsageError
from lsengine.surface import Surface
from lsengine.surface.cells import Tally
from lsengine.surface.quantities import preferred
from lsengine.wording import did_you_mean


@contextmanager
def output(path: Path, surface: Surface) -> Iterator[Path]:
    """Give a name beside ``path``; the file that is written there takes its place when complete.

    Raises:
        UsageError: If that would cost a surface.
        EnvironmentUnfit: If it cannot be written.
    """
    source = Path(surface.source)
    if files.is_regular(path):
        if files.is_regular(source) and path.samefile(source):
            raise UsageError(f"--output {path}: is the surface itself; choose another name")
        if (store.format_of(path) or "").startswith("lsengine-"):
            raise UsageError(
                f"--output {path}: is a file of lsengine's own; choose another name, or move it "
                "away"
            )
    failures = (OSError, RuntimeError)  # HDF5 raises both
    with files.whole(path, "choose another --output", failures) as part:
        yield part


def height(surface: Surface, asked: str | None) -> str:
    """Return the quantity that is the height: the one asked for, the training loss, or any.

    Raises:
        UsageError: If the surface does not have it.
    """
    available = surface.quantities
    name = asked or (preferred(available) if available else "train_loss")
    if name not in available:
        raise UsageError(
            f"{surface.source}: has no quantity {name!r}; it has: "
            f"{', '.join(sorted(available))}{did_you_mean(name, available)}"
        )
    return name


def no_height(surface: Surface, name: str, tally: Tally) -> UsageError:
    """Return what to raise if no cell has a finite value of the height."""
    return UsageError(
        f"{surface.source}: {name} has no finite value to be a height ({tally.reasons()}); choose "
        "another --quantity, or --to csv, which takes any value"
    )
