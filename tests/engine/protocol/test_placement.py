"""Placement: who gets which device, how many threads, and who differs from whom."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lsengine import job as jobs
from lsengine.cores import Limits
from lsengine.engine.messages import Hello, VisibleDevices, WorkerInfo
from lsengine.engine.protocol.placement import Placement, assign
from tests.support.jobs import write_job


def _hellos(*workers):
    return {
        rank: Hello(host=host, pid=rank, cores=frozenset(cores), visible=visible)
        for rank, (host, cores, visible) in enumerate(workers, 1)
    }


def _slots(hellos):
    slots = {}
    for rank in hellos:
        slots[rank] = assign(rank, hellos, slots)[0]
    return list(slots.values())


def test_workers_of_a_host_take_its_devices_in_turn():
    """Four workers that see the same four devices get numbers 0 to 3, on every host anew."""
    hellos = _hellos(*[(host, range(8), "0,1,2,3") for host in ("a", "a", "b", "a", "b")])
    assert _slots(hellos) == [0, 1, 0, 2, 1]


def test_a_worker_given_a_device_of_its_own_takes_that_one():
    """With one visible device each, as by --gpus-per-task, every worker is number 0."""
    hellos = _hellos(*[("a", range(8), str(device)) for device in range(4)])
    assert _slots(hellos) == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        ([range(8), range(8)], [4, 4]),  # unbound: the host is shared
        ([[0], [1]], [1, 1]),  # bound to a core each
        ([range(4), range(4, 8)], [4, 4]),  # bound to halves
        ([range(2), range(2), range(2)], [1, 1, 1]),  # more workers than cores
    ],
)
def test_threads_are_a_fair_share_of_the_cores_a_worker_may_use(cores, expected):
    """Bound, unbound and oversubscribed workers each get their share, at least one."""
    hellos = _hellos(*[("a", c, None) for c in cores])
    assert [assign(rank, hellos, {})[1].count for rank in hellos] == expected


def test_a_late_worker_finds_a_free_device():
    """Whoever comes late, with a lower rank or a higher one, gets a number nobody has."""
    hellos = _hellos(*[("a", range(4), None)] * 3)
    second = assign(2, {2: hellos[2]}, {})[0]
    first = assign(1, hellos, {2: second})[0]
    third = assign(3, hellos, {2: second, 1: first})[0]
    assert sorted((first, second, third)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("wanted", "workers", "devices", "expected"),
    [
        ("auto", [("a", range(8), "0,1")], ("cuda", 2, "0,1"), 1),  # one of two cards is idle
        ("auto", [("a", range(8), "0,1")] * 2, ("cuda", 2, "0,1"), None),
        ("evaluates", [("a", range(8), "0,1")] * 2, ("cuda", 2, "0,1"), 2),
        ("waits", [("a", range(8), "0,1")], ("cuda", 2, "0,1"), None),
        ("auto", [("a", range(8), "1"), ("a", range(8), "2")], ("cuda", 1, "0"), 0),  # its own
        ("auto", [("b", range(8), "0")], ("cuda", 1, "0"), 0),  # alone on its host
        ("evaluates", [("b", range(8), "0")], ("cpu", 1, None), None),  # no card here
        ("auto", [("a", [1], None), ("a", [2], None)], ("cpu", 1, None), 2),  # core 0 is idle
        ("auto", [("a", range(2), None)] * 2, ("cpu", 1, None), None),  # two threads, two cores
    ],
)
def test_rank_0_takes_part_where_it_would_leave_a_device_idle(
    tmp_path, wanted, workers, devices, expected
):
    """Cards given or shared, cores bound or not; what the job says comes first."""
    job = jobs.load(write_job(tmp_path, launch={"coordinator": wanted}), command="eval")
    placement = _placement(job, *workers)
    cores = frozenset({0, *workers[0][1]})
    hello = Hello(host="a", pid=0, cores=cores, visible=devices[2])
    assignment = placement.assign_coordinator(hello, VisibleDevices(*devices), job)
    assert (assignment.slot if assignment else None) == expected


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "wanted", "settled", "share"),
    [
        (2, 1, "auto", "auto", 0, 1),  # rank 0 has the other core
        (2, 2, "auto", "auto", 0, 1),  # none is left
        (3, 2, "auto", "auto", 0, 1),
        (8, 1, "auto", "auto", 0, 4),
        (8, 4, "auto", "auto", 0, 2),  # with rank 0 three cores would be idle
        (8, 7, "auto", "auto", 0, 1),
        (2, 1, "auto", "waits", 0, 2),
        (2, 2, "auto", "evaluates", 0, 1),
        (2, 1, "auto", "auto", 2, 2),  # as the surface has it: rank 0 would change that
        (4, 1, "auto", "auto", 2, 2),
        (2, 1, 2, "auto", 0, 2),
    ],
)
def test_rank_0_has_its_share_of_the_cores_if_it_will_evaluate(
    tmp_path, cores, workers, threads, wanted, settled, share
):
    """As it is assumed before a device is known, so that no core is left idle."""
    path = write_job(tmp_path, launch={"coordinator": wanted}, threads=threads)
    here = Hello(host="a", pid=0, cores=frozenset(range(cores)), visible=None)
    placement = Placement(here, settled)
    placement.hellos.update(_hellos(*[("a", range(cores), None)] * workers))
    assignments = [placement.assign(k, jobs.load(path, command="eval")) for k in placement.hellos]
    assert {assignment.share.count for assignment in assignments} == {share}
    assert {assignment.settled for assignment in assignments} == {settled}


def test_ranks_of_a_host_share_what_its_control_group_may_use(tmp_path):
    """Two cores of eight are for one worker and rank 0, or for two workers alone."""
    limits = Limits(group=2)
    here = Hello(host="a", pid=0, cores=frozenset(range(8)), limits=limits, visible=None)
    job = jobs.load(write_job(tmp_path), command="eval")
    for workers, is_taking_part in ((1, True), (2, False)):
        placement = _placement(job, *[("a", range(8), None)] * workers)
        for rank in placement.hellos:
            placement.hellos[rank] = replace(placement.hellos[rank], limits=limits)
        assert placement.assign(1, job).share.count == (2 if workers == 1 else 1)
        assignment = placement.assign_coordinator(here, VisibleDevices("cpu", 1, None), job)
        assert (assignment is not None) == is_taking_part


def _info(host, device_kind, device_id="", forward="fused"):
    return WorkerInfo(
        host=host,
        device_kind=device_kind,
        device_id=device_id,
        threads=1,
        torch_version="2",
        sample_shape=(1,),
        precision="float32",
        forward=forward,
    )


def _placement(job, *workers):
    """Return the placement of workers that have loaded everything."""
    placement = Placement()
    placement.hellos.update(_hellos(*workers))
    for rank, hello in placement.hellos.items():
        placement.assign(rank, job)
        kind, card = ("cuda card", f"card {rank}") if hello.visible else ("cpu", "")
        placement.loaded(rank, _info(hello.host, kind, card))
    return placement


def test_a_late_worker_does_not_get_rank_0s_card(tmp_path):
    """Of three cards the worker has the first, rank 0 the second, and who comes late the third."""
    job = jobs.load(write_job(tmp_path), command="eval")
    placement = _placement(job, ("a", range(8), "0,1,2"))
    cores = frozenset(range(8))
    hello = Hello(host="a", pid=0, cores=cores, visible="0,1,2")
    assignment = placement.assign_coordinator(hello, VisibleDevices("cuda", 3, "0,1,2"), job)
    placement.hellos[2] = Hello(host="a", pid=2, cores=cores, visible="0,1,2")
    assert (assignment.slot, placement.assign(2, job).slot) == (1, 2)


def test_workers_are_told_how_many_share_their_host(tmp_path):
    """Of three workers two are on rank 0's host, which takes part, too."""
    job = jobs.load(write_job(tmp_path, launch={"coordinator": "evaluates"}), command="eval")
    placement = _placement(job, ("a", [1], None), ("b", [0], None), ("a", [2], None))
    assert [placement.assign(rank, job).peers for rank in (1, 2, 3)] == [2, 1, 2]
    hello = Hello(host="a", pid=0, cores=frozenset([0]), visible=None)
    taking_part = placement.assign_coordinator(hello, VisibleDevices("cpu", 1, None), job)
    assert taking_part.peers == 3


