"""Checkpoints of a run: their plane, their place in it, their losses beside the plane's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lsengine import job as jobs
from lsengine import store
from lsengine.engine import Options, evaluate, prepare
from lsengine.engine.prepare import checkpoint_series, principal_directions
from lsengine.engine.run import Run
from lsengine.errors import Stopped, UsageError
from tests.support.jobs import values, write_job
from tests.support.runs import (
    LAST,
    MODEL,
    PRINCIPAL,
    RANDOM,
    SECTION,
    checkpoints_of,
    evaluated,
    run_job,
)
from tests.support.surfaces import edited


@pytest.fixture(scope="module")
def principal(folder):
    """The surface of the run in its principal plane: its checkpoints only, evaluated once."""
    return evaluated(run_job(folder, "principal"), trajectory_only=True)


def _rows(folder, ignore=()):
    """Return all parameters of the checkpoints as rows, in float64."""
    states = [torch.load(path)["state_dict"] for path in checkpoints_of(folder)]
    names = [n for n in states[0] if not n.endswith(("mean", "var", "tracked")) and n not in ignore]
    return np.array([np.concatenate([s[n].double().ravel() for n in names]) for s in states])


@pytest.mark.parametrize("ignore", [[], ["bias"]])
def test_directions_and_variance_are_those_of_scikit_learn(folder, ignore):
    """Directions, explained variance and projections equal PCA's, also where some are ignored."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    spec = {**PRINCIPAL, "ignore": ignore}
    job = run_job(folder, f"pca{len(ignore)}", directions={"alpha": spec, "beta": spec})
    surface = evaluated(job, trajectory_only=True)
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


def test_each_checkpoint_has_its_own_loss_and_the_planes_under_it(folder, principal):
    """The table's losses are those of surfaces of one cell around each checkpoint."""
    track = principal.trajectory
    assert track.columns["epoch"].tolist() == list(range(9))
    for index in (0, 4, 8):
        one = write_job(
            folder, f"one{index}", directions={"alpha": {"kind": "random"}},
            model={"arch": "testnets:mlp", "checkpoint": f"run/epoch_{index:03d}.pt"},
            grid={"alpha": [0, 0, 1]},
        )  # fmt: skip
        alone = evaluated(one).quantities
        for name in ("train_loss", "test_loss", "train_accuracy"):
            assert track.columns[name][index] == alone[name][0]
    assert (track.columns["plane_train_loss"][:-1] != track.columns["train_loss"][:-1]).all()


def test_the_final_checkpoint_is_the_centre(principal):
    """It projects to 0, at distance 0, and the plane's loss there is its own, to the bit."""
    columns = principal.trajectory.columns
    assert columns["alpha"][-1] == columns["beta"][-1] == columns["distance"][-1] == 0
    for name in ("train_loss", "test_loss", "test_accuracy"):
        assert columns[f"plane_{name}"][-1] == columns[name][-1]


def test_a_point_of_the_plane_has_its_coordinates_and_loss(own):
    """A checkpoint built in the plane projects back, at no distance, and both losses agree."""
    directions = store.read_directions(Path(evaluated(run_job(own)).source))
    content = torch.load(own / LAST)
    for name, centre in content["state_dict"].items():
        if name in directions["alpha"]:
            step = 0.5 * directions["alpha"][name] - 0.25 * directions["beta"][name]
            content["state_dict"][name] = centre + torch.from_numpy(step)
    torch.save({**content, "epoch": 20}, own / "run" / "made_020.pt")
    job = run_job(own, "made", directions={a: {"kind": "file", "path": "job.h5", "which": a}
                  for a in ("alpha", "beta")},
                  trajectory={"checkpoints": "run/*_*.pt"})  # fmt: skip
    columns = evaluated(job, trajectory_only=True).trajectory.columns
    assert columns["alpha"][-1] == pytest.approx(0.5, abs=1e-6)
    assert columns["beta"][-1] == pytest.approx(-0.25, abs=1e-6)
    assert columns["distance"][-1] < 1e-6
    assert columns["plane_train_loss"][-1] == pytest.approx(columns["train_loss"][-1], rel=1e-5)


def test_an_automatic_axis_covers_the_trajectory_and_its_margin(folder):
    """Ranges reach a margin beyond the outermost checkpoints."""
    surface = evaluated(run_job(folder, "range", trajectory={"margin": 0.5}), trajectory_only=True)
    for axis, points in (("alpha", 5), ("beta", 4)):
        place = surface.trajectory.columns[axis]
        extent = place.max() - place.min()
        assert surface.axes[axis][0] == pytest.approx(place.min() - 0.5 * extent)
        assert surface.axes[axis][-1] == pytest.approx(place.max() + 0.5 * extent)
        assert surface.axes[axis].size == points


def test_trajectory_alone_leaves_the_grid_to_eval(folder):
    """The grid's cells are missing after the one command and done after the other."""
    job = run_job(folder, "parts")
    first = evaluated(job, trajectory_only=True)
    assert first.counts() == {"done": 0, "missing": 20, "failed": 0}
    assert first.trajectory.done.all()
    second = evaluated(job)
    assert second.counts()["done"] == 20
    whole = run_job(folder, "whole")
    evaluated(whole)
    assert values(job.with_suffix(".h5")) == values(whole.with_suffix(".h5"))


