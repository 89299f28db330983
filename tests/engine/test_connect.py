"""Curves between two minima, and the straight line beside them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
import yaml

from lsengine import job as jobs
from lsengine import store
from lsengine.cli import main
from lsengine.engine import Options, connect, evaluate, prepare
from lsengine.engine.prepare import warnings
from lsengine.errors import JobError, Stopped, UsageError
from lsengine.geometry import curve
from lsengine.ranks import StopRequest
from lsengine.training import training
from tests.support.jobs import values, write_job
from tests.support.runs import TRAIN

OPTIONS = Options(progress="none")


@pytest.fixture(scope="module")
def minima(tmp_path_factory):
    """A folder with two networks without batch norm, trained on digits from different seeds."""
    folder = tmp_path_factory.mktemp("connect")
    for seed in (0, 1):
        recipe = {"output": f"end{seed}", "epochs": 8, "batch_size": 64, "lr": 0.02, "seed": seed}
        path = _write(folder, f"end{seed}", model={"arch": "mlp"}, train=recipe, curve=None)
        training.run(jobs.load(path, command="train"), progress="none")
    return folder


def _write(folder, name="job", **changes):
    document = {
        "name": name,
        "model": {"arch": "mlp", "checkpoint": "end0/epoch_008.pt"},
        "data": {"dataset": "digits", "subset": 500},
        "threads": 1,
        "device": "cpu",
        "output": f"{name}.h5",
        "curve": {
            "to": "end1/epoch_008.pt", "output": f"{name}-curve", "epochs": 20, "points": 11,
            "lr": 0.05, "batch_size": 64,
        },
    }  # fmt: skip
    curve_section = (
        document["curve"] | changes.pop("curve", {}) if changes.get("curve", 1) else None
    )
    document |= {**changes, "curve": curve_section}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}))
    return path


@pytest.fixture(scope="module")
def connected(minima):
    """Surfaces along the curve and along the line."""
    path = _write(minima, "done")
    assert connect.run(path, OPTIONS, world=None)[0] == 0
    return store.read(minima / "done.h5"), store.read(minima / "done-line.h5")


def test_the_curves_barrier_is_far_below_the_lines(connected):
    """Two trainings from different seeds: a wall between them, and a way around it."""
    along, straight = (s.attributes["train_loss_barrier"] for s in connected)
    assert straight > 0.3
    assert along < 0.1 * straight


def test_barriers_are_noted_in_both_files(connected):
    """The attributes are the heights that the losses give."""
    for surface in connected:
        for name in ("train_loss", "test_loss"):
            height = curve.barrier(surface.quantities[name], surface.axes["alpha"])
            assert surface.attributes[f"{name}_barrier"] == height


def test_the_command_prints_the_barriers_and_the_losses_of_the_ends(minima, connected, capsys):
    """On standard output, a line for each way and loss, with the numbers of the files."""
    assert main(["connect", str(_write(minima, "done"))]) == 0
    printed = capsys.readouterr().out.splitlines()
    for way, surface in zip(("curve", "line"), connected, strict=True):
        assert f"{way}: {surface.source}" in printed
        for name in ("train_loss", "test_loss"):
            (line,) = [s for s in printed if s.startswith(f"{name.replace('_', ' ')}, {way} ")]
            values = surface.quantities[name]
            expected = [values[0], values[-1], values.max(), surface.attributes[f"{name}_barrier"]]
            assert [float(s) for s in line.split()[-4:]] == pytest.approx(expected, rel=1e-3)


def test_ends_are_the_ends_own_losses(minima, connected):
    """The first and last point of curve and line are the two checkpoints."""
    for position, seed in ((0, 0), (-1, 1)):
        content = torch.load(minima / f"end{seed}" / "epoch_008.pt")
        for surface in connected:
            for name in ("train_loss", "test_loss"):
                own = pytest.approx(content[name], rel=1e-5)
                assert surface.quantities[name][position] == own
                assert surface.attributes[f"{name}_ends"][position] == own


def test_the_bend_is_a_checkpoint_of_the_curve(minima, connected):
    """At t = 1/2 a quadratic curve is a quarter, a half and a quarter of its control points."""
    controls = torch.load(minima / "done-curve" / "curve.pt")["controls"]
    bend = torch.load(minima / "done-curve" / "bend_1.pt")["state_dict"]
    for name, tensor in controls[1].items():
        torch.testing.assert_close(bend[name], tensor, rtol=0, atol=0)
    directions = store.read_directions(minima / "done.h5")["alpha"]
    for name, stacked in directions.items():
        np.testing.assert_array_equal(stacked[0], (controls[1][name] - controls[0][name]).numpy())


def test_a_stopped_training_ends_with_the_same_bits(minima):
    """Stopped in the middle of an epoch and taken up again, it gives the same curve."""
    files = []
    for name in ("whole", "parts"):
        job = jobs.load(_write(minima, name, curve={"epochs": 4}), command="connect")
        if name == "parts":
            with pytest.raises(Stopped, match="in epoch 3 of 4; the same command goes on"):
                connect.trained(job, _StopsAfter(20))
        files.append(connect.trained(job, StopRequest()).read_bytes())
    assert files[0] == files[1]


class _StopsAfter:
    """A request to stop that comes after some questions."""

    signal = "a test"

    def __init__(self, questions):
        self.left = questions

    def __bool__(self):
        self.left -= 1
        return self.left < 0


def test_ranks_write_what_one_process_writes(minima, pool):
    """One rank trains while the others wait; curve, line and plane have the same bytes."""
    settings = {"epochs": 2, "points": 3, "plane": [3, 2]}
    alone, ranks = (_write(minima, name, curve=settings) for name in ("alone", "together"))
    code, text = connect.run(alone, OPTIONS, world=None)
    answer = pool.evaluate(ranks, 3, command="connect")
    assert (answer["code"], answer["message"]) == (code, text.replace("alone", "together"))
    for way in ("", "-line", "-plane"):
        found, expected = (values(minima / f"{n}{way}.h5") for n in ("together", "alone"))
        assert found == expected
    before = (minima / "together-plane.h5").read_bytes()
    assert connect.run(ranks, OPTIONS, world=None) == (
        0,
        answer["message"],
    )  # nothing is left to do
    assert (minima / "together-plane.h5").read_bytes() == before


@pytest.mark.parametrize(("kind", "bends"), [("polygonal", 2), ("bezier", 3)])
def test_other_curves_end_at_both_ends_too(minima, kind, bends):
    """Of more bends there are more directions, and no others."""
    name = f"{kind}{bends}"
    settings = {"kind": kind, "bends": bends, "epochs": 1, "points": 3}
    assert connect.run(_write(minima, name, curve=settings), OPTIONS, world=None)[0] == 0
    found, line = (store.read(minima / f"{name}{way}.h5") for way in ("", "-line"))
    for position in (0, -1):
        loss = found.quantities["train_loss"][position]
        assert loss == pytest.approx(line.quantities["train_loss"][position], rel=1e-5)
    directions = store.read_directions(minima / f"{name}.h5")["alpha"]
    assert {len(stacked) for stacked in directions.values()} == {bends + 1}


def test_another_curves_folder_is_refused(minima, connected):
    """The first difference is named, and nothing is overwritten."""
    path = _write(minima, "done", curve={"seed": 5})
    with pytest.raises(UsageError, match=r"another curve: curve\.seed is 5 in the job, 0"):
        connect.run(path, OPTIONS, world=None)


def test_ends_of_different_networks_do_not_connect(minima):
    """The key and what does not fit are named."""
    torch.save({"state_dict": {"0.weight": torch.zeros(2, 2)}}, minima / "foreign.pt")
    path = _write(minima, "foreign", curve={"to": "foreign.pt"})
    with pytest.raises(UsageError, match=r"curve\.to: .*foreign\.pt does not fit the model"):
        connect.run(path, OPTIONS, world=None)


def test_an_end_twice_is_refused_before_any_training(minima):
    """Also as another file with the same parameters; no curve is written."""
    shutil.copy(minima / "end0" / "epoch_008.pt", minima / "copy.pt")
    path = _write(minima, "twice", curve={"to": "copy.pt"})
    with pytest.raises(UsageError, match=r"curve\.to: .*copy\.pt has the same parameters as model"):
        connect.run(path, OPTIONS, world=None)
    assert not (minima / "twice-curve" / "curve.pt").exists()


def test_a_missing_end_is_named_before_any_work(minima):
    """Both the key and the path are there."""
    with pytest.raises(JobError, match=r"curve\.to: no such file: .*nowhere\.pt"):
        jobs.load(_write(minima, "nowhere", curve={"to": "nowhere.pt"}), command="connect")


@pytest.fixture(scope="module")
def normalised(tmp_path_factory):
    """A folder with two networks with batch norm, and a job that connects them."""
    folder = tmp_path_factory.mktemp("normalised")
    for seed in (0, 1):
        section = {**TRAIN, "output": f"end{seed}", "seed": seed}
        path = write_job(folder, f"end{seed}", model={"arch": "testnets:mlp"}, train=section)
        training.run(jobs.load(path, command="train"), progress="none")
    return folder


def _connecting(folder, name, **changes):
    """Write a job that connects two networks with batch norm."""
    model = {"arch": "testnets:mlp", "checkpoint": "end0/epoch_008.pt"}
    curve = {
        "to": "end1/epoch_008.pt",
        "output": "curve",
        "epochs": 2,
        "points": 3,
        "plane": [2, 2],
    }
    return write_job(folder, name, model=model, directions=None, grid=None, curve=curve, **changes)


def test_statistics_are_computed_anew_along_both_ways_and_in_the_plane(normalised):
    """Unless the job says otherwise; frozen ones give other losses but at the first end."""
    losses = {}
    for policy, section in (("recalibrated", None), ("frozen", "frozen")):
        path = _connecting(normalised, policy, batch_norm=section)
        job = jobs.load(path, command="connect")
        surfaces = [*connect.segments(job), *connect.plane(job)]
        assert [s.document.batch_norm.policy for s in surfaces] == [policy] * 3
        assert connect.run(path, OPTIONS, world=None)[0] == 0
        losses[policy] = [store.read(s.output).quantities["train_loss"] for s in surfaces]
        ends = store.read(surfaces[0].output).attributes["train_loss_ends"]
    for anew, frozen in zip(losses["recalibrated"], losses["frozen"], strict=True):
        assert (np.abs(frozen.ravel()[1:] / anew.ravel()[1:] - 1) > 0.01).all()
    for way in losses["frozen"][:2]:
        assert way[0] == pytest.approx(ends[0], rel=1e-6)


def test_ends_with_batch_norm_are_those_evaluated_alone(normalised):
    """Under the same policy; the losses with the checkpoints' own statistics are noted beside."""
    job = jobs.load(_connecting(normalised, "ends"), command="connect")
    assert connect.run(job.source, OPTIONS, world=None)[0] == 0
    curve_and_line = [store.read(way.output) for way in connect.segments(job)]
    for position, seed in ((0, 0), (-1, 1)):
        file = f"end{seed}/epoch_008.pt"
        alone = write_job(
            normalised, f"alone{seed}", model={"arch": "testnets:mlp", "checkpoint": file},
            directions={"alpha": {"kind": "random"}}, grid={"alpha": [0, 0, 1]},
            batch_norm="recalibrated",
        )  # fmt: skip
        assert evaluate([alone], OPTIONS, world=None) == 0
        expected, content = store.read(alone.with_suffix(".h5")), torch.load(normalised / file)
        for surface in curve_and_line:
            for name in ("train_loss", "test_loss"):
                found, own = surface.quantities[name][position], surface.attributes[f"{name}_ends"]
                assert found == pytest.approx(expected.quantities[name][0], rel=1e-6)
                assert own[position] == pytest.approx(content[name], rel=1e-6)
                assert found != pytest.approx(content[name], rel=1e-3)


