"""The doctor's verdicts, from what ranks of a cluster may find."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lsengine.doctor import rules
from lsengine.doctor.checks import Verdict
from lsengine.doctor.probe import Companion, HostProbe, Torch
from lsengine.engine.messages import Hello

H200 = "NVIDIA H200"


def _torch(cards=0, **changes):
    uuids = tuple((H200, f"GPU-{i}") for i in range(cards))
    return replace(
        Torch(version="2.13.0+cu130", cuda="13.0", available=bool(cards), cards=uuids), **changes
    )


def _probe(host="n1", cores=range(8), visible=None, **changes):
    hello = Hello(host=host, pid=100, cores=frozenset(cores), visible=visible)
    known = {
        "software": "lsengine 1, Python 3",
        "torch": _torch(),
        "driver": "",
        "parent_cores": frozenset(cores),
        "memory": (2**40, 2**28),
        "libraries": (),
    }
    return HostProbe(hello=hello, **(known | changes))


def _verdicts(checks):
    return [check.verdict for check in checks]


def _devices(probes):
    return rules.devices(probes, rules.seats(probes))


def test_every_worker_has_a_card_of_its_own():
    """Five ranks and four cards: rank 0 coordinates, and the others use one card each."""
    probes = {rank: _probe(torch=_torch(4), driver="13.0") for rank in range(5)}
    seats = rules.seats(probes)
    assert [seats[rank][0] for rank in (1, 2, 3, 4)] == [0, 1, 2, 3]
    (check,) = _devices(probes)
    assert check.verdict is Verdict.OK
    assert all(f"rank {r}: cuda:{r - 1} {H200} GPU-{r - 1}" in check.found for r in (1, 2, 3, 4))


def test_rank_0_takes_the_card_that_would_be_idle():
    """Four ranks and four cards: nobody shares one."""
    probes = {rank: _probe(torch=_torch(4), driver="13.0") for rank in range(4)}
    assert sorted(card for card, _ in rules.seats(probes).values()) == [0, 1, 2, 3]
    assert _verdicts(_devices(probes)) == [Verdict.OK]


def test_two_workers_on_one_card_are_a_warning():
    """Also where each is given the same card under its own number 0."""
    one = _probe(torch=_torch(1), driver="13.0", visible="0")
    probes = {0: one, 1: one, 2: replace(one, hello=replace(one.hello, visible="0 "))}
    checks = _devices(probes)
    assert _verdicts(checks) == [Verdict.OK, Verdict.WARNING]
    assert "ranks 1-2 share one card (GPU-0)" in checks[1].found
    assert "one worker per card" in checks[1].remedy


def test_instances_of_one_card_are_not_shared():
    """CUDA shows every rank the first of a list, but a run gives each its own."""
    one = _probe(torch=_torch(1), driver="13.0", visible="MIG-1,MIG-2")
    assert _verdicts(_devices({0: one, 1: one, 2: one})) == [Verdict.OK]


@pytest.mark.parametrize(
    ("torch", "driver", "visible", "verdict", "words"),
    [
        (_torch(1), "13.0", None, Verdict.OK, "built for CUDA 13.0, driver for CUDA 13.0"),
        (_torch(), "", None, Verdict.OK, "no NVIDIA driver"),
        (_torch(cuda="", version="2.13.0+cpu"), "13.0", None, Verdict.WARNING, "for CPUs"),
        (_torch(), "12.4", None, Verdict.PROBLEM, "too old for this torch"),
        (_torch(), "13.1", None, Verdict.PROBLEM, "no card can be used"),
        (_torch(), "13.0", "", Verdict.WARNING, "hides all cards"),
        (_torch(), "13.0", "-1", Verdict.WARNING, "hides all cards"),
        (_torch(), "13.0", "1", Verdict.PROBLEM, "no card can be used"),
        (Torch(error="ImportError: none"), "", None, Verdict.PROBLEM, "cannot be imported"),
        (_torch(error="RuntimeError: CUDA"), "13.0", None, Verdict.PROBLEM, "RuntimeError"),
    ],
)
def test_torch_and_driver_go_together(torch, driver, visible, verdict, words):
    """A build that the driver cannot run is a problem, unused or hidden cards are a warning."""
    (check,) = rules.torch({0: _probe(torch=torch, driver=driver, visible=visible)})
    assert check.verdict is verdict
    assert words in check.found


def test_hosts_that_differ_are_told_apart():
    """Another environment on one host is a problem that names its ranks and host."""
    other = _probe("n2", software="lsengine 2, Python 3")
    check = rules.software({0: _probe(), 1: _probe(), 2: other})
    assert check.verdict is Verdict.PROBLEM
    assert "ranks 0-1 on n1: lsengine 1" in check.found
    assert "rank 2 on n2: lsengine 2" in check.found


def test_cores_that_the_launcher_leaves_idle_are_a_warning():
    """Ranks bound to one core each beside six idle ones, and more workers than cores."""
    bound = {r: _probe(cores=[r], parent_cores=frozenset(range(8))) for r in range(2)}
    (check,) = rules.threads(bound, rules.seats(bound))
    assert check.verdict is Verdict.WARNING
    assert "6 cores beside them idle" in check.found
    crowd = {r: _probe(cores=range(2)) for r in range(6)}
    (check,) = rules.threads(crowd, rules.seats(crowd))
    assert check.verdict is Verdict.WARNING
    assert "2 cores for 6 ranks, 5 of which compute" in check.found
    free = {r: _probe() for r in range(5)}
    (check,) = rules.threads(free, rules.seats(free))
    assert (check.verdict, check.found) == (
        Verdict.OK,
        "n1: 8 cores for 5 ranks, 8 threads for workers",
    )


def test_little_memory_is_a_warning():
    """Less than a GiB for every rank of a host; another host has its own."""
    probes = {r: _probe(memory=(3 * 2**30, 2**28)) for r in range(4)} | {4: _probe("n2")}
    assert _verdicts(rules.memory(probes)) == [Verdict.WARNING, Verdict.OK]


def test_a_ring_that_does_not_close_is_a_problem():
    """No message, or one that has left out a rank."""
    assert rules.ring(4, [0, 1, 2, 3]).verdict is Verdict.OK
    assert rules.ring(4, None).verdict is Verdict.PROBLEM
    assert rules.ring(4, [0, 1, 3]).verdict is Verdict.PROBLEM


def test_clocks_matter_only_if_they_go_back():
    """Skew between hosts is told and nothing more."""
    assert rules.clocks({}, [1.0, 2.0, 1.5]).verdict is Verdict.PROBLEM
    check = rules.clocks({1: 0.1, 2: -90.0}, [1.0, 1.0, 2.0])
    assert check.verdict is Verdict.OK
    assert "rank 2 is 90 s off" in check.found


def test_a_companion_of_another_torch_is_named_with_the_command_that_mends_it():
    """A torchvision for CUDA beside a torch for CPUs: a warning; one that fits: none."""
    wrong = "RuntimeError: operator torchvision::nms does not exist"
    found = (
        Companion(name="torchvision", version="0.28.0", error=wrong),
        Companion(name="torchaudio", version="2.11.0", error=""),
    )
    probes = {0: _probe(torch=_torch(version="2.13.0+cpu"), companions=found), 1: _probe()}
    vision, audio = rules.companions(probes)
    assert (vision.verdict, audio.verdict) == (Verdict.WARNING, Verdict.OK)
    assert vision.found == f"torchvision 0.28.0 does not fit torch 2.13.0+cpu: {wrong}"
    assert '"torchvision==0.28.*" --index-url ' in vision.remedy
    assert vision.remedy.endswith("/cpu")


@pytest.mark.parametrize(
    ("cores", "ranks", "part"),
    [
        (2, 2, "evaluates, too"),
        (2, 3, "coordinates"),
        (8, 3, "coordinates; evaluates a small network, too"),
    ],
)
def test_it_is_said_what_rank_0_does(cores, ranks, part):
    """It evaluates where a core would be idle, as in a run."""
    probes = {rank: _probe(cores=range(cores)) for rank in range(ranks)}
    (check,) = _devices(probes)
    assert rules._part(probes, rules.seats(probes)) == part
    assert part in check.found
