"""Batch scripts as text, site files, estimates; what SLURM does with them is in tests/slurm."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lsengine import devices, submit
from lsengine.cli import main
from lsengine.engine import Options, evaluate
from lsengine.errors import EnvironmentUnfit, JobError, Stopped, UsageError
from lsengine.submit import SubmitOptions, estimate, slurm
from lsengine.submit import site as sites

LAUNCHERS = {
    "openmpi": "mpirun -n 8 lsengine eval",
    "openmpi-ulfm": "mpirun --with-ft ulfm -n 8 lsengine eval",
    "mpich": "mpiexec -n 8 lsengine eval",
    "intel": "mpiexec.hydra -bootstrap slurm -n 8 lsengine eval",
    "srun-pmix": "srun --mpi=pmix --kill-on-bad-exit=1 -n 8 lsengine eval",
    "srun-pmi2": "srun --mpi=pmi2 --kill-on-bad-exit=1 -n 8 lsengine eval",
}


@pytest.fixture(autouse=True)
def _no_site_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("LSENGINE_SITE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def _scripts(job, **wishes):
    wishes.setdefault("probe", 0)
    ((_, steps),) = submit.plan([job], SubmitOptions(binaries=Path("/opt/ls engine/bin"), **wishes))
    return [step.text for step in steps]


def _options(text):
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if "#SBATCH" in line]


def _check(text, folder):
    """Have bash, and shellcheck where it is installed, read a script."""
    path = folder / "script.sh"
    path.write_text(text)
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=60)
    if checker := shutil.which("shellcheck"):
        ended = subprocess.run(
            [checker, "--severity=warning", "--exclude=SC1090,SC2054", str(path)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout


def test_every_script_that_may_take_rounds_has_them_written_out(make_job, tmp_path):
    """The loop is in the script itself: its traps and the requeue, and no line is a mere path."""
    ((_, steps),) = submit.plan(
        [make_job(train={"output": "run", "epochs": 2})], SubmitOptions(chain=True, probe=0)
    )
    for step in steps:
        _check(step.text, tmp_path)
        lines = step.text.splitlines()
        assert not [line for line in lines if re.fullmatch(r"\s*[\w.-]*(/[\w.-]+)+\s*", line)]
        has_rounds = {"trap warn USR1", 'if ! scontrol requeue "$id"; then'} <= set(lines)
        assert has_rounds == (step.kind != "render")


STUBS = {
    "lsengine": """
[ "$1" = status ] && { cat "$HERE/cells"; exit; }
trap '' $DEAF
touch "$HERE/begun"
exec sleep 60
""",
    "scontrol": """
