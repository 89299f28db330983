"""Directions of every kind, from a job to arrays."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from jobs import write_job
from lsengine import job as jobs
from lsengine import store
from lsengine.engine import Options, evaluate, prepare
from lsengine.errors import UsageError

CURVE = {"alpha": [0, 1, 3]}


def _other_checkpoint(folder, scale=1.1, drop=None):
    """Write a checkpoint with all parameters and statistics of the centre, scaled."""
    state = torch.load(folder / "centre.pt")["state_dict"]
    other = {n: t * scale if t.is_floating_point() else t for n, t in state.items()}
    if drop:
        other.pop(drop)
    torch.save({"state_dict": other}, folder / "other.pt")
    return other


def _toward(folder, **changes):
    directions = {"alpha": {"kind": "toward", "checkpoint": "other.pt"}}
    return write_job(folder, directions=directions, grid=CURVE, **changes)


def _run(job):
    assert evaluate([job], Options(progress="none"), world=None) == 0
    return store.read(job.with_suffix(".h5"))


def _own_loss(folder, checkpoint):
    """Return the training loss of a checkpoint: a surface of one cell around it."""
    model = {"arch": "testnets:mlp", "checkpoint": checkpoint}
    directions = {"alpha": {"kind": "random"}}
    job = write_job(
        folder, "own", model=model, directions=directions, grid={"alpha": [0, 0, 1]},
        precision="float64",
    )  # fmt: skip
    (folder / "own.h5").unlink(missing_ok=True)
    return float(_run(job).quantities["train_loss"][0])


def test_interpolation_ends_at_the_two_checkpoints_own_losses(tmp_path):
    """With interpolated statistics both ends of the line are the checkpoints themselves."""
    write_job(tmp_path)
    _other_checkpoint(tmp_path)
    surface = _run(_toward(tmp_path, batch_norm="interpolated", precision="float64"))
    ends = [_own_loss(tmp_path, "centre.pt"), _own_loss(tmp_path, "other.pt")]
    assert surface.quantities["train_loss"][[0, 2]] == pytest.approx(ends, rel=1e-6)


def test_without_batch_norm_frozen_ends_are_the_checkpoints_too(tmp_path):
    """A network without running statistics needs no policy."""
    model = {"arch": "testnets:mlp", "args": {"batch_norm": False}, "checkpoint": "centre.pt"}
    write_job(tmp_path, model=model)
    _other_checkpoint(tmp_path)
    surface = _run(_toward(tmp_path, model=model, precision="float64"))
    swapped = write_job(
        tmp_path, "own", model={**model, "checkpoint": "other.pt"}, grid={"alpha": [0, 0, 1]},
        directions={"alpha": {"kind": "random"}}, precision="float64",
    )  # fmt: skip
    expected = _run(swapped).quantities["train_loss"][0]
    assert surface.quantities["train_loss"][2] == pytest.approx(expected, rel=1e-6)


def test_frozen_statistics_that_are_clearly_wrong_are_warned_of(tmp_path):
    """The warning names the policy, the direction and by how much the statistics differ."""
    write_job(tmp_path)
    _other_checkpoint(tmp_path, scale=2.0)
    job = jobs.load(_toward(tmp_path), command="eval")
    model = prepare.load(job).model
    assert "directions.alpha differ" in prepare.statistics_warning(job, model)
    moved = jobs.load(_toward(tmp_path, batch_norm="interpolated"), command="eval")
    assert prepare.statistics_warning(moved, model) is None
    _other_checkpoint(tmp_path, scale=1.01)
    assert prepare.statistics_warning(job, model) is None


def test_a_plane_through_three_checkpoints_passes_through_all_three(tmp_path):
    """Corners (0, 0), (1, 0) and (0, 1) have the three checkpoints' own losses."""
    write_job(tmp_path)
    _other_checkpoint(tmp_path)
    (tmp_path / "other.pt").rename(tmp_path / "second.pt")
    state = torch.load(tmp_path / "centre.pt")["state_dict"]
    third = {n: t + 0.2 if t.is_floating_point() else t for n, t in state.items()}
    torch.save(third, tmp_path / "third.pt")
    job = write_job(
        tmp_path,
        directions={
            "alpha": {"kind": "toward", "checkpoint": "second.pt"},
            "beta": {"kind": "toward", "checkpoint": "third.pt"},
        },
        grid={"alpha": [0, 1, 2], "beta": [0, 1, 2]},
        batch_norm="interpolated",
        precision="float64",
    )
    loss = _run(job).quantities["train_loss"]
    found = [loss[0, 0], loss[0, 1], loss[1, 0]]
    own = [_own_loss(tmp_path, n) for n in ("centre.pt", "second.pt", "third.pt")]
    assert found == pytest.approx(own, rel=1e-6)


