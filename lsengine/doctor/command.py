"""The checks in order: of one process alone, and of all ranks by messages."""

from __future__ import annotations

import itertools
import time
from enum import IntEnum
from pathlib import Path
from typing import Any

from lsengine import ranks, store
from lsengine.doctor import file_system, rules
from lsengine.doctor import launcher as launching
from lsengine.doctor.checks import Check, Verdict, as_json, ok, problem, text, warning
from lsengine.doctor.probe import HostProbe, look, try_device
from lsengine.errors import EnvironmentUnfit, LsengineError
from lsengine.ranks import World


def run(output: Path, *, json: bool = False) -> int:
    """Check everything, print the verdicts on rank 0, and return the exit code of all ranks.

    Args:
        output: Folder where surfaces are to go.
        json: Print a JSON list instead of lines.
    """
    try:
        world, mismatch = ranks.join(), None
    except EnvironmentUnfit as error:
        world, mismatch = World.alone(), error
    except SystemExit:
        return 0  # the first one speaks; an error here might end it before it has
    try:  # after MPI, or HDF5 may load another library of it
        from lsengine.doctor import launcher as launching
    except ImportError as error:
        if world.rank:
            return EnvironmentUnfit.exit_code
        remedy = "install h5py again, or what it was compiled with"
        return _tell([problem("installation", str(error), remedy)], json)
    if mismatch is not None:
        if not launching.is_first_rank():
            return 0
        found, _, remedy = str(mismatch).rpartition("; ")
        launcher = problem("launcher", found, remedy)
        return _tell([launcher, *alone(output, launched=True)], json)
    if world.size == 1:
        return _tell(alone(output), json)
    if world.rank:
        return serve(world)
    examined = Examination(world)
    code = _tell(examined.checks(output), json)
    examined.end(code)
    return code


def _tell(checks: list[Check], json: bool) -> int:
    print(as_json(checks) if json else text(checks), flush=True)
    worst = any(check.verdict is Verdict.PROBLEM for check in checks)
    return EnvironmentUnfit.exit_code if worst else 0


class Tag(IntEnum):
    """The kinds of the doctor's messages."""

    FOUND = 1  # to rank 0: the answer to its question
    RING = 2  # to the next rank: the ranks it has passed, and when
    TRY = 3  # from rank 0: a seat, a file to write to, and whether to
    STOP = 4  # from rank 0: the exit code; the last message


_ARRIVAL_S = 180.0  # torch from a network file system, for a thousand ranks at once
_STEP_S = 90.0


def alone(output: Path, *, launched: bool = False) -> list[Check]:
    """Check this process; without a launcher, the one at hand, too."""
    here = file_system.existing(output)
    trial = [] if launched else launching.launcher(here)
    places = {0: look()}
    seats = rules.seats(places)
    trouble = {0: try_device(*seats[0])} if places[0].torch.version else {}
    return [
        *trial,
        rules.software(places),
        *rules.torch(places),
        *rules.devices(places, seats, trouble),
        *rules.threads(places, seats),
        *rules.memory(places),
        file_system.space(here),
        *file_system.survives(here),
        *launching.slurm(),
        rules.clocks({}, _ticks()),
    ]


def _ticks() -> list[float]:
    return [time.monotonic() for _ in range(100_000)]