echo "$*" >>"$HERE/told"
[ "$1" = requeue ] && kill -TERM $PPID # SLURM ends the script
exit 0
""",
}


@pytest.mark.parametrize(
    ("deaf", "code", "sent"),
    [("", 138, []), ("USR1", 143, ["TERM"]), ("USR1 TERM", 137, ["TERM", "KILL"])],
)
def test_a_launcher_that_does_not_stop_is_made_to(make_job, tmp_path, deaf, code, sent):
    """Warned of the limit it is asked; after half of signal_s TERM follows, then KILL.

    Well before the limit the job is back in the queue, its fruitless round counted.
    """
    here = tmp_path / "stubs"
    here.mkdir()
    (here / "cells").write_text("5\n")
    for name, body in STUBS.items():
        (here / name).write_text(f"#!/bin/bash\n{body}")
        (here / name).chmod(0o755)
    ((_, (step,)),) = submit.plan([make_job()], SubmitOptions(binaries=here, probe=0))
    script, log = here / "script.sh", here / "log"
    assert "signal_s=120\n" in step.text
    script.write_text(step.text.replace("signal_s=120\n", "signal_s=4\n"))
    environment = {**os.environ, "SLURM_JOB_ID": "7", "HERE": str(here), "DEAF": deaf}
    with log.open("w") as file:
        process = subprocess.Popen(["bash", str(script)], env=environment, stdout=file, stderr=file)
    try:
        end = time.monotonic() + 60
        while not (here / "begun").exists():
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(60) == code
    finally:
        process.kill()
    said = log.read_text()
    assert re.findall(r"sending SIG(\w+) to the launcher", said) == sent
    assert f"ended with {code}, progress 5 to 5; back into the queue" in said
    told = (here / "told").read_text().splitlines()
    assert "update JobId=7 Comment=lsengine fruitless=1 progress=5 ended" in told
    assert told[-1] == "requeue 7"


def test_a_probe_that_is_interrupted_submits_nothing(make_job, monkeypatch):
    """Ctrl-C in a probe cell is a stop of the command, not a cell that takes too long."""

    def interrupted(*arguments, **more):
        raise Stopped("stopped by SIGINT")

    monkeypatch.setattr("lsengine.engine.evaluate_found", interrupted)
    for launch in ({}, {"time": "01:00:00"}):
        with pytest.raises(Stopped, match="SIGINT"):
            submit.plan([make_job(launch=launch)], SubmitOptions(probe=2))


def test_the_end_of_a_probe_is_no_signal(make_job, monkeypatch):
    """A round that is over stops the probe by itself: a signal might come when nobody listens."""

    def sends_no_signal(*arguments):
        raise AssertionError("a signal would end a process that does not listen any more")

    monkeypatch.setattr(os, "kill", sends_no_signal)
    slow = {"arch": "testnets:Slow", "args": {"seconds": 0.4}, "checkpoint": "centre.pt"}
    job = make_job(model=slow, launch={"time": "00:00:11", "signal_s": 10})
    with pytest.raises(UsageError, match="takes more than 1 s"):
        estimate.of_probe(*_job_and_launch(job, 1))


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


def test_a_cell_too_long_for_a_round_is_refused_unasked(make_job):
    """Where a job has a time limit and wants no GPU, cells are probed before it is submitted."""
    slow = {"arch": "testnets:Slow", "args": {"seconds": 0.5}, "checkpoint": "centre.pt"}
    job = make_job(model=slow, launch={"time": "00:00:31", "signal_s": 30})
    with pytest.raises(UsageError, match=r"a cell takes more than 1 s, but a round has only 1 s"):
        submit.plan([job], SubmitOptions())


@pytest.mark.parametrize("missing", ["all", "3", "0", "an unknown number of"])
def test_success_is_not_believed_while_cells_are_missing(make_job, tmp_path, missing):
    """Open MPI's launcher with ULFM leaves with 0 when all ranks have been killed.

    Checkpoints in the file that are none of the job's are not asked for; a `status` that fails
    proves nothing.
    """
    here = tmp_path / "stubs"
    here.mkdir()
    job = make_job()
    if missing != "all":
        job.with_suffix(".h5").touch()
    if missing.isdigit():
        (here / "done").write_text("5\n")
        (here / "missing-cells").write_text(f"{missing}\n")
    counting = '[ "$1" = status ] && { cat "$HERE/$3" 2>/dev/null || exit 2; }; exit 0'
    for name, body in {**STUBS, "lsengine": counting}.items():
        (here / name).write_text(f"#!/bin/bash\n{body}")
        (here / name).chmod(0o755)
    ((_, (step,)),) = submit.plan([job], SubmitOptions(binaries=here, probe=0))
    ended = subprocess.run(
        ["bash", "-c", step.text], env={**os.environ, "SLURM_JOB_ID": "7", "HERE": str(here)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    told = (here / "told").read_text().splitlines()
    if missing == "0":
        assert (ended.returncode, told[-1].split()[0]) == (0, "update"), ended.stdout
        assert "done" in ended.stdout
    else:
        assert f"says 0, but {missing} cells are missing" in ended.stdout
        assert told[-1] == "requeue 7"


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_has_its_command(make_job, tmp_path, launcher):
    """The script is good bash, starts ranks as the launcher wants, and asks for what it needs."""
    launch = {"nodes": 2, "gpus_per_node": 4, "time": "04:00:00", "launcher": launcher}
    (text,) = _scripts(make_job(launch=launch))
    _check(text, tmp_path)
    assert f"run=({LAUNCHERS[launcher]} {tmp_path}/job.yaml --progress lines)" in text
    assert _options(text) == [
        "--job-name=job-eval",
        f"--output={tmp_path}/job-eval-%j.log",
        "--open-mode=append",
        "--requeue",
        "--signal=B:USR1@120",
        "--time=04:00:00",
        "--nodes=2",
        "--ntasks=8",
        "--ntasks-per-node=4",
        "--gpus-per-node=4",
        "--export=HOME,USER,LANG,PATH",
    ]


def test_everything_a_site_wants_is_in_the_script(make_job, tmp_path):
    """Account, memory, modules, own lines and variables, in the order in which they are needed."""
    launch = {
        "ranks": 4,
        "gpus_per_node": 4,
        "gpu_type": "a100",
        "gpu_binding": "task",
        "cores_per_rank": 8,
        "memory": "64G",
        "partition": "gpu",
        "account": "p1234",
        "qos": "high",
        "constraint": "a100&nvlink",
        "sbatch": ["--reservation=night"],
        "modules": ["gcc/13", "openmpi/5"],
        "activate": ["source ~/venv/bin/activate"],
        "environment": {"OMP_PLACES": "it's cores"},
        "launcher": "srun-pmix",
        "launcher_options": ["--cpu-bind=cores"],
    }
    (text,) = _scripts(make_job(launch=launch))
    _check(text, tmp_path)
    options = _options(text)
    for option in (
        *("--partition=gpu", "--account=p1234", "--qos=high", '--constraint="a100&nvlink"'),
        *("--mem=64G", "--cpus-per-task=8", "--gpus-per-node=a100:4", "--reservation=night"),
    ):
        assert option in options
    wanted = [
        "#!/bin/bash -l",
        "module load gcc/13 openmpi/5",
        "source ~/venv/bin/activate",
        "export PATH='/opt/ls engine/bin':\"$PATH\"",
        "export OMP_PLACES='it'\"'\"'s cores'",
        "-n 4 --cpus-per-task=8 --gpus-per-task=a100:1 --cpu-bind=cores lsengine eval",
    ]
    places = [text.index(piece) for piece in wanted]
    assert places == sorted(places)


def test_one_rank_needs_no_launcher(make_job):
    """And so no MPI."""
    (text,) = _scripts(make_job())
    assert "run=(lsengine eval" in text


@pytest.mark.parametrize(
    ("runtime", "launcher", "pieces"),
    [
        (
            "apptainer",
            "openmpi",
            [
                "run=(mpirun -n 2 apptainer exec --nv --bind /scratch --bind",
                "/x/i.sif lsengine eval",
            ],
        ),
        (
            "singularity",
            "srun-pmi2",
            ["-n 2 singularity exec --nv --bind", "singularity exec --nv --bind /scratch"],
        ),
        (
            "pyxis",
            "srun-pmix",
            ["-n 2 --container-image=/x/i.sif --container-mounts=/scratch:/scratch,"],
        ),
    ],
)
def test_ranks_in_containers(make_job, tmp_path, runtime, launcher, pieces):
    """The launcher stays outside, what counts cells goes inside, and the job's folder is there."""
    container = {"image": "/x/i.sif", "runtime": runtime, "binds": ["/scratch"]}
    launch = {"container": container, "gpus_per_node": 2, "launcher": launcher}
    (text,) = _scripts(make_job(launch=launch))
    _check(text, tmp_path)
    for piece in [*pieces, str(tmp_path)]:
        assert piece in text
    counting = next(line for line in text.splitlines() if "lsengine status" in line)
    assert "/x/i.sif" in counting
    assert "/opt" not in text