@pytest.fixture(scope="module")
def planar(minima, connected):
    """The surface of the plane of the trained curve, by the same command."""
    path = _write(minima, "done", curve={"plane": [4, 3]})
    assert connect.run(path, OPTIONS, world=None)[0] == 0
    return store.read(minima / "done-plane.h5")


def _around(minima, name, alpha, beta):
    """Evaluate one cell of the plane of the trained curve."""
    document = yaml.safe_load(store.read(minima / "done-plane.h5").attributes["job"])
    grid = {"alpha": [alpha, alpha, 1], "beta": [beta, beta, 1]}
    document |= {"grid": grid, "output": str(minima / f"{name}.h5"), "curve": None}
    path = minima / f"{name}.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}))
    assert evaluate([path], OPTIONS, world=None) == 0
    return store.read(minima / f"{name}.h5").quantities["train_loss"][0, 0]


def test_the_plane_goes_through_both_ends_and_the_bend(minima, planar, connected):
    """At the control points' places the plane has their losses, which the curve's ends are."""
    along = connected[0].quantities["train_loss"]
    bend = torch.load(minima / "done-curve" / "curve.pt")["controls"][1]
    torch.save({"state_dict": bend}, minima / "bend.pt")
    places = planar.curve.controls
    assert places[0].tolist() == [0, 0]
    assert places[-1][1] == pytest.approx(0, abs=1e-5)
    assert planar.curve.distance == pytest.approx(0, abs=1e-5)
    for index, loss in ((0, along[0]), (2, along[-1])):
        assert _around(minima, f"at{index}", *map(float, places[index])) == pytest.approx(
            loss, rel=1e-4
        )
    job = yaml.safe_load(_write(minima, "at-bend").read_text()) | {
        "model": {"arch": "mlp", "checkpoint": "bend.pt"}, "curve": None,
        "directions": {"alpha": {"kind": "random"}}, "grid": {"alpha": [0, 0, 1]},
    }  # fmt: skip
    path = minima / "at-bend.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in job.items() if v is not None}))
    assert evaluate([path], OPTIONS, world=None) == 0
    own = store.read(minima / "at-bend.h5").quantities["train_loss"][0]
    assert _around(minima, "at1", *map(float, places[1])) == pytest.approx(own, rel=1e-4)