class Examination:
    """Rank 0's side: asks, waits for a while, and judges."""

    def __init__(self, world: World) -> None:
        self._world, self._missing = world, set[int]()
        self._places: dict[int, HostProbe] = {}
        self._offsets: dict[int, float] = {}

    def checks(self, output: Path) -> list[Check]:
        """Return all verdicts."""
        self._gather_places()
        here = file_system.existing(output)
        checks = [self._launcher(), *rules.libraries(self._places), self._ring()]
        seats = rules.seats(self._places)
        killed = file_system.survives(here)
        trouble, writing = self._try_all(here, seats)
        return [
            *checks,
            rules.software(self._places),
            *rules.torch(self._places),
            *rules.devices(self._places, seats, trouble),
            *rules.threads(self._places, seats),
            *rules.memory(self._places),
            file_system.space(here),
            *killed,
            *writing,
            *launching.slurm(),
            rules.clocks(self._offsets, _ticks()),
        ]

    def end(self, code: int) -> None:
        """Let the others leave, or end those who do not answer."""
        for rank in range(1, self._world.size):
            self._world.send(code, to=rank, tag=Tag.STOP)
        if self._missing:
            ranks.abort_other_ranks(code)
        self._world.flush()

    def _gather_places(self) -> None:
        """Hear from every rank where it is."""
        places = {0: look()}
        for rank, place in self._answers(set(range(1, self._world.size)), _ARRIVAL_S).items():
            places[rank] = place
        self._places = dict(sorted(places.items()))

    def _answers(self, awaited: set[int], limit_s: float) -> dict[int, Any]:
        """Return one answer of every rank; who is late is missing from now on."""
        found: dict[int, Any] = {}
        end = time.monotonic() + limit_s
        while awaited - found.keys():
            left_s = max(0.0, end - time.monotonic())
            message = self._world.receive(Tag.FOUND, limit_s=left_s)
            if message is None:
                break
            found[message.source] = message.payload
        self._missing |= awaited - found.keys()
        return found

    def _launcher(self) -> Check:
        found = f"{rules.hosts(self._places)}; {self._world.library}"
        if not self._missing:
            return ok("launcher", found)
        late = ", ".join(map(str, sorted(self._missing)))
        remedy = "look at their hosts: swapping, a hanging file system, a hanging driver"
        found = f"no word within {_ARRIVAL_S:.0f} s from ranks {late}; {found}"
        return problem("launcher", found, remedy)

    def _ring(self) -> Check:
        """Send a message from rank to rank, which each signs with the time of its clock."""
        if self._missing:
            return warning("ring message", "not sent, as ranks are missing", "see above")
        start = time.time()
        self._world.send([(0, start)], to=1, tag=Tag.RING)
        message = self._world.receive(Tag.RING, limit_s=_STEP_S)
        if message is None:
            return rules.ring(self._world.size, None)
        end = time.time()
        self._offsets = {
            rank: now - min(max(now, start), end) for rank, now in message.payload if rank
        }
        return rules.ring(self._world.size, [rank for rank, _ in message.payload])

    def _try_all(self, here: Path, seats: rules.Seats) -> tuple[dict[int, str], list[Check]]:
        """Have every rank try its device and write a cell into one file, all at a time."""
        parallel = store.has_mpi()
        try:
            with file_system.trial(here, self._world.size) as path:
                return self._all_write(path, seats, parallel)
        except LsengineError:  # told already by the trial of a killed writer
            return self._try_devices(None, seats, parallel)[0], []

    def _all_write(
        self, path: Path, seats: rules.Seats, parallel: bool
    ) -> tuple[dict[int, str], list[Check]]:
        name = "parallel writing"
        trouble, refusals = self._try_devices(path, seats, parallel)
        shared = _shared(path, refusals)
        if not parallel:
            found = "this h5py is serial: rank 0 writes for all ranks"
            return trouble, [*shared, ok(name, found)]
        reasons = {rank: why for rank, why in refusals.items() if why and why != _UNSEEN}
        if shared and shared[0].verdict is Verdict.PROBLEM:
            return trouble, shared
        if reasons:
            rank = min(reasons)
            remedy = "nothing: rank 0 writes for all ranks then; another file system may do better"
            found = f"refused: {reasons[rank]} (rank {rank})"
            return trouble, [*shared, warning(name, found, remedy)]
        if bad := file_system.wrong(path, self._world.size):
            remedy = "set writing: gather in jobs, and report this"
            return trouble, [*shared, problem(name, f"all ranks wrote, but {bad}", remedy)]
        found = f"{self._world.size} ranks wrote a cell each, and all are there"
        return trouble, [*shared, ok(name, found)]

    def _try_devices(
        self, path: Path | None, seats: rules.Seats, parallel: bool
    ) -> tuple[dict[int, str], dict[int, str]]:
        """Return by rank what is wrong with its device, and why it could not write."""
        others = self._places.keys() - {0} - self._missing
        for rank in others:
            self._world.send((seats[rank], path, parallel), to=rank, tag=Tag.TRY)
        found = {0: _try(self._world, seats[0], path, parallel)}
        found |= self._answers(set(others), _STEP_S)
        silent = (f"no answer within {_STEP_S:.0f} s",) * 2
        both = {rank: found.get(rank, silent) for rank in self._places}
        return {r: b[0] for r, b in both.items()}, {r: b[1] for r, b in both.items()}


_UNSEEN = "does not see the file"


def _shared(path: Path, refusals: dict[int, str]) -> list[Check]:
    unseen = [rank for rank, why in refusals.items() if why == _UNSEEN]
    if not unseen:
        return [ok("shared folder", f"all ranks see {path.parent}")]
    some = ", ".join(map(str, unseen[:8])) + (" and others" if len(unseen) > 8 else "")
    remedy = "name an --output on a file system that all hosts share"
    return [problem("shared folder", f"{path.parent}: ranks {some} do not see it", remedy)]


def serve(world: World) -> int:
    """Answer rank 0's questions; leave with its code, or when it is silent for too long."""
    world.send(look(), to=0, tag=Tag.FOUND)
    quiet_s = _ARRIVAL_S + 3 * _STEP_S
    while (message := world.receive(Tag.RING, Tag.TRY, Tag.STOP, limit_s=quiet_s)) is not None:
        if message.tag == Tag.STOP:
            return int(message.payload)
        if message.tag == Tag.RING:
            after = (world.rank + 1) % world.size
            signed = [*message.payload, (world.rank, time.time())]
            world.send(signed, to=after, tag=Tag.RING)
        else:
            world.send(_try(world, *message.payload), to=0, tag=Tag.FOUND)
    return EnvironmentUnfit.exit_code


def _try(
    world: World, seat: tuple[int | None, int], path: Path | None, parallel: bool
) -> tuple[str, str]:
    """Return what is wrong with this rank's device, and why its cell could not be written."""
    trouble = try_device(*seat)
    if path is None:
        return trouble, ""
    for wait_s in itertools.chain((0.0, 0.1, 0.5), itertools.repeat(1.0, 8)):
        time.sleep(wait_s)  # a network file system shows a new file after a while
        if path.exists():
            break
    else:
        return trouble, _UNSEEN
    if not parallel:
        return trouble, ""
    try:
        writer = store.Writer(path, world.comm_self)
        try:
            file_system.write(writer, world.rank, world.rank)
        finally:
            writer.close()
    except (LsengineError, OSError, RuntimeError, ValueError) as error:
        return trouble, str(error)
    return trouble, ""