def test_a_container_sees_the_checkpoints_of_a_trajectory(make_job, tmp_path_factory):
    """Of a run that lies elsewhere, too."""
    container = {"image": "/x/i.sif", "runtime": "apptainer"}
    folder = tmp_path_factory.mktemp("run")
    (folder / "epoch_1.pt").touch()
    trajectory = {"checkpoints": f"{folder}/epoch_*.pt"}
    (text,) = _scripts(make_job(launch={"container": container}, trajectory=trajectory))
    assert f"--bind {folder}" in text


def test_names_are_quoted(make_job, tmp_path):
    """A name with blanks, quotes and percents is one name to the shell and to SLURM."""
    folder = tmp_path / "a 'b' 50%"
    (text,) = _scripts(make_job(name="it's $HOME", output=f"{folder}/x y.h5"))
    _check(text, tmp_path)
    assert "--job-name=it-s-HOME-eval" in _options(text)
    assert f"--output=\"{tmp_path}/a 'b' 50%%/it-s-HOME-eval-%j.log\"" in _options(text)
    run = next(line for line in text.splitlines() if line.startswith("run="))
    shown = subprocess.run(
        ["bash", "-c", f"{run}\nprintf '%s\\n' \"${{run[@]}}\""],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert f"{tmp_path}/it's $HOME.yaml" in shown.stdout.splitlines()


def test_no_variable_of_the_submitter_gets_into_a_script(make_job, monkeypatch):
    """Neither by name nor by value; and SLURM is told to take over none but four."""
    monkeypatch.setenv("MY_API_TOKEN", "hunter2")
    (text,) = _scripts(make_job())
    assert "hunter2" not in text
    assert "MY_API_TOKEN" not in text
    assert "--export=HOME,USER,LANG,PATH" in _options(text)


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        ({"partitoin": "gpu"}, 'launch.partitoin: unknown key; did you mean "partition"'),
        ({"launcher": "srun-pmx"}, 'did you mean "srun-pmix"'),
        ({"time": "4 hours"}, "launch.time"),
        ({"time": "2"}, "nothing is left to work in"),
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
        _scripts(make_job(launch=launch))
    assert message in str(refused.value)


def test_a_secret_read_from_a_file_is_allowed(make_job):
    """Its value is not in the script."""
    (text,) = _scripts(make_job(launch={"activate": ['export HF_TOKEN="$(cat ~/.token)"']}))
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
    (text,) = _scripts(job)
    assert "--account=p2" in _options(text)
    monkeypatch.setenv("LSENGINE_SITE", str(own))
    (text,) = _scripts(job, site=site)
    assert {"--account=p1", "--time=02:00:00"} <= set(_options(text))
    assert "export A=1\nexport B=3\n" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.yaml", "acount: p1\n", 'acount: unknown key; did you mean "account"'),
        ("s.yaml", "acount: p1\n", "allowed: nodes, ranks, gpus_per_node"),
        ("s.toml", "account = p1\n", "not valid TOML"),
        ("s.toml", "hang_s = 3.0\n", "belongs into the job's launch section"),
        ("s.yaml", "nodes: many\n", "nodes: expected integer, got"),
    ],
)
def test_a_wrong_site_file_is_refused(make_job, tmp_path, name, content, message):
    """With every problem, its key and what is allowed."""
    (tmp_path / name).write_text(content)
    with pytest.raises(JobError) as refused:
        _scripts(make_job(), site=tmp_path / name)
    assert message in str(refused.value)
    with pytest.raises(JobError, match="no such file"):
        sites.find(tmp_path / "absent.yaml")


