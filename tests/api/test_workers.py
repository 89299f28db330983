"""Processes that a call starts: ranks of MPI, and shards without it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import lsengine
from lsengine.api import workers
from lsengine.errors import CellsFailed, JobError, UsageError
from tests.support.jobs import values
from tests.support.launchers import ROOT, launcher_environment, serial_environment
from tests.support.memory import Slow, network, samples

CALL = {"grid": 5, "threads": 1, "device": "cpu", "progress": False}
SCRIPT = """
import sys, lsengine, torch
from torch import nn

class Net(nn.Module):  # of no module that another process could import
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 3)
    def forward(self, x):
        return self.inner(x)

generator = torch.Generator().manual_seed(0)
data = torch.randn(20, 6, generator=generator), torch.arange(20) % 3
torch.manual_seed(1)
own = lambda output, target: nn.functional.cross_entropy(output, target, reduction="none")
call = dict(loss=own, grid=3, threads=1, device="cpu", progress=False)
model = Net()
for count in (1, 2):
    lsengine.evaluate(model, data, workers=count, output=f"{sys.argv[1]}/{count}.h5", **call)
"""


@pytest.fixture
def alone(monkeypatch):
    """No launcher is found."""
    monkeypatch.setattr(workers, "_launcher", lambda: None)


def _script(folder, python=sys.executable, **environment):
    (folder / "script.py").write_text(SCRIPT)
    command = [str(python), str(folder / "script.py"), str(folder)]
    environment = launcher_environment(PYTHONPATH=str(ROOT), **environment)
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_ranks_make_the_same_bytes(tmp_path):
    """Of a class and a loss in a script, which says nothing."""
    done = _script(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert values(tmp_path / "1.h5") == values(tmp_path / "2.h5")
    assert {path.name for path in tmp_path.iterdir()} == {"script.py", "1.h5", "2.h5"}


@pytest.mark.skipif(serial_environment() is None, reason="no serial environment")
def test_ranks_of_another_mpi_make_the_same_bytes(tmp_path):
    """That of an environment from pip alone."""
    done = _script(tmp_path, serial_environment() / "bin" / "python")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert values(tmp_path / "1.h5") == values(tmp_path / "2.h5")


def test_processes_without_mpi_make_the_same_bytes(tmp_path, alone):
    """Each a shard, which are merged and gone; what another call has left is gone on with."""
    path, model, data = tmp_path / "x.h5", network(), samples()
    whole = lsengine.evaluate(model, data, output=tmp_path / "whole.h5", **CALL)
    surface = lsengine.evaluate(model, data, output=path, workers=2, **CALL)
    assert values(path) == values(tmp_path / "whole.h5")
    assert surface.source == str(path)
    assert surface.quantities.keys() == whole.quantities.keys()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["whole.h5", "x.h5"]
    before = path.stat().st_mtime_ns
    lsengine.evaluate(model, data, output=path, workers=2, **CALL)
    assert path.stat().st_mtime_ns == before


class Fragile(Slow):
    """Raises where its first weight has moved up by much."""

    def forward(self, x):
        """Return the outputs."""
        if float(self.net[0].weight[0, 0].detach()) > 2.5:
            raise RuntimeError("too far")
        return super().forward(x)


def test_errors_of_processes_are_the_callers(tmp_path, alone):
    """The same class, the same words; of failed cells with the surface."""
    with pytest.raises(JobError, match='gird: unknown key; did you mean "grid"'):
        lsengine.evaluate(network(), samples(), workers=2, gird=3, **CALL)
    far = Fragile()
    far.net[0].weight.data[0, 0] = 5
    with pytest.raises(CellsFailed, match="1 failed") as caught:
        lsengine.evaluate(
            Fragile(), samples(), workers=2, toward=far, **{**CALL, "grid": {"alpha": [-1, 1, 3]}}
        )
    assert caught.value.surfaces[0].counts() == {"done": 2, "missing": 0, "failed": 1}


def test_what_cannot_be_sent_is_said():
    """Before anything is started."""
    lock = threading.Lock()
    with pytest.raises(UsageError, match="workers: network, data and loss must be such"):
        lsengine.evaluate(network(), samples(), workers=2, loss=lambda o, t: (lock, o)[1], **CALL)
    for count in (0, 2.0, True):
        with pytest.raises(UsageError, match="workers: expected an integer of at least 1"):
            lsengine.evaluate(network(), samples(), workers=count, **CALL)


def test_a_rank_starts_no_ranks(monkeypatch):
    """There are others already."""
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="ranks of a launch already"):
        lsengine.evaluate(network(), samples(), workers=2, **CALL)


def test_an_interrupt_loses_nothing(tmp_path, alone):
    """Workers finish what they have in hand, and their cells are in the file."""
    path = tmp_path / "x.h5"
    first = tmp_path / "x.shard-1.h5"

    def interrupt():
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if first.exists() and lsengine.open(first).counts()["done"] > 1:
                break
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        lsengine.evaluate(Slow(0.02), samples(), output=path, workers=2, **{**CALL, "grid": 31})
    thread.join()
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]
    assert 1 < lsengine.open(path).counts()["done"] < 31 * 31
