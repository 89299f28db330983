"""Checkpoints of a run: their plane, their place in it, their losses beside the plane's."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lsengine import job as jobs
from lsengine import store
from lsengine.engine import Options, evaluate, prepare
from lsengine.engine.prepare import checkpoint_series, principal_directions
from lsengine.engine.run import Run
from lsengine.errors import JobError, Stopped, SurfaceError, UsageError
from lsengine.report import status, trajectory
from lsengine.training import training
from tests.support.jobs import values, write_job
from tests.support.runs import PRINCIPAL, TRAIN, run_job

LAST = "run/epoch_008.pt"
MODEL = {"arch": "testnets:mlp"}
RANDOM = {
    "directions": {"alpha": {"kind": "random", "ignore": []}, "beta": {"kind": "random"}},
    "grid": {"alpha": [-1, 1, 3], "beta": [-1, 1, 2]},
}
SECTION = {"checkpoints": "run/epoch_*.pt"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run of nine checkpoints, trained once for all tests."""
    folder = tmp_path_factory.mktemp("trajectory")
    run_job(folder)
    return folder


@pytest.fixture
def own(folder, tmp_path):
    """A copy of that folder, for tests that change it."""
    return shutil.copytree(folder, tmp_path / "own")


def _run(job, **options):
    assert evaluate([job], Options(progress="none", **options), world=None) == 0
    return store.read(job.with_suffix(".h5"))


def _names(folder):
    return [folder / f"run/epoch_{epoch:03d}.pt" for epoch in range(9)]


def _rows(folder, ignore=()):
    """Return all parameters of the checkpoints as rows, in float64."""
    states = [torch.load(path)["state_dict"] for path in _names(folder)]
    names = [n for n in states[0] if not n.endswith(("mean", "var", "tracked")) and n not in ignore]
    return np.array([np.concatenate([s[n].double().ravel() for n in names]) for s in states])


@pytest.mark.parametrize("ignore", [[], ["bias"]])
def test_directions_and_variance_are_those_of_scikit_learn(folder, ignore):
    """Directions, explained variance and projections equal PCA's, also where some are ignored."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    spec = {**PRINCIPAL, "ignore": ignore}
    job = run_job(folder, f"pca{len(ignore)}", directions={"alpha": spec, "beta": spec})
    surface = _run(job, trajectory_only=True)
    rows = _rows(folder, {"0.bias", "1.bias", "3.bias"} if ignore else ())
    pca = decomposition.PCA(2).fit(rows - rows[-1])
    stored = store.read_directions(job.with_suffix(".h5"))
    for axis, expected in zip(("alpha", "beta"), pca.components_, strict=True):
        names = [n for n in torch.load(folder / LAST)["state_dict"] if n in stored[axis]]
        found = np.concatenate([stored[axis][n].ravel() for n in names])
        assert np.abs(found - expected).max() < 1e-6
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
    track = surface.trajectory
    ratio = track.attributes["explained_variance_ratio"]
    assert ratio == pytest.approx(pca.explained_variance_ratio_, abs=1e-6)
    projected = (rows - rows[-1]) @ pca.components_.T
    found = np.stack([track.columns["alpha"], track.columns["beta"]], axis=1)
    assert found == pytest.approx(projected, abs=1e-5)


def test_each_checkpoint_has_its_own_loss_and_the_planes_under_it(folder):
    """The table's losses are those of surfaces of one cell around each checkpoint."""
    track = _run(run_job(folder, "losses"), trajectory_only=True).trajectory
    assert track.columns["epoch"].tolist() == list(range(9))
    for index in (0, 4, 8):
        one = write_job(
            folder, f"one{index}", directions={"alpha": {"kind": "random"}},
            model={"arch": "testnets:mlp", "checkpoint": f"run/epoch_{index:03d}.pt"},
            grid={"alpha": [0, 0, 1]},
        )  # fmt: skip
        alone = _run(one).quantities
        for name in ("train_loss", "test_loss", "train_accuracy"):
            assert track.columns[name][index] == alone[name][0]
    assert (track.columns["plane_train_loss"][:-1] != track.columns["train_loss"][:-1]).all()