def test_an_array_is_followed_by_its_merge(make_job, tmp_path):
    """Each shard is one process with one GPU; the merge starts however they end."""
    job = make_job(launch={"nodes": 2, "gpus_per_node": 4, "launcher": "srun-pmix"})
    ((_, steps),) = submit.plan([job], SubmitOptions(shards=5, probe=0))
    assert [(step.kind, step.after_any) for step in steps] == [("eval", False), ("merge", True)]
    shards, merging = (step.text for step in steps)
    for text in (shards, merging):
        _check(text, tmp_path)
    assert {"--array=1-5", "--ntasks=1", "--gpus-per-node=1"} <= set(_options(shards))
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
        _check(step.text, tmp_path)
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
    assert all(f"--only {name} " in text for name, text in zip(names, texts, strict=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("04:00:00", 14400),
        ("1-0", 86400),
        ("1-12:30", 131400),
        ("2-00:00:01", 172801),
    ],
)
def test_time_limits_are_read_as_sbatch_reads_them(text, expected):
    """All six forms of its manual."""
    assert slurm.seconds(text) == expected


def test_a_probe_measures_cells_and_leaves_nothing(make_job, tmp_path, capsys):
    """Three cells of six batches of 20 ms: their time, the sum for all, and how many rounds."""
    slow = {"arch": "testnets:Slow", "args": {"seconds": 0.02}, "checkpoint": "centre.pt"}
    job = make_job(model=slow, launch={"time": "00:10:00"})
    before = sorted(tmp_path.iterdir())
    assert main(["submit", str(job), "--estimate", "--probe", "3"]) == 0
    printed, said = capsys.readouterr()
    assert printed == ""
    assert "(3 probe cells on this machine); 28 cells are" in said
    assert "CPU-hours" in said
    assert "1 round(s) of 00:10:00" in said
    assert sorted(p for p in tmp_path.iterdir() if p.name != "__pycache__") == before
    cost = estimate.of_probe(*_job_and_launch(job, 2))
    assert 0.12 <= cost.seconds < 2
    assert cost.missing == 28


