"""The reproduction on CIFAR-10: its script, its measures, what it keeps, and how it can fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import lsengine
from lsengine import store
from lsengine.data.dataset import stratified
from lsengine.job import load_all
from lsengine.store import damage, digest
from lsengine.surface.grid import Grid
from tests.support.histories import make_history
from tests.support.launchers import ROOT

JOBS = ROOT / "jobs" / "cifar10"
STEPS = ("train", "evaluate", "keep", "draw", "check")
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


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import scripts of launch/, which import one another."""
    monkeypatch.syspath_prepend(str(ROOT / "launch"))
    yield lambda name: __import__(name)
    for name in ("claims", "paper", "measures", "keep"):
        sys.modules.pop(name, None)


def make_surface(path: Path, axes: dict[str, Any], quantities: dict[str, Any], **more: Any) -> Path:
    """Write a finished surface with these values, and directions along its axes."""
    grid = Grid({name: np.asarray(values, float) for name, values in axes.items()})
    attributes = {"name": path.stem, "writing": "gather", "batch_size": 1, "precision": "float32"}
    attributes |= {"job": f"data:\n  root: {ROOT}/data/x.npz\noutput: {path}\n", **more}
    directions = {axis: {"w": np.ones((2, 3), np.float32)} for axis in axes}
    layout = store.Layout(
        grid=grid, quantities=[*quantities], attributes=attributes, directions=directions
    )
    store.create(path, layout)
    writer, count = store.Writer(path), grid.size
    values = {name: np.ravel(table).tolist() for name, table in quantities.items()}
    results = store.CellResults(
        cells=[*range(count)], values=values, wall_s=[0.1] * count, finished=[1e9] * count
    )
    writer.write(results)
    writer.close()
    return path


def bowl(path: Path, steepness: float = 1.0, ripple: float = 0.0) -> Path:
    """Write a circular bowl, whose basin has the area 0.1 pi / steepness, with ripples or not."""
    axis = np.linspace(-1, 1, 41)
    x, y = np.meshgrid(axis, axis)
    r = np.hypot(x, y)
    loss = 0.2 + steepness * r**2 + ripple * (1 - np.cos(20 * r))
    return make_surface(path, {"beta": axis, "alpha": axis}, {"train_loss": loss})