def test_a_card_shared_with_rank_0_is_warned_of(tmp_path, caplog):
    """Two names of one card are told by its identity, whoever of the two is rank 0."""
    job = jobs.load(write_job(tmp_path), command="eval")
    placement = _placement(job, ("a", range(8), "0"))
    placement.loaded(0, _info("a", "cuda card", "card 0"))
    assert "share" not in caplog.text
    placement.loaded(2, _info("a", "cuda card", "card 0"))
    assert "ranks 0 and 2 share one card (cuda card on a)" in caplog.text


def test_every_shared_card_is_warned_of_once(caplog):
    """Five ranks on one card and three on another are two warnings, not thirteen."""
    placement = Placement()
    for rank in range(1, 9):
        card = "card 0" if rank < 6 else "card 1"
        placement.loaded(rank, _info("a", "cuda card", card))
    warned = [record.message for record in caplog.records]
    assert [text.partition(" share")[0] for text in warned] == ["ranks 1 and 2", "ranks 6 and 7"]


@pytest.mark.parametrize(
    "visible",
    ["0,1", "GPU-8932f937,GPU-72ab5c10", "MIG-GPU-8932f937/1/0,MIG-GPU-8932f937/2/0"],
)
def test_lists_of_all_kinds_are_taken_in_turn(visible):
    """Numbers, UUIDs of cards and MIG instances: the workers that see a list count through it."""
    assert _slots(_hellos(*[("a", range(8), visible)] * 2)) == [0, 1]


@pytest.mark.parametrize(
    ("kind", "forward", "difference"),
    [
        ("cpu AVX512", "fused", "device_kind 'cpu AVX512' and 'cpu AVX2'"),
        ("cpu AVX2", "eager", "forward 'eager' and 'fused'"),
        ("cpu AVX2", "fused", None),
    ],
)
def test_ranks_whose_cells_differ_in_their_last_bits_are_warned_of(
    caplog, kind, forward, difference
):
    """Other instructions of the processor, or a network that one rank could not fuse."""
    placement = Placement()
    placement.loaded(1, _info("a", "cpu AVX2"))
    placement.loaded(2, _info("b", kind, forward=forward))
    if difference is None:
        assert not caplog.records
    else:
        assert f"ranks 2 and 1 differ in {difference}" in caplog.text