def test_the_final_checkpoint_is_the_centre(folder):
    """It projects to 0, at distance 0, and the plane's loss there is its own, to the bit."""
    columns = _run(run_job(folder, "final"), trajectory_only=True).trajectory.columns
    assert columns["alpha"][-1] == columns["beta"][-1] == columns["distance"][-1] == 0
    for name in ("train_loss", "test_loss", "test_accuracy"):
        assert columns[f"plane_{name}"][-1] == columns[name][-1]


def test_a_point_of_the_plane_has_its_coordinates_and_loss(own):
    """A checkpoint built in the plane projects back, at no distance, and both losses agree."""
    directions = store.read_directions(Path(_run(run_job(own)).source))
    content = torch.load(own / LAST)
    for name, centre in content["state_dict"].items():
        if name in directions["alpha"]:
            step = 0.5 * directions["alpha"][name] - 0.25 * directions["beta"][name]
            content["state_dict"][name] = centre + torch.from_numpy(step)
    torch.save({**content, "epoch": 20}, own / "run" / "made_020.pt")
    job = run_job(own, "made", directions={a: {"kind": "file", "path": "job.h5", "which": a}
                  for a in ("alpha", "beta")},
                  trajectory={"checkpoints": "run/*_*.pt"})  # fmt: skip
    columns = _run(job, trajectory_only=True).trajectory.columns
    assert columns["alpha"][-1] == pytest.approx(0.5, abs=1e-6)
    assert columns["beta"][-1] == pytest.approx(-0.25, abs=1e-6)
    assert columns["distance"][-1] < 1e-6
    assert columns["plane_train_loss"][-1] == pytest.approx(columns["train_loss"][-1], rel=1e-5)


def test_an_automatic_axis_covers_the_trajectory_and_its_margin(folder):
    """Ranges reach a margin beyond the outermost checkpoints."""
    surface = _run(run_job(folder, "range", trajectory={"margin": 0.5}), trajectory_only=True)
    for axis, points in (("alpha", 5), ("beta", 4)):
        place = surface.trajectory.columns[axis]
        extent = place.max() - place.min()
        assert surface.axes[axis][0] == pytest.approx(place.min() - 0.5 * extent)
        assert surface.axes[axis][-1] == pytest.approx(place.max() + 0.5 * extent)
        assert surface.axes[axis].size == points


def test_trajectory_alone_leaves_the_grid_to_eval(folder):
    """The grid's cells are missing after the one command and done after the other."""
    job = run_job(folder, "parts")
    first = _run(job, trajectory_only=True)
    assert first.counts() == {"done": 0, "missing": 20, "failed": 0}
    assert first.trajectory.done.all()
    second = _run(job)
    assert second.counts()["done"] == 20
    whole = run_job(folder, "whole")
    _run(whole)
    assert values(job.with_suffix(".h5")) == values(whole.with_suffix(".h5"))


def test_a_surface_without_trajectory_gets_one(folder):
    """Checkpoints are added to a finished surface, whose cells stay as they are."""
    before = _run(run_job(folder, "late", **RANDOM))
    after = _run(run_job(folder, "late", **RANDOM, trajectory=SECTION))
    assert after.trajectory.done.all()
    for name, array in before.quantities.items():
        np.testing.assert_array_equal(after.quantities[name], array)
    at_once = run_job(folder, "early", **RANDOM, trajectory=SECTION)
    _run(at_once)
    assert values(folder / "late.h5") == values(folder / "early.h5")


def test_a_run_hardly_moves_in_a_random_plane(folder):
    """Cosines are about as small as those of random vectors; nearly all motion is off the plane."""
    track = _run(
        run_job(folder, "random", **RANDOM, trajectory=SECTION), trajectory_only=True
    ).trajectory
    expected = track.attributes["expected_cosine"]
    assert expected == pytest.approx(np.sqrt(2 / (np.pi * 195)))
    assert np.abs(track.columns["cosine_alpha"]).max() < 5 * expected
    assert track.attributes["explained_displacement"] < 0.2
    assert "explained_variance_ratio" not in track.attributes
    text = trajectory.text([folder / "random.yaml"])
    assert f"; of random vectors {expected:.3g}" in text
    tiny = replace(track, attributes=track.attributes | {"explained_displacement": 1.5e-5})
    assert "centre, 0.0015% is in the plane" in "\n".join(trajectory.summary(tiny))


