"""Workers that die, hang or are slow, under a launcher that lets the others live."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import numpy as np
import pytest

from lsengine import store
from lsengine.engine import Options, evaluate
from tests.support.jobs import values, write_job
from tests.support.kills import rank_processes
from tests.support.launchers import BIN, launcher_environment, run_alone, run_ranks, wait_for_cells

RANKS = 4
ULFM = [str(BIN / "mpirun"), "--with-ft", "ulfm"]
GRID = {"alpha": [-1, 1, 9], "beta": [-1, 1, 9]}
HANG_S = 4.0  # a busy machine may leave a process without a core for two seconds
SLOW = {"arch": "testnets:Slow", "args": {"seconds": 0.005}, "checkpoint": "centre.pt"}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The bytes of an undisturbed surface; waiting changes no value."""
    folder = tmp_path_factory.mktemp("reference")
    job = write_job(folder, model={**SLOW, "args": {"seconds": 0.0}}, grid=GRID)
    assert evaluate([job], Options(progress="none"), world=None) == 0
    return _data(job)


def _data(job):
    found = values(job.with_suffix(".h5"))
    return {name: content for name, content in found.items() if not name.startswith("directions")}


def _struck(folder, number):
    """Return a network in which rank 2 gets a signal in the middle of a cell."""
    args = {"seconds": 0.005, "rank": 2, "number": int(number), "begun": str(folder / "begun")}
    return {"arch": "testnets:Struck", "args": args, "checkpoint": "centre.pt"}


