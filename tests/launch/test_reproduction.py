"""The reproduction on CIFAR-10: its script, its measures, what it keeps, and how it can fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lsengine
from lsengine import store
from lsengine.data.dataset import stratified
from lsengine.job import load_all
from lsengine.store import damage, digest
from tests.support.histories import make_history
from tests.support.kept_surfaces import bowl
from tests.support.launchers import ROOT

JOBS = ROOT / "jobs" / "cifar10"
STEPS = ("train", "evaluate", "keep", "draw", "publish", "check")
SMALLER = {  # what makes the jobs, and the names in the script, small enough for a test
    r"\bepochs: \d+": "epochs: 2",
    r"\b(save|measure)_every: \d+": r"\1_every: 1",
    r"\bsubset: \d+": "subset: 40",
    r"samples: \d+": "samples: 40",
    r"arch: vgg9": "arch: resnet20",
    r"batch_size: 128": "batch_size: 8",
    r"batch_size: 1024": "batch_size: 40",
    r"epoch_(?!000)\d+\.pt": "epoch_002.pt",
    r"(\[(?:-?[\d.]+, -?[\d.]+|auto)), \d+\]": r"\1, 5]",
}


def test_kept_files_have_all_but_directions_and_folders(
    scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The values are the same, the digest fits, no path of this machine is left; twice is once."""
    keep = scripts("keep")
    source, folder = bowl(tmp_path / "plane.h5", ripple=0.1), tmp_path / "kept"
    run_folder = tmp_path / "some-run"
    run_folder.mkdir()
    history = make_history("r")
    store.write_history(run_folder / "history.h5", history)
    for _ in range(2):
        keep.main(folder, [source, run_folder / "history.h5"])
    made = folder / "plane.h5"
    old, new = lsengine.open(source), lsengine.open(made)
    assert np.array_equal(old.quantities["train_loss"], new.quantities["train_loss"])
    assert new.counts() == old.counts()
    assert np.array_equal(new.alpha, old.alpha)
    assert new.job == "data:\n  root: data/x.npz\noutput: plane.h5\n"
    assert store.read_directions(source)
    assert not store.read_directions(made)
    assert digest.state(made) is digest.State.FITS
    damage.refuse(made)
    assert made.stat().st_size < source.stat().st_size
    again = store.read_history(folder / "history-some-run.h5")
    assert np.array_equal(again.columns["test_error"], history.columns["test_error"])

    unfinished = make_history("u", planned=50)
    store.write_history(run_folder / "history.h5", unfinished)
    capsys.readouterr()
    missing = tmp_path / "missing.h5"
    keep.main(folder, [run_folder / "history.h5", missing])
    said = capsys.readouterr().out
    assert f"not finished, not kept: {run_folder / 'history.h5'}\n" in said
    assert f"not finished, not kept: {missing}\n" in said


def test_every_surface_has_a_title_of_its_network(scripts: Any) -> None:
    """In words; no two networks that are drawn together have the same."""
    title, training = scripts("trained").title, scripts("trained").training
    assert title("plane-sgd-wd0-bs128") == "SGD, batches of 128, no weight decay"
    assert title("adam-wd5e-4-bs1024") == "Adam, batches of 1024, weight decay 5e-4"
    assert title("width-resnet20_noshort-w8") == "ResNet-20, 8 channels, no skip connections"
    assert title("resnet56") == "ResNet-56"
    assert training("curvature-resnet20_noshort") == "resnet20_noshort"
    kept = scripts("measures").Kept(ROOT)
    planes = scripts("trained").planes(kept)
    assert all(training(name) == trained for name, (trained, _) in planes.items())
    assert len({title(name) for name in planes}) == len(planes)


def test_what_jobs_make_is_kept_and_nothing_else(scripts: Any) -> None:
    """Surfaces and histories, of each job of a file; other files are themselves."""
    made_by = scripts("keep").made_by
    kinds = ("networks", "networks-slow", "landscapes", "landscapes-slow")
    made = [path for kind in kinds for path in made_by(JOBS / f"{kind}.yaml")]
    networks = ("resnet56", "resnet56_noshort", "resnet56_noshort-slow")
    networks += ("resnet20", "resnet20_noshort")
    histories = {ROOT / "checkpoints" / "cifar10" / name / "history.h5" for name in networks}
    assert set(made) == histories | {
        ROOT / "surfaces" / "cifar10" / f"{name}.h5" for name in networks
    }
    assert [*made_by(Path("weights-wd0.h5"))] == [Path("weights-wd0.h5")]


