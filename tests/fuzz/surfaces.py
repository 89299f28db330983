"""Surfaces with something changed in their structure, values, texts or bytes, and what reads them.

A third of them have digest and checksums written anew after the change, as a stranger can; some
have none, as files of older versions and other programs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import h5py

from tests.fuzz import odd, oracles, stamps
from tests.fuzz.edits import EDITS
from tests.fuzz.warm import Command
from tests.fuzz.world import SHAPES, World

PICTURES = ("contour", "filled", "heatmap", "surface", "trajectory", "curve", "html", "curvature")
FORMATS = {
    "csv": ".csv",
    "npz": ".npz",
    "netcdf": ".nc",
    "vts": ".vts",
    "glb": ".glb",
    "ply": ".ply",
    "loss-landscape": ".h5",
}


def prepare(world: World, folder: Path, number: int) -> list[Command]:
    """Write a changed surface into the case's folder, and return commands on it."""
    rng = Random(f"surfaces {number}")
    shape = rng.choice(SHAPES)
    is_half = rng.random() < 0.6
    path = folder / f"{shape}.h5"
    shutil.copy(world.half(shape) if is_half else world.good(shape), path)
    if rng.random() < 0.15:
        path.write_bytes(odd.flawed(rng, path.read_bytes()))
    else:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            _edit(rng, path, world)
    how = rng.choices(("kept", "anew", "none"), (50, 33, 17))[0]
    if how != "kept" and not stamps.change(path, how):
        how = "kept"
    return _commands(rng, world, folder, shape, how)


def _edit(rng: Random, path: Path, world: World) -> None:
    edit: Callable[[Random, h5py.File, World], None] = rng.choice(EDITS)
    try:
        with h5py.File(path, "r+") as file:
            edit(rng, file, world)
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, MemoryError):
        pass  # HDF5 refuses some of what is asked for; what was done before that stays


def _commands(rng: Random, world: World, folder: Path, shape: str, how: str) -> list[Command]:
    surface, trusted = folder / f"{shape}.h5", how == "kept"
    job = world.job(shape, folder)
    good = world.good(shape)
    same = oracles.same_cells(good, surface) if trusted else oracles.nothing
    if how == "none":
        same = oracles.warned
    out = folder / "out.h5"
    merged = oracles.same_cells(good, out) if trusted else oracles.nothing
    written = rng.choice(list(FORMATS))
    readers = [
        ["status", surface],
        ["status", "--json", surface],
        ["status", "--verify", surface],
        ["status", job],
        ["compare", surface],
        ["compare", "--json", "--csv", folder / "out.csv", surface, good],
        ["render", surface, "--as", rng.choice(PICTURES), "-o", folder / "out.html"],
        ["render", surface, "--as", rng.choice(PICTURES), "-o", folder / "out.png"],
        ["render", surface, "-o", folder / "out.svg"],
        ["export", surface, "--to", written, "-o", folder / f"out{FORMATS[written]}"],
    ]
    npz = folder / "out.npz"
    shown = oracles.same_arrays(good, npz) if trusted else oracles.nothing
    picked = [
        Command(["export", surface, "--to", "npz", "-o", npz], shown, {}, [surface]),
        *(Command(words, refused_without_change=[surface]) for words in readers),
    ]
    commands = rng.sample(picked, rng.choice((1, 2)))
    writers = [
        Command(["merge", surface, good, "-o", out], merged, {}, [surface]),
        Command(["merge", good, surface, "-o", out], merged, {}, [surface]),
        Command(_extended(world, folder, shape, surface), oracles.nothing, {}, [surface]),
        Command(_led(world, folder, surface), oracles.nothing, {}, [surface]),
    ]
    if rng.random() < 0.4:
        commands.append(rng.choice(writers))
    if rng.random() < 0.5:  # the last, as it may change the surface
        commands.append(Command(["eval", job, "--progress", "none"], same, {}, [surface]))
    return commands


def _extended(world: World, folder: Path, shape: str, surface: Path) -> list[object]:
    grid = {"alpha": [-1, 1, 9]} | ({} if shape == "curve" else {"beta": [-1, 1, 4]})
    wide = world.job(shape, folder, "wide", output="wide.h5", grid=grid)
    return ["eval", wide, "--extend", surface, "--progress", "none"]


def _led(world: World, folder: Path, surface: Path) -> list[object]:
    """Return the evaluation of a job whose direction is the one of the surface."""
    along = {"alpha": {"kind": "file", "path": str(surface), "which": "alpha"}}
    led = world.job("curve", folder, "led", output="led.h5", directions=along, repeats=1)
    return ["eval", led, "--progress", "none"]
