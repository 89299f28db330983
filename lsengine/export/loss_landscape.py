"""The surface and direction files of github.com/tomgoldstein/loss-landscape."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsengine import store
from lsengine.errors import UsageError
from lsengine.export.output import output
from lsengine.store import loss_landscape
from lsengine.surface import Surface

log = logging.getLogger(__name__)
_MOST_ZEROS = 2**26  # float32, in the place of what does not move


def write(surface: Surface, path: Path) -> list[Path]:
    """Write the surface, and its directions beside it where the file holds them.

    The directions go into ``NAME_directions.h5``, which the surface file names as its
    ``dir_file``.

    Raises:
        UsageError: If the format cannot hold it, as it is neither a plane nor a single curve.
    """
    source = Path(surface.source)
    if "repeat" in surface.axes:
        raise UsageError(f"{source}: has repeats, which the format loss-landscape does not know")
    if not set(surface.quantities) & set(loss_landscape.QUANTITIES):
        raise UsageError(
            f"{source}: has none of the quantities that the format loss-landscape knows: "
            f"{', '.join(loss_landscape.QUANTITIES)}"
        )
    dir_file = str(surface.attributes.get("dir_file", ""))
    written = [path]
    directions = store.read_directions(source)
    shapes = _shapes(source, directions)
    if shapes is not None:
        beside = path.with_name(f"{path.stem}_directions.h5")
        track = surface.trajectory
        ratio = track.attributes.get("explained_variance_ratio") if track is not None else None
        variance_ratio = None if ratio is None else np.atleast_1d(ratio)
        content = loss_landscape.directions_file(directions, shapes, variance_ratio)
        with output(beside, surface) as part:
            part.write_bytes(content)
        dir_file = beside.name
        written.append(beside)
    content = loss_landscape.surface_file(surface, dir_file)
    with output(path, surface) as part:
        part.write_bytes(content)
    return written


def _shapes(
    source: Path, directions: dict[str, dict[str, NDArray[np.float32]]]
) -> dict[str, tuple[int, ...]] | None:
    """Return names and shapes that number the directions, None if they cannot be numbered.

    Those of the parameters or, if a running statistic moves, of the whole state dict.
    """
    moved = {name for parameters in directions.values() for name in parameters}
    if store.read_drawn(source):
        log.warning(
            "%s: its directions are not written: the file does not hold them, as its job says "
            "directions.stored: false",
            source,
        )
    if not moved:
        return None
    if any(np.iscomplexobj(a) for parameters in directions.values() for a in parameters.values()):
        log.warning("%s: its directions are not written: the format has no complex numbers", source)
        return None
    state = store.read_state(source)
    for entries in ([entry for entry in state if entry[2]], state):
        shapes = {name: tuple(shape) for name, shape, _ in entries}
        if moved <= shapes.keys() and all(
            array.shape == shapes[name]
            for parameters in directions.values()
            for name, array in parameters.items()
        ):
            zeros = sum(math.prod(shape) for name, shape in shapes.items() if name not in moved)
            if zeros <= _MOST_ZEROS:
                return shapes
            log.warning(
                "%s: its directions are not written: %s numbers of them are zero, which the "
                "format wants written out",
                *(source, f"{zeros:,}"),
            )
            return None
    log.warning("%s: its directions are not written: the file does not say their order", source)
    return None
