"""One run of a job: its cells, what is settled for them, and how it ends.

Imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from lsengine import devices
from lsengine.engine.inventory import Inventory
from lsengine.engine.messages import Assignment, Plan, VisibleDevices, WorkerInfo
from lsengine.engine.options import Options
from lsengine.engine.outcome import Outcome
from lsengine.engine.settling import Settling
from lsengine.engine.workspace import Workspace
from lsengine.errors import EnvironmentUnfit
from lsengine.job import Job
from lsengine.ranks import World


class Run:
    """What rank 0 knows about a job and its file.

    Args:
        job: Valid for ``eval``; its output's lock is held.
        options: See `Options`.
        tick: Called now and then while checkpoints are read; may raise to stop.

    Attributes:
        loaded: Model and data.
        inventory: The cells, and which are left.
        outcome: How far it is.

    Raises:
        UsageError: If checkpoint, network, data and loss do not go together.
        SurfaceError: If the file is damaged or belongs to another job.
    """

    def __init__(self, job: Job, options: Options, tick: Callable[[], None] = lambda: None) -> None:
        self._job, self._options = job, options
        self._settling = Settling(job, options, tick)
        self.loaded = self._settling.loaded
        self._take_stock()

    def settle(self, info: WorkerInfo, world: World, *, tick: Callable[[], None]) -> Plan:
        """Fix what all cells share, and lay the file out; see `Settling.settle`."""
        plan = self._settling.settle(info, world, tick)
        self._take_stock()  # of a grid with its ranges, and of what has been taken over
        self.outcome.begin(self._options.progress)
        return plan

    def workspace(self, assignment: Assignment, tick: Callable[[], None], rank: int) -> Workspace:
        """Return what rank 0 evaluates with, if it does; made once."""
        return Workspace(assignment, tick, rank, self._settling.loaded)

    def visible_devices(self) -> VisibleDevices:
        """Return the devices of the job's kind that this process sees."""
        wanted, visible = self._job.document.device, os.environ.get("CUDA_VISIBLE_DEVICES")
        try:
            kind = devices.device_of(wanted, 0).type
        except EnvironmentUnfit:  # rank 0 may be where there is none
            return VisibleDevices(wanted, 0, visible)
        return VisibleDevices(kind, devices.visible_count(kind), visible)

    def _take_stock(self) -> None:
        settling = self._settling
        self.inventory = Inventory(
            self._job,
            self._options,
            settling.grid,
            settling.checkpoints,
            settling.cells_per_pass,
        )
        self.outcome = Outcome(self._job, self.inventory)
