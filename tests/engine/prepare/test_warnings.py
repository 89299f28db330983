"""Warnings before a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lsengine import job as jobs
from lsengine import store
from lsengine.cli import main
from lsengine.engine import Options, evaluate, prepare
from lsengine.engine.prepare import warnings
from lsengine.surface.parts import Size
from tests.support.checkpoints import other_checkpoint, toward
from tests.support.jobs import write_job


def _run(job):
    assert evaluate([job], Options(progress="none"), world=None) == 0
    return store.read(job.with_suffix(".h5"))


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"alpha": [-1, 1, 5], "beta": [-2, 1, 4]}, None),
        ({"alpha": [0, 0, 1], "beta": [0, 1, 2]}, None),
        ({"alpha": [-1, 1, 4], "beta": [-1, 1, 5]}, "grid.alpha has no cell at 0 (5 points have"),
        ({"alpha": [-1, 1, 5], "beta": [1, 2, 3]}, "grid.beta has no cell at 0 (0 is not in 1 to"),
    ],
)
def test_a_grid_without_the_centre_is_warned_of(tmp_path, grid, said):
    """The warning names the axis and the number of points that has one, where there is one."""
    job = jobs.load(write_job(tmp_path, grid=grid), command="eval")
    warning = next(warnings.of_centre(job), None)
    assert warning is None if said is None else said in warning
    if warning and "points have" in warning:
        points = int(warning.partition("(")[2].split()[0])
        assert 0.0 in np.linspace(-1, 1, points)


def test_warnings_are_spoken_in_a_run(tmp_path, capsys):
    """Once each, on standard error: wrong statistics, no centre, other labels than in training."""
    write_job(tmp_path)
    other_checkpoint(tmp_path, scale=2.0)
    job = write_job(
        tmp_path,
        directions={"alpha": {"kind": "toward", "checkpoint": "other.pt"}},
        grid={"alpha": [0.5, 1, 2]},
        train={"output": "run", "epochs": 1, "label_noise": 0.2},
    )
    assert main(["eval", str(job), "--progress", "none"]) == 0
    said = capsys.readouterr().err
    for warning in (
        "directions.alpha differ",
        "grid.alpha has no cell at 0",
        "train.label_noise: 0.2 of the labels were others in training",
    ):
        assert said.count(warning) == 1, said


def test_frozen_statistics_that_are_clearly_wrong_are_warned_of(tmp_path):
    """The warning names the policy, the direction and by how much the statistics differ."""
    write_job(tmp_path)
    other_checkpoint(tmp_path, scale=2.0)
    job = jobs.load(toward(tmp_path), command="eval")
    model = prepare.load(job).model
    (said,) = warnings.of_statistics(job, model)
    assert "directions.alpha differ" in said
    moved = jobs.load(toward(tmp_path, batch_norm="interpolated"), command="eval")
    assert not list(warnings.of_statistics(moved, model))
    other_checkpoint(tmp_path, scale=1.01)
    assert not list(warnings.of_statistics(job, model))


@pytest.mark.parametrize("policy", ["frozen", "interpolated"])
@pytest.mark.parametrize("change", ["missing", "reshaped"])
def test_statistics_of_another_network_are_refused(tmp_path, capsys, policy, change):
    """Under both policies with the same message and exit code 2, and no file is left."""
    write_job(tmp_path)
    other = other_checkpoint(tmp_path, drop="1.running_var")
    says = "other.pt does not fit the model: missing: 1.running_var"
    if change == "reshaped":
        torch.save({**other, "1.running_var": torch.ones(4)}, tmp_path / "other.pt")
        says = says.replace("missing", "of another shape") + " (4, in the model 16)"
    path = toward(tmp_path, batch_norm=policy)
    assert main(["eval", str(path), "--progress", "none"]) == 2
    assert says in capsys.readouterr().err
    assert not path.with_suffix(".h5").exists()


def test_a_checkpoint_without_statistics_is_warned_of(tmp_path):
    """Under frozen statistics it is evaluated with the centre's, which is said."""
    write_job(tmp_path)
    other = other_checkpoint(tmp_path)
    bare = {n: t for n, t in other.items() if "running" not in n}
    torch.save({"state_dict": bare}, tmp_path / "other.pt")
    job = jobs.load(toward(tmp_path), command="eval")
    (said,) = warnings.of_statistics(job, prepare.load(job).model)
    assert "other.pt holds no running statistics" in said


