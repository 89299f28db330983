"""The surface and direction files of github.com/tomgoldstein/loss-landscape."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine import store
from lsengine.errors import UsageError
from lsengine.store import loss_landscape
from lsengine.surface import Surface

log = logging.getLogger(__name__)
Whole = Callable[[Path, Path], AbstractContextManager[Path]]


def write(surface: Surface, source: Path, target: Path, whole: Whole) -> list[Path]:
    """Write the surface, and its directions beside it where the file holds them.

    The directions go into ``NAME_directions.h5``, which the surface file names as its
    ``dir_file``.

    Args:
        surface: A plane, or a curve without repeats.
        source: Its file.
        target: The ancestor's surface file.
        whole: Gives a name for a file, and puts it in place when complete.

    Returns:
        The files written.

    Raises:
        UsageError: If the ancestor's format cannot hold it.
    """
    if "repeat" in surface.axes:
        raise UsageError(f"{source}: has repeats, which the format loss-landscape does not know")
    if not set(surface.quantities) & set(loss_landscape.QUANTITIES):
        raise UsageError(
            f"{source}: has none of the quantities that the format loss-landscape knows: "
            f"{', '.join(loss_landscape.QUANTITIES)}"
        )
    files = []
    directions = store.read_directions(source)
    shapes = _shapes(source, directions)
    beside = target.with_name(f"{target.stem}_directions.h5")
    if shapes is not None:
        with whole(beside, source) as part:
            loss_landscape.write_directions(part, directions, shapes, _variance_ratio(surface))
        files.append(beside)
    dir_file = beside.name if files else str(surface.attributes.get("dir_file", ""))
    with whole(target, source) as part:
        loss_landscape.write(part, surface, dir_file)
    return [target, *files]


def _shapes(
    source: Path, directions: dict[str, dict[str, NDArray[np.float32]]]
) -> dict[str, tuple[int, ...]] | None:
    """Return names and shapes that number the directions, None if they cannot be numbered.

    Those of the parameters or, if a running statistic moves, of the whole state dict.
    """
    moved = {name for parameters in directions.values() for name in parameters}
    if not moved:
        return None
    state: list[tuple[str, list[int], bool]] = json.loads(
        store.read_state_dict_layout(source) or "[]"
    )
    for entries in ([entry for entry in state if entry[2]], state):
        shapes = {name: tuple(shape) for name, shape, _ in entries}
        if moved <= shapes.keys() and all(
            array.shape == shapes[name]
            for parameters in directions.values()
            for name, array in parameters.items()
        ):
            return shapes
    log.warning("%s: its directions are not written: the file does not say their order", source)
    return None


def _variance_ratio(surface: Surface) -> NDArray[Any] | None:
    attributes = surface.trajectory.attributes if surface.trajectory is not None else {}
    found = attributes.get("explained_variance_ratio")
    return None if found is None else np.atleast_1d(found)