def test_a_checkpoint_that_does_not_fit_names_what_differs(tmp_path):
    """A missing parameter of the other checkpoint is named with the direction."""
    write_job(tmp_path)
    _other_checkpoint(tmp_path, drop="3.weight")
    job = jobs.load(_toward(tmp_path), command="eval")
    with pytest.raises(UsageError, match=r"directions\.alpha: .*3\.weight is missing"):
        prepare.make_directions(job, prepare.load(job).model)


def test_the_centre_itself_is_no_direction(tmp_path):
    """Toward the same checkpoint nothing moves, which is an error and not a flat line."""
    write_job(tmp_path)
    _other_checkpoint(tmp_path, scale=1.0)
    job = jobs.load(_toward(tmp_path), command="eval")
    with pytest.raises(UsageError, match="nothing moves"):
        prepare.make_directions(job, prepare.load(job).model)


def test_a_direction_from_a_surface_gives_that_surface_again(tmp_path):
    """A stored direction, read back, reproduces the curve it came from, bit by bit."""
    one = write_job(tmp_path, "one", directions={"alpha": {"kind": "random"}}, grid=CURVE)
    first = _run(one).quantities["train_loss"]
    directions = {"alpha": {"kind": "file", "path": "one.h5", "which": "alpha"}}
    again = _run(write_job(tmp_path, "again", directions=directions, grid=CURVE))
    np.testing.assert_array_equal(again.quantities["train_loss"], first)


@pytest.mark.parametrize("order", ["weights", "states"])
def test_direction_files_of_the_ancestor_are_read(tmp_path, order):
    """Numbered tensors are taken in the order of the parameters, or of the state dict."""
    job = write_job(tmp_path)
    model = prepare.load(jobs.load(job, command="eval")).model
    tensors = dict(model.named_parameters()) if order == "weights" else model.state_dict()
    with h5py.File(tmp_path / "old.h5", "w") as file:
        for i, tensor in enumerate(tensors.values()):
            file[f"xdirection/{i}"] = np.full(tensor.shape, i + 1, np.float32)
    directions = {"alpha": {"kind": "file", "path": "old.h5"}}
    loaded = jobs.load(write_job(tmp_path, directions=directions, grid=CURVE), command="eval")
    made = prepare.make_directions(loaded, model)["alpha"]
    for i, name in enumerate(tensors):
        if name in made:
            assert (made[name] == i + 1).all(), name
    assert set(made) == {n for n, _ in model.named_parameters()}


def test_a_direction_file_of_another_network_is_refused(tmp_path):
    """A wrong number of tensors is said with both numbers."""
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["xdirection/0"] = np.zeros(3, np.float32)
    directions = {"alpha": {"kind": "file", "path": "old.h5"}}
    job = jobs.load(write_job(tmp_path, directions=directions, grid=CURVE), command="eval")
    with pytest.raises(UsageError, match="1 numbered tensors; the model has 6 parameters"):
        prepare.make_directions(job, prepare.load(job).model)


def test_ignoring_does_not_change_what_moves(tmp_path):
    """The same seed draws the same numbers whatever is ignored."""
    drawn = []
    for name, ignore in (("all", []), ("some", ["bias", "norm"])):
        directions = {"alpha": {"kind": "random", "ignore": ignore}}
        path = write_job(tmp_path, name, directions=directions, grid=CURVE)
        job = jobs.load(path, command="eval")
        drawn.append(prepare.make_directions(job, prepare.load(job).model)["alpha"])
    assert set(drawn[1]) == {"0.weight", "3.weight"}
    for name, values in drawn[1].items():
        np.testing.assert_array_equal(values, drawn[0][name])


@pytest.mark.parametrize("normalize", ["filter", "layer", "weight", "none"])
def test_orthogonal_planes_are_orthogonal(tmp_path, normalize):
    """The key `orthogonal` makes the cosine of the two directions zero, and it is stored."""
    directions = {
        "alpha": {"kind": "random", "normalize": normalize},
        "beta": {"kind": "random", "seed": 2, "normalize": normalize, "orthogonal": True},
    }
    surface = _run(write_job(tmp_path, directions=directions, grid={**CURVE, "beta": [0, 0, 1]}))
    assert abs(surface.attributes["direction_cosine"]) < 1e-6