@pytest.mark.parametrize(("stop", "negative"), [(1.0, False), (3.0, True)])
def test_variances_that_become_negative_are_warned_of(tmp_path, stop, negative):
    """Where the warning says so losses are NaN at the edge of the grid, and nowhere else."""
    write_job(tmp_path)
    other_checkpoint(tmp_path, scale=0.5)  # variances reach zero at 2
    directions = {"alpha": {"kind": "toward", "checkpoint": "other.pt"}}
    grid = {"alpha": [0, stop, 4]}
    path = write_job(tmp_path, directions=directions, grid=grid, batch_norm="interpolated")
    job = jobs.load(path, command="eval")
    model = prepare.load(job).model
    arrays = prepare.make_directions(job, model)
    found = list(warnings.of_variances(job, model, arrays, prepare.grid(job)))
    assert bool(found) == negative
    if negative:
        assert "makes 16 running variances negative" in found[0]
    loss = _run(path).quantities["train_loss"]
    assert np.isnan(loss).tolist() == [False, False, False, negative]


@pytest.mark.parametrize(
    ("lengths", "share"),
    [
        ({"weights": 3.0}, None),
        ({"weights": 1.0, "statistics": 0.1}, None),  # 0.0995 of the length
        ({"weights": 1.0, "statistics": 0.101}, "10%"),
        ({"weights": 3.0, "biases": 0.0, "statistics": 4.0}, "80%"),
        ({"statistics": 1.0}, "100%"),
        ({"weights": 0.0, "statistics": 0.0}, None),
    ],
)
def test_a_direction_of_statistics_is_warned_of(lengths, share):
    """Where more than a tenth of its length is statistics, with the lengths of both."""
    found = list(warnings.of_shares({"beta": Size(lengths)}))
    assert len(found) == (share is not None)
    if share:
        assert found[0].startswith(f"directions.beta: {share} of its length is running statistics")
        assert f"statistics {lengths['statistics']:.3g}" in found[0]


@pytest.mark.parametrize("kind", ["toward", "file"])
def test_statistics_in_directions_are_warned_of_in_a_run(tmp_path, capsys, kind):
    """In a direction to a checkpoint and one out of a file; not where statistics stay."""
    write_job(tmp_path)
    state = torch.load(tmp_path / "centre.pt")["state_dict"]
    moved = {n: t + 1.0 if n.endswith("mean") else t * 1.001 for n, t in state.items()}
    torch.save({"state_dict": moved}, tmp_path / "other.pt")
    way = {"kind": "toward", "checkpoint": "other.pt"}
    if kind == "file":
        path = write_job(tmp_path, "first", directions={"alpha": way},
                         grid={"alpha": [0, 0, 1]}, batch_norm="interpolated")  # fmt: skip
        _run(path)
        way = {"kind": "file", "path": "first.h5"}
    capsys.readouterr()
    for policy in ("interpolated", "frozen"):
        job = write_job(tmp_path, policy, directions={"alpha": way}, grid={"alpha": [0, 0, 1]},
                        batch_norm=policy)  # fmt: skip
        _run(job)
        said = capsys.readouterr().err
        moves = policy == "interpolated"
        assert said.count("directions.alpha: 100% of its length is running statistics") == moves
        assert f"running statistics: {'moving' if moves else 'frozen'} 2; length" in said


def test_frozen_statistics_along_a_curve_are_warned_of(tmp_path):
    """Those of the first end are wrong at the other; a network without any is not concerned."""
    directions = {"alpha": {"kind": "curve", "path": "curve.pt"}}
    for batch_norm in (True, False):
        model = {"arch": "testnets:mlp", "args": {"batch_norm": batch_norm}}
        job = jobs.load(
            write_job(tmp_path, model=model | {"checkpoint": "centre.pt"}, directions=directions,
                      grid={"alpha": [0, 1, 3]})
        )  # fmt: skip
        warning = next(warnings.of_statistics(job, prepare.load(job).model), None)
        assert ("use recalibrated" in (warning or "")) == batch_norm


