"""NPZ: NumPy's own container of arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lsengine.export.height import HeightOptions
from lsengine.surface import Surface


def write(surface: Surface, path: Path, wishes: HeightOptions) -> None:
    """Write axes, quantities and ``status`` under their names, without any pickle.

    The columns of a trajectory are called ``trajectory_epoch`` and so on.

    Args:
        surface: Of any shape.
        path: A new file that ends in ``.npz``.
        wishes: Not asked.
    """
    del wishes
    columns = surface.trajectory.columns if surface.trajectory is not None else {}
    np.savez_compressed(
        path,
        allow_pickle=False,
        name=np.array(surface.name),
        status=surface.status,
        **surface.axes,
        **surface.quantities,
        # HDF5's own marks on the type of a text are not for this format.
        **{f"trajectory_{n}": c.astype(c.dtype.str) for n, c in columns.items()},
    )
