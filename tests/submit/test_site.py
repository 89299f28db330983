"""What a cluster needs: site files, and the jobs' own sections."""

from __future__ import annotations

import os

import pytest

from lsengine.errors import JobError, UsageError
from lsengine.submit import site as sites
from tests.support.scripts import sbatch_options, scripts_of


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        ({"partitoin": "gpu"}, 'launch.partitoin: unknown key; did you mean "partition"'),
        ({"launcher": "srun-pmx"}, 'did you mean "srun-pmix"'),
        ({"time": "4 hours"}, "launch.time"),
        ({"time": "2"}, "nothing is left to work in"),
        ({"time": "9" * 5000}, "launch.time"),
        ({"partition": "a\x1b[2J"}, "launch.partition: holds the control character"),
        ({"launcher": "none", "ranks": 2}, "launcher: none starts one rank"),
        ({"nodes": 4, "ranks": 2}, "at least one for each of 4 nodes"),
        ({"gpu_binding": "task", "gpus_per_node": 2}, "task is applied by srun"),
        ({"sbatch": ["--time=1:00"]}, "--time is written by submit"),
        ({"sbatch": ["time=1:00"]}, "launch.sbatch"),
        ({"environment": {"HF_TOKEN": "abc"}}, "environment.HF_TOKEN: looks like a secret"),
        ({"activate": ["export DB_PASSWORD=abc"]}, "activate: looks like a secret"),
        ({"activate": ["two\nlines"]}, "expected one line"),
        ({"container": {"image": "x", "runtime": "pyxis"}}, "pyxis is a part of srun"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_submitted(make_job, launch, message):
    """With the key and what is allowed."""
    with pytest.raises(JobError) as refused:
        scripts_of(make_job(launch=launch))
    assert message in str(refused.value)


def test_a_secret_read_from_a_file_is_allowed(make_job):
    """Its value is not in the script."""
    (text,) = scripts_of(make_job(launch={"activate": ['export HF_TOKEN="$(cat ~/.token)"']}))
    assert 'export HF_TOKEN="$(cat ~/.token)"' in text


@pytest.mark.parametrize("suffix", ["yaml", "toml"])
def test_a_site_file_says_what_all_jobs_need(make_job, tmp_path, monkeypatch, suffix):
    """Named by option or variable, or the user's own; the job's keys override it one by one."""
    content = {
        "yaml": "account: p1\ntime: '01:00:00'\nenvironment: {A: '1', B: '2'}\n",
        "toml": 'account = "p1"\ntime = "01:00:00"\n[environment]\nA = "1"\nB = "2"\n',
    }[suffix]
    site = tmp_path / f"here.{suffix}"
    site.write_text(content)
    own = tmp_path / "config" / "lsengine" / f"site.{suffix}"
    own.parent.mkdir(parents=True)
    own.write_text(content.replace("p1", "p2"))
    job = make_job(launch={"time": "02:00:00", "environment": {"B": "3"}})
    (text,) = scripts_of(job)
    assert "--account=p2" in sbatch_options(text)
    monkeypatch.setenv("LSENGINE_SITE", str(own))
    (text,) = scripts_of(job, site=site)
    assert {"--account=p1", "--time=02:00:00"} <= set(sbatch_options(text))
    assert "export A=1\nexport B=3\n" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.yaml", "acount: p1\n", 'acount: unknown key; did you mean "account"'),
        ("s.yaml", "acount: p1\n", "allowed: nodes, ranks, gpus_per_node"),
        ("s.toml", "account = p1\n", "not valid TOML"),
        ("s.toml", f"nodes = {'9' * 5000}\n", "not valid TOML"),
        ("s.toml", f"nodes = {'[' * 5000}\n", "not valid TOML"),
        ("s.toml", "hang_s = 3.0\n", "belongs into the job's launch section"),
        ("s.yaml", "nodes: many\n", "nodes: expected integer, got"),
    ],
)
def test_a_wrong_site_file_is_refused(make_job, tmp_path, name, content, message):
    """With every problem, its key and what is allowed."""
    (tmp_path / name).write_text(content)
    with pytest.raises(JobError) as refused:
        scripts_of(make_job(), site=tmp_path / name)
    assert message in str(refused.value)
    with pytest.raises(JobError, match="no such file"):
        sites.find(tmp_path / "absent.yaml")


def test_a_site_file_that_is_none_is_not_waited_for(tmp_path, monkeypatch):
    """A FIFO would keep whoever reads it; without a home there is no file."""
    os.mkfifo(tmp_path / "site.yaml")
    with pytest.raises(UsageError, match="is a FIFO; expected a file"):
        sites.find(tmp_path / "site.yaml")
    monkeypatch.setenv("LSENGINE_SITE", "x" * 300)
    with pytest.raises(UsageError, match="File name too long"):
        sites.find(None)
    monkeypatch.delenv("LSENGINE_SITE")
    monkeypatch.setenv("XDG_CONFIG_HOME", "~nobody-of-this-name")
    assert sites.find(None) is None
