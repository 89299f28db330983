"""From what ranks have found to verdicts; values in, values out."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from lsengine.doctor.checks import Check, ok, problem, warning
from lsengine.doctor.probe import HostProbe, gib
from lsengine.engine.protocol.placement import assign as place_of_worker

_TORCH_BYTES = 2**30  # torch, a small network and its data; a GPU's context takes as much
_SKEW_S = 5.0
Seats = Mapping[int, tuple[int | None, int]]


"""By rank, the card it will use (its number among those it sees, None for the CPU), and threads."""


def seats(places: Mapping[int, HostProbe]) -> Seats:
    """Return every rank's device and threads, by the rule of a run.

    Rank 0 only coordinates where others evaluate, and takes what they would leave idle.
    """
    hellos = {rank: place.hello for rank, place in places.items() if rank or len(places) == 1}
    slots: dict[int, int] = {}
    found: dict[int, tuple[int | None, int]] = {}
    for rank in sorted(hellos):
        slots[rank], threads = place_of_worker(rank, hellos, slots)
        cards = len(places[rank].torch.cards)
        found[rank] = (slots[rank] % cards if cards else None), threads
    if 0 in found or 0 not in places:
        return found
    first = places[0]
    taken = {
        slots[r]
        for r, h in hellos.items()
        if (h.host, h.visible) == (first.hello.host, first.hello.visible)
    }
    free = sorted(set(range(len(first.torch.cards))) - taken)
    threads = next(iter(found.values()))[1] if found else len(first.hello.cores)
    return {**found, 0: (free[0] if free else None, threads)}


def software(places: Mapping[int, HostProbe]) -> Check:
    """Judge whether all ranks run the same lsengine, Python and torch."""
    kinds = {
        rank: f"{place.software}, torch {place.torch.version or 'none'}"
        for rank, place in places.items()
    }
    if len(set(kinds.values())) == 1:
        return ok("software", kinds[min(kinds)])
    return problem(
        "software",
        "ranks differ: " + "; ".join(f"{who}: {what}" for who, what in _by_value(kinds, places)),
        "start all from one environment on a file system that all hosts share",
    )


def libraries(places: Mapping[int, HostProbe]) -> list[Check]:
    """Judge whether every process has one MPI library; says nothing where none has two."""
    for rank, place in places.items():
        if len(place.libraries) > 1:
            found = f"rank {rank} has loaded {len(place.libraries)}: {', '.join(place.libraries)}"
            remedy = "build h5py and mpi4py against the same MPI, as launch/setup.sh does"
            return [problem("MPI libraries", found, remedy)]
    return []


def torch(places: Mapping[int, HostProbe]) -> list[Check]:
    """Judge torch, its build and the driver, once for every kind of answer."""
    kinds: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for rank, place in places.items():
        check = _torch(place)
        kinds[check.verdict, check.found, check.remedy].append(rank)
    checks = []
    for ranks in kinds.values():
        check = _torch(places[ranks[0]])
        where = f" ({_named(ranks, places)})" if len(kinds) > 1 else ""
        checks.append(Check(check.name, check.verdict, check.found + where, check.remedy))
    return checks


def _torch(place: HostProbe) -> Check:
    here, driver = place.torch, place.driver
    if not here.version:
        return problem("torch", f"cannot be imported: {here.error}", "pip install torch")
    found = f"torch {here.version}, " + (f"built for CUDA {here.cuda}" if here.cuda else "for CPUs")
    if here.error:
        return problem("torch", f"{found}: {here.error}", "see whether nvidia-smi answers")
    found += f", driver for CUDA {driver}" if driver else ", no NVIDIA driver"
    if driver and not here.cuda:
        remedy = f"install a build of torch for CUDA {driver} or older to use the cards"
        return warning("torch", found, remedy)
    if not driver or here.available:
        return ok("torch", found)
    if place.hello.visible is not None and not place.hello.visible.strip("-1 "):
        remedy = "ask the batch system for a card, if one is wanted"
        return warning("torch", f"{found}; CUDA_VISIBLE_DEVICES hides all cards", remedy)
    if _version(here.cuda) > _version(driver):
        remedy = f"install a newer driver, or a build of torch for CUDA {driver} or older"
        return problem("torch", f"{found}, which is too old for this torch", remedy)
    return problem("torch", f"{found}, but no card can be used", "see whether nvidia-smi answers")


def devices(
    places: Mapping[int, HostProbe], where: Seats, trouble: Mapping[int, str] | None = None
) -> list[Check]:
    """Judge the device of every rank, a verdict per host, and whether two share a card.

    Args:
        places: By rank.
        where: See `Seats`.
        trouble: By rank, what went wrong when its device was tried.
    """
    checks = []
    users: dict[tuple[str, str], list[int]] = defaultdict(list)
    for host, ranks in _hosts(places).items():
        told = {}
        for rank in ranks:
            index, threads = where[rank]
            told[rank] = f"CPU, {threads} threads" if threads > 1 else "CPU, 1 thread"
            if index is not None:
                name, uuid = places[rank].torch.cards[index]
                told[rank] = f"cuda:{index} {name} {uuid}".rstrip()
                if rank or len(places) == 1 or index not in _taken(where, places, 0):
                    users[host, uuid or str(index)].append(rank)
            if rank == 0 and len(places) > 1:
                told[rank] += ", coordinates"
        parts = "; ".join(f"{who} {what}" for who, what in _by_value(told, places, with_host=False))
        if len(places) == 1:
            parts = told[0]
        wrong = {rank: (trouble or {})[rank] for rank in ranks if (trouble or {}).get(rank)}
        if wrong:
            what = "; ".join(f"{w} {e}" for w, e in _by_value(wrong, places, with_host=False))
            remedy = "try the device with a few lines of torch, and leave this host out until then"
            checks.append(problem("device", f"{host}: {what} ({parts})", remedy))
        else:
            checks.append(ok("device", f"{host}: {parts}"))
    for (host, card), ranks in users.items():
        if len(ranks) > 1:
            found = f"{host}: ranks {_ranks(ranks)} share one card ({card})"
            remedy = "start one worker per card, and one rank more for the coordinator"
            checks.append(warning("device", found, remedy))
    return checks


def _taken(where: Seats, places: Mapping[int, HostProbe], rank: int) -> set[int | None]:
    """Return the cards that other ranks of a host use."""
    host = places[rank].hello.host
    return {where[r][0] for r, p in places.items() if r != rank and p.hello.host == host}


def threads(places: Mapping[int, HostProbe], where: Seats) -> list[Check]:
    """Judge how the cores of every host are shared among its ranks."""
    checks = []
    for host, ranks in _hosts(places).items():
        cores = frozenset[int]().union(*(places[r].hello.cores for r in ranks))
        around = frozenset[int]().union(*(places[r].around for r in ranks))
        workers = [r for r in ranks if r or len(places) == 1]
        found = f"{host}: {len(cores)} cores for {_many(len(ranks), 'rank')}"
        busy = sum(where[r][1] for r in workers)
        if len(workers) > len(cores) and not any(where[r][0] is not None for r in workers):
            remedy = f"start at most {len(cores) + 1} ranks on this host"
            checks.append(warning("threads", f"{found}, {len(workers)} of which compute", remedy))
        elif idle := around - cores:
            found += f", bound by the launcher; {_many(len(idle), 'core')} beside them idle"
            remedy = "mpirun --bind-to none, or srun --cpus-per-task"
            checks.append(warning("threads", found, remedy))
        else:
            checks.append(ok("threads", f"{found}, {_many(busy, 'thread')} for workers"))
    return checks


def memory(places: Mapping[int, HostProbe]) -> list[Check]:
    """Judge the memory that every host has left for its ranks."""
    checks = []
    for host, ranks in _hosts(places).items():
        free, used = places[ranks[0]].memory[0], max(places[r].memory[1] for r in ranks)
        found = f"{host}: {gib(free)} free for {_many(len(ranks), 'rank')} of {gib(used)} so far"
        if free and free < len(ranks) * _TORCH_BYTES:
            remedy = "ask for more memory, or start fewer ranks on this host: 1 GiB each is little"
            checks.append(warning("memory", found, remedy))
        else:
            checks.append(ok("memory", found if free else f"{host}: unknown"))
    return checks


def clocks(offsets: Mapping[int, float], monotonic: Sequence[float]) -> Check:
    """Judge the clocks, of which a run trusts the monotonic one only.

    Args:
        offsets: By rank, how far its clock was outside of the time that the ring message took.
        monotonic: Readings of this host's monotonic clock, in order.
    """
    if any(late < early for early, late in itertools.pairwise(monotonic)):
        remedy = "do not use this host: time limits and watchdogs cannot be relied upon"
        return problem("clock", "the monotonic clock went back", remedy)
    skew = max(map(abs, offsets.values()), default=0.0)
    found = "the monotonic clock is monotonic"
    if skew > _SKEW_S:
        rank = max(offsets, key=lambda r: abs(offsets[r]))
        remedy = "for information: nothing of a run depends on it, but logs are hard to compare"
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


def _hosts(places: Mapping[int, HostProbe]) -> dict[str, list[int]]:
    hosts: dict[str, list[int]] = defaultdict(list)
    for rank in sorted(places):
        hosts[places[rank].hello.host].append(rank)
    return hosts


def hosts(places: Mapping[int, HostProbe]) -> str:
    """Return how many ranks there are on how many hosts, with their names."""
    counts = Counter(place.hello.host for place in places.values())
    names = ", ".join(f"{host} ({number})" for host, number in sorted(counts.items()))
    return f"{_many(len(places), 'rank')} on {_many(len(counts), 'host')}: {names}"


def _by_value(
    told: Mapping[int, str], places: Mapping[int, HostProbe], *, with_host: bool = True
) -> list[tuple[str, str]]:
    """Return which ranks are told what, those that are told the same together."""
    found: dict[str, list[int]] = defaultdict(list)
    for rank in sorted(told):
        found[told[rank]].append(rank)
    return [
        (_named(r, places) if with_host else f"rank{'s' * (len(r) > 1)} {_ranks(r)}:", what)
        for what, r in found.items()
    ]


def _named(ranks: Sequence[int], places: Mapping[int, HostProbe]) -> str:
    names = sorted({places[rank].hello.host for rank in ranks})
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
