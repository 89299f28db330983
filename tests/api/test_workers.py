"""Processes that a call starts: ranks of MPI, and shards without it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time

import cloudpickle
import pytest

import lsengine
from lsengine import cores, devices
from lsengine import job as jobs
from lsengine.api import team, workers
from lsengine.cli import main
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
    monkeypatch.setattr(team, "launcher", lambda: None)


def test_only_shards_of_the_same_surface_are_taken_up(tmp_path):
    """Merged, they are removed: a name that looks like a pattern costs no other file."""
    others = ["1.shard-1.h5", "[1].shard-x.h5", "[1].shard-1.shard-2.h5", "x[1].shard-1.h5"]
    mine = ["[1].shard-1.h5", "[1].shard-12.h5"]
    for name in others + mine:
        (tmp_path / name).touch()
    assert [path.name for path in workers._left_shards(tmp_path / "[1].h5")] == mine


def test_ranks_make_the_same_bytes(tmp_path, capfd):
    """Of a network and a loss of no module that another process could import; nothing is said."""

    class Net(Slow):
        pass

    call = {**CALL, "loss": lambda output, target: (output.sum(1) - target) ** 2}
    for count in (1, 2):
        lsengine.evaluate(Net(), samples(), workers=count, output=tmp_path / f"{count}.h5", **call)
    assert values(tmp_path / "1.h5") == values(tmp_path / "2.h5")
    assert {path.name for path in tmp_path.iterdir()} == {"1.h5", "2.h5"}
    libraries = [lsengine.open(tmp_path / f"{k}.h5").attributes["mpi_library"] for k in (1, 2)]
    assert [library == "none" for library in libraries] == [True, False]
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(serial_environment() is None, reason="no serial environment")
def test_a_script_starts_ranks_of_another_mpi(tmp_path):
    """That of an environment from pip alone; its classes and functions are sent."""
    (tmp_path / "script.py").write_text(SCRIPT)
    python = serial_environment() / "bin" / "python"
    done = subprocess.run(
        [str(python), str(tmp_path / "script.py"), str(tmp_path)],
        env=launcher_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert values(tmp_path / "1.h5") == values(tmp_path / "2.h5")


def test_processes_without_mpi_lose_nothing_and_make_the_same_bytes(tmp_path, alone):
    """Each has a shard; an interrupt lets them finish what they have in hand, and all is merged."""
    path, whole, first = (tmp_path / f"{name}.h5" for name in ("x", "whole", "x.shard-1"))

    def interrupt():
        end = time.monotonic() + 100
        while time.monotonic() < end:
            if first.exists() and lsengine.open(first).counts()["done"] > 1:
                break
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    lsengine.evaluate(Slow(), samples(), output=whole, **CALL)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        lsengine.evaluate(Slow(0.1), samples(), output=path, workers=2, **CALL)
    thread.join()
    assert {p.name for p in tmp_path.iterdir()} == {"x.h5", "whole.h5"}
    assert 1 < lsengine.open(path).counts()["done"] < 25
    surface = lsengine.evaluate(Slow(), samples(), output=path, workers=2, **CALL)
    assert surface.source == str(path)
    assert values(path) == values(whole)
    assert {p.name for p in tmp_path.iterdir()} == {"x.h5", "whole.h5"}
    before = path.stat().st_mtime_ns
    lsengine.evaluate(Slow(), samples(), output=path, workers=2, **CALL)
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


@pytest.mark.parametrize("module", [lsengine, lsengine.render, lsengine.export])
def test_what_refers_to_the_package_can_be_sent(module):
    """An objective of a script or a notebook that makes an ``lsengine.Summary``, for instance."""
    assert cloudpickle.loads(cloudpickle.dumps(lambda: module))() is module


def test_a_rank_starts_no_ranks(monkeypatch):
    """There are others already."""
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="ranks of a launch already"):
        lsengine.evaluate(network(), samples(), workers=2, **CALL)


def test_the_command_line_starts_ranks(make_job, capfd, monkeypatch):
    """The same bytes and the lines of one run; nothing is started for a surface that is done."""
    job = make_job(threads="auto")
    one = job.with_name("one.h5")
    assert main(["eval", str(job), "--set", f"output={one}", "--progress", "none"]) == 0
    assert "workers=1 writing" in capfd.readouterr().err
    assert main(["eval", str(job), "--workers", "2", "--progress", "none"]) == 0
    text = capfd.readouterr().err
    assert ("workers=2 (rank 0 is one of them)" in text) == (cores.count() > 1)
    assert text.count("cells are done") == 1
    assert values(job.with_suffix(".h5")) == values(one)
    job.with_suffix(".h5").unlink()
    assert main(["eval", str(job), "--workers", "2", "--quiet"]) == 0
    assert capfd.readouterr().err == ""
    assert main(["eval", str(job), "--workers", "2"]) == 0
    assert "nothing to do" in capfd.readouterr().err
    assert main(["eval", str(job), "--workers", "2", "--shard", "1/2"]) == 2
    capfd.readouterr()
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert main(["eval", str(job), "--workers", "2"]) == 2
    assert "--workers: these are ranks of a launch already" in capfd.readouterr().err
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(job), "--workers", "2"])
    assert (ended.value.code, capfd.readouterr().err) == (0, "")


def test_the_command_line_tells_of_failed_cells_once(make_job, capfd, alone):
    """Of each surface with a message of its own; processes say no more than one alone does."""
    model = {"arch": "testnets:Fragile", "args": {"repaired": "no"}, "checkpoint": "centre.pt"}
    alpha = {"kind": "random", "ignore": []}
    call = {"model": model, "directions": {"alpha": alpha}, "grid": {"alpha": [-1, 1, 5]}}
    jobs = [str(make_job(name, **call)) for name in ("one", "two")]
    for more in (["--workers", "2"], ["--retry-failed"]):
        assert main(["eval", *jobs, *more, "--progress", "none"]) == 5
        said = capfd.readouterr().err
        heads = re.findall(r"^\S*/(\w+)\.h5: .*2 failed", said, re.MULTILINE)
        assert (heads, said.count("2 failed")) == (["one", "two"], 2)


@pytest.mark.parametrize(
    ("device", "cards", "free_gib", "count"),
    [("auto", 0, 64, 6), ("cpu", 4, 64, 6), ("auto", 4, 64, 4), ("cpu", 0, 3, 3), ("cpu", 0, 0, 1)],
)
def test_auto_is_as_many_as_have_a_card_or_a_core_and_memory(
    make_job, monkeypatch, device, cards, free_gib, count
):
    """A process of torch takes a GiB; of large networks several copies of the weights."""
    job = jobs.load(make_job(device=device), command="eval")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(cores, "count", lambda: 6)
    monkeypatch.setattr(devices, "visible_count", lambda kind: cards)
    monkeypatch.setattr(devices, "free_host_bytes", lambda: free_gib * 2**30 + 2**20)
    assert workers._fitting([job]) == count
