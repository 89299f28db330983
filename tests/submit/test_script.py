"""Batch scripts as text; what SLURM does with them is in tests/slurm."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

import pytest

from lsengine import submit
from lsengine.errors import UsageError
from lsengine.submit import SubmitOptions
from tests.support.scripts import check_script, sbatch_options, scripts_of

LAUNCHERS = {
    "openmpi": "mpirun -n 8 lsengine eval",
    "openmpi-ulfm": "mpirun --with-ft ulfm -n 8 lsengine eval",
    "mpich": "mpiexec -n 8 lsengine eval",
    "intel": "mpiexec.hydra -bootstrap slurm -n 8 lsengine eval",
    "srun-pmix": "srun --mpi=pmix --kill-on-bad-exit=1 -n 8 lsengine eval",
    "srun-pmi2": "srun --mpi=pmi2 --kill-on-bad-exit=1 -n 8 lsengine eval",
}


def test_every_script_that_may_take_rounds_has_them_written_out(make_job, tmp_path):
    """The loop is in the script itself: its traps and the requeue, and no line is a mere path."""
    ((_, steps),) = submit.plan(
        [make_job(train={"output": "run", "epochs": 2})], SubmitOptions(chain=True, probe=0)
    )
    for step in steps:
        check_script(step.text, tmp_path)
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
    (text,) = scripts_of(make_job(launch=launch))
    check_script(text, tmp_path)
    assert f"run=({LAUNCHERS[launcher]} {tmp_path}/job.yaml --progress lines)" in text
    assert sbatch_options(text) == [
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
    (text,) = scripts_of(make_job(launch=launch))
    check_script(text, tmp_path)
    options = sbatch_options(text)
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
    (text,) = scripts_of(make_job())
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
    (text,) = scripts_of(make_job(launch=launch))
    check_script(text, tmp_path)
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
    (text,) = scripts_of(make_job(launch={"container": container}, trajectory=trajectory))
    assert f"--bind {folder}" in text


def test_a_container_sees_the_folder_above_a_pattern_of_folders(make_job, tmp_path_factory):
    """What a pattern stands for is no name of a folder."""
    container = {"image": "/x/i.sif", "runtime": "apptainer"}
    folder = tmp_path_factory.mktemp("runs")
    (folder / "a").mkdir()
    (folder / "a" / "epoch_1.pt").touch()
    trajectory = {"checkpoints": f"{folder}/*/epoch_*.pt"}
    (text,) = scripts_of(make_job(launch={"container": container}, trajectory=trajectory))
    assert f"--bind {folder} " in text


@pytest.mark.parametrize("name", ["a:b", "a,b"])
@pytest.mark.parametrize("runtime", ["apptainer", "pyxis"])
def test_a_folder_that_no_container_can_have_is_refused(make_job, tmp_path_factory, name, runtime):
    """A colon or a comma ends its name there; without a container it is a name like others."""
    launch = {"launcher": "srun-pmix", "ranks": 2}
    output = f"{tmp_path_factory.mktemp('elsewhere')}/{name}/x.h5"
    scripts_of(make_job(launch=launch, output=output))
    launch["container"] = {"image": "/x/i.sif", "runtime": runtime}
    with pytest.raises(UsageError, match=f"launch.container: .*{name} has a colon or a comma"):
        scripts_of(make_job(launch=launch, output=output))


def test_a_backslash_in_the_folder_of_logs_is_refused(make_job):
    """SLURM would take the number in the log's name as it is written."""
    with pytest.raises(UsageError, match=r"submit: output: .*a\\b has a backslash"):
        scripts_of(make_job(output="a\\b/x.h5"))


def test_a_count_of_restarts_that_is_no_number_is_none(make_job, tmp_path):
    """Bash would run a command in it."""
    (text,) = scripts_of(make_job(launch={"launcher": "srun-pmi2", "ranks": 2}))
    head, _, rest = text.partition("for ((")
    loop = head + "for ((" + rest.partition("done\n")[0] + "done\n"
    loop = loop.replace("srun --nodes=1 --ntasks=1 true", "echo moved")
    said = {}
    for count in ("2", "x", "", "a[$(touch PWNED)]", "-1"):
        environment = {**os.environ, "SLURM_RESTART_COUNT": count}
        ended = subprocess.run(
            ["bash", "-c", loop], env=environment, cwd=tmp_path, capture_output=True, text=True,
            timeout=60, check=True,
        )  # fmt: skip
        assert not ended.stderr
        said[count] = ended.stdout.count("moved")
    assert said == {"2": 2, "x": 0, "": 0, "a[$(touch PWNED)]": 0, "-1": 0}
    assert not (tmp_path / "PWNED").exists()
    assert "$((restarts + 1))" in text
    assert text.count("SLURM_RESTART_COUNT") == 1


def test_names_are_quoted(make_job, tmp_path):
    """A name with blanks, quotes and percents is one name to the shell and to SLURM."""
    folder = tmp_path / "a 'b' 50%"
    (text,) = scripts_of(make_job(name="it's $HOME", output=f"{folder}/x y.h5"))
    check_script(text, tmp_path)
    assert "--job-name=it-s-HOME-eval" in sbatch_options(text)
    assert f"--output=\"{tmp_path}/a 'b' 50%%/it-s-HOME-eval-%j.log\"" in sbatch_options(text)
    run = next(line for line in text.splitlines() if line.startswith("run="))
    shown = subprocess.run(
        ["bash", "-c", f"{run}\nprintf '%s\\n' \"${{run[@]}}\""],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert f"{tmp_path}/it's $HOME.yaml" in shown.stdout.splitlines()


def test_no_variable_of_the_submitter_gets_into_a_script(make_job, monkeypatch):
    """Neither by name nor by value; and SLURM is told to take over none but four."""
    monkeypatch.setenv("MY_API_TOKEN", "hunter2")
    (text,) = scripts_of(make_job())
    assert "hunter2" not in text
    assert "MY_API_TOKEN" not in text
    assert "--export=HOME,USER,LANG,PATH" in sbatch_options(text)


def test_changes_reach_every_command_that_reads_the_job(make_job, tmp_path):
    """Quoted, so that the shell hands them on as they are."""
    changes = ("grid.alpha=[-1, 1, 3]", "name=it's; $HOME")
    options = SubmitOptions(chain=True, probe=0, changes=changes)
    job = make_job(train={"output": "run", "epochs": 2})
    ((_, steps),) = submit.plan([job], options)
    for step in steps[:2]:
        check_script(step.text, tmp_path)
        (line,) = [line for line in step.text.splitlines() if line.startswith("run=(")]
        shown = subprocess.run(
            ["bash", "-c", f'{line}; printf "%s\\0" "${{run[@]}}"'], capture_output=True, check=True
        ).stdout.split(b"\0")
        words = [word.decode() for word in shown]
        assert [w for k, w in enumerate(words) if words[k - 1] == "--set"] == list(changes)
