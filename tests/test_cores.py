"""Cores and threads that a process may use: against the rules of Linux, SLURM and OpenMP."""

from __future__ import annotations

import os

import pytest

from lsengine import cores
from lsengine.cores import Limits, share
from lsengine.errors import UsageError


@pytest.fixture
def plain(monkeypatch):
    """No variable says anything."""
    for name in (*cores.VARIABLES, cores.SHARE, "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def _system(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


V2, V1 = "sys/fs/cgroup/", "sys/fs/cgroup/cpu/"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", f"{V2}a/b/cpu.max": "250000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/a/b\n", f"{V2}a/b/cpu.max": "max 100000\n"}, 0),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                f"{V2}a/b/cpu.max": "400000 100000\n",
                f"{V2}a/cpu.max": "300000 100000\n",
            },
            3,
        ),
        ({"proc/self/cgroup": "0::/\n", f"{V2}cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/unseen\n", f"{V2}cpu.max": "200000 100000\n"}, 2),
        (
            {
                "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/slurm/job\n",
                f"{V1}slurm/job/cpu.cfs_quota_us": "600000\n",
                f"{V1}slurm/job/cpu.cfs_period_us": "100000\n",
                f"{V1}slurm/cpu.cfs_quota_us": "-1\n",
                f"{V1}slurm/cpu.cfs_period_us": "100000\n",
            },
            6,
        ),
        ({}, 0),
        ({"proc/self/cgroup": ""}, 0),
    ],
)
def test_control_groups_of_both_versions_limit_cores(plain, tmp_path, files, expected):
    """A quota over its period, rounded down, of the tightest group; at least 1, 0 is none."""
    assert cores.limits(_system(tmp_path, files)).group == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, "")),
        ({"OMP_NUM_THREADS": "3"}, (3, "OMP_NUM_THREADS=3")),
        ({"OMP_NUM_THREADS": "4,2"}, (4, "OMP_NUM_THREADS=4,2")),
        ({"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "2"}, (2, "MKL_NUM_THREADS=2")),
        ({"OMP_NUM_THREADS": "many", "OPENBLAS_NUM_THREADS": "0"}, (0, "")),
        (
            {"LSENGINE_SHARE": "1 2 cores, shared by 2 processes"},
            (1, "2 cores, shared by 2 processes"),
        ),
    ],
)
def test_variables_of_threads_are_limits(plain, tmp_path, variables, expected):
    """The least of them; what is no number from 1 on says nothing."""
    for name, text in variables.items():
        plain.setenv(name, text)
    found = cores.limits(tmp_path)
    assert (found.threads, found.variable) == expected


def test_slurm_says_how_many_cores_a_task_has(plain, tmp_path):
    """Also where it binds nobody."""
    plain.setenv("SLURM_CPUS_PER_TASK", "3")
    assert cores.limits(tmp_path).task == 3
    plain.setattr(cores, "bound", lambda: frozenset(range(8)))
    assert cores.count() == min(3, cores.limits().group or 3)


@pytest.mark.parametrize(
    ("mine", "limits", "beside", "count", "why"),
    [
        (range(8), {}, [], 8, "8 cores, all there are for it"),
        ([3], {}, [], 1, "1 core, all there are for it"),
        (range(8), {}, [range(8)], 4, "8 cores, shared by 2 processes"),
        ([0, 1], {}, [[2, 3]], 2, "4 cores, shared by 2 processes"),
        ([0], {}, [[0]], 1, "1 core, shared by 2 processes"),
        (range(8), {"threads": 2, "variable": "OMP_NUM_THREADS=2"}, [], 2, "OMP_NUM_THREADS=2"),
        (
            range(8),
            {"threads": 9, "variable": "OMP_NUM_THREADS=9"},
            [],
            8,
            "8 cores, all there are for it",
        ),
        (range(8), {"task": 3}, [range(8)], 3, "SLURM_CPUS_PER_TASK=3"),
        (range(8), {"group": 4}, [range(8)], 2, "its control group may use 4 cores"),
        (range(8), {"group": 1}, [range(8)], 1, "its control group may use 1 core"),
    ],
)
def test_a_share_is_the_least_of_what_is_allowed(mine, limits, beside, count, why):
    """Cores and groups are divided among processes; variables and tasks are of each."""
    found = share(frozenset(mine), Limits(**limits), [frozenset(other) for other in beside])
    assert (found.count, found.why) == (count, why)


def test_equal_processes_of_this_one_share_what_it_has(plain, tmp_path):
    """Of eight cores, three get two each."""
    plain.setattr(cores, "bound", lambda: frozenset(range(8)))
    plain.setattr(cores, "limits", lambda: Limits())
    assert [cores.own_share(among).count for among in (1, 2, 3, 9)] == [8, 4, 2, 1]


def test_a_system_without_affinities_has_all_its_cores(monkeypatch):
    """On macOS Python cannot say which cores a process may use; elsewhere those are the ones."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5}, raising=False)
    assert cores.bound() == {1, 5}
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert cores.bound() == {0, 1, 2}


def test_threads_without_end_are_refused(monkeypatch):
    """A job of a machine of 256 threads runs anywhere; more than a machine bears do not."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert cores.as_asked(256) == cores.Threads(256, "as the job says")
    with pytest.raises(UsageError, match=r"threads: got 1,000; expected at most 256, or auto"):
        cores.as_asked(1000)
    monkeypatch.setattr("os.cpu_count", lambda: 300)
    assert cores.as_asked(1000).count == 1000
