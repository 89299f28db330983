"""How many processor cores a process may use, how many threads it should, and why."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from lsengine.errors import UsageError

_ALWAYS_ALLOWED = 256  # threads; a job may come from a larger machine
# Of OpenMP, which torch uses, and of the libraries beneath it.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
SHARE = "LSENGINE_SHARE"
"""The variable in which a process tells those it starts for its work their number of threads, and
why, such as ``1 2 cores, shared by 2 processes``."""


@dataclass(frozen=True, slots=True)
class Threads:
    """A number of threads, at least 1, and in a few words why it is that one."""

    count: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What keeps a process from using all cores that it is bound to; 0 is no limit."""

    group: int = 0  # cores that control groups leave all of their processes together
    task: int = 0  # cores that SLURM gives one task
    threads: int = 0  # the least that a variable of `VARIABLES` says
    variable: str = ""  # that one, such as ``OMP_NUM_THREADS=1``


NO_LIMITS = Limits()


def bound() -> frozenset[int]:
    """Return the numbers of the processor cores that this process is bound to."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:  # not every system has affinities
        return frozenset(range(os.cpu_count() or 1))


def limits(root: Path = Path("/")) -> Limits:
    """Return the limits of this process; ``root`` is where ``proc`` and ``sys`` are.

    The first number counts of a variable such as ``OMP_NUM_THREADS=4,2``.
    """
    said = [(n, f"{name}={os.environ[name]}") for name in VARIABLES if (n := _number(name))]
    if number := _number(SHARE):
        said.append((number, os.environ[SHARE].partition(" ")[2]))
    least, variable = min(said, default=(0, ""), key=lambda pair: pair[0])
    group = min(_of_groups(root), default=0)
    task = _number("SLURM_CPUS_PER_TASK")
    return Limits(group=group, task=task, threads=least, variable=variable)


def as_asked(threads: int) -> Threads:
    """Return so many threads, as a job says.

    Raises:
        UsageError: If they are far more than this machine has cores: OpenMP ends the process where
            the system refuses a thread.
    """
    cores = os.cpu_count() or 1
    if threads > (most := max(_ALWAYS_ALLOWED, 4 * cores)):
        raise UsageError(
            f"threads: got {threads:,}; expected at most {most:,}, or auto: this machine has "
            f"{cores} cores"
        )
    return Threads(threads, "as the job says")


def count() -> int:
    """Return how many cores this process may use, whatever is said of threads."""
    found = limits()
    return min(n for n in (len(bound()), found.group, found.task) if n)


def share(
    cores: frozenset[int], limits: Limits, beside: Collection[frozenset[int]] = ()
) -> Threads:
    """Return how many threads a process may have at most.

    Each core is shared among those that may use it, bound or not, and what a control group has
    among all.  ``beside`` are the cores of the other processes of the host that compute.
    """
    users = Counter(core for of_one in (cores, *beside) for core in of_one)
    fair = int(sum(1 / users[core] for core in cores) + 1e-9)
    computing = f"shared by {len(beside) + 1} processes" if beside else "all there are for it"
    offers = [
        (limits.threads, limits.variable),
        (limits.task, f"SLURM_CPUS_PER_TASK={limits.task}"),
        (
            limits.group and max(1, limits.group // (len(beside) + 1)),
            f"its control group may use {_many(limits.group)}",
        ),
        (max(1, fair), f"{_many(len(users))}, {computing}"),
    ]
    return Threads(*min((offer for offer in offers if offer[0]), key=lambda offer: offer[0]))


def own_share(among: int = 1) -> Threads:
    """Return the share of this process, or of one of so many equal ones that do its work."""
    cores = bound()
    return share(cores, limits(), [cores] * (among - 1))


def _many(number: int) -> str:
    return "1 core" if number == 1 else f"{number} cores"


def _number(variable: str) -> int:
    """Return the first number of a variable, 0 if it is unset or none."""
    found = re.match(r"\s*(\d{1,9})(\s|,|$)", os.environ.get(variable, ""))
    return int(found[1]) if found else 0


def _of_groups(root: Path) -> Iterator[int]:
    """Yield the cores that each control group around this process leaves it, by either version.

    A quota is rounded down.  The kernel's documents are cgroup-v2.rst, "CPU", and
    sched-bwc.rst.
    """
    for line in filter(None, _words(root / "proc/self/cgroup", "\n")):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        inner = top / path.strip("/")
        for group in (inner, *inner.parents):
            if controllers:
                files = (group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us")
                words = [word for file in files for word in _words(file)]
            else:
                words = _words(group / "cpu.max")
            if len(words) == 2 and all(word.isdecimal() for word in words):  # else no limit
                yield max(1, int(words[0]) // max(1, int(words[1])))
            if group == top:
                break


def _words(path: Path, separator: str | None = None) -> list[str]:
    try:
        return path.read_text().strip().split(separator)
    except OSError:
        return []
