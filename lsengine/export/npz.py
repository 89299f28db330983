"""NPZ: NumPy's own container of arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lsengine.export.output import output
from lsengine.surface import Surface


def write(surface: Surface, path: Path) -> list[Path]:
    """Write axes, quantities and ``status`` under their names, without any pickle.

    The columns of a trajectory are called ``trajectory_epoch`` and so on.

    Args:
        surface: Of any shape.
        path: A file that ends in ``.npz``.
    """
    columns = surface.trajectory.columns if surface.trajectory is not None else {}
    # HDF5's own marks on the type of a text are not for this format.
    trajectory = {f"trajectory_{n}": c.astype(c.dtype.str) for n, c in columns.items()}
    with output(path, surface) as part:
        np.savez_compressed(
            part,
            allow_pickle=False,
            name=np.array(surface.name),
            status=surface.status,
            **surface.axes,
            **surface.quantities,
            **trajectory,
        )
    return [path]
