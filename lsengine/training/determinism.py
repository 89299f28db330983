"""What makes a training repeat itself on a machine: threads, kernels and random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from lsengine import cores, devices
from lsengine.job import Job


@contextlib.contextmanager
def deterministic_torch(job: Job, *, slot: int = 0, threads: int | None = None) -> Iterator[None]:
    """Choose threads and deterministic kernels, and leave torch as it was.

    Of the devices only the training's own is touched: others may be of other processes.

    ``slot`` numbers the processes of a host and chooses the device; ``threads`` is for jobs that
    leave it open, None for torch's own choice.

    Raises:
        EnvironmentUnfit: If the job's device is not there.
        UsageError: If the job says more threads than this machine bears.
    """
    device = devices.device_of(job.document.device, slot)
    threads_before, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    said = job.document.threads
    wanted = threads if said == "auto" else cores.as_asked(said).count
    if wanted is not None:
        torch.set_num_threads(wanted)
    devices.use_deterministic_kernels()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        torch.backends.cudnn.deterministic = deterministic
        torch.set_num_threads(threads_before)
