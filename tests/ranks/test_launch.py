"""Joining other ranks and leaving them, by what a launcher says."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from lsengine.errors import EnvironmentUnfit
from lsengine.ranks import launch
from lsengine.ranks.signals import EarlySignal

SETS = ("OMPI_", "PMI_", "PMIX_", "MV2_", "PALS_", "SLURM_")


@pytest.fixture
def bare(monkeypatch):
    """Take away what a launcher may have set, and what has been joined; give it back after."""
    for name in [n for n in os.environ if n.startswith(SETS)]:
        monkeypatch.delenv(name)
    handler = signal.getsignal(signal.SIGUSR1)
    launch.join.cache_clear()
    launch.meet.cache_clear()
    yield monkeypatch
    launch.join.cache_clear()
    launch.meet.cache_clear()
    signal.signal(signal.SIGUSR1, handler)


@pytest.mark.parametrize(
    ("variables", "size"),
    [
        ({}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, 4),
        ({"PMI_SIZE": "3"}, 3),
        ({"MV2_COMM_WORLD_SIZE": "2"}, 2),
        ({"PALS_SIZE": "5"}, 5),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8"}, 8),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}, 1),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8"}, 1),  # of no rank
        (  # the batch script itself, and a shell in an allocation
            {"SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967291", "SLURM_STEP_NUM_TASKS": "8"},
            1,
        ),
        (
            {"SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "8"},
            1,
        ),
        ({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}, 1),
    ],
)
def test_the_size_of_a_launch_is_what_a_launcher_sets_for_each_rank(bare, variables, size):
    """A plain process in an allocation is one."""
    for name, text in variables.items():
        bare.setenv(name, text)
    assert launch.launched_size() == size


@pytest.mark.parametrize("text", ["x", "", "0", "-2", "2.0", "\u0662", "9" * 5000, "1\n2"])
@pytest.mark.parametrize(
    "variable", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"]
)
def test_a_size_that_is_no_number_is_refused_with_its_variable(bare, variable, text):
    """In one line, on one rank."""
    bare.setenv("SLURM_PROCID", "0")
    bare.setenv("SLURM_STEP_ID", "0")
    bare.setenv("OMPI_COMM_WORLD_RANK", "x")
    bare.setenv(variable, text)
    for ask in (launch.launched_size, launch.join):
        with pytest.raises(EnvironmentUnfit, match=f"{variable} is '.*expected the number") as no:
            ask()
        assert str(no.value).isprintable()
    bare.setenv("OMPI_COMM_WORLD_RANK", "1")
    with pytest.raises(SystemExit):
        launch.join()


def test_a_process_that_no_launcher_started_joins_nobody(bare):
    """It is asked once; from then on an early signal is remembered and does not end it."""
    bare.setattr(launch, "_initialised", lambda: pytest.fail("MPI was asked"))
    world = launch.join()
    assert (world.rank, world.size) == (0, 1)
    assert launch.join() is world
    handler = signal.getsignal(signal.SIGUSR1)
    assert isinstance(handler, EarlySignal)
    signal.raise_signal(signal.SIGUSR1)
    assert handler.received == "SIGUSR1"


def _no_mpi():
    raise ImportError("no libmpi")


def test_several_ranks_without_mpi_are_told_what_to_install(bare):
    """A single rank of such a launcher goes on alone."""
    bare.setattr(launch, "_initialised", _no_mpi)
    bare.setenv("OMPI_COMM_WORLD_SIZE", "1")
    assert launch.join().size == 1
    launch.join.cache_clear()
    launch.meet.cache_clear()
    bare.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(launch.EnvironmentUnfit, match=r"2 ranks, .*: no libmpi; install it with"):
        launch.join()


class _Alone:
    """MPI of a library that does not know the launcher: every rank is the only one."""

    COMM_WORLD = COMM_SELF = property(lambda self: self)

    def Get_library_version(self):  # noqa: N802  MPI's name
        return "Some MPI 4.1, built somewhere\nand more"

    def Get_size(self):  # noqa: N802  MPI's name
        return 1


@pytest.mark.parametrize("size", ["OMPI_COMM_WORLD", "PMI"])
def test_ranks_that_find_themselves_alone_are_told_once(bare, size):
    """By rank 0, with the library's name; the others leave with the same code."""
    bare.setattr(launch, "_initialised", _Alone)
    bare.setenv(f"{size}_SIZE", "4")
    bare.setenv(f"{size}_RANK", "0")
    with pytest.raises(launch.EnvironmentUnfit, match=r'started 4 ranks, .*"Some MPI 4\.1"'):
        launch.join()
    bare.setenv(f"{size}_RANK", "3")
    with pytest.raises(SystemExit) as left:
        launch.join()
    assert left.value.code == launch.EnvironmentUnfit.exit_code


