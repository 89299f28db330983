"""Launches: several jobs in one, and those whose job or command line is bad."""

from __future__ import annotations

import pytest

from lsengine import store
from lsengine.engine import Options, evaluate
from tests.support.jobs import values, write_job
from tests.support.launchers import run_alone, run_ranks

_LATE_GOODBYE = """
import os, time
if os.environ.get("OMPI_COMM_WORLD_RANK") == "2":
    from lsengine import ranks
    send = ranks.World.send
    def late(self, payload, *, to, tag):
        if tag is ranks.Tag.BYE:
            time.sleep(1.0)
        send(self, payload, to=to, tag=tag)
    ranks.World.send = late
"""


@pytest.mark.cluster
def test_a_slow_goodbye_costs_the_next_job_no_worker(tmp_path):
    """Three jobs in one launch, one rank always late to leave: all three are whole and right."""
    (tmp_path / "sitecustomize.py").write_text(_LATE_GOODBYE)
    writing = ("parallel", "gather", "parallel") if store.has_mpi() else ("gather",) * 3
    paths = [
        write_job(tmp_path / str(number), directions={"alpha": {"kind": "random", "seed": number}},
                  grid={"alpha": [-1, 1, 9]}, writing=how)
        for number, how in enumerate(writing)
    ]  # fmt: skip
    arguments = ["eval", *map(str, paths), "--progress", "none"]
    ended = run_ranks(3, arguments, PYTHONPATH=str(tmp_path), timeout=90)
    assert ended.returncode == 0, ended.stderr
    assert "no word yet" not in ended.stderr
    assert "no answer" not in ended.stderr
    for number, path in enumerate(paths):
        alone = write_job(
            tmp_path / "alone" / str(number),
            directions={"alpha": {"kind": "random", "seed": number}},
            grid={"alpha": [-1, 1, 9]},
        )
        assert evaluate([alone], Options(progress="none"), world=None) == 0
        assert values(path.with_suffix(".h5")) == values(alone.with_suffix(".h5"))


def test_a_worker_imports_nothing_heavy_for_a_bad_job(tmp_path):
    """Ranks learn that the job is wrong before any of them has loaded torch."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        "rank = os.environ.get('OMPI_COMM_WORLD_RANK')\n"
        "if rank:\n"
        "    atexit.register(lambda: print('heavy', rank, 'torch' in sys.modules))\n"
    )
    (tmp_path / "bad.yaml").write_text("model: {arch: resnet21}\ndata: {dataset: digits}\n")
    ended = run_ranks(2, ["eval", str(tmp_path / "bad.yaml")], PYTHONPATH=str(tmp_path))
    assert ended.returncode == 2
    assert "heavy 1 False" in ended.stdout
    assert "True" not in ended.stdout


def test_a_bad_job_under_mpirun_is_one_message_and_one_code(tmp_path):
    """Rank 0 says it, last, and nothing comes after it; the launcher ends with its code."""
    (tmp_path / "bad.yaml").write_text("model: {arch: resnet21}\ndata: {dataset: digits}\n")
    ended = run_ranks(3, ["eval", str(tmp_path / "bad.yaml")])
    assert ended.returncode == 2
    assert ended.stderr.count("model.arch") == 1
    said = "Traceback", "non-zero status", "stopped by"
    assert not [words for words in said if words in ended.stderr]
    assert ended.stderr.splitlines()[-1].startswith("  grid: required")


@pytest.mark.parametrize("arguments", [["evall"], ["eval"], ["eval", "--chunk", "0", "x"]])
def test_a_wrong_command_line_under_mpirun_is_one_message(arguments):
    """As alone: ranks that have not met yet leave it to the first one."""
    ended, alone = run_ranks(3, arguments), run_alone(arguments)
    assert (ended.returncode, ended.stderr) == (2, alone.stderr)
