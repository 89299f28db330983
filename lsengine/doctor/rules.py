"""Verdicts on what the ranks have found: functions of values, which try nothing themselves."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from lsengine.doctor.checks import Check, ok, problem, warning
from lsengine.doctor.probe import HostProbe, gib
from lsengine.engine.protocol.placement import assign, computing
from lsengine.external import installation

_TORCH_BYTES = 2**30  # torch, a small network and its data; a GPU's context takes as much
_SKEW_S = 5.0
T = TypeVar("T")
Probes = Mapping[int, HostProbe]  # by rank
Seats = Mapping[int, tuple[int | None, int]]
"""By rank, the card it will use (its number among those it sees, None for the CPU), and threads."""


def seats(probes: Probes) -> Seats:
    """Return every rank's device and threads, by the rule of a run.

    Threads are as many as a worker may have; a small network gets fewer.  Rank 0 only coordinates
    where others evaluate, and takes what they would leave idle.
    """
    hellos = {rank: probe.hello for rank, probe in probes.items() if rank or len(probes) == 1}
    slots: dict[int, int] = {}
    seats: dict[int, tuple[int | None, int]] = {}
    sharing = computing(hellos, probes[0].hello) if 0 in probes and 0 not in hellos else hellos
    for rank in sorted(hellos):
        slots[rank], share = assign(rank, sharing, slots)
        cards = len(probes[rank].torch.cards)
        seats[rank] = (slots[rank] % cards if cards else None), share.count
    if 0 in seats or 0 not in probes:
        return seats
    first = probes[0]
    where = first.hello.host, first.hello.visible
    taken = {slots[r] for r, h in hellos.items() if (h.host, h.visible) == where}
    free = sorted(set(range(len(first.torch.cards))) - taken)
    share = assign(0, {**hellos, 0: first.hello}, {})[1]
    return {**seats, 0: (free[0] if free else None, share.count)}


def software(probes: Probes) -> Check:
    """Judge whether all ranks run the same lsengine, Python and torch."""
    kinds = {r: f"{p.software}, torch {p.torch.version or 'none'}" for r, p in probes.items()}
    groups = _by_value(kinds)
    if len(groups) == 1:
        return ok("software", next(iter(groups)))
    differences = "; ".join(f"{_named(ranks, probes)}: {what}" for what, ranks in groups.items())
    remedy = "start all from one environment on a file system that all hosts share"
    return problem("software", f"ranks differ: {differences}", remedy)


def libraries(probes: Probes) -> list[Check]:
    """Judge whether every process has one MPI library; says nothing where none has two."""
    for rank, probe in probes.items():
        if len(probe.libraries) > 1:
            found = f"rank {rank} has loaded {len(probe.libraries)}: {', '.join(probe.libraries)}"
            remedy = "build h5py and mpi4py against the same MPI, as launch/setup.sh does"
            return [problem("MPI libraries", found, remedy)]
    return []


def torch(probes: Probes) -> list[Check]:
    """Judge torch, its build and the driver, once for every kind of answer."""
    groups = _by_value({rank: _torch(probe) for rank, probe in probes.items()})
    if len(groups) == 1:
        return list(groups)
    return [replace(c, found=f"{c.found} ({_named(r, probes)})") for c, r in groups.items()]


def _torch(probe: HostProbe) -> Check:
    torch, driver = probe.torch, probe.driver
    if not torch.version:
        return problem("torch", f"cannot be imported: {torch.error}", "pip install torch")
    found = f"torch {torch.version}, {f'built for CUDA {torch.cuda}' if torch.cuda else 'for CPUs'}"
    if torch.error:
        return problem("torch", f"{found}: {torch.error}", "see whether nvidia-smi answers")
    found += f", driver for CUDA {driver}" if driver else ", no NVIDIA driver"
    if driver and not torch.cuda:
        remedy = f"install a build of torch for CUDA {driver} or older to use the cards"
        return warning("torch", found, remedy)
    if not driver or torch.available:
        return ok("torch", found)
    if probe.hello.visible is not None and probe.hello.visible.strip() in ("", "-1"):
        remedy = "ask the batch system for a card, if one is wanted"
        return warning("torch", f"{found}; CUDA_VISIBLE_DEVICES hides all cards", remedy)
    if _version(torch.cuda) > _version(driver):
        remedy = f"install a newer driver, or a build of torch for CUDA {driver} or older"
        return problem("torch", f"{found}, which is too old for this torch", remedy)
    return problem("torch", f"{found}, but no card can be used", "see whether nvidia-smi answers")


def companions(probes: Probes) -> list[Check]:
    """Judge whether the libraries that are compiled for one build of torch fit the one here."""
    checks = []
    for probe in probes.values():
        torch = probe.torch.version
        for library in probe.companions:
            known = f"{library.name} {library.version}"
            if library.error:
                remedy = installation.fitting(library.name, torch)
                found = f"{known} does not fit torch {torch}: {library.error}"
                checks.append(warning(library.name, found, remedy))
            else:
                checks.append(ok(library.name, f"{known} goes with torch {torch}"))
    return checks


def devices(probes: Probes, seats: Seats, trouble: Mapping[int, str] | None = None) -> list[Check]:
    """Judge the device of every rank, a verdict per host, and whether two share a card.

    ``trouble`` says by rank what went wrong when its device was tried.
    """

    def judge(host: str, ranks: list[int]) -> Check:
        names = {rank: _device(rank, probes, seats) for rank in ranks}
        found = names[0] if len(probes) == 1 else _grouped(names)
        wrong = {r: what for r in ranks if (what := (trouble or {}).get(r))}
        if wrong:
            remedy = "try the device with a few lines of torch, and leave this host out until then"
            return problem("device", f"{host}: {_grouped(wrong)} ({found})", remedy)
        return ok("device", f"{host}: {found}")

    return [*_per_host(probes, judge), *_shared_cards(probes, seats)]


def _device(rank: int, probes: Probes, seats: Seats) -> str:
    """Return the device of a rank in words."""
    index, threads = seats[rank]
    name = f"CPU, {_many(threads, 'thread')}"
    if index is not None:
        model, uuid = probes[rank].torch.cards[index]
        name = f"cuda:{index} {model} {uuid}".rstrip()
    return name + (f", {_part(probes, seats)}" if rank == 0 and len(probes) > 1 else "")


def _part(probes: Probes, seats: Seats) -> str:
    """Return what rank 0 does in a run of several ranks, by the rule of a run."""
    hellos = {rank: probe.hello for rank, probe in probes.items() if rank}
    if probes[0].torch.cards:
        return "coordinates" if seats[0][0] is None else "evaluates, too"
    if 0 in computing(hellos, probes[0].hello):
        return "evaluates, too"
    is_spare = 0 in computing(hellos, probes[0].hello, threads=1)
    return "coordinates; evaluates a small network, too" if is_spare else "coordinates"


def _shared_cards(probes: Probes, seats: Seats) -> list[Check]:
    users: dict[tuple[str, str], list[int]] = defaultdict(list)
    for rank, (index, _) in sorted(seats.items()):
        visible = probes[rank].hello.visible or ""
        if index is None or ("MIG-" in visible and "," in visible):
            continue  # a run gives each rank an instance of its own, which the doctor does not
        host = probes[rank].hello.host
        others = {seats[r][0] for r, p in probes.items() if r != rank and p.hello.host == host}
        if rank or len(probes) == 1 or index not in others:  # rank 0 takes what is left idle
            users[host, probes[rank].torch.cards[index][1] or str(index)].append(rank)
    remedy = "start one worker per card, and one rank more for the coordinator"
    return [
        warning("device", f"{host}: ranks {_ranks(ranks)} share one card ({card})", remedy)
        for (host, card), ranks in users.items()
        if len(ranks) > 1
    ]


def threads(probes: Probes, seats: Seats) -> list[Check]:
    """Judge how the cores of every host are shared among its ranks."""

    def judge(host: str, ranks: list[int]) -> Check:
        cores = frozenset[int]().union(*(probes[r].hello.cores for r in ranks))
        parent_cores = frozenset[int]().union(*(probes[r].parent_cores for r in ranks))
        workers = [r for r in ranks if r or len(probes) == 1]
        found = f"{host}: {len(cores)} cores for {_many(len(ranks), 'rank')}"
        if len(workers) > len(cores) and not any(seats[r][0] is not None for r in workers):
            remedy = f"start at most {len(cores) + 1} ranks on this host"
            return warning("threads", f"{found}, {len(workers)} of which compute", remedy)
        if idle := parent_cores - cores:
            found += f", bound by the launcher; {_many(len(idle), 'core')} beside them idle"
            return warning("threads", found, "mpirun --bind-to none, or srun --cpus-per-task")
        busy = sum(seats[r][1] for r in workers)
        return ok("threads", f"{found}, {_many(busy, 'thread')} for workers")

    return _per_host(probes, judge)


def memory(probes: Probes) -> list[Check]:
    """Judge the memory that every host has left for its ranks."""

    def judge(host: str, ranks: list[int]) -> Check:
        free, used = probes[ranks[0]].memory[0], max(probes[r].memory[1] for r in ranks)
        if not free:
            return ok("memory", f"{host}: unknown")
        found = f"{host}: {gib(free)} free for {_many(len(ranks), 'rank')} of {gib(used)} so far"
        if free < len(ranks) * _TORCH_BYTES:
            remedy = "ask for more memory, or start fewer ranks on this host: 1 GiB each is little"
            return warning("memory", found, remedy)
        return ok("memory", found)

    return _per_host(probes, judge)


def clocks(offsets: Mapping[int, float], monotonic: Sequence[float]) -> Check:
    """Judge the clocks, of which a run trusts the monotonic one only: its readings, in order.

    ``offsets`` says by rank how far its clock was outside of the time that the ring message took.
    """
    if any(late < early for early, late in itertools.pairwise(monotonic)):
        remedy = "do not use this host: time limits and watchdogs cannot be relied upon"
        return problem("clock", "the monotonic clock went back", remedy)
    skew = max(map(abs, offsets.values()), default=0.0)
    found = "the monotonic clock is monotonic"
    if skew > _SKEW_S:
        rank = max(offsets, key=lambda r: abs(offsets[r]))
        remedy = "nothing to do; times in the logs of these hosts differ"
        return ok("clock", f"{found}; rank {rank} is {skew:.0f} s off; {remedy}")
    agree = f"; ranks agree within {max(0.1, skew):.1f} s" if offsets else ""
    return ok("clock", found + agree)


def ring(ranks: int, passed: Sequence[int] | None) -> Check:
    """Judge the message that was to go through all ranks."""
    name = "ring message"
    if passed is None:
        remedy = "see whether a firewall or a wrong network interface stands between the hosts"
        return problem(name, f"did not come back from a way through {ranks} ranks", remedy)
    if list(passed) != list(range(ranks)):
        return problem(name, f"passed ranks {_ranks(passed)} of {ranks}", "report this as a bug")
    return ok(name, f"passed all {ranks} ranks in order")


def _per_host(probes: Probes, judge: Callable[[str, list[int]], Check]) -> list[Check]:
    """Return what a judge of one host and its ranks says of every host."""
    hosts = _by_value({rank: probe.hello.host for rank, probe in probes.items()})
    return [judge(host, ranks) for host, ranks in hosts.items()]


def hosts(probes: Probes) -> str:
    """Return how many ranks there are on how many hosts, with their names."""
    counts = Counter(probe.hello.host for probe in probes.values())
    names = ", ".join(f"{host} ({number})" for host, number in sorted(counts.items()))
    return f"{_many(len(probes), 'rank')} on {_many(len(counts), 'host')}: {names}"


def _by_value(values: Mapping[int, T]) -> dict[T, list[int]]:
    """Return what is said of ranks, with the ranks of which it is."""
    ranks: dict[T, list[int]] = defaultdict(list)
    for rank in sorted(values):
        ranks[values[rank]].append(rank)
    return ranks


def _grouped(words: Mapping[int, str]) -> str:
    """Return the findings of one host, with the ranks that share each."""
    return "; ".join(
        f"rank{'s' * (len(r) > 1)} {_ranks(r)}: {what}" for what, r in _by_value(words).items()
    )


def _named(ranks: Sequence[int], probes: Probes) -> str:
    names = sorted({probes[rank].hello.host for rank in ranks})
    return f"rank{'s' * (len(ranks) > 1)} {_ranks(ranks)} on {', '.join(names)}"


def _ranks(ranks: Iterable[int]) -> str:
    """Return numbers as text, neighbours as ranges: 1-3, 7."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