def test_an_exception_is_printed_with_rank_and_host_on_every_line(monkeypatch, capsys):
    """Alone there is nobody to end."""
    monkeypatch.setattr(launch, "_running_mpi", lambda: None)
    launch.abort_all(ValueError("first line\nsecond line"))
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith(f"r000 {socket.gethostname()} ") for line in lines)
    assert [line.split(" ", 2)[2] for line in lines[-2:]] == [
        "ValueError: first line",
        "second line",
    ]


class _Running(_Alone):
    """MPI with some ranks, whose end is noted."""

    def __init__(self, size):
        self.size, self.codes = size, []

    def Get_size(self):  # noqa: N802  MPI's name
        return self.size

    def Abort(self, code):  # noqa: N802  MPI's name
        self.codes.append(code)


@pytest.mark.parametrize(("size", "codes"), [(1, []), (2, [3])])
def test_other_ranks_are_ended_if_there_are_any(monkeypatch, size, codes):
    """With the code that all shall have."""
    mpi = _Running(size)
    monkeypatch.setattr(launch, "_running_mpi", lambda: mpi)
    monkeypatch.setattr(launch, "BEFORE_ABORT_S", 0.0)
    launch.abort_other_ranks(3)
    assert mpi.codes == codes


def test_who_has_joined_nobody_ends_as_any_process(bare):
    """Nothing is waited for, and Python's own end follows."""
    launch.exit_without_finalize(5)


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, 0),
        ({"OMPI_COMM_WORLD_RANK": "3"}, 3),
        ({"PMI_RANK": "2", "SLURM_PROCID": "9"}, 2),
        ({"PALS_RANKID": "1"}, 1),
        ({"SLURM_PROCID": "4", "SLURM_STEP_ID": "0"}, 4),
        ({"OMPI_COMM_WORLD_RANK": "x"}, 0),
    ],
)
def test_the_rank_is_what_the_launcher_says(bare, variables, rank):
    """And 0 where it says nothing that is a number."""
    for name, text in variables.items():
        bare.setenv(name, text)
    assert launch.launched_rank() == rank


@pytest.mark.parametrize(
    ("variables", "code", "is_told"),
    [
        ({"OMPI_COMM_WORLD_RANK": "0"}, 2, True),
        ({"OMPI_COMM_WORLD_RANK": "0"}, 0, False),
        ({"OMPI_COMM_WORLD_RANK": "1"}, 2, False),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_VERSION": "5.0.11"}, 2, False),
        ({"PMI_RANK": "0"}, 2, False),
        ({}, 2, False),
    ],
)
def test_who_reads_an_old_launchers_lines_is_told_that_they_say_less(
    bare, variables, code, is_told
):
    """By rank 0 of Open MPI 4, which does not set its version."""
    for name, text in variables.items():
        bare.setenv(name, text)
    assert ("exit code 2" in launch.hint_for(code)) == is_told


def test_who_has_joined_nobody_ends_with_the_agreed_code(bare):
    """Alone that is its own."""
    assert launch.own_exit_code(5) == 5
