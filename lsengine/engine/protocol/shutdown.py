"""The end of a job, as rank 0 sees it: everybody is told, and nobody is waited for in vain."""

from __future__ import annotations

import time
from collections.abc import Callable

from lsengine.engine.messages import Farewell, Report
from lsengine.engine.protocol.placement import Placement
from lsengine.engine.protocol.roster import Roster
from lsengine.ranks import Message, Tag, World

_LONGEST_S = 60.0
_SILENT_S = 2.0  # for those who have been silent for long already
_LOOK_EVERY_S = 0.5


class Shutdown:
    """Tells the workers that a job has ended, and waits for their goodbyes.

    Messages of one worker arrive in order, and a worker's last one is its BYE.  So once that is
    here, nothing of this job can come any more: all cells that it has finished are in the file,
    and what it says later is about the next job.  A worker may be anywhere when it is told: it
    may not even have said hello (its STOP is the answer to its hello), it may be in a cell (it
    ends within a mini-batch and sends what it has), or it may have died or hang.  For those who
    hang the time is limited, and starts anew whenever anybody is heard.

    Args:
        world: The ranks.
        roster: Its workers; those who leave are no longer present.
        placement: Who has said hello, and who has loaded.
        reap_dead: Takes note of workers that have died.
        absorb: Takes the last reports of workers.
        patience_s: How long a worker may be silent that has not begun.
    """

    def __init__(
        self,
        world: World,
        roster: Roster,
        placement: Placement,
        *,
        reap_dead: Callable[[], None],
        absorb: Callable[[int, Report], None],
        patience_s: float,
    ) -> None:
        self._world, self._roster, self._placement = world, roster, placement
        self._reap_dead, self._absorb, self._patience_s = reap_dead, absorb, patience_s

    def run(self, farewell: Farewell) -> None:
        """Say farewell to all, and wait until they are away.

        If another job follows, who has not even said hello is not waited for.
        """
        next_job: list[Message] = []
        heard = time.monotonic()
        while awaited := self._awaited(farewell):
            self._dismiss(farewell)
            self._reap_dead()
            message = self._world.receive(limit_s=_LOOK_EVERY_S)
            if message is None:
                if time.monotonic() > heard + self._shutdown_timeout_s(awaited):
                    self._roster.give_up(awaited)
                continue
            heard = time.monotonic()
            is_early = farewell.more or message.source not in self._roster.present
            if message.tag == Tag.HELLO and is_early:
                next_job.append(message)
            else:
                self._handle(message)
        self._world.put_back(next_job)
        self._world.flush()

    def _awaited(self, farewell: Farewell) -> set[int]:
        present = self._roster.present
        return present & self._placement.hellos.keys() if farewell.more else set(present)

    def _dismiss(self, farewell: Farewell) -> None:
        roster = self._roster
        for rank in (roster.present & self._placement.hellos.keys()) - roster.dismissed:
            self._world.send(farewell, to=rank, tag=Tag.STOP)
            roster.dismissed.add(rank)

    def _handle(self, message: Message) -> None:
        rank, payload = message.source, message.payload
        if message.tag == Tag.HELLO:
            self._placement.hellos[rank] = payload
        elif message.tag in (Tag.READY, Tag.PART, Tag.BYE):
            if message.tag == Tag.BYE:
                self._roster.present.discard(rank)
            if payload is not None:
                self._absorb(rank, payload)

    def _shutdown_timeout_s(self, awaited: set[int]) -> float:
        """Return how long nobody may be heard of while goodbyes are awaited."""
        responsive = awaited - self._roster.silent
        if not responsive:
            return _SILENT_S
        if responsive & self._placement.infos.keys():
            return _LONGEST_S
        return min(_LONGEST_S, self._patience_s)  # they have not begun, and hold nothing
