"""Placement: which rank is where, which device it takes, how many threads, and who shares what."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict

from lsengine.engine.messages import Assignment, Hello, VisibleDevices, WorkerInfo
from lsengine.job import Job
from lsengine.surface.identity import disagreements

log = logging.getLogger(__name__)


class Placement:
    """What rank 0 knows of where everybody is.

    Attributes:
        hellos: Of all workers heard of, and of rank 0 if it evaluates, too.
        infos: Of those that have loaded everything, the first one first.
    """

    def __init__(self) -> None:
        self.hellos: dict[int, Hello] = {}
        self.infos: dict[int, WorkerInfo] = {}
        self._slots: dict[int, int] = {}
        self._shared: set[str] = set()  # cards that have been warned of

    def assign(self, rank: int, job: Job) -> Assignment:
        """Give a rank that has said hello its device and its threads."""
        slot, threads = assign(rank, self.hellos, self._slots)
        self._slots[rank] = slot
        return Assignment(
            job=job, slot=slot, threads=threads, peers=self._workers_of(self.hellos[rank].host)
        )

    def assign_coordinator(
        self, hello: Hello, devices: VisibleDevices, job: Job
    ) -> Assignment | None:
        """Return rank 0's own assignment if it leaves a device or a core idle, else None."""
        wanted = job.document.launch.coordinator
        info = next(iter(self.infos.values()))
        peers = {r: h for r, h in self.hellos.items() if h.host == hello.host}
        slot, _ = assign(0, self.hellos | {0: hello}, self._slots)
        if devices.kind == "cpu":
            cores = hello.cores.union(*(h.cores for h in peers.values()))
            is_idle = len(cores) >= info.threads * (len(peers) + 1)
        else:
            is_idle = slot < devices.count
        if devices.kind != info.device_kind.partition(" ")[0] or not devices.count:
            return None  # its cells would differ from the workers'
        if wanted == "waits" or (wanted == "auto" and not is_idle):
            return None
        self.hellos[0], self._slots[0] = hello, slot  # who comes late finds the device taken
        return Assignment(
            job=job, slot=slot, threads=info.threads, peers=self._workers_of(hello.host)
        )

    def _workers_of(self, host: str) -> int:
        return sum(hello.host == host for hello in self.hellos.values())

    def loaded(self, rank: int, info: WorkerInfo) -> None:
        """Take note of where a rank's values come from; warn if it differs, or shares a card."""
        for other, theirs in itertools.islice(self.infos.items(), 1):
            if differences := disagreements(asdict(info), asdict(theirs)):
                pairs = [f"{d.key} {d.ours!r} and {d.theirs!r}" for d in differences]
                log.warning(
                    f"ranks {rank} and {other} differ in {', '.join(pairs)}; their cells agree to "
                    "the precision's tolerance, not bit by bit"
                )
        card = info.device_id
        others = [r for r, theirs in self.infos.items() if card and theirs.device_id == card]
        if others and card not in self._shared:
            self._shared.add(card)
            log.warning(
                f"ranks {others[0]} and {rank} share one card ({info.device_kind} on {info.host}); "
                "start one worker per card, and one rank more for the coordinator"
            )
        self.infos[rank] = info

    def forget(self, rank: int) -> str:
        """Forget a rank that has died, and return where it was."""
        self.infos.pop(rank, None)
        hello = self.hellos.pop(rank, None)
        return hello.host if hello else "an unknown host"


def assign(rank: int, hellos: Mapping[int, Hello], slots: Mapping[int, int]) -> tuple[int, int]:
    """Return a worker's number among its equals, which chooses its device, and its threads.

    Workers are equals if they are on one host and see the same devices: a launcher that gives
    each its own device makes each number 0.  Every core of a host is shared among those that may
    use it, bound or not; a coordinator that does not compute is none of them.

    Of the numbers ``slots`` given to workers already the smallest free one is given next.
    """
    mine = hellos[rank]
    peers = {r: h for r, h in hellos.items() if h.host == mine.host}
    users = Counter(core for hello in peers.values() for core in hello.cores)
    share = sum(1 / users[core] for core in mine.cores)
    taken = {slots[r] for r, h in peers.items() if r in slots and h.visible == mine.visible}
    slot = next(number for number in itertools.count() if number not in taken)
    return slot, max(1, int(share + 1e-9))