@pytest.mark.parametrize("policy", ["frozen", "interpolated", "recalibrated"])
@pytest.mark.parametrize("kind", ["principal", "random", "toward"])
def test_a_path_over_statistics_of_the_centre_is_warned_of(tmp_path, capsys, policy, kind):
    """In every plane in which they stay: once, with the first checkpoint that has others."""
    write_job(tmp_path)
    other = other_checkpoint(tmp_path, scale=1.001)
    for epoch, scale in enumerate((1.001, 3.0, 1.001)):  # only the middle one differs clearly
        state = {n: t * scale if "running" in n else t * (1 + epoch) for n, t in other.items()}
        torch.save({"state_dict": state, "epoch": epoch}, tmp_path / f"epoch_{epoch}.pt")
    spec = {
        "principal": {"kind": "principal", "checkpoints": "epoch_*.pt"},
        "random": {"kind": "random"},
        "toward": {"kind": "toward", "checkpoint": "other.pt"},
    }[kind]
    path = write_job(
        tmp_path,
        directions={"alpha": spec},
        grid={"alpha": [0, 0, 1]},
        batch_norm=policy,
        **({} if kind == "principal" else {"trajectory": {"checkpoints": "epoch_*.pt"}}),
    )
    _run(path)
    said = capsys.readouterr().err
    stay = policy == "frozen" or (policy == "interpolated" and kind == "random")
    start = f"batch_norm: {policy} keeps the centre's running statistics in the whole plane, but "
    assert said.count(f"{start}those of epoch_1.pt differ") == stay
    assert said.count("under the path") == stay


def test_a_path_without_batch_norm_or_in_an_older_surface(tmp_path, capsys):
    """Nothing without statistics; a surface that gets its path later is warned of then."""
    for batch_norm in (False, True):
        model = {"arch": "testnets:mlp", "args": {"batch_norm": batch_norm}}
        model["checkpoint"] = "centre.pt"
        write_job(tmp_path)
        state = torch.load(tmp_path / "centre.pt")["state_dict"]
        state = {n: t + 1.0 if "mean" in n else t for n, t in state.items()}
        if not batch_norm:
            state = {n.replace("3.", "2."): t for n, t in state.items() if not n.startswith("1.")}
            torch.save({"state_dict": state}, tmp_path / "centre.pt")
        torch.save({"state_dict": state, "epoch": 1}, tmp_path / "epoch_1.pt")
        torch.save({"state_dict": state, "epoch": 2}, tmp_path / "epoch_2.pt")
        name = f"later-{batch_norm}"
        keys = {"model": model, "directions": {"alpha": {"kind": "random"}}}
        keys["grid"] = {"alpha": [0, 0, 1]}
        _run(write_job(tmp_path, name, **keys))
        assert "under the path" not in capsys.readouterr().err
        _run(write_job(tmp_path, name, **keys, trajectory={"checkpoints": "epoch_*.pt"}))
        assert capsys.readouterr().err.count("under the path") == batch_norm


AVERAGED = """import torch
from torch import nn
class Centred(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name, self.momentum = name, 0.1
        self.register_buffer(name, torch.zeros(6))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
    def forward(self, x):
        mean = getattr(self, self.name)
        if self.training:
            self.seen += 1
            mean.lerp_(x.detach().mean(0), self.momentum)
        return x - mean
def make(name):
    return nn.Sequential(Centred(name), nn.Dropout(), nn.Linear(6, 3))
"""


@pytest.mark.parametrize("policy", ["frozen", "recalibrated"])
@pytest.mark.parametrize("name", ["moving_mean", "running_mean"])
def test_statistics_under_other_names_are_said_to_stay(tmp_path, capsys, name, policy):
    """Once, with their names; counters, and those that are known, are not spoken of."""
    (tmp_path / "averaged_net.py").write_text(AVERAGED)
    state = {"2.weight": torch.ones(3, 6), "2.bias": torch.zeros(3)}
    state |= {f"0.{name}": torch.ones(6), "0.seen": torch.tensor(5)}
    torch.save(state, tmp_path / "own.pt")
    job = write_job(
        tmp_path,
        model={"arch": "averaged_net:make", "checkpoint": "own.pt", "args": {"name": name}},
        grid={"alpha": [0, 1, 2], "beta": [0, 1, 2]},
        batch_norm=policy,
    )
    assert main(["eval", str(job), "--progress", "none"]) == 0
    said = f"changes 0.moving_mean; batch_norm: {policy} leaves them as the checkpoint has them"
    assert capsys.readouterr().err.count(said) == (name == "moving_mean")