def test_networks_of_a_figure_have_one_recipe() -> None:
    """Those of figures 1, 5 and 7 differ in depth and skip connections, and in nothing else.

    The one beside figure 1 has another rate and fewer epochs, too.
    """
    trained = [job.document for job in load_all(JOBS / "networks.yaml")]
    recipes = [document.train.model_copy(update={"output": ""}) for document in trained]
    assert len(trained) == 4
    assert all(recipe == recipes[0] for recipe in recipes)
    assert {document.model.arch for document in trained} == {
        f"resnet{layers}{kind}" for layers in (20, 56) for kind in ("", "_noshort")
    }
    (slow,) = [job.document for job in load_all(JOBS / "networks-slow.yaml")]
    other = dict(slow.train), dict(recipes[0])
    changed = {key for key in other[0] if other[0][key] != other[1][key]} - {"output"}
    assert changed == {"lr", "epochs", "save_every", "warmup"}
    assert slow.model.arch == "resnet56_noshort"
    assert len({(d.data.model_dump_json(), d.seed) for d in [*trained, slow]}) == 1


def test_fewer_images_of_one_seed_are_part_of_more() -> None:
    """A surface of a subset sees images that the network was trained on, a larger subset."""
    y = torch.arange(5000) % 10
    draws = [
        set(stratified(y, count, torch.Generator().manual_seed(5)).tolist())
        for count in (50, 1250, 5000)
    ]
    assert draws[0] < draws[1] < draws[2]
    assert [len(draw) for draw in draws] == [50, 1250, 5000]


@pytest.fixture
def calls(tmp_path: Path) -> list[list[str]]:
    """Run the script with commands that only take note; return their arguments."""
    for folder in ("launch", "env/bin", "docs/reproduction"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "reproduction.sh", tmp_path / "launch")
    stubs = {name: f'echo {name} "$@" >> {tmp_path}/notes.txt' for name in ("lsengine", "python")}
    for name, body in stubs.items():
        stub = tmp_path / "env" / "bin" / name
        stub.write_text(f"#!/bin/sh\n{body}\n")
        stub.chmod(0o755)
    for name in re.findall(r"history-[\w-]+|[\w-]+", " ".join(_kept_names())):
        (tmp_path / "docs" / "reproduction" / f"{name}.h5").touch()
    environment = {**os.environ, "ENVIRONMENT": "env", "CIFAR10": str(tmp_path / "c.npz")}
    subprocess.run(
        [tmp_path / "launch" / "reproduction.sh", *STEPS],
        env=environment,
        check=True,
        capture_output=True,
        timeout=60,
    )
    return [line.split() for line in (tmp_path / "notes.txt").read_text().splitlines()]


def _jobs() -> Iterator[Any]:
    for path in JOBS.glob("*.yaml"):
        if path.stem not in ("recipe", "view"):
            yield from load_all(path)


def _kept_names() -> set[str]:
    """Return the names that files of all jobs have when they are kept."""
    names = {"weights-wd0", "weights-wd5e-4"}
    for job in _jobs():
        if job.document.directions is not None:
            names.add(job.output.stem)
        if job.document.train is not None:
            names.add(f"history-{job.path(job.document.train.output).name}")
    return names


def test_the_script_draws_what_its_jobs_write(calls: list[list[str]], tmp_path: Path) -> None:
    """Every job is run, on the user's data; all that is drawn is written by one of them."""
    run_jobs = {Path(a).name for _, *rest in calls for a in rest if a.endswith(".yaml")}
    assert run_jobs == {path.name for path in JOBS.glob("*.yaml")} - {"recipe.yaml", "view.yaml"}
    for _, command, *rest in calls:
        if command in ("train", "eval"):
            assert f"data.root={tmp_path}/c.npz" in rest
            assert "--workers" in rest
    drawn = {Path(a).stem for _, c, *rest in calls if c == "render" for a in rest if ".h5" in a}
    assert drawn <= _kept_names()
    rooms = [Path(a).stem for _, c, *rest in calls if c == "render" for a in rest if ".pdf" in a]
    assert {name[6] for name in rooms} == set("12356789")
    assert len(rooms) == len(set(rooms))