def test_a_surface_without_trajectory_gets_one(folder):
    """Checkpoints are added to a finished surface, whose cells stay as they are."""
    before = evaluated(run_job(folder, "late", **RANDOM))
    after = evaluated(run_job(folder, "late", **RANDOM, trajectory=SECTION))
    assert after.trajectory.done.all()
    for name, array in before.quantities.items():
        np.testing.assert_array_equal(after.quantities[name], array)
    at_once = run_job(folder, "early", **RANDOM, trajectory=SECTION)
    evaluated(at_once)
    assert values(folder / "late.h5") == values(folder / "early.h5")


def test_a_run_hardly_moves_in_a_random_plane(folder):
    """Cosines are about as small as those of random vectors; nearly all motion is off the plane."""
    track = evaluated(
        run_job(folder, "random", **RANDOM, trajectory=SECTION), trajectory_only=True
    ).trajectory
    expected = track.attributes["expected_cosine"]
    assert expected == pytest.approx(np.sqrt(2 / (np.pi * 195)))
    assert np.abs(track.columns["cosine_alpha"]).max() < 5 * expected
    assert track.attributes["explained_displacement"] < 0.2
    assert "explained_variance_ratio" not in track.attributes


def test_the_learning_rates_drop_is_found(own, capsys):
    """After epoch 5 the rate is a tenth: by the checkpoints, else by the history beside them."""
    history = (own / "run/history.h5").rename(own / "history.h5")
    track = evaluated(run_job(own), trajectory_only=True).trajectory
    assert track.columns["epoch"][track.lr_drops].tolist() == [5]
    for path in checkpoints_of(own):
        content = torch.load(path)
        del content["learning_rate"]
        torch.save(content, path)
    assert "say the learning rate" not in capsys.readouterr().err
    other = run_job(own, "other")
    assert not evaluated(other, trajectory_only=True).trajectory.lr_drops.any()
    text = capsys.readouterr().err
    assert text.count("neither they nor a history.h5 beside say the learning rate") == 1
    history.rename(own / "run/history.h5")
    rates = checkpoint_series.find(jobs.load(other, command="eval")).learning_rates
    np.testing.assert_array_equal(rates, track.columns["learning_rate"])


@pytest.mark.parametrize("policy", ["interpolated", "recalibrated"])
def test_components_are_of_weights_whatever_becomes_of_statistics(folder, principal, policy):
    """The policy changes neither the plane nor a checkpoint's place in it, to the bit."""
    other = evaluated(run_job(folder, policy, batch_norm=policy), trajectory_only=True)
    plane, same = (store.read_directions(Path(s.source)) for s in (principal, other))
    for axis, direction in plane.items():
        for name, numbers in direction.items():
            np.testing.assert_array_equal(same[axis][name], numbers)
    ours, theirs = other.trajectory, principal.trajectory
    for name in ("alpha", "beta", "cosine_alpha", "cosine_beta", "distance", "length"):
        np.testing.assert_array_equal(ours.columns[name], theirs.columns[name])
    for name in ("explained_variance_ratio", "explained_displacement", "expected_cosine"):
        np.testing.assert_array_equal(ours.attributes[name], theirs.attributes[name])
    unequal = ours.columns["train_loss"] != theirs.columns["train_loss"]
    assert unequal.any() == (policy == "recalibrated")
    assert ours.columns["plane_train_loss"][-1] == pytest.approx(
        ours.columns["train_loss"][-1], rel=1e-6
    )
    assert ("1.running_mean" in same["alpha"]) == (policy == "interpolated")


def test_interpolated_statistics_are_the_same_combination_of_checkpoints(folder):
    """By a singular value decomposition of all weights, and by regression on the path's scores."""
    job = run_job(folder, "combined", batch_norm="interpolated")
    surface = evaluated(job, trajectory_only=True)
    stored = store.read_directions(job.with_suffix(".h5"))
    states = [torch.load(path)["state_dict"] for path in checkpoints_of(folder)]
    names = ["1.running_mean", "1.running_var"]
    statistics = np.array([np.concatenate([s[n].double().ravel() for n in names]) for s in states])
    rows = _rows(folder)
    left, singular, right = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    scores = left * singular
    design = np.c_[np.ones(9), scores[:, :2]]
    fitted, *_ = np.linalg.lstsq(design, statistics, rcond=None)
    for k, axis in enumerate(("alpha", "beta")):
        sign = np.sign(right[k][np.abs(right[k]).argmax()])
        found = np.concatenate([stored[axis][n].ravel() for n in names])
        combined = sign * left[:, k] / singular[k] @ statistics
        np.testing.assert_allclose(found, combined, atol=2e-6 * np.abs(combined).max())
        np.testing.assert_allclose(found, sign * fitted[1 + k], atol=2e-6 * np.abs(combined).max())
        lengths = surface.attributes["direction_sizes"]
        length = json.loads(lengths)[axis]["lengths"]["statistics"]
        assert length == pytest.approx(np.linalg.norm(combined), rel=1e-5)