def _run(job):
    ended = run_ranks(
        RANKS, ["eval", str(job)], launcher=ULFM, PYTHONPATH=str(job.parent), timeout=90
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("writing", ["parallel", pytest.param("gather", marks=pytest.mark.cluster)])
def test_a_killed_worker_costs_only_its_cells_in_hand(make_job, tmp_path, reference, writing):
    """The others take them over: all cells, exit 0, and the log names rank, host and cells."""
    if writing == "parallel" and not store.has_mpi():
        pytest.skip("this environment's h5py has no MPI")
    job = make_job(model=_struck(tmp_path, signal.SIGKILL), grid=GRID, writing=writing)
    code, text = _run(job)
    assert code == 0, text
    said = rf"rank 2 on {re.escape(os.uname().nodename)} has died; others take its cells \d+"
    assert re.search(said, text), text
    assert _data(job) == reference
    assert not job.with_suffix(".h5.lock").exists()


@pytest.mark.cluster
def test_a_stopped_worker_holds_nobody_up(make_job, tmp_path, reference):
    """A process that does not run any more is given up, and ended by rank 0."""
    model = _struck(tmp_path, signal.SIGSTOP)
    code, text = _run(job := make_job(model=model, grid=GRID, launch={"hang_s": HANG_S}))
    assert code == 0, text
    assert "rank 2" in text
    assert "has been silent for" in text
    assert _data(job) == reference


@pytest.mark.cluster
def test_a_stopped_worker_on_another_host_holds_nobody_up(make_job, tmp_path, reference):
    """It cannot be killed from here: the launcher ends it, and the run's code is 0 all the same."""
    model = _struck(tmp_path, signal.SIGSTOP)
    job = make_job(model=model, grid=GRID, launch={"hang_s": HANG_S})
    job.with_name("sitecustomize.py").write_text(
        "import os, socket\n"
        "if os.environ.get('OMPI_COMM_WORLD_RANK') == '2':\n"
        "    socket.gethostname = lambda: 'elsewhere'\n"
    )
    code, text = _run(job)
    assert code == 0, text
    assert "rank 2 on elsewhere has been silent for" in text
    assert "no answer from ranks 2; leaving without them" in text
    assert _data(job) == reference
    assert not job.with_suffix(".h5.lock").exists()


@pytest.mark.cluster
def test_a_worker_stopped_in_a_write_holds_nobody_up(make_job, reference):
    """MPI-IO's lock on its cell goes with the process, before others take the cell over."""
    model = {"arch": "testnets:StopsWriting", "args": {"seconds": 0.005, "rank": 2}}
    job = make_job(model={**model, "checkpoint": "centre.pt"}, grid=GRID, launch={"hang_s": HANG_S})
    ended = run_ranks(RANKS, ["eval", str(job)], launcher=ULFM, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "rank 2" in ended.stderr
    assert "has been silent for" in ended.stderr
    assert _data(job) == reference


def test_a_killed_coordinator_ends_the_run_and_a_resume_completes_it(make_job, reference):
    """The workers leave with code 75, worth resubmitting; nothing finished is lost."""
    job = make_job(model=SLOW, grid=GRID)
    process = subprocess.Popen(
        [*ULFM, "-n", str(RANKS), str(BIN / "lsengine"), "eval", str(job)],
        env=launcher_environment(PYTHONPATH=str(job.parent)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        surface = job.with_suffix(".h5")
        wait_for_cells(surface, process, cells=10)
        os.kill(rank_processes(process.pid)[0], signal.SIGKILL)
        text = process.communicate(timeout=60)[0]
    finally:
        for left_over in rank_processes(process.pid):
            os.kill(left_over, signal.SIGKILL)
        process.kill()
    assert process.returncode == 75, text
    assert "rank 0 has died" in text
    assert store.read(surface).counts()["done"] >= 10
    assert evaluate([job], Options(progress="none"), world=None) == 0
    assert _data(job) == reference


def test_a_hung_worker_ends_itself_and_says_where_it_hangs(make_job, reference):
    """A forward pass that never returns: its own watchdog names the line; the run is complete."""
    model = {"arch": "testnets:Uneven", "args": {"seconds": 0.005, "rank": 2, "times": 1e8}}
    job = make_job(model={**model, "checkpoint": "centre.pt"}, grid=GRID, launch={"hang_s": HANG_S})
    ended = run_ranks(RANKS, ["eval", str(job)], launcher=ULFM, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "testnets.py" in ended.stderr
    assert "rank 2" in ended.stderr
    assert _data(job) == reference


@pytest.mark.cluster
def test_a_hung_coordinator_that_evaluates_ends_itself(make_job):
    """Its watchdog names the line; the workers leave with 75, worth resubmitting."""
    model = {"arch": "testnets:Uneven", "args": {"seconds": 0.005, "rank": 0, "times": 1e8}}
    launch = {"hang_s": HANG_S, "coordinator": "evaluates"}
    job = make_job(model={**model, "checkpoint": "centre.pt"}, grid=GRID, launch=launch)
    ended = run_ranks(2, ["eval", str(job)], launcher=ULFM, timeout=60)
    assert ended.returncode == 75, ended.stderr
    assert "testnets.py" in ended.stderr
    assert "rank 0 has died" in ended.stderr


def test_a_hung_process_alone_ends_itself(make_job):
    """By SIGALRM, after it has named the line; a shell calls that 142."""
    args = {"seconds": 0.005, "rank": "alone", "times": 1e8, "most": 40}
    model = {"arch": "testnets:Uneven", "args": args}
    job = make_job(model={**model, "checkpoint": "centre.pt"}, grid=GRID, launch={"hang_s": HANG_S})
    ended = run_alone(["eval", str(job)], timeout=60)
    assert ended.returncode == -signal.SIGALRM, ended.stderr
    assert "testnets.py" in ended.stderr


@pytest.mark.cluster
def test_cells_longer_than_a_hang_are_none(make_job):
    """Cells of three seconds under a patience of two: nobody is silent, nor is the idle worker."""
    model = {**SLOW, "args": {"seconds": 0.5}}  # six batches a cell
    curve = {"directions": {"alpha": {"kind": "random"}}, "grid": {"alpha": [0, 0, 1]}}
    job = make_job(model=model, launch={"hang_s": 2.0, "coordinator": "waits"}, **curve)
    ended = run_ranks(3, ["eval", str(job)], timeout=90)
    assert ended.returncode == 0, ended.stderr
    assert "silent" not in ended.stderr
    assert store.read(job.with_suffix(".h5")).counts()["done"] == 1


def test_cells_longer_than_a_hang_are_none_on_rank_0_either(pool, make_job):
    """The coordinator evaluates cells of three seconds, and does not miss its own reports."""
    model = {**SLOW, "args": {"seconds": 0.5}}
    curve = {"directions": {"alpha": {"kind": "random"}}, "grid": {"alpha": [0, 1, 3]}}
    job = make_job(model=model, launch={"hang_s": 2.0, "coordinator": "evaluates"}, **curve)
    assert pool.evaluate(job, 2) == {"code": 0, "message": ""}
    assert store.read(job.with_suffix(".h5")).counts()["done"] == 3


def _import_late(job, seconds):
    """Let rank 2 hang for a time while it imports what evaluates cells."""
    job.with_name("sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('OMPI_COMM_WORLD_RANK') == '2':\n"
        "    import importlib.abc, sys, time\n"
        "    class Late(importlib.abc.MetaPathFinder):\n"
        "        def find_spec(self, name, path, target=None):\n"
        "            if name == 'lsengine.engine.evaluator':\n"
        f"                time.sleep({seconds})\n"
        "    sys.meta_path.insert(0, Late())\n"
    )


def test_a_worker_that_comes_late_is_waited_for(make_job):
    """All cells are done by then; it is told to leave, and all leave with 0."""
    job = make_job(launch={"hang_s": 60.0})
    _import_late(job, 10)
    ended = run_ranks(3, ["eval", str(job)], PYTHONPATH=str(job.parent), timeout=90)
    assert ended.returncode == 0, ended.stderr
    assert "no answer" not in ended.stderr
    assert store.read(job.with_suffix(".h5")).counts()["missing"] == 0


@pytest.mark.parametrize(
    "launcher", [pytest.param([], marks=pytest.mark.cluster), pytest.param(ULFM, id="ulfm")]
)
def test_a_worker_that_hangs_while_it_loads_spoils_nothing(make_job, launcher):
    """The others do all cells and leave without it, with 0, whatever the launcher."""
    job = make_job(launch={"hang_s": HANG_S})
    _import_late(job, 1000)
    ended = run_ranks(
        3, ["eval", str(job)], launcher=launcher, PYTHONPATH=str(job.parent), timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    assert "no answer from ranks 2; leaving without them" in ended.stderr
    assert store.read(job.with_suffix(".h5")).counts()["missing"] == 0
    assert not job.with_suffix(".h5.lock").exists()


@pytest.mark.cluster
def test_ranks_that_wait_for_one_that_was_killed_at_the_start_end_themselves(make_job):
    """In MPI_Init nobody can be told of it: exit 1, and the line that hangs; a new run is fine."""
    job = make_job()
    job.with_name("sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if os.environ.get('OMPI_COMM_WORLD_RANK') and 'lsengine' in ' '.join(sys.orig_argv):\n"
        "    from lsengine.ranks import launch\n"
        "    launch._MEETING_S = 5.0\n"
        "    if os.environ['OMPI_COMM_WORLD_RANK'] == '2':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = run_ranks(3, ["eval", str(job)], launcher=ULFM, PYTHONPATH=str(job.parent), timeout=60)
    assert ended.returncode == 1, ended.stderr
    assert "in _meet" in ended.stderr
    assert not job.with_suffix(".h5").exists()
    assert run_ranks(3, ["eval", str(job)], launcher=ULFM, timeout=60).returncode == 0


def test_a_slow_worker_costs_in_proportion(make_job, reference):
    """One that is twenty times slower does a few cells, the others do the rest."""
    model = {"arch": "testnets:Uneven", "args": {"seconds": 0.01, "rank": 2, "times": 20}}
    job = make_job(model={**model, "checkpoint": "centre.pt"}, grid=GRID)
    ended = run_ranks(RANKS, ["eval", str(job)], timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert _data(job) == reference
    counts = np.bincount(store.read(job.with_suffix(".h5")).provenance["worker"].ravel())
    assert counts[2] < min(counts[1], counts[3]) / 3, counts


@pytest.mark.parametrize("writing", ["parallel", "gather"])
def test_the_coordinator_can_evaluate_too(pool, make_job, writing):
    """Asked to, rank 0 does cells between messages, and the bytes are those of one process."""
    if writing == "parallel" and not store.has_mpi():
        pytest.skip("this environment's h5py has no MPI")
    changes = {"model": SLOW, "grid": GRID, "writing": writing}
    job = make_job(launch={"coordinator": "evaluates"}, **changes)
    assert pool.evaluate(job, 3) == {"code": 0, "message": ""}
    waiting = make_job("waiting", launch={"coordinator": "waits"}, **changes)
    assert pool.evaluate(waiting, 3)["code"] == 0
    ranks = [
        set(store.read(j.with_suffix(".h5")).provenance["worker"].ravel()) for j in (job, waiting)
    ]
    assert ranks == [{0, 1, 2}, {1, 2}]
    assert values(job.with_suffix(".h5")) == values(waiting.with_suffix(".h5"))


def test_a_failure_of_rank_0s_own_cells_is_a_failed_cell(pool, make_job, tmp_path):
    """An exception in a cell of the coordinator's costs that cell, not the run."""
    model = {"arch": "testnets:Fragile", "args": {"repaired": str(tmp_path / "repaired")}}
    job = make_job(
        model={**model, "checkpoint": "centre.pt"},
        directions={"alpha": {"kind": "random", "ignore": []}},
        grid={"alpha": [-1, 1, 25]},
        launch={"coordinator": "evaluates"},
    )
    answer = pool.evaluate(job, 2)
    assert answer["code"] == 5
    counts = store.read(job.with_suffix(".h5")).counts()
    assert counts["failed"] == 12
    assert counts["done"] == 13