def test_what_claims_read_is_what_jobs_write(scripts: Any, tmp_path: Path) -> None:
    """With all files there, no claim asks for another one."""
    paper, asked = scripts("paper"), set()

    class Asked(scripts("measures").Kept):  # type: ignore[misc]
        def path(self, name: str) -> Path:
            asked.add(name)
            raise scripts("measures").UndecidedError(name)

    kept = Asked(tmp_path)
    for claim in paper.CLAIMS:
        assert claim.outcome(kept).verdict == "not decided here"
    assert asked
    assert asked <= _kept_names()
    planes = scripts("trained").planes(kept)
    assert planes.keys() | {f"history-{name}" for name, _ in planes.values()} <= _kept_names()


@pytest.mark.parametrize(("steps", "studies"), [(["trian"], ""), ([], ""), (["train"], "width 6")])
def test_the_script_refuses_what_it_does_not_know(
    tmp_path: Path, steps: list[str], studies: str
) -> None:
    """A misspelt step or study is named, with those that there are."""
    for name in ("launch", "env/bin"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "reproduction.sh", tmp_path / "launch")
    done = subprocess.run(
        [tmp_path / "launch" / "reproduction.sh", *steps],
        env={**os.environ, "ENVIRONMENT": "env", "STUDIES": studies},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "there are:" in done.stderr


def _small(folder: Path) -> dict[str, str]:
    """Copy script and jobs into a folder, for small networks and few images; return variables."""
    for part in ("jobs/cifar10", "launch"):
        shutil.copytree(ROOT / part, folder / part)
    for path in (*folder.glob("jobs/cifar10/*.yaml"), folder / "launch" / "reproduction.sh"):
        text = path.read_text()
        for old, new in SMALLER.items():
            text = re.sub(old, new, text)
        path.write_text(text)
    (folder / "docs" / "reproduction").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "REPRODUCTION.md", folder / "docs")
    rng = np.random.default_rng(0)
    arrays = {f"x_{split}": rng.integers(256, size=(60, 3, 32, 32)) for split in ("train", "test")}
    images = {name: values.astype(np.uint8) for name, values in arrays.items()}
    labels = {f"y_{split}": np.arange(60) % 10 for split in ("train", "test")}
    np.savez(folder / "c.npz", **images, **labels)
    return {
        **os.environ,
        "ENVIRONMENT": sys.prefix,
        "PYTHONPATH": str(ROOT),
        "CIFAR10": str(folder / "c.npz"),
        "STUDIES": "minima trajectories",
        "WORKERS": "1",
        "NICE": "0",
    }


@pytest.mark.slow
def test_a_small_reproduction_goes_from_jobs_to_checked_documents(
    tmp_path: Path, scripts: Any
) -> None:
    """All steps, for a small network's minima; a surface that was changed afterwards is found."""
    environment = _small(tmp_path)

    def done(*steps: str) -> subprocess.CompletedProcess[str]:
        command = [tmp_path / "launch" / "reproduction.sh", *steps]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=1500, check=False
        )

    made = done("train", "evaluate", "keep", "draw")
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("not drawn") == 4  # figures 1, 5, 6 and 7
    folder = tmp_path / "docs" / "reproduction"
    assert len([*folder.glob("*.h5")]) == 14 + 4 + 2 + 4 + 2
    assert sum(path.stat().st_size for path in folder.glob("*.h5")) < 2**21
    page = tmp_path / "docs" / "REPRODUCTION.md"
    assert done("check").returncode == 1
    assert done("publish", "check").returncode == 0
    assert "](reproduction/figure9.png)" in page.read_text()
    shutil.copy(folder / "filter-sgd-wd0-bs128.h5", folder / "filter-sgd-wd0-bs1024.h5")
    found = done("check")
    assert found.returncode == 1
    assert "3a: " in found.stderr
