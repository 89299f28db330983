"""Which workers are there: present, silent, dead, or told to leave; and how a job ends for them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lsengine.engine.messages import Farewell, Hello, Report
from lsengine.engine.protocol.placement import Placement
from lsengine.ranks import Message, Tag, World
from lsengine.wording import listed

log = logging.getLogger(__name__)
_LONGEST_S = 60.0  # for goodbyes
_SILENT_S = 2.0  # for those who have been silent for long already
_LOOK_EVERY_S = 0.5


class Roster:
    """The workers of one job, as rank 0 knows them.

    Args:
        world: The ranks.
        hellos: Of those heard of, by rank; kept up to date by others.

    Attributes:
        present: Those that have neither died nor said goodbye.
        silent: Those whose cells were given to others because nothing was heard of them.
        dismissed: Those that have been told to leave.
    """

    def __init__(self, world: World, hellos: Mapping[int, Hello]) -> None:
        self._world, self._hellos = world, hellos
        self.present = set(range(1, world.size)) - world.lost()
        self.silent: set[int] = set()
        self.dismissed: set[int] = set()

    def dead(self) -> set[int]:
        """Return the present ones that have died."""
        return self.present & self._world.lost()

    def give_up(self, ranks: set[int]) -> None:
        """Go on without those who do not answer, whose cells others have done.

        Where ranks outlive each other, a killed worker changes nothing.  Elsewhere its death would
        be the end of all, with its status: there the launcher is asked to end all when rank 0
        leaves, with the agreed code.
        """
        log.warning("no answer from ranks %s; leaving without them", listed(sorted(ranks), most=8))
        killed = {rank for rank in ranks if self._world.survives_rank_death and self.kill(rank)}
        self._world.mark_unresponsive(ranks - killed)
        self.present -= ranks

    def kill(self, rank: int) -> bool:
        """End a worker of this host by a signal; return whether it is one that can be seen here."""
        hello = self._hellos.get(rank)
        if hello is None or hello.host != self._world.host or not _is_rank(hello.pid, rank):
            return False
        with contextlib.suppress(OSError):
            os.kill(hello.pid, signal.SIGKILL)
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """Tells the workers that a job has ended, and waits for their goodbyes.

    Messages of one worker arrive in order, and a worker's last one is its BYE.  So once that is
    here, nothing of this job can come any more: all cells that it has finished are in the file,
    and what it says later is about the next job.  A worker may be anywhere when it is told: it
    may not even have said hello (its STOP is the answer to its hello), it may be in a cell (it
    ends within a mini-batch and sends what it has), or it may have died or hang.  For those who
    hang the time is limited, and starts anew whenever anybody is heard.
    """

    world: World
    roster: Roster  # who leaves is no longer present
    placement: Placement  # who has said hello, and who has loaded
    reap_dead: Callable[[], None]  # takes note of workers that have died
    absorb: Callable[[int, Report], None]  # takes the last reports
    patience_s: float  # how long a worker may be silent that has not begun

    def run(self, farewell: Farewell) -> None:
        """Say farewell to all, and wait until they are away.

        If another job follows, who has not even said hello is not waited for.
        """
        next_job: list[Message] = []
        heard = time.monotonic()
        while awaited := self._awaited(farewell):
            for rank in (awaited & self.placement.hellos.keys()) - self.roster.dismissed:
                self.world.send(farewell, to=rank, tag=Tag.STOP)
                self.roster.dismissed.add(rank)
            self.reap_dead()
            message = self.world.receive(limit_s=_LOOK_EVERY_S)
            if message is None:
                if time.monotonic() > heard + self._shutdown_timeout_s(awaited):
                    self.roster.give_up(awaited)
                continue
            heard = time.monotonic()
            is_early = farewell.more or message.source not in self.roster.present
            if message.tag == Tag.HELLO and is_early:
                next_job.append(message)
            else:
                self._handle(message)
        self.world.put_back(next_job)
        self.world.flush()

    def _awaited(self, farewell: Farewell) -> set[int]:
        present = self.roster.present
        return present & self.placement.hellos.keys() if farewell.more else set(present)

    def _handle(self, message: Message) -> None:
        rank, payload = message.source, message.payload
        if message.tag == Tag.HELLO:
            self.placement.hellos[rank] = payload
        elif message.tag in (Tag.READY, Tag.PART, Tag.BYE):
            if message.tag == Tag.BYE:
                self.roster.present.discard(rank)
            if payload is not None:
                self.absorb(rank, payload)

    def _shutdown_timeout_s(self, awaited: set[int]) -> float:
        """Return how long nobody may be heard of while goodbyes are awaited."""
        responsive = awaited - self.roster.silent
        if not responsive:
            return _SILENT_S
        if responsive & self.placement.infos.keys():
            return _LONGEST_S
        return min(_LONGEST_S, self.patience_s)  # they have not begun, and hold nothing


def _is_rank(process: int, rank: int) -> bool:
    """Whether a process of this host is a rank of this launch.

    In a container of its own a worker counts its processes from 1, and here the number is that
    of somebody else's.
    """
    try:
        variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    launch = os.environ.get("PMIX_NAMESPACE", "")
    wanted = {f"OMPI_COMM_WORLD_RANK={rank}".encode(), f"PMIX_NAMESPACE={launch}".encode()}
    return wanted <= set(variables)
