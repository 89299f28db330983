"""All checks in order: of one process alone, or of all ranks by messages."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from contextlib import closing
from enum import IntEnum
from pathlib import Path
from typing import Any

from lsengine import ranks, store
from lsengine.doctor import file_system, launcher, rules
from lsengine.doctor.checks import Check, ok, problem, warning
from lsengine.doctor.probe import HostProbe, look, try_device
from lsengine.errors import EnvironmentUnfit, LsengineError
from lsengine.ranks import World
from lsengine.wording import listed

_ARRIVAL_S = 180.0  # torch from a network file system, for a thousand ranks at once
_STEP_S = 90.0
_UNSEEN = "does not see the file"


class Tag(IntEnum):
    """The kinds of the doctor's messages."""

    FOUND = 1  # to rank 0: the answer to its question
    RING = 2  # to the next rank: the ranks it has passed, and when
    TRY = 3  # from rank 0: a seat, a file to write to, and whether to
    STOP = 4  # from rank 0: the exit code; the last message


def check_alone(output: Path) -> list[Check]:
    """Check this process and its host."""
    folder = file_system.existing(output)
    probes = {0: look(companions=True)}
    seats = rules.seats(probes)
    trouble = {0: try_device(*seats[0])} if probes[0].torch.version else {}
    hosts = _of_hosts(probes, seats, trouble)
    disk = [file_system.space(folder), *file_system.survives(folder)]
    return [*hosts, *disk, *launcher.slurm(), rules.clocks({}, _ticks())]


def _of_hosts(
    probes: Mapping[int, HostProbe], seats: rules.Seats, trouble: Mapping[int, str]
) -> list[Check]:
    return [
        rules.software(probes),
        *rules.torch(probes),
        *rules.companions(probes),
        *rules.devices(probes, seats, trouble),
        *rules.threads(probes, seats),
        *rules.memory(probes),
    ]


def _ticks() -> list[float]:
    return [time.monotonic() for _ in range(100_000)]


class RankExamination:
    """Rank 0's side: it asks the others, waits for a while, and judges."""

    def __init__(self, world: World) -> None:
        self._world, self._missing = world, set[int]()
        self._probes: dict[int, HostProbe] = {}
        self._clock_offsets: dict[int, float] = {}

    def checks(self, output: Path) -> list[Check]:
        """Return all verdicts."""
        arrived = self._answers(set(range(1, self._world.size)), _ARRIVAL_S)
        self._probes = dict(sorted({0: look(companions=True), **arrived}.items()))
        folder = file_system.existing(output)
        messages = [self._launcher(), *rules.libraries(self._probes), self._ring()]
        seats = rules.seats(self._probes)
        killed = file_system.survives(folder)
        trouble, writing = self._try_all(folder, seats)
        hosts = _of_hosts(self._probes, seats, trouble)
        disk = [file_system.space(folder), *killed, *writing]
        clocks = rules.clocks(self._clock_offsets, _ticks())
        return [*messages, *hosts, *disk, *launcher.slurm(), clocks]

    def end(self, code: int) -> None:
        """Let the others leave, or end those who do not answer."""
        for rank in range(1, self._world.size):
            self._world.send(code, to=rank, tag=Tag.STOP)
        if self._missing:
            ranks.abort_other_ranks(code)
        self._world.flush()

    def _answers(self, awaited: set[int], limit_s: float) -> dict[int, Any]:
        """Return one answer of every rank; who is late is missing from now on."""
        answers: dict[int, Any] = {}
        end = time.monotonic() + limit_s
        while awaited - answers.keys():
            message = self._world.receive(Tag.FOUND, limit_s=max(0.0, end - time.monotonic()))
            if message is None:
                break
            answers[message.source] = message.payload
        self._missing |= awaited - answers.keys()
        return answers

    def _launcher(self) -> Check:
        found = f"{rules.hosts(self._probes)}; {self._world.library}"
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
        self._clock_offsets = {
            rank: now - min(max(now, start), end) for rank, now in message.payload if rank
        }
        return rules.ring(self._world.size, [rank for rank, _ in message.payload])

    def _try_all(self, folder: Path, seats: rules.Seats) -> tuple[dict[int, str], list[Check]]:
        """Have every rank try its device and write a cell into one file, all at a time."""
        parallel = store.has_mpi()
        try:
            with file_system.trial(folder, self._world.size) as path:
                trouble, refusals = self._try_devices(path, seats, parallel)
                return trouble, self._writing(path, refusals, parallel)
        except LsengineError:  # told already by the trial of a killed writer
            return self._try_devices(None, seats, parallel)[0], []

    def _try_devices(
        self, path: Path | None, seats: rules.Seats, parallel: bool
    ) -> tuple[dict[int, str], dict[int, str]]:
        """Return by rank what is wrong with its device, and why it could not write."""
        others = self._probes.keys() - {0} - self._missing
        for rank in others:
            self._world.send((seats[rank], path, parallel), to=rank, tag=Tag.TRY)
        answers = {0: _try(self._world, seats[0], path, parallel)}
        answers |= self._answers(set(others), _STEP_S)
        silent = (f"no answer within {_STEP_S:.0f} s",) * 2
        both = {rank: answers.get(rank, silent) for rank in self._probes}
        return {r: b[0] for r, b in both.items()}, {r: b[1] for r, b in both.items()}

    def _writing(self, path: Path, refusals: Mapping[int, str], parallel: bool) -> list[Check]:
        """Judge whether all ranks see the file, and whether all could write into it."""
        name = "parallel writing"
        shared = ok("shared folder", f"all ranks see {path.parent}")
        if unseeing := [rank for rank, why in refusals.items() if why == _UNSEEN]:
            remedy = "name an --output on a file system that all hosts share"
            found = f"{path.parent}: ranks {listed(unseeing, most=8)} do not see it"
            shared = problem("shared folder", found, remedy)
        if not parallel:
            return [shared, ok(name, "this h5py is serial: rank 0 writes for all ranks")]
        if unseeing:
            return [shared]
        if refused := [rank for rank, why in refusals.items() if why]:
            remedy = "nothing: rank 0 writes for all ranks then; another file system may do better"
            found = f"refused: {refusals[min(refused)]} (rank {min(refused)})"
            return [shared, warning(name, found, remedy)]
        if bad := file_system.wrong(path, self._world.size):
            remedy = "set writing: gather in jobs, and report this"
            return [shared, problem(name, f"all ranks wrote, but {bad}", remedy)]
        return [shared, ok(name, f"{self._world.size} ranks wrote a cell each, and all are there")]


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
    try:
        if parallel:
            with closing(store.Writer(path, world.comm_self)) as writer:
                file_system.write(writer, world.rank, world.rank)
    except (LsengineError, OSError, RuntimeError, ValueError) as error:
        return trouble, str(error)
    return trouble, ""