def test_the_learning_rates_drop_is_found(own, capsys):
    """After epoch 5 the rate is a tenth: by the checkpoints, else by the history beside them."""
    history = (own / "run/history.h5").rename(own / "history.h5")
    track = _run(run_job(own), trajectory_only=True).trajectory
    assert track.columns["epoch"][track.lr_drops].tolist() == [5]
    for path in _names(own):
        content = torch.load(path)
        del content["learning_rate"]
        torch.save(content, path)
    assert "say the learning rate" not in capsys.readouterr().err
    other = run_job(own, "other")
    assert not _run(other, trajectory_only=True).trajectory.lr_drops.any()
    text = capsys.readouterr().err
    assert text.count("neither they nor a history.h5 beside say the learning rate") == 1
    history.rename(own / "run/history.h5")
    rates = checkpoint_series.find(jobs.load(other, command="eval")).learning_rates
    np.testing.assert_array_equal(rates, track.columns["learning_rate"])


@pytest.mark.parametrize("policy", ["interpolated", "recalibrated"])
def test_statistics_follow_the_policy(folder, policy):
    """Interpolated statistics are part of the directions; recalibrated ones change the losses."""
    frozen = _run(run_job(folder, "frozen"), trajectory_only=True)
    other = _run(run_job(folder, policy, batch_norm=policy), trajectory_only=True)
    moved = set(store.read_directions(Path(other.source))["alpha"])
    assert ("1.running_mean" in moved) == (policy == "interpolated")
    same = frozen.trajectory.columns["train_loss"] == other.trajectory.columns["train_loss"]
    assert same.all() == (policy == "interpolated")
    assert other.trajectory.columns["plane_train_loss"][-1] == pytest.approx(
        other.trajectory.columns["train_loss"][-1], rel=1e-6
    )


def test_checkpoints_are_cells_under_mpi_too(folder, pool):
    """Three ranks write the bytes that one process writes."""
    alone, job = (run_job(folder, name) for name in ("alone", "ranks"))
    _run(alone)
    assert pool.evaluate(job, 3, chunk=2)["code"] == 0
    assert values(alone.with_suffix(".h5")) == values(job.with_suffix(".h5"))


def test_a_resume_evaluates_only_missing_checkpoints(folder):
    """A finished checkpoint keeps its value, a forgotten one gets it back."""
    job = run_job(folder, "resume")
    expected = _run(job).trajectory.columns["train_loss"]
    with h5py.File(job.with_suffix(".h5"), "r+") as file:
        file["trajectory/status"][2:4] = 0
        file["trajectory/train_loss"][0] = -1.0
    found = _run(job).trajectory.columns["train_loss"]
    assert found[0] == -1.0
    np.testing.assert_array_equal(found[1:], expected[1:])


def test_changed_missing_and_new_checkpoints_are_named(own):
    """A surface refuses a run whose checkpoints are others, and says which."""
    (own / "run/history.h5").unlink()  # it would miss them first
    job = run_job(own)
    _run(job, trajectory_only=True)
    (own / "run/epoch_003.pt").rename(own / "hidden.pt")
    with pytest.raises(SurfaceError, match=r"missing: epoch_003\.pt"):
        _run(job)
    shutil.copy(own / "run/epoch_002.pt", own / "run/epoch_003.pt")
    with pytest.raises(UsageError, match=r"epoch_002\.pt and .*epoch_003\.pt are both of epoch 2"):
        _run(job)


