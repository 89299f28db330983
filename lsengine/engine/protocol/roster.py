"""Which workers are there: present, silent, dead, or told to leave."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from lsengine.engine.messages import Hello
from lsengine.ranks import World
from lsengine.wording import listed

log = logging.getLogger(__name__)


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