def test_a_file_keeps_the_planes_it_was_begun_with(own, monkeypatch):
    """Components that counted statistics are gone on with, and give the bytes of a whole run."""
    with monkeypatch.context() as before:  # as it was: all that moves counts
        before.setattr(principal_directions, "weights_among", lambda moving, model: dict(moving))
        whole, half = (
            run_job(own, name, batch_norm="interpolated") for name in ("old", "old-half")
        )
        evaluated(whole)
        evaluated(half, trajectory_only=True)
    job = run_job(own, "young", batch_norm="interpolated")
    evaluated(job, trajectory_only=True)
    planes = [store.read_directions(own / f"{name}.h5")["alpha"] for name in ("old", "young")]
    lengths = [np.linalg.norm([np.linalg.norm(v) for v in plane.values()]) for plane in planes]
    assert lengths[0] == pytest.approx(1, abs=1e-6)
    assert lengths[1] > 1.01
    evaluated(half)
    assert values(own / "old-half.h5") == values(own / "old.h5")


def test_a_path_is_projected_by_its_weights(folder):
    """Where both directions lead to other statistics, which move, as where these stay."""
    toward = {"kind": "toward", "checkpoint": "run/epoch_002.pt"}
    ways = {"alpha": toward, "beta": {**toward, "checkpoint": "run/epoch_005.pt"}}
    grid = {"alpha": ["auto", 3], "beta": ["auto", 3]}
    one, other = (
        evaluated(
            run_job(folder, f"way-{policy}", batch_norm=policy, directions=ways, grid=grid,
                    trajectory=SECTION), trajectory_only=True)
        for policy in ("frozen", "interpolated")
    )  # fmt: skip
    for name in ("alpha", "beta", "distance", "cosine_alpha"):
        np.testing.assert_array_equal(one.trajectory.columns[name], other.trajectory.columns[name])
    assert one.attributes["direction_cosine"] == other.attributes["direction_cosine"]
    rows = _rows(folder)
    plane = np.stack([rows[2] - rows[-1], rows[5] - rows[-1]])
    expected, *_ = np.linalg.lstsq(plane.T, (rows - rows[-1]).T, rcond=None)
    np.testing.assert_allclose(other.trajectory.columns["alpha"], expected[0], atol=1e-5)


def test_checkpoints_are_cells_under_mpi_too(folder, pool):
    """Three ranks write the bytes that one process writes."""
    alone, job = (run_job(folder, name) for name in ("alone", "ranks"))
    evaluated(alone)
    assert pool.evaluate(job, 3, chunk=2)["code"] == 0
    assert values(alone.with_suffix(".h5")) == values(job.with_suffix(".h5"))


def test_a_resume_evaluates_only_missing_checkpoints(folder):
    """A finished checkpoint keeps its value, a forgotten one gets it back."""
    job = run_job(folder, "resume")
    expected = evaluated(job).trajectory.columns["train_loss"]
    with edited(job.with_suffix(".h5")) as file:
        file["trajectory/status"][2:4] = 0
        file["trajectory/train_loss"][0] = -1.0
    found = evaluated(job).trajectory.columns["train_loss"]
    assert found[0] == -1.0
    np.testing.assert_array_equal(found[1:], expected[1:])


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
    evaluated(job, trajectory_only=True)
    found = [line for line in capsys.readouterr().err.splitlines() if "model.checkpoint" in line]
    assert len(found) == (warning is not None)
    assert all(warning in line for line in found)


def test_reading_checkpoints_can_be_stopped(folder):
    """A request to stop is heard before every file, while hashing, combining and projecting."""
    asked = []
    job = jobs.load(run_job(folder, "stopped"), command="eval")
    series = checkpoint_series.find(job, lambda: asked.append("find"))
    loaded = prepare.load(job)
    principal, _ = principal_directions.principal_directions(
        job, loaded.model, series, lambda: asked.append("combine")
    )
    arrays = {a: {n: t.numpy() for n, t in d.items()} for a, d in principal.items()}
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


def test_two_checkpoints_make_no_plane(own):
    """Too few, or equal ones, are refused by the key that names them."""
    two = {"kind": "principal", "checkpoints": "run/epoch_00[12].pt"}
    job = jobs.load(run_job(own, directions={"alpha": two, "beta": two}), command="eval")
    with pytest.raises(UsageError, match=r"directions\.alpha\.checkpoints: 2 principal directions"):
        principal_directions.principal_directions(
            job, prepare.load(job).model, checkpoint_series.find(job)
        )


def test_xarray_reads_the_group_along_its_epochs(principal):
    """Every dataset has the scale epoch, and those of the grid are not disturbed."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    path = principal.source
    group = xarray.open_dataset(path, engine="h5netcdf", group="trajectory")
    assert {v.dims for v in group.data_vars.values()} == {("epoch",)}
    assert group["epoch"].values.tolist() == list(range(9))
    assert xarray.open_dataset(path, engine="h5netcdf")["train_loss"].dims == ("beta", "alpha")
