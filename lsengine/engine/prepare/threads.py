"""How many threads evaluate a job: by what it says, what its file says, or the size of the work."""

from __future__ import annotations

import torch

from lsengine.cores import Threads, as_asked
from lsengine.data.nesting import leaves
from lsengine.devices.threads import counted, threads_for
from lsengine.engine.prepare.loading import Loaded, use_of
from lsengine.engine.prepare.settings import batch_size, sample_shape
from lsengine.job import Job
from lsengine.objective.forward import cast, copied

_SAMPLES = 2  # that are tried; networks may refuse one alone


def choose(
    job: Job, loaded: Loaded, device: torch.device, share: Threads, settled: int = 0
) -> Threads:
    """Have torch use the job's number of threads, or if it leaves it open what suits the work.

    At most the share, then.  What has been ``settled`` for the surface stays, if the share is as
    large.  On a device that is no CPU it is the share.

    Raises:
        UsageError: If the job says more than this machine bears.
    """
    chosen = _chosen(job, loaded, device, share, settled)
    torch.set_num_threads(chosen.count)
    return chosen


def _chosen(
    job: Job, loaded: Loaded, device: torch.device, share: Threads, settled: int
) -> Threads:
    wanted = job.document.threads
    if wanted != "auto":
        return as_asked(wanted)
    if 0 < settled <= share.count:
        return share if settled == share.count else Threads(settled, "as the surface has it")
    if device.type != "cpu":
        return share

    size = batch_size(job, sample_shape(loaded.dataset), device.type)
    keeps = job.document.objective is not None and job.document.batch_size != "auto"
    samples = size if keeps else _SAMPLES

    def call() -> tuple[int, int]:
        batches, use = use_of(job, loaded.dataset)
        sample = batches.first(next(iter(loaded.dataset.splits)), samples, torch.float32)
        network = cast(copied(loaded.model), torch.float32).eval()
        with torch.no_grad(), counted(network) as found:
            use(network, sample)
        return found[0], len(next(tensor for _, tensor in leaves(sample)))

    try:
        return threads_for(loaded.model, call, batch_size=size, share=share)
    except Exception:  # of the user's code; whoever checks the network says so
        return share
