"""Locks, environments, names and places that are odd, with surfaces and jobs that are good."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.fuzz import odd, oracles
from tests.fuzz.warm import Command
from tests.fuzz.world import SHAPES, World

_VARIABLES = (
    "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "SLURM_PROCID", "SLURM_STEP_ID",
    "SLURM_STEP_NUM_TASKS", "SLURM_RESTART_COUNT", "SLURM_JOB_ID", "SLURM_JOB_END_TIME",
    "OMP_NUM_THREADS", "COLUMNS", "LINES", "LSENGINE_SITE", "TMPDIR", "HOME", "LANG", "TERM",
    "CUDA_VISIBLE_DEVICES", "SLURM_CPUS_PER_TASK", "SLURM_MEM_PER_NODE", "SLURM_NTASKS", "PATH",
    "MPLBACKEND", "MPLCONFIGDIR", "NO_COLOR", "SLURM_LOCALID", "SLURMD_NODENAME", "TZ", "USER",
)  # fmt: skip
_VALUES = (
    "", "x", "-1", "0", "1", "1.5", "1e9", " 1", "1 ", "0x1", "9" * 400, "1,2", "nan", "\x1b[31m",
    "a\nb", "/dev/zero", "/nowhere", "/", "é", "\udcff", "True", "()", "1(x2)", "~", "1;2",
)  # fmt: skip
_NAMES = (
    "x.h5", "[1].h5", "x**y.h5", "a b.h5", "-x.h5", "é.h5", "x" * 252 + ".h5", "x" * 240 + ".h5",
    "x" * 300 + ".h5", "a\nb.h5", "\x1b[31m.h5", "fifo", "folder", "folder/x.h5", "no/such/x.h5",
    "file/x.h5", "loop/x.h5", "dangling", "zero", "x", ".h5", "..", "", "a\0b.h5".replace("\0", ""),
    "{x}.h5", "%s.h5", "x;y.h5", "$(x).h5", "'.h5", "x.h5.lock", ".x.h5.part", "to_victim",
)  # fmt: skip


def prepare(world: World, folder: Path, number: int) -> list[Command]:
    """Make odd surroundings in the case's folder, and return commands there."""
    rng = Random(f"places {number}")
    shape = rng.choice(SHAPES)
    surface = folder / f"{shape}.h5"
    shutil.copy(world.half(shape) if rng.random() < 0.7 else world.good(shape), surface)
    _surroundings(world, folder)
    job = world.job(shape, folder)
    if rng.random() < 0.2:
        return _struck(rng, world, job, surface)
    return [rng.choice((_locked, _locked, _surrounded, _named, _named))(rng, world, job, surface)]


def _struck(rng: Random, world: World, job: Path, surface: Path) -> list[Command]:
    """A signal at any moment; the same command goes on, to the good surface."""
    number = rng.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGKILL))
    evaluation = ["eval", job, "--progress", "none"]
    same = oracles.same_cells(world.good(surface.stem), surface)
    return [
        Command(evaluation, same, struck=(number, rng.uniform(0, 0.5))),
        Command(evaluation, oracles.ended_with_0(same)),
    ]


def _surroundings(world: World, folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    (folder / "file").write_text("x")
    for name, target in (
        ("loop", "loop"),
        ("dangling", "/nowhere"),
        ("zero", "/dev/zero"),
        ("to_victim", str(world.outside / "precious")),
    ):
        (folder / name).symlink_to(target)


def _owner(rng: Random) -> dict[str, object]:
    """Return what a lock says: of a process of this boot that is gone, with something odd."""
    owner: dict[str, object] = {
        "host": os.uname().nodename,
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "pid_namespace": str(Path("/proc/self/ns/pid").readlink()),
        "pid": 4_000_000,
        "process_start": 5,
        "slurm_job_id": "",
        "slurm_restart_count": 0,
        "token": "t",
        "heartbeat": 1,
    }
    for _ in range(rng.choice((0, 1, 2))):
        key = rng.choice(("pid", "process_start", "slurm_restart_count", "token", "heartbeat"))
        owner[key] = odd.json_value(rng)
    return owner


def _locked(rng: Random, world: World, job: Path, surface: Path) -> Command:
    """A lock of a run that is gone, or something else in its place."""
    lock = surface.with_name(f"{surface.name}.lock")
    kinds: tuple[Callable[[], object], ...] = (
        lambda: lock.write_text(json.dumps(_owner(rng))),
        lambda: lock.write_text(json.dumps(_owner(rng))),
        lambda: lock.write_text(odd.json_text(rng)),
        lambda: lock.write_bytes(odd.flawed(rng, json.dumps(_owner(rng)).encode())),
        lambda: lock.write_bytes(
            rng.choice((b"", b"\0" * 100, b"x" * 10**6, b"\xff", b"[" * 10**5))
        ),
        lambda: os.mkfifo(lock),
        lock.mkdir,
        lambda: lock.symlink_to(
            rng.choice(
                ("/nowhere", lock, world.outside / "precious", "/dev/zero", "folder", "fifo")
            )
        ),
        lambda: os.link(surface.with_name("file"), lock),
    )
    rng.choice(kinds)()
    return _on(rng, world, job, surface, surface)


def _surrounded(rng: Random, world: World, job: Path, surface: Path) -> Command:
    """Variables of launchers, clusters and libraries that hold anything."""
    names = rng.sample(_VARIABLES, rng.choice((1, 2, 4)))
    command = _on(rng, world, job, surface, surface)
    command.environment = {name: rng.choice(_VALUES) for name in names}
    return command


def _named(rng: Random, world: World, job: Path, surface: Path) -> Command:
    """Odd names of inputs and outputs."""
    name = rng.choice(_NAMES)
    where = surface.parent / name
    if rng.random() < 0.4:
        return _on(rng, world, job, where, surface)
    shape = surface.stem
    job = world.job(shape, surface.parent, output=name)
    kinds: list[list[object]] = [
        ["eval", job, "--progress", "none"],
        ["status", job],
        ["merge", surface, "-o", where],
        ["export", surface, "--to", rng.choice(("npz", "csv", "vts", "netcdf")), "-o", where],
        ["render", surface, "-o", where],
        ["submit", job, "--dry-run", "--probe", "0"],
        ["compare", surface, "--csv", where],
        ["histogram", world.folder / "run/epoch_001.pt", "-o", where],
        ["init", where],
        ["eval", job, "--progress", "none", "--shard", "1/2"],
    ]
    return Command(rng.choice(kinds), oracles.nothing)


def _on(rng: Random, world: World, job: Path, named: Path, surface: Path) -> Command:
    good = world.good(surface.stem)
    kinds: list[tuple[list[object], Path | None]] = [
        (["eval", job, "--progress", "none"], surface),
        (["merge", good, "-o", named], None),
        (["merge", named, good, "-o", surface.parent / "out.h5"], None),
        (["status", named], None),
        (["status", job], None),
        (["export", named, "--to", "npz", "-o", surface.parent / "out.npz"], None),
        (["render", named, "-o", surface.parent / "out.svg"], None),
        (["compare", named], None),
        (["submit", job, "--dry-run", "--probe", "0"], None),
        (["train", job, "--progress", "none"], None),
        (["histogram", named, "-o", surface.parent / "out.h5"], None),
    ]
    arguments, made = rng.choice(kinds)
    return Command(arguments, oracles.same_cells(good, made) if made else oracles.nothing)
