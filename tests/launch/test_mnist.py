"""`make fashion` and `make mnist`: what is drawn their jobs write, and where the data come from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lsengine.job import load_all
from tests.support.launchers import ROOT


@pytest.fixture
def run(tmp_path):
    """Return a function that runs the script with commands that only take note."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "env" / "bin").mkdir(parents=True)
    script = tmp_path / "launch" / "mnist.sh"
    text = (ROOT / "launch" / "mnist.sh").read_text()
    script.write_text(text.replace("/usr/share/datasets", f"{tmp_path}/package"))
    script.chmod(0o755)
    note = f'echo "$(basename $0) $*" >> {tmp_path}/notes.txt'

    def command(name, body):
        stub = tmp_path / "env" / "bin" / name
        stub.write_text(f"#!/bin/sh\n{body}\n")
        stub.chmod(0o755)

    for name in ("lsengine", "apt-get"):
        command(name, note)
    command("python", "true")

    def start(*, user, data="fashion", **more):
        command("id", f"echo {user}")
        path = f"{tmp_path}/env/bin:{os.environ['PATH']}"
        done = subprocess.run(
            [script, data],
            env={**os.environ, "ENVIRONMENT": "env", "PATH": path, **more},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        notes = tmp_path / "notes.txt"
        calls = notes.read_text().splitlines() if notes.exists() else []
        return done, [line.split() for line in calls]

    return start


@pytest.mark.parametrize("data", ["fashion", "mnist"])
def test_it_draws_what_its_jobs_write(run, tmp_path, data):
    """Both surfaces are written by a job that is run before, from data that are given."""
    (tmp_path / "mine.npz").touch()
    done, calls = run(user=1000, data=data, **{data.upper(): "mine.npz"})
    assert done.returncode == 0, done.stderr
    commands = [command for _, command, *_ in calls]
    assert commands == ["train", "eval", *["render"] * 4, "compare"]
    for _, _, file, *options in calls[:2]:
        assert (ROOT / file).is_file()
        assert f"data.root={tmp_path}/mine.npz" in options
    jobs = load_all(ROOT / "jobs" / data / "planes.yaml")
    written = {str(job.output.relative_to(ROOT)) for job in jobs}
    for _, _, *arguments in calls[2:]:
        assert {a for a in arguments if a.endswith(".h5")} == written


def test_root_installs_the_package(run, tmp_path):
    """If it is missing, once; then the jobs find the data by themselves."""
    done, calls = run(user=0)
    assert done.returncode == 0, done.stderr
    assert [call[:2] for call in calls[:2]] == [["apt-get", "update"], ["apt-get", "install"]]
    assert calls[1][-1] == "dataset-fashion-mnist"
    assert not any("data.root" in word for call in calls for word in call)
    folder = tmp_path / "package" / "fashion-mnist"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte.gz").touch()
    (tmp_path / "notes.txt").unlink()
    _, calls = run(user=0)
    assert [call[1] for call in calls[:2]] == ["train", "eval"]


def test_others_are_told_what_to_do(run):
    """Without the package and without root: one message, and nothing is begun."""
    done, calls = run(user=1000)
    assert (done.returncode, calls) == (3, [])
    assert "apt-get install dataset-fashion-mnist" in done.stderr
    assert "FASHION=PATH make fashion" in done.stderr


def test_mnist_is_left_to_its_job_without_a_path(run):
    """The job names a folder of its own, into which torchvision downloads; nothing is installed."""
    done, calls = run(user=0, data="mnist")
    assert done.returncode == 0, done.stderr
    assert [call[1] for call in calls[:2]] == ["train", "eval"]
    assert not any("data.root" in word for call in calls for word in call)
    for name in ("networks", "planes"):
        for job in load_all(ROOT / "jobs" / "mnist" / f"{name}.yaml"):
            assert job.path(job.document.data.root) == ROOT / "data" / "mnist"


def test_another_data_set_is_refused(run):
    """A misspelt one is named, with those that there are."""
    done, calls = run(user=0, data="mist")
    assert (done.returncode, calls) == (2, [])
    assert "'mist'; there are: fashion mnist" in done.stderr


@pytest.mark.parametrize("data", ["fashion", "mnist"])
def test_the_two_networks_differ_in_their_skip_connections_alone(data):
    """One recipe, and a plane around what it saves last."""
    trainings, planes = (
        load_all(ROOT / "jobs" / data / f"{name}.yaml") for name in ("networks", "planes")
    )
    assert [job.document.model.arch for job in trainings] == ["resnet56", "resnet56_noshort"]
    for training, plane in zip(trainings, planes, strict=True):
        recipe = training.document.train
        assert plane.document.model.arch == training.document.model.arch
        last = Path(training.path(recipe.output)) / f"epoch_{recipe.epochs:03d}.pt"
        assert plane.checkpoint == last
        one, other = (
            job.document.train.model_dump(exclude={"output"}) for job in (training, trainings[0])
        )
        assert one == other
        assert recipe.flip == (data == "fashion")  # a mirrored digit is no digit
        assert plane.document.data.dataset == training.document.data.dataset