@pytest.mark.parametrize("train_section", [TRAIN, None])
@pytest.mark.parametrize("epoch", [3, 8])
def test_a_checkpoint_that_the_training_saves_is_missed(own, train_section, epoch):
    """By the job's recipe or the history's; a pattern that does not ask for it is legal."""
    job = run_job(own, train=train_section, model={**MODEL, "checkpoint": "run/epoch_000.pt"})
    (own / f"run/epoch_00{epoch}.pt").unlink()
    with pytest.raises(UsageError, match=rf"checkpoints: missing: epoch_00{epoch}\.pt; the train"):
        checkpoint_series.find(jobs.load(job, command="eval"))
    some = {"kind": "principal", "checkpoints": "run/epoch_00[0246].pt"}
    job = run_job(
        own,
        "some",
        train=train_section,
        model={**MODEL, "checkpoint": "run/epoch_000.pt"},
        directions={"alpha": some, "beta": some},
    )
    assert checkpoint_series.find(jobs.load(job, command="eval")).epochs == (0, 2, 4, 6)


def test_a_gap_is_warned_of_where_nothing_says_what_is_saved(own, capsys):
    """Without recipe and history a step longer than the usual one is named; even steps are not."""
    (own / "run/history.h5").unlink()
    _run(run_job(own, "even"), trajectory_only=True)
    assert "no checkpoint between" not in capsys.readouterr().err
    (own / "run/epoch_003.pt").unlink()
    _run(run_job(own, "uneven"), trajectory_only=True)
    text = capsys.readouterr().err
    assert "no checkpoint between epochs: 2 and 4; elsewhere they are closer" in text


@pytest.mark.parametrize(
    ("centre", "warning"),
    [
        ("run/epoch_008.pt", None),
        ("run/epoch_004.pt", "model.checkpoint is epoch_004.pt, and the final one of"),
        ("centre.pt", "model.checkpoint has the parameters of none of directions.alpha.check"),
    ],
)
def test_a_centre_that_is_not_the_end_of_the_run_is_warned_of(folder, capsys, centre, warning):
    """Another checkpoint of the run, or one of another, is legal and named."""
    job = run_job(folder, f"at-{Path(centre).stem}", model={**MODEL, "checkpoint": centre})
    _run(job, trajectory_only=True)
    found = [line for line in capsys.readouterr().err.splitlines() if "model.checkpoint" in line]
    assert len(found) == (warning is not None)
    assert all(warning in line for line in found)


def test_reading_checkpoints_can_be_stopped(folder):
    """A request to stop is heard before every file, while hashing, combining and projecting."""
    asked = []
    job = jobs.load(run_job(folder, "stopped"), command="eval")
    series = checkpoint_series.find(job, lambda: asked.append("find"))
    loaded = prepare.load(job)
    parts = principal_directions.principal_directions_of_job(
        job, loaded.model, series, lambda: asked.append("combine")
    )
    arrays = {a: {n: t.numpy() for n, t in d.items()} for a, d in parts.directions.items()}
    principal_directions.project(job, loaded, series, arrays, tick=lambda: asked.append("project"))
    assert asked.count("find") == asked.count("project") == 9
    assert asked.count("combine") >= 18

    def stop():
        raise Stopped("stopped by a test")

    with pytest.raises(Stopped):
        Run(job, Options(), stop)


def test_several_runs_are_projected_by_one_command(own):
    """Jobs of a matrix have a trajectory each, in the plane they name."""
    jobs_file = run_job(
        own, "{seed}", matrix={"seed": [0, 1]}, output="several-{seed}.h5",
        directions={"alpha": {**PRINCIPAL, "ignore": ["bias"]},
                    "beta": {**PRINCIPAL, "ignore": ["bias"]}},
    )  # fmt: skip
    assert evaluate([jobs_file], Options(progress="none", trajectory_only=True), world=None) == 0
    first, second = (store.read(own / f"several-{seed}.h5").trajectory for seed in (0, 1))
    np.testing.assert_array_equal(first.columns["train_loss"], second.columns["train_loss"])
    text = trajectory.text([jobs_file])
    assert text.count("learning rate drops") == 2
    assert text.count("explained variance: ") == 2


def test_reordered_checkpoints_are_named(own):
    """Names that say another order than the files are refused with both."""
    (own / "run/epoch_003.pt").rename(own / "run/epoch_030.pt")
    with pytest.raises(UsageError, match=r"epoch_004\.pt says that it is of epoch 4, epoch_030"):
        _run(run_job(own))


