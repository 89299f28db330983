"""From jobs to steps: arrays, chains, matrices, probes."""

from __future__ import annotations

import subprocess

import pytest

from lsengine import devices, submit
from lsengine.cli import main
from lsengine.errors import JobError
from lsengine.submit import SubmitOptions
from tests.support.scripts import check_script, sbatch_options


def test_a_dry_run_evaluates_nothing(make_job, monkeypatch, capsys):
    """It is for login nodes: scripts are printed with what is known, whatever a probe would say."""

    def evaluates(*arguments, **more):
        raise AssertionError("a dry run evaluates")

    monkeypatch.setattr("lsengine.engine.evaluate_found", evaluates)
    job = make_job(launch={"time": "00:10:00"})
    for more in ([], ["--probe", "3"]):
        assert main(["submit", str(job), "--dry-run", *more]) == 0
        printed, said = capsys.readouterr()
        assert printed.startswith("#!/bin/bash")
        assert "--dry-run evaluates nothing; --estimate does" in said
    assert main(["submit", str(job), "--dry-run", "--estimate"]) == 2
    assert "give one" in capsys.readouterr().err


def test_an_array_is_followed_by_its_merge(make_job, tmp_path):
    """Each shard is one process with one GPU; the merge starts however they end."""
    job = make_job(launch={"nodes": 2, "gpus_per_node": 4, "launcher": "srun-pmix"})
    ((_, steps),) = submit.plan([job], SubmitOptions(shards=5, probe=0))
    assert [(step.kind, step.after_any) for step in steps] == [("eval", False), ("merge", True)]
    shards, merging = (step.text for step in steps)
    for text in (shards, merging):
        check_script(text, tmp_path)
    assert {"--array=1-5", "--ntasks=1", "--gpus-per-node=1"} <= set(sbatch_options(shards))
    assert "run=(lsengine eval " in shards
    assert '--shard "$SLURM_ARRAY_TASK_ID/5")' in shards
    assert f'{tmp_path}/job.shard-"$SLURM_ARRAY_TASK_ID".h5' in shards
    assert f'lsengine merge "${{shards[@]}}" --output {tmp_path}/job.h5' in merging
    assert "--gpus-per-node" not in merging


def test_a_merge_without_shards_says_so(make_job, tmp_path):
    """No shard has begun: one message, and the code of a surface whose cells are missing."""
    ((_, (_, step)),) = submit.plan([make_job()], SubmitOptions(shards=2, probe=0))
    ended = subprocess.run(
        ["bash", "-c", step.text], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 75
    assert "none of 2 shards has a file" in ended.stdout
    assert "usage" not in ended.stdout + ended.stderr


def test_a_chain_has_its_steps_in_order(make_job, tmp_path):
    """Train, eval, render; the checkpoint need not exist yet, but a surface must be described."""
    train = {"output": "run", "epochs": 2}
    model = {"arch": "testnets:mlp", "checkpoint": "run/epoch_002.pt"}
    ((_, steps),) = submit.plan([make_job(model=model, train=train)], SubmitOptions(chain=True))
    assert [step.kind for step in steps] == ["train", "eval", "render"]
    for step in steps:
        check_script(step.text, tmp_path)
    with pytest.raises(JobError, match="directions: required"):
        submit.plan(
            [make_job(model=model, train=train, directions=None, grid=None)],
            SubmitOptions(chain=True),
        )


def test_a_matrix_is_submitted_job_by_job(make_job):
    """Each of its jobs has a script of its own."""
    job = make_job(name="m", output="{seed}.h5")
    job.write_text(job.read_text() + "matrix: {seed: [1, 2]}\n")
    planned = submit.plan([job], SubmitOptions(probe=0))
    assert len(planned) == 2
    texts = [steps[0].text for _, steps in planned]
    names = [job.document.name for job, _ in planned]
    assert all(f"--only={name} " in text for name, text in zip(names, texts, strict=True))


def test_where_no_gpu_is_a_job_of_its_own_probes(make_job, tmp_path, capsys, monkeypatch):
    """It has one GPU and comes before all else; unasked, it is only said that there can be one."""
    monkeypatch.setattr(devices, "visible_count", lambda _: 0)
    site = tmp_path / "site.yaml"
    site.write_text("partition: gpu\n")
    job = make_job(launch={"nodes": 2, "gpus_per_node": 4, "time": "00:10:00"})
    ((_, steps),) = submit.plan([job], SubmitOptions(probe=3, shards=8, site=site))
    assert [(step.kind, step.after_any) for step in steps[:2]] == [
        ("probe", False),
        ("eval", False),
    ]
    text = steps[0].text
    check_script(text, tmp_path)
    asked = {"--nodes=1", "--ntasks=1", "--gpus-per-node=1", "--partition=gpu"}
    assert asked <= set(sbatch_options(text))
    options = f"--estimate --probe 3 --site {site} --array 8"
    assert f"lsengine submit {job} {options}\n" in text
    assert main(["submit", str(job), "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "no GPU here to probe; --probe 3 has a job evaluate three cells first" in said.err
    assert "job-probe" not in said.out
