"""What the cases start from: a trained network, its good surfaces, and files nobody may touch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import yaml

SECRET = b"my private words "
SHAPES = ("plane", "curve", "drawn")
CELLS = {"status", "checksum", "precision_error"}
PROVENANCE = {"wall_s": np.nan, "finished": np.nan, "worker": -1, "batch": 0, "failure": b""}


@dataclass(frozen=True)
class World:
    """A folder with everything; ``outside`` holds the files nobody may touch."""

    folder: Path

    @property
    def outside(self) -> Path:
        """Return the folder of what no command may change or show."""
        return self.folder / "outside"

    def job(self, shape: str, folder: Path, file: str = "", **changes: object) -> Path:
        """Write a job of a shape of surface into a case's folder."""
        document = _document(self.folder, shape) | changes
        path = folder / f"{file or shape}.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}))
        return path

    def good(self, shape: str) -> Path:
        """Return the finished surface of a shape."""
        return self.folder / f"{shape}.h5"

    def half(self, shape: str) -> Path:
        """Return the same with half of its cells missing."""
        return self.folder / f"{shape}-half.h5"

    def sentinels(self) -> dict[str, tuple[int, int, int]]:
        """Return of each file that nobody may touch what changes when somebody does."""
        found = {}
        for path in sorted(self.outside.iterdir()):
            told = path.stat()
            found[path.name] = (told.st_ino, told.st_size, told.st_mtime_ns)
        return found


def build(folder: Path, run: Callable[..., int]) -> World:
    """Make the world with the commands themselves, which warms this process up, too."""
    world = World(folder)
    _write_data(folder / "data.npz")
    for shape in SHAPES:
        job = world.job(shape, folder)
        if shape == "plane":
            _expect(run("train", job, "--progress", "none"))
        _expect(run("eval", job, "--progress", "none"))
        shutil.copy(world.good(shape), world.half(shape))
        _forget_half(world.half(shape))
    _expect(run("histogram", folder / "run/epoch_003.pt", "--output", folder / "weights.h5"))
    outside = world.outside
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious text, " * 200)
    (outside / "private").write_bytes(SECRET * 200)
    shutil.copy(world.half("plane"), outside / "victim.h5")
    with h5py.File(outside / "victim.h5", "r+") as file:
        file["train_loss"][...] = 77.0
    shutil.copy(world.folder / "run/epoch_003.pt", outside / "victim.pt")
    return world


def _expect(code: int) -> None:
    if code:
        raise RuntimeError(f"a command of the good world ended with {code}")


def _document(folder: Path, shape: str) -> dict[str, object]:
    random = {"kind": "random", "normalize": "filter"}
    document = {
        "name": shape,
        "model": {
            "arch": "mlp",
            "args": {"hidden": [5]},
            "checkpoint": str(folder / "run/epoch_003.pt"),
        },
        "data": {"dataset": "arrays", "root": str(folder / "data.npz")},
        "threads": 1,
        "device": "cpu",
        "batch_size": 16,
        "output": f"{shape}.h5",
    }
    if shape == "curve":
        return document | {
            "directions": {"alpha": random},
            "grid": {"alpha": [-1, 1, 5]},
            "repeats": 3,
        }
    document |= {
        "directions": {"alpha": random | {"seed": 1}, "beta": random | {"seed": 2}},
        "grid": {"alpha": [-1, 1, 5], "beta": [-1, 1, 4]},
    }
    if shape == "drawn":
        document["directions"] |= {"stored": False}  # type: ignore[operator]
        return document
    training = {"epochs": 3, "save_every": 1, "batch_size": 16, "lr": 0.05}
    return document | {
        "train": training | {"output": str(folder / "run")},
        "trajectory": {"checkpoints": str(folder / "run/epoch_*.pt")},
    }


def _write_data(path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 20), ("test", 11)):
        y = rng.integers(0, 3, count)
        x = rng.normal(size=(count, 1, 2, 2)) + y[:, None, None, None]
        arrays |= {f"x_{split}": x.astype(np.float32), f"y_{split}": y}
    np.savez(path, **arrays)


def _forget_half(path: Path) -> None:
    """Make the second half of the cells missing, as a run leaves them."""
    with h5py.File(path, "r+") as file:
        for group in (file, file.get("trajectory", {})):
            if "status" not in group:
                continue
            status = group["status"]
            first = status.shape[0] // 2
            for name, dataset in group.items():
                if not isinstance(dataset, h5py.Dataset) or dataset.shape != status.shape:
                    continue
                if name in ("status", "checksum"):
                    dataset[first:] = 0
                elif name in PROVENANCE:
                    dataset[first:] = PROVENANCE[name]
                elif name.startswith(("train_", "test_", "plane_")):
                    dataset[first:] = np.nan
