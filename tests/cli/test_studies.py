"""The studies' job files: they load, fit one another, and the script asks for what they write."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from launchers import ROOT

from lsengine import recipe
from lsengine.job import Job, load_all

JOBS = ROOT / "jobs"
BASES = {"paper/recipe.yaml"}  # are extended, and no job by themselves
FILES = sorted(
    str(path.relative_to(JOBS))
    for study in ("paper", "digits")
    for path in (JOBS / study).rglob("*.yaml")
    if str(path.relative_to(JOBS)) not in BASES
)
STUDIES = {"sharp_flat", "seeds", "repeats", "skip"}


@cache
def jobs_of(file: str) -> list[Job]:
    """Return all jobs of a file."""
    return load_all(JOBS / file)


def all_jobs() -> Iterator[Job]:
    """Yield every job of every study."""
    for file in FILES:
        yield from jobs_of(file)


def training(job: Job) -> dict[str, object]:
    """Return what decides the result of a job's training."""
    content = job.document.model_dump(mode="json")
    train = {k: v for k, v in content["train"].items() if k != "output"}
    model = {k: content["model"][k] for k in ("arch", "args")}
    data = {k: content["data"][k] for k in ("dataset", "args", "normalize")}
    return {"train": train, "model": model, "data": data}


def trainings() -> dict[Path, Job]:
    """Return a job that trains, for each folder of checkpoints."""
    return {job.path(job.document.train.output): job for job in all_jobs() if job.document.train}


@pytest.mark.parametrize("file", FILES)
def test_every_file_is_a_set_of_distinct_whole_jobs(file: str) -> None:
    """Names differ within a file, and no placeholder is left without its value."""
    jobs = jobs_of(file)
    names = [job.document.name for job in jobs]
    assert len(set(names)) == len(names)
    for job in jobs:
        text = job.resolved()
        assert "{model." not in text
        assert "{train." not in text
        assert "{seed}" not in text


def test_one_surface_is_of_one_job() -> None:
    """Two jobs that write one surface, or one folder of checkpoints, are the same."""
    surfaces: dict[Path, object] = {}
    folders: dict[Path, object] = {}
    for job in all_jobs():
        content = job.document.model_dump(mode="json", exclude={"launch", "train"})
        if job.document.directions is not None:
            assert surfaces.setdefault(job.output, content) == content, job.output
        if job.document.train is not None:
            folder = job.path(job.document.train.output)
            assert folders.setdefault(folder, training(job)) == training(job), folder


def test_every_checkpoint_is_one_that_a_training_saves() -> None:
    """The centre and the end of a line are saved by a training of the same network."""
    by_folder = trainings()
    checked = 0
    for job in all_jobs():
        if job.document.directions is None:
            continue
        for path in (job.checkpoint, *job.direction_files().values()):
            trained = by_folder[path.parent]
            assert trained.document.train is not None
            saved = {f"epoch_{e:03d}.pt" for e in recipe.saved_epochs(trained.document.train)}
            assert path.name in saved, path
            assert trained.document.model.arch == job.document.model.arch
            checked += 1
    assert checked > 100


def test_what_a_curve_looks_at_is_what_it_trains() -> None:
    """A job with a training and a centre has the centre in the training's own folder."""
    for job in all_jobs():
        if job.document.train is not None and job.document.directions is not None:
            assert job.checkpoint.parent == job.path(job.document.train.output)


def test_the_paper_has_its_recipe() -> None:
    """Batches, weight decays, rates and epochs of Li et al. (2018)."""
    minima = [job.document.train for job in jobs_of("paper/figure2/minima.yaml")]
    recipes = {(t.optimizer, t.lr, t.batch_size, t.weight_decay) for t in minima if t}
    assert recipes == {
        (optimizer, lr, batch, decay)
        for optimizer, lr in (("sgd", 0.1), ("adam", 0.001))
        for batch in (128, 8192)
        for decay in (0.0, 5e-4)
    }
    for file in FILES:
        for job in jobs_of(file) if file.startswith("paper/") else ():
            if (t := job.document.train) is not None:
                assert (t.epochs, t.milestones, t.gamma) == (300, [150, 225, 275], 0.1)
                assert (t.crop, t.flip, t.momentum, t.nesterov) == (4, True, 0.9, True)


@pytest.fixture
def calls(tmp_path: Path) -> list[list[str]]:
    """Run the script with an lsengine that only takes note; return its arguments."""
    for folder in ("launch", "env/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "studies.sh", tmp_path / "launch")
    notes = tmp_path / "notes.txt"
    stubs = {"lsengine": f'echo "$@" >> {notes}', "mpirun": 'shift 2; "$@"'}
    for name, body in stubs.items():
        stub = tmp_path / "env" / "bin" / name
        stub.write_text(f"#!/bin/sh\n{body}\n")
        stub.chmod(0o755)
    subprocess.run(
        [tmp_path / "launch" / "studies.sh"],
        env={**os.environ, "ENVIRONMENT": "env"},
        check=True,
        capture_output=True,
        timeout=60,
    )
    return [line.split() for line in notes.read_text().splitlines()]


def test_the_script_draws_what_its_jobs_write(calls: list[list[str]]) -> None:
    """Every surface and history that is drawn or compared is written by a job run before."""
    written = {Path("surfaces/digits/sharp_flat/weights.h5")}  # by `lsengine histogram`
    drawn: set[Path] = set()
    for command, *arguments in calls:
        if command in ("train", "eval"):
            files = [Path(a).relative_to("jobs") for a in arguments if a.endswith(".yaml")]
            jobs = [job for file in files for job in jobs_of(str(file))]
            if command == "eval":
                written |= {job.output.relative_to(ROOT) for job in jobs}
            else:
                folders = [job.path(job.document.train.output) for job in jobs]
                written |= {f.relative_to(ROOT) / "history.h5" for f in folders}
        elif command in ("render", "compare"):
            drawn |= {Path(a) for a in arguments if a.endswith(".h5")}
    assert drawn
    assert drawn <= written
    run = {Path(a).parent for c in calls for a in c if a.endswith(".yaml")}
    assert run == {Path("jobs/digits/sharp_flat"), Path("jobs/digits/skip")}


def test_the_script_refuses_an_unknown_study(tmp_path: Path) -> None:
    """A misspelt study is named, and so are those that there are."""
    for name in ("launch", "env/bin"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "studies.sh", tmp_path / "launch")
    done = subprocess.run(
        [tmp_path / "launch" / "studies.sh", "skp"],
        env={**os.environ, "ENVIRONMENT": "env"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "skp" in done.stderr
    assert set(done.stderr.split()) >= STUDIES


def test_yaml_of_bases_is_readable() -> None:
    """A base is YAML too, and names no network of its own."""
    for base in BASES:
        assert "arch" not in yaml.safe_load((JOBS / base).read_text())["model"]