def test_the_curve_lies_in_the_plane_where_its_losses_are(minima, planar, connected):
    """The drawn curve at t = 0.3 has the loss that was evaluated along the curve there."""
    index = round(0.3 * (len(planar.curve.points) - 1))
    alpha, beta = map(float, planar.curve.points[index])
    along = connected[0]
    assert along.axes["alpha"][3] == pytest.approx(0.3)
    assert _around(minima, "on", alpha, beta) == pytest.approx(
        along.quantities["train_loss"][3], rel=1e-4
    )


def test_the_plane_has_room_around_the_curve(planar):
    """Its automatic ranges hold every control point and the curve, with a margin."""
    for k, axis in enumerate(("alpha", "beta")):
        places = np.concatenate([planar.curve.points[:, k], planar.curve.controls[:, k]])
        extent = np.ptp(places)
        assert planar.axes[axis][0] == pytest.approx(places.min() - 0.15 * extent)
        assert planar.axes[axis][-1] == pytest.approx(places.max() + 0.15 * extent)
    assert planar.status.shape == (3, 4)
    assert planar.done.all()


@pytest.mark.parametrize(
    ("beta", "grid", "problem"),
    [
        ({"kind": "random"}, [0, 1, 2], "a curve is alpha alone, along it, or both axes"),
        ({"kind": "curve", "path": "c.pt", "bend": 2}, [0, 1, 2], "of one curve and bend"),
        (None, ["auto", 3], "a curve goes from 0 to 1"),
    ],
)
def test_directions_that_make_no_plane_of_a_curve_are_named(minima, beta, grid, problem):
    """Both axes are of one curve and bend, or alpha alone is the way along it."""
    (minima / "c.pt").touch()
    directions = {"alpha": {"kind": "curve", "path": "c.pt"}, "beta": beta}
    axes = {"alpha": grid} | ({"beta": [0, 1, 2]} if beta else {})
    path = _write(minima, "wrong", directions=directions, grid=axes)
    with pytest.raises(JobError, match=problem):
        jobs.load(path, command="eval")


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
