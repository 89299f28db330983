"""Placement: which rank is where, which device it takes, how many threads, and who shares what."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict

from lsengine import cores
from lsengine.cores import Threads
from lsengine.engine.messages import Assignment, Hello, VisibleDevices, WorkerInfo
from lsengine.job import Job
from lsengine.surface.identity import disagreements

log = logging.getLogger(__name__)


class Placement:
    """What rank 0 knows of where everybody is.

    ``coordinator`` is rank 0, if others evaluate; ``settled`` the threads of the surface that is
    gone on with, or 0.

    Attributes:
        hellos: Of all workers heard of, and of rank 0 if it evaluates, too.
        infos: Of those that have loaded everything, the first one first.
    """

    def __init__(self, coordinator: Hello | None = None, settled: int = 0) -> None:
        self._coordinator, self.settled = coordinator, settled
        self.hellos: dict[int, Hello] = {}
        self.infos: dict[int, WorkerInfo] = {}
        self._slots: dict[int, int] = {}
        self._shared: set[str] = set()  # cards that have been warned of

    def assign(self, rank: int, job: Job) -> Assignment:
        """Give a rank that has said hello its device and its threads."""
        slot, share = assign(rank, self._computing(job), self._slots)
        self._slots[rank] = slot
        peers = self._workers_of(self.hellos[rank].host)
        return Assignment(job=job, slot=slot, share=share, settled=self.settled, peers=peers)

    def _computing(self, job: Job) -> Mapping[int, Hello]:
        """Return who will compute on CPUs, as far as it is known before anything is loaded."""
        document = job.document
        wanted = document.launch.coordinator
        if self._coordinator is None or wanted == "waits":
            return self.hellos
        if wanted == "evaluates":
            return {**self.hellos, 0: self._coordinator}
        threads = self.settled if document.threads == "auto" else document.threads
        return computing(self.hellos, self._coordinator, threads=threads)

    def assign_coordinator(
        self, hello: Hello, devices: VisibleDevices, job: Job
    ) -> Assignment | None:
        """Return rank 0's own assignment if it leaves a device or a core idle, else None."""
        wanted = job.document.launch.coordinator
        info = next(iter(self.infos.values()))
        slot, _ = assign(0, self.hellos | {0: hello}, self._slots)
        if devices.kind == "cpu":
            is_idle = 0 in computing(self.hellos, hello, threads=info.threads)
        else:
            is_idle = slot < devices.count
        if devices.kind != info.device_kind.partition(" ")[0] or not devices.count:
            return None  # its cells would differ from the workers'
        if wanted == "waits" or (wanted == "auto" and not is_idle):
            return None
        self.hellos[0], self._slots[0] = hello, slot  # who comes late finds the device taken
        share = Threads(info.threads, info.threads_why)
        peers = self._workers_of(hello.host)
        return Assignment(job=job, slot=slot, share=share, settled=info.threads, peers=peers)

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


def computing(
    hellos: Mapping[int, Hello], coordinator: Hello, *, threads: int = 0
) -> Mapping[int, Hello]:
    """Return the workers, and rank 0 if its host has a core for each of its ranks' threads.

    Of so many ``threads`` each, or if that is not known, if no more cores are busy without it.
    """
    of_host = [coordinator, *(h for h in hellos.values() if h.host == coordinator.host)]
    ranks, count = len(of_host), _cores_of(of_host)
    is_worth = bool(threads) or count % ranks <= count % max(1, ranks - 1)
    has_room = is_worth and count >= ranks * max(1, threads)
    return {**hellos, 0: coordinator} if has_room else hellos


def _cores_of(of_host: Collection[Hello]) -> int:
    """Return how many cores some ranks of a host may use together."""
    numbers = frozenset[int]().union(*(hello.cores for hello in of_host))
    groups = [hello.limits.group for hello in of_host if hello.limits.group]
    return min([len(numbers), *groups])


def assign(rank: int, hellos: Mapping[int, Hello], slots: Mapping[int, int]) -> tuple[int, Threads]:
    """Return a worker's number among its equals, which chooses its device, and its threads.

    Workers are equals if they are on one host and see the same devices: a launcher that gives
    each its own device makes each number 0.  Threads are those of `lsengine.cores.share` among
    ``hellos``, of which a coordinator that does not compute is none.

    Of the numbers ``slots`` given to workers already the smallest free one is given next.
    """
    mine = hellos[rank]
    peers = {r: h for r, h in hellos.items() if h.host == mine.host}
    beside = [hello.cores for other, hello in peers.items() if other != rank]
    taken = {slots[r] for r, h in peers.items() if r in slots and h.visible == mine.visible}
    slot = next(number for number in itertools.count() if number not in taken)
    return slot, cores.share(mine.cores, mine.limits, beside)
