"""Surface and direction files as github.com/tomgoldstein/loss-landscape leaves them.

Written from a description of the format alone, in the order of its own steps: coordinates
first, datasets of -1, then single cells by their flat index in ``meshgrid(x, y)``.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

UNFILLED = {"min_eig": 1.0}


def write_surface(path: Path, x, y=None, *, done=None, **values) -> Path:
    """Write a surface.

    Args:
        path: The file.
        x: Coordinates of the columns.
        y: Coordinates of the rows; without them a curve.
        done: Flat indices of the computed cells, in the order of ``meshgrid``; default all.
        values: By dataset (``train_loss``, ``train_acc`` in percent, ``max_eig``, ...):
            functions of x and y.
    """
    with h5py.File(path, "w") as file:
        file["dir_file"] = f"{path.stem}_directions.h5"
        file["xcoordinates"] = np.asarray(x, float)
        if y is not None:
            file["ycoordinates"] = np.asarray(y, float)
        shape = (len(x),) if y is None else (len(x), len(y))
        at = np.meshgrid(x, y if y is not None else [0.0])
        for name, function in values.items():
            array = np.full(shape, UNFILLED.get(name, -1.0))
            computed = function(*at).ravel()
            for cell in range(array.size) if done is None else done:
                array.ravel()[cell] = computed[cell]
            file[name] = array
    return path


def write_directions(path: Path, tensors, second=None) -> Path:
    """Write numbered tensors as ``xdirection`` and, given a second list, ``ydirection``."""
    with h5py.File(path, "w") as file:
        for group, found in (("xdirection", tensors), ("ydirection", second)):
            if found is not None:
                for number, tensor in enumerate(found):
                    file[f"{group}/{number}"] = np.asarray(tensor, np.float32)
    return path


def main(folder: Path) -> None:
    """Write the archived files: a partial plane in its wrong shape, a curve, directions."""
    x, y = np.linspace(-1, 1, 5), np.linspace(-0.5, 1, 4)
    values = {
        "train_loss": lambda a, b: 0.25 + a**2 + 2 * (b + 0.5) ** 2,
        "train_acc": lambda a, b: 95.0 - 10 * a**2 - 20 * b**2,
    }
    write_surface(folder / "loss-landscape-2d.h5", x, y, done=range(13), **values)
    write_surface(folder / "loss-landscape-1d.h5", x, **values)
    eigenvalues = {"max_eig": lambda a, b: 8 + a, "min_eig": lambda a, b: b - 2}
    write_surface(folder / "loss-landscape-hessian.h5", x, y, done=range(7), **eigenvalues)
    tensors = [np.arange(6.0).reshape(2, 3), np.arange(2.0)]
    write_directions(folder / "loss-landscape-directions.h5", tensors, [-t for t in tensors])


if __name__ == "__main__":
    import sys

    main(Path(sys.argv[1]))
