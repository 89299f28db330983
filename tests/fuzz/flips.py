"""Surfaces with one bit changed, and one command on each; a flip for which there is a good answer.

Most files have their digest; of some it was written anew after the flip.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

from tests.fuzz import oracles, stamps
from tests.fuzz.surfaces import FORMATS
from tests.fuzz.warm import Command
from tests.fuzz.world import SHAPES, World


def prepare(world: World, folder: Path, number: int) -> list[Command]:
    """Change one bit of a finished or half-done surface, and return a command on it."""
    rng = Random(f"flips {number}")
    shape = rng.choice(SHAPES)
    path, good = folder / f"{shape}.h5", world.good(shape)
    shutil.copy(world.half(shape) if rng.random() < 0.6 else good, path)
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    trusted = rng.random() < 0.85 or not stamps.change(path, "bytes")
    return [_command(rng, world, folder, shape, trusted)]


def _command(rng: Random, world: World, folder: Path, shape: str, trusted: bool) -> Command:
    path, good, out = folder / f"{shape}.h5", world.good(shape), folder / "out.npz"
    merged = folder / "out.h5"
    same, shown, whole = (
        check if trusted else oracles.nothing
        for check in (
            oracles.same_cells(good, path),
            oracles.same_arrays(good, out),
            oracles.same_cells(good, merged),
        )
    )
    what = rng.choices(range(7), (30, 25, 10, 15, 10, 5, 5))[0]
    if what == 0:
        job = world.job(shape, folder)
        return Command(["eval", job, "--progress", "none"], same, {}, [path])
    if what == 1:
        return Command(["export", path, "--to", "npz", "-o", out], shown, {}, [path])
    if what == 2:
        two = [path, good] if rng.random() < 0.5 else [good, path]
        return Command(["merge", *two, "-o", merged], whole, {}, [path])
    written = rng.choice(list(FORMATS))
    words: list[object] = [
        ["status", path],
        ["status", "--verify", path],
        ["export", path, "--to", written, "-o", folder / f"out{FORMATS[written]}"],
        ["render", path, "-o", folder / "out.svg"],
    ][what - 3]
    return Command(words, refused_without_change=[path])  # type: ignore[arg-type]
