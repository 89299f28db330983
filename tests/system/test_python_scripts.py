"""Scripts that evaluate networks in memory: under a launcher, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import lsengine
from tests.support.jobs import values
from tests.support.kills import rank_processes
from tests.support.launchers import BIN, ROOT, launcher_environment, wait_for_cells
from tests.support.memory import Slow, judged, named, network, samples

UNDER_MPI = """
import json, sys
import lsengine
from lsengine.errors import LsengineError
from tests.support.memory import network, samples

def tried(**keys):
    try:
        surface = lsengine.evaluate(network(1), samples(), threads=1, progress=False, **keys)
    except LsengineError as error:
        return type(error).__name__, str(error)
    return surface.source, surface.quantities["train_loss"].tobytes().hex()

folder = sys.argv[1]
said = [
    tried(grid=5),
    tried(grid=5, output=f"{folder}/x.h5"),
    tried(grid=5, output=f"{folder}/x.h5"),
    tried(grid=5, batch_size=0),
    tried(grid=5, toward=network(2)[0]),
]
print(json.dumps(said), flush=True)
"""
SLOW = """
import sys
import lsengine
from tests.support.memory import Slow, judged, named

lsengine.evaluate(
    Slow(0.02), named(), objective=judged, grid=9, threads=1, output=sys.argv[1], progress=False
)
"""


def test_a_script_under_mpi_uses_all_ranks(tmp_path):
    """All get the same surface and the same errors; bytes are as alone."""
    (tmp_path / "script.py").write_text(UNDER_MPI)
    done = subprocess.run(
        [str(BIN / "mpirun"), "-n", "3", sys.executable, "script.py", str(tmp_path)],
        env=launcher_environment(PYTHONPATH=str(ROOT)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert len(set(lines)) == 1
    in_memory, kept, again, wrong_key, misfit = json.loads(lines[0])
    alone = lsengine.evaluate(
        network(1), samples(), threads=1, grid=5, output=tmp_path / "alone.h5", progress=False
    )
    expected = alone.quantities["train_loss"].tobytes().hex()
    assert in_memory == ["Sequential", expected]
    assert kept == again == [str(tmp_path / "x.h5"), expected]
    assert values(tmp_path / "x.h5") == values(tmp_path / "alone.h5")
    assert set(lsengine.open(tmp_path / "x.h5").provenance["worker"].ravel().tolist()) <= {0, 1, 2}
    assert wrong_key[0] == "JobError"
    assert "batch_size" in wrong_key[1]
    assert misfit[0] == "UsageError"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone.h5", "script.py", "x.h5"]


def test_a_killed_script_is_gone_on_with(tmp_path):
    """By the same call, with other ranks; what it had finished is not evaluated again.

    Batches have names, and an objective has a metric.
    """
    path = tmp_path / "x.h5"
    process = subprocess.Popen(
        [str(BIN / "mpirun"), "-n", "3", sys.executable, "-c", SLOW, str(path)],
        env=launcher_environment(PYTHONPATH=str(ROOT), TMPDIR=str(tmp_path)),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_cells(path, process, cells=3)
    for rank in rank_processes(process.pid):
        os.kill(rank, signal.SIGKILL)
    process.kill()
    process.communicate()
    before = lsengine.open(path)
    call = {"objective": judged, "grid": 9, "threads": 1, "progress": False}
    after = lsengine.evaluate(Slow(), named(), output=path, **call)
    assert 3 <= before.counts()["done"] < 81
    finished = after.provenance["finished"][before.done]
    assert (finished == before.provenance["finished"][before.done]).all()
    whole = lsengine.evaluate(Slow(), named(), **call)
    assert "train_right_se" in whole.quantities
    for name, expected in whole.quantities.items():
        assert after.quantities[name].tobytes() == expected.tobytes()