def test_a_surface_that_has_begun_needs_no_probe(make_job, capsys):
    """Its own cells say what the rest will take."""
    job = make_job(launch={"time": "00:10:00"})
    assert evaluate([job], Options(progress="none", cell_limit=5), world=None) == 0
    assert main(["submit", str(job), "--dry-run"]) == 0
    assert "(job.h5 itself); 23 cells are" in capsys.readouterr().err


def test_a_cell_longer_than_a_round_is_refused_with_both_numbers(make_job, tmp_path):
    """One that is measured, and one whose probe is cut off when the round would be over."""
    slow = {"arch": "testnets:Slow", "args": {"seconds": 0.4}, "checkpoint": "centre.pt"}
    job = make_job(model=slow, launch={"time": "00:00:11", "signal_s": 10})
    with pytest.raises(UsageError, match="takes more than 1 s, but a round has only 1 s"):
        submit.plan([job], SubmitOptions(probe=1))
    found, _, launch = _job_and_launch(job, 1)
    cost = estimate.Cost(seconds=3.5, device="cpu", missing=28, source="a test")
    with pytest.raises(UsageError, match=r"takes 3\.5 s, but a round has only 1 s"):
        estimate.judged(found, launch, cost)


def test_a_cpu_says_nothing_about_gpus(make_job):
    """No GPU-hours are estimated from a processor's time, and nothing is refused for it."""
    found, _, launch = _job_and_launch(
        make_job(launch={"gpus_per_node": 1, "time": "00:00:12", "signal_s": 10}), 1
    )
    said = estimate.judged(
        found, launch, estimate.Cost(seconds=99.0, device="cpu", missing=28, source="a test")
    )
    assert "no estimate of GPU-hours" in said


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
    _check(text, tmp_path)
    asked = {"--nodes=1", "--ntasks=1", "--gpus-per-node=1", "--partition=gpu"}
    assert asked <= set(_options(text))
    options = f"--estimate --probe 3 --site {site} --array 8"
    assert f"lsengine submit {job} {options}\n" in text
    assert main(["submit", str(job), "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "no GPU here to probe; --probe 3 has a job evaluate three cells first" in said.err
    assert "job-probe" not in said.out


def test_without_sbatch_the_script_can_still_be_had(make_job, monkeypatch, tmp_path, capsys):
    """Exit code 3, and what to do; --dry-run works anywhere."""
    job = make_job()
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    assert main(["submit", str(job), "--dry-run"]) == 0
    capsys.readouterr()
    assert main(["submit", str(job)]) == EnvironmentUnfit.exit_code
    assert "--dry-run" in capsys.readouterr().err


def _job_and_launch(path, cells):
    from lsengine import job as jobs

    job = jobs.load(path, command="eval")
    return job, cells, sites.settled(job, sites.read(None))
