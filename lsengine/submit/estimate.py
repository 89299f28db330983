"""Estimates what a surface will cost, from its own cells or from a few that are tried first."""

from __future__ import annotations

import math
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lsengine import store
from lsengine.errors import Stopped, UsageError
from lsengine.files import is_regular
from lsengine.job import Job
from lsengine.job.schema import LaunchSpec
from lsengine.ranks import StopRequest
from lsengine.submit import slurm
from lsengine.submit.site import ranks
from lsengine.surface import Surface
from lsengine.wording import duration

_ROUND_IS_OVER = "the end of a round"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What cells have taken."""

    seconds: float  # median of a cell, without the first, which warms up
    device: str  # its kind, as the file says
    missing: int  # cells still to do
    source: str  # where it was measured, for a person


def of_surface(job: Job) -> Cost | None:
    """Return what the cells took that the surface has already, None if it has none."""
    if not is_regular(job.surface, "output"):
        return None
    surface = store.read(job.surface)
    return _cost(surface, int((~surface.done).sum()), f"{job.surface.name} itself")


def of_probe(job: Job, cells: int, launch: LaunchSpec) -> Cost:
    """Evaluate a few cells here, into a file that is thrown away.

    Raises:
        Stopped: If a user interrupts it.
        UsageError: If not even one cell ended within the time of a round of ``launch``.
    """
    from lsengine.engine import Options, evaluate_found  # loads torch

    round_s = usable_s(launch)
    with tempfile.TemporaryDirectory(prefix="lsengine-probe-") as folder, ExitStack() as timers:
        output = Path(folder) / "probe.h5"
        trial = replace(job, document=job.document.model_copy(update={"output": str(output)}))
        request = StopRequest()

        def find(stop: StopRequest) -> list[Job]:
            nonlocal request
            request = stop
            if round_s is not None:
                timer = threading.Timer(round_s, stop.request, [_ROUND_IS_OVER])
                timer.daemon = True
                timer.start()
                timers.callback(timer.cancel)
            return [trial]

        try:
            options = Options(progress="none", cell_limit=cells, end_if_hung=True)
            evaluate_found(find, options, world=None)
        except Stopped:
            if request.signal != _ROUND_IS_OVER:  # somebody's Ctrl-C: nothing is to be submitted
                raise
            if not output.exists() or not store.read(output).done.any():
                taken = f"more than {round_s:.0f} s"
                raise UsageError(_too_long(job, round_s or 0.0, taken)) from None
        surface = store.read(output)
    ended = int(surface.done.sum())
    cost = _cost(surface, surface.status.size, f"{ended} probe cells on this machine")
    assert cost is not None
    return cost


def usable_s(launch: LaunchSpec) -> float | None:
    """Return how long a round may work before SLURM warns it, None without a time limit."""
    return max(0.0, slurm.seconds(launch.time) - launch.signal_s) if launch.time else None


def judged(job: Job, launch: LaunchSpec, cost: Cost, shards: int = 1) -> str:
    """Return the estimate for a person, and refuse what can never end.

    Raises:
        UsageError: If a cell takes longer than a round, on the same kind of device.
    """
    if not cost.missing:
        return f"all cells of {job.surface.name} are done; the job will only check that they fit"
    kind, wanted = ("GPU", "cuda") if launch.gpus_per_node else ("CPU", "cpu")
    head = f"a cell takes {cost.seconds:.3g} s on {cost.device} ({cost.source})"
    if not cost.device.startswith(wanted):
        return f"{head}; the job asks for {kind}s: no estimate of {kind}-hours"
    usable, workers = usable_s(launch), shards * max(1, ranks(launch))
    if usable is not None and cost.seconds >= usable:
        raise UsageError(_too_long(job, usable, f"{cost.seconds:.3g} s"))
    total = cost.missing * cost.seconds
    text = f"{head}; {cost.missing:,} cells are {total / 3600:.3g} {kind}-hours"
    text += f", about {duration(total / workers)} on {workers} worker(s)"
    if usable:
        rounds = math.ceil(total / workers / usable)
        text += f": {rounds} round(s) of {launch.time}"
    return text


def _too_long(job: Job, usable: float, taken: str) -> str:
    return (
        f"{job.document.name}: a cell takes {taken}, but a round has only {usable:.0f} s "
        "(launch.time less launch.signal_s): no cell would ever be finished; allow more time, or "
        "use fewer samples"
    )


def _cost(surface: Surface, missing: int, source: str) -> Cost | None:
    if not {"wall_s", "finished"} <= surface.provenance.keys():
        return None
    ended, took = surface.provenance["finished"], surface.provenance["wall_s"]
    done = surface.done & np.isfinite(took)  # NaN sorts last
    if not done.any():
        return None
    taken_s = took[done][np.argsort(ended[done])]
    device = str(surface.attributes.get("device_kind", "an unknown device"))
    median_s = float(np.median(taken_s[1:] if len(taken_s) > 1 else taken_s))
    return Cost(seconds=median_s, device=device, missing=missing, source=source)
