"""How much memory is free, from trees of files like those of the kernel."""

from __future__ import annotations

import pytest
import torch

from lsengine.devices import free_bytes, free_host_bytes

KIB = 1024


def _tree(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:  900 kB\nMemFree:  100 kB\nMemAvailable:   500 kB\n"}
SECOND = "sys/fs/cgroup/slurm"
FIRST = "sys/fs/cgroup/memory/slurm"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 500 * KIB, id="no-groups"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/slurm/job/step\n",
                f"{SECOND}/job/step/memory.max": "max\n",
                f"{SECOND}/job/step/memory.current": "1000\n",
                f"{SECOND}/job/memory.max": "300000\n",
                f"{SECOND}/job/memory.current": "200000\n",
                f"{SECOND}/job/memory.stat": "anon 1\nactive_file 7000\ninactive_file 500\n",
                f"{SECOND}/memory.max": "900000\n",
                f"{SECOND}/memory.current": "200000\n",
            },
            107_500,
            id="second-version-the-group-around-it-is-smaller",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu,cpuset:/x\n4:memory:/slurm/job\n",
                f"{FIRST}/job/memory.limit_in_bytes": "200000\n",
                f"{FIRST}/job/memory.usage_in_bytes": "150000\n",
                f"{FIRST}/job/memory.stat": "inactive_file 3\ntotal_inactive_file 20000\n",
            },
            70_000,
            id="first-version",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "1000\n",
                "sys/fs/cgroup/memory.current": "5000\n",
            },
            0,
            id="a-container-that-is-full",
        ),
        pytest.param({"proc/self/cgroup": "0::/elsewhere\n"}, 500 * KIB, id="not-to-be-seen"),
    ],
)
def test_the_least_of_kernel_and_control_groups_is_free(tmp_path, files, expected):
    """A job of a cluster has the memory of its step, its job and its host, whichever is least."""
    assert free_host_bytes(_tree(tmp_path, MEMINFO | files)) == expected


def test_elsewhere_the_host_has_all_its_memory(tmp_path):
    """Without the kernel's files the answer is a number, too."""
    assert free_host_bytes(tmp_path) >= free_host_bytes()


def test_what_torch_keeps_on_a_card_counts_as_free(monkeypatch):
    """The card has 100 free, and torch keeps 30 of which 20 are in use."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 200))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert free_bytes(torch.device("cuda", 0)) == 110
    assert free_bytes(torch.device("cpu")) > 2**20