def parabola(path: Path, steepness: float) -> Path:
    """Write a parabola, whose width is 2 sqrt(0.1 / steepness)."""
    alpha = np.linspace(-1, 1, 41)
    return make_surface(path, {"alpha": alpha}, {"train_loss": steepness * alpha**2})


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder in which the claims on depth, skip connections and sharpness are decided."""
    folder = tmp_path / "reproduction"
    folder.mkdir()
    of_depth = {"resnet20": 0.07, "resnet20_noshort": 0.08, "resnet56": 0.06}
    for name, error in of_depth.items():
        bowl(folder / f"{name}.h5", steepness=10 * error)
        write_history(folder, name, error)
    bowl(folder / "resnet56_noshort.h5", steepness=5.0, ripple=1.0)
    write_history(folder, "resnet56_noshort", 0.13)
    for number, decay in enumerate(("wd0", "wd5e-4")):
        for batch, error, raw in (("bs128", 0.07, 3.0 - number), ("bs1024", 0.11, 2.0 + number)):
            name = f"sgd-{decay}-{batch}"
            write_history(folder, name, error - 0.01 * number)
            parabola(folder / f"filter-{name}.h5", 50 * error)
            parabola(folder / f"raw-{name}.h5", raw)
            bowl(folder / f"plane-{name}.h5", 50 * error)
    page = tmp_path / "PAGE.md"
    marks = (f"<!-- claims of figure {n} -->\n<!-- end of claims -->\n" for n in (1, 2, 3, 5))
    page.write_text("# Page\n\n" + "\nProse.\n\n".join(marks))
    with page.open("a") as file:
        for number in (6, 7, 8, 9):
            file.write(f"\n<!-- claims of figure {number} -->\nstale\n<!-- end of claims -->\n")
    return folder


def write_history(folder: Path, name: str, error: float) -> None:
    """Write the history of a training that ends with this test error."""
    history = make_history(name, test_error=np.linspace(0.9, error, 41))
    store.write_history(folder / f"history-{name}.h5", history)


def run(claims: ModuleType, kept: Path, *options: str) -> int:
    """Run the script on a folder and the page beside it."""
    code: int = claims.main([str(kept), "--page", str(kept.parent / "PAGE.md"), *options])
    return code


def test_verdicts_are_those_of_surfaces_made_for_them(scripts: Any, kept: Path) -> None:
    """Bowls, ripples and errors whose comparison is known; what is missing is not run yet."""
    paper, measures = scripts("paper"), scripts("measures")
    found = {c.key: c.outcome(measures.Kept(kept)) for c in paper.CLAIMS}
    verdicts = {key: outcome.verdict for key, outcome in found.items()}
    decided = dict.fromkeys(("1a", "1b", "2c", "3a", "3b", "3c", "5a", "5b", "5c", "5d"), "holds")
    missing = dict.fromkeys(("2a", "2b", "3d", "6a", "6b", "7a", "7b", "8a", "8b", "9a"))
    assert verdicts == dict.fromkeys(found, "not run yet") | decided | {"2d": "does not hold here"}
    assert set(found) == {*decided, *missing, "2d"}
    assert found["1b"].numbers == pytest.approx({"without": 0.13, "with": 0.06})
    area = np.pi * 0.1 / np.array([0.7, 0.6])
    measured = [found["5b"].numbers[key] for key in ("area", "other_area")]
    assert measured == pytest.approx(area, rel=0.02)
    width = 2 * np.sqrt(0.1 / (50 * 0.07))
    assert found["3a"].numbers["wd0_small"] == pytest.approx(width, rel=0.03)
    assert found["3c"].numbers["filter"] == pytest.approx(-2 / np.sqrt(5))  # two pairs of ties


def test_a_changed_surface_makes_the_check_fail(
    scripts: Any, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was written fits; another surface, another error or another sentence does not."""
    claims = scripts("claims")
    assert run(claims, kept) == 1  # nothing is written yet
    assert run(claims, kept, "--write") == 0
    page = kept.parent / "PAGE.md"
    text = page.read_text()
    assert text.count("| the paper | here | verdict |") == 8
    assert "stale" not in text
    assert text.count("Prose.") == 3
    assert run(claims, kept) == 0
    assert run(claims, kept, "--write") == 0
    assert page.read_text() == text

    capsys.readouterr()
    bowl(kept / "resnet56.h5", steepness=0.7)
    assert run(claims, kept) == 1
    assert "5b: other_area is 0.44" in capsys.readouterr().err
    bowl(kept / "resnet56.h5", steepness=0.6, ripple=1.0)
    assert run(claims, kept) == 1
    assert "1a: expected 'holds', but" in capsys.readouterr().err
    bowl(kept / "resnet56.h5", steepness=0.6)
    assert run(claims, kept) == 0

    page.write_text(text.replace("13.00 %", "14.00 %"))
    assert run(claims, kept) == 1
    page.write_text(text.replace("claims of figure 9", "claims"))
    assert run(claims, kept) == 1
    assert "no marks of figure 9" in capsys.readouterr().err