def test_foreign_checkpoints_are_named(own):
    """One of another network is refused with its name and what does not fit."""
    content = torch.load(own / "run/epoch_003.pt")
    content["state_dict"]["3.weight"] = torch.zeros(5, 16)
    torch.save(content, own / "run/epoch_003.pt")
    with pytest.raises(UsageError, match=r"epoch_003\.pt does not fit the model: .*3\.weight"):
        _run(run_job(own))


def test_a_checkpoint_of_another_training_is_named(own):
    """One that fits the network, but whose numbers are not those of the history beside it."""
    other = write_job(
        own, "other", model={"arch": "testnets:mlp", "args": {}},
        train={**TRAIN, "output": "other", "seed": 7},
    )  # fmt: skip
    training.run(jobs.load(other), progress="none")
    (own / "other/epoch_003.pt").replace(own / "run/epoch_003.pt")
    with pytest.raises(UsageError, match=r"not of this run: epoch_003\.pt; .*history\.h5"):
        _run(run_job(own))
    (own / "run/history.h5").unlink()  # nothing says so any more
    assert _run(run_job(own), trajectory_only=True).trajectory.done.all()


def test_without_an_epoch_in_the_file_the_name_counts(own):
    """Bare state dicts are sorted by the last number of their names, not by the alphabet."""
    for epoch, path in enumerate(_names(own)):
        torch.save(torch.load(path)["state_dict"], own / "run" / f"m-{epoch * 5}.pth")
    checkpoints = {"kind": "principal", "checkpoints": "run/m-*.pth"}
    job = jobs.load(run_job(own, directions={"alpha": checkpoints, "beta": checkpoints}))
    assert checkpoint_series.find(job).epochs == tuple(range(0, 45, 5))


def test_two_checkpoints_make_no_plane(own):
    """Too few, or equal ones, are refused by the key that names them."""
    two = {"kind": "principal", "checkpoints": "run/epoch_00[12].pt"}
    job = jobs.load(run_job(own, directions={"alpha": two, "beta": two}), command="eval")
    with pytest.raises(UsageError, match=r"directions\.alpha\.checkpoints: 2 principal directions"):
        principal_directions.principal_directions_of_job(
            job, prepare.load(job).model, checkpoint_series.find(job)
        )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({**RANDOM, "grid": {"alpha": ["auto", 5], "beta": [0, 1, 2]}}, "auto needs a trajectory"),
        ({**RANDOM, "trajectory": {"margin": 0.1}}, "trajectory.checkpoints: required"),
        ({**RANDOM, "trajectory": {"checkpoints": "none_*.pt"}}, "no file matches"),
        ({"trajectory": {"checkpoints": "other_*.pt"}}, "leave it out"),
        (
            {"directions": {"alpha": PRINCIPAL, "beta": {**PRINCIPAL, "ignore": ["bias"]}}},
            "components of one run",
        ),
    ],
)
def test_contradictions_in_the_job_are_named(folder, changes, problem):
    """They are found before anything is loaded."""
    with pytest.raises(JobError, match=problem):
        jobs.load(run_job(folder, "wrong", **changes), command="eval")


def test_status_of_a_job_with_automatic_axes_that_is_not_started(folder):
    """The number of cells is known before the ranges are."""
    (found,) = status.summaries(run_job(folder, "waiting"))
    assert (found.state, found.cells, found.shape) == ("not started", 20, [4, 5])


def test_xarray_reads_the_group_along_its_epochs(folder):
    """Every dataset has the scale epoch, and those of the grid are not disturbed."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    path = _run(run_job(folder, "xarray"), trajectory_only=True).source
    group = xarray.open_dataset(path, engine="h5netcdf", group="trajectory")
    assert {v.dims for v in group.data_vars.values()} == {("epoch",)}
    assert group["epoch"].values.tolist() == list(range(9))
    assert xarray.open_dataset(path, engine="h5netcdf")["train_loss"].dims == ("beta", "alpha")
