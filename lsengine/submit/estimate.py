"""What a surface will cost: from its own cells, or from a few probe cells made beforehand."""

from __future__ import annotations

import math
import os
import signal
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lsengine import store
from lsengine.errors import Stopped, UsageError
from lsengine.job import Job
from lsengine.job.schema import LaunchSpec
from lsengine.submit import slurm
from lsengine.submit.site import ranks
from lsengine.surface import DONE


@dataclass(frozen=True, slots=True)
class Cost:
    """What cells have taken.

    Attributes:
        seconds: Median of a cell, without the first, which warms up.
        device: Kind of device, as the file says.
        missing: Cells still to do.
        source: Where it was measured, for a person.
    """

    seconds: float
    device: str
    missing: int
    source: str


def of_surface(job: Job) -> Cost | None:
    """Return what the cells took that the surface has already, None if it has none."""
    if not job.surface.exists():
        return None
    return _cost(job.surface, f"{job.surface.name} itself", finished=None)


def of_probe(job: Job, cells: int, launch: LaunchSpec) -> Cost:
    """Evaluate a few cells here, into a file that is thrown away.

    Args:
        job: Valid for eval.
        cells: How many.
        launch: Whose time limit no single cell may exceed.

    Raises:
        UsageError: If not even one cell ended within the time of a round.
    """
    from lsengine.engine import (
        Options,
        evaluate_found,  # loads torch
    )

    usable = usable_s(launch)
    with tempfile.TemporaryDirectory(prefix="lsengine-probe-") as folder:
        output = Path(folder) / "probe.h5"
        document = job.document.model_copy(update={"output": str(output)})
        trial = replace(job, document=document)
        options = Options(progress="none", cell_limit=cells)
        is_up = threading.Event()

        def stop() -> None:
            is_up.set()
            os.kill(os.getpid(), signal.SIGUSR1)

        timer = threading.Timer(usable or 0.0, stop)
        timer.daemon = True
        if usable is not None:
            timer.start()
        try:
            evaluate_found(lambda _: [trial], options, world=None)
        except Stopped:
            if not is_up.is_set():  # somebody's Ctrl-C: nothing is to be submitted
                raise
            if not output.exists() or not store.read(output).done.any():
                raise UsageError(
                    _too_long(job, usable or 0.0, f"more than {usable:.0f} s")
                ) from None
        finally:
            timer.cancel()
        ended = int(store.read(output).done.sum())
        cost = _cost(output, f"{ended} probe cells on this machine", finished=0)
    assert cost is not None
    return cost


def usable_s(launch: LaunchSpec) -> float | None:
    """Return how long a round may work before SLURM warns it, None without a time limit."""
    return max(0.0, slurm.seconds(launch.time) - launch.signal_s) if launch.time else None


def judged(job: Job, launch: LaunchSpec, cost: Cost, parts: int = 1) -> str:
    """Return the estimate for a person, and refuse what can never end.

    Raises:
        UsageError: If a cell takes longer than a round, on the same kind of device.
    """
    kind, here = ("GPU", "cuda") if launch.gpus_per_node else ("CPU", "cpu")
    head = f"a cell takes {cost.seconds:.3g} s on {cost.device} ({cost.source})"
    if not cost.device.startswith(here):
        return f"{head}; the job asks for {kind}s: no estimate of {kind}-hours"
    usable, workers = usable_s(launch), parts * max(1, ranks(launch))
    if usable is not None and cost.seconds >= usable:
        raise UsageError(_too_long(job, usable, f"{cost.seconds:.3g} s"))
    total = cost.missing * cost.seconds
    text = f"{head}; {cost.missing:,} cells are {total / 3600:.3g} {kind}-hours"
    text += f", about {_duration(total / workers)} on {workers} worker(s)"
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


def _cost(path: Path, source: str, finished: int | None) -> Cost | None:
    surface = store.read(path)
    done = surface.status == DONE
    if not done.any() or "wall_s" not in surface.provenance:
        return None
    order = np.argsort(surface.provenance["finished"][done])
    taken = surface.provenance["wall_s"][done][order]
    missing = int(surface.status.size if finished == 0 else np.count_nonzero(~done))
    device = str(surface.attributes.get("device_kind", "an unknown device"))
    return Cost(float(np.median(taken[1:] if len(taken) > 1 else taken)), device, missing, source)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