def test_what_the_repository_says_is_what_its_surfaces_show(
    scripts: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/REPRODUCTION.md and claims.toml fit the kept surfaces."""
    assert scripts("claims").main([]) == 0, capsys.readouterr().err


def test_slopes_are_counted_as_the_closed_form_has_them(scripts: Any) -> None:
    """None of a bowl falls away from its centre, and three quarters of a wave; NaN do not count."""
    measures = scripts("measures")
    axis = np.linspace(-1, 1, 81)
    x, y = np.meshgrid(axis, axis)
    r = np.hypot(x, y)
    assert measures.away(axis, axis, x**2 + 3 * y**2) == 0.0
    assert measures.away(axis, axis, -r) == 1.0
    inside = r <= 1
    wave = np.where(inside, -np.cos(2 * np.pi * r), np.nan)  # rises up to 0.5, falls from there
    assert measures.away(axis, axis, wave) == pytest.approx(0.75, abs=0.02)


def test_correlations_are_those_of_scipy(scripts: Any) -> None:
    """With ties, too; the interval contains the value, and is that of any run."""
    measures = scripts("measures")
    rng = np.random.default_rng(3)
    x, y = rng.integers(5, size=30), rng.integers(5, size=30)
    assert measures.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert np.isnan(measures.spearman([1, 1], [1, 2]))
    low, high = measures.bootstrap(x.tolist(), y.tolist())
    assert low < measures.spearman(x, y) < high
    assert (low, high) == measures.bootstrap(x.tolist(), y.tolist())
    rising = [*range(8)]
    assert measures.bootstrap(rising, rising) == (pytest.approx(1.0), pytest.approx(1.0))


def test_shares_of_negative_curvature_are_medians_near_the_centre(
    scripts: Any, tmp_path: Path
) -> None:
    """A cell without a negative eigenvalue counts as 0, a far or unconverged one not at all."""
    axis = [-1.0, 0.0, 1.0]
    low = np.array([[-9.0, -0.3, -9.0], [-0.1, 0.5, -0.2], [-9.0, -0.4, -9.0]])
    quantities = {"eigenvalue_min": low, "eigenvalue_max": np.full((3, 3), 2.0)}
    make_surface(tmp_path / "c.h5", {"beta": axis, "alpha": axis}, quantities)
    kept = scripts("measures").Kept(tmp_path)
    assert kept.negative_share("c", 1.0) == pytest.approx(0.1)  # of 0, 0.05, 0.1, 0.15, 0.2
    assert kept.negative_share("c") == pytest.approx(0.2)
    known = np.array([[0, 0, 0], [0, 0, 1], [0, 0, 0]], float)
    make_surface(
        tmp_path / "d.h5", {"beta": axis, "alpha": axis}, quantities | {"converged": known}
    )
    assert scripts("measures").Kept(tmp_path).negative_share("d") == pytest.approx(0.1)
    with pytest.raises(scripts("measures").UndecidedError):
        scripts("measures").Kept(tmp_path).negative_share("d", 0.5)


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
    assert new.job == f"data:\n  root: x.npz\noutput: {source}\n"
    assert store.read_directions(source)
    assert not store.read_directions(made)
    assert digest.state(made) is digest.State.FITS
    damage.refuse(made)
    assert made.stat().st_size < source.stat().st_size
    again = store.read_history(folder / "history-some-run.h5")
    assert np.array_equal(again.columns["test_error"], history.columns["test_error"])

    unfinished = make_history("u", planned=50)
    store.write_history(run_folder / "history.h5", unfinished)
    keep.main(folder, [run_folder / "history.h5"])
    assert "not finished" in capsys.readouterr().out


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
        def _path(self, name: str) -> Path:
            asked.add(name)
            raise scripts("measures").UndecidedError(name)

    kept = Asked(tmp_path)
    for claim in paper.CLAIMS:
        assert claim.outcome(kept).verdict == paper.UNDECIDED
    assert asked
    assert asked <= _kept_names()
    assert {f"history-{name}" for name in paper.planes(kept).values()} <= _kept_names()
    assert paper.planes(kept).keys() <= _kept_names()


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
    arguments = [str(folder), "--page", str(page)]
    assert scripts("claims").main([*arguments, "--write"]) == 0
    assert done("check").returncode == 0
    assert "](reproduction/figure9.png)" in page.read_text()
    shutil.copy(folder / "filter-sgd-wd0-bs128.h5", folder / "filter-sgd-wd0-bs1024.h5")
    found = done("check")
    assert found.returncode == 1
    assert "3a: " in found.stderr
