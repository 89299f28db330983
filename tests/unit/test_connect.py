"""Curves between two minima, and the straight line beside them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from jobs import values
from lsengine import connect, curve, store, train
from lsengine import job as jobs
from lsengine.engine import Options
from lsengine.errors import JobError, Stopped, UsageError
from lsengine.ranks import StopRequest

OPTIONS = Options(progress="none")


@pytest.fixture(scope="module")
def minima(tmp_path_factory):
    """A folder with two networks without batch norm, trained on digits from different seeds."""
    folder = tmp_path_factory.mktemp("connect")
    for seed in (0, 1):
        recipe = {"output": f"end{seed}", "epochs": 8, "batch_size": 64, "lr": 0.02, "seed": seed}
        path = _write(folder, f"end{seed}", model={"arch": "mlp"}, train=recipe, curve=None)
        train.run(jobs.load(path, command="train"), progress="none")
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
    assert connect.run(path, OPTIONS, world=None) == 0
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


def test_ends_are_the_ends_own_losses(minima, connected):
    """The first and last point of curve and line are the two checkpoints."""
    for position, seed in ((0, 0), (-1, 1)):
        content = torch.load(minima / f"end{seed}" / "epoch_008.pt")
        for surface in connected:
            for name in ("train_loss", "test_loss"):
                assert surface.quantities[name][position] == pytest.approx(content[name], rel=1e-5)


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


def test_points_of_a_curve_are_cells_under_mpi_too(minima, pool, connected):
    """Three ranks write the bytes that one process writes."""
    content = yaml.safe_load(store.read(minima / "done.h5").attributes["job"])
    content |= {"output": str(minima / "ranks.h5"), "curve": None}
    path = minima / "ranks.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    assert pool.evaluate(path, 3) == {"code": 0, "message": ""}
    assert values(minima / "ranks.h5") == values(minima / "done.h5")


@pytest.mark.parametrize(("kind", "bends"), [("polygonal", 2), ("bezier", 3)])
def test_other_curves_end_at_both_ends_too(minima, kind, bends):
    """Of more bends there are more directions, and no others."""
    name = f"{kind}{bends}"
    settings = {"kind": kind, "bends": bends, "epochs": 1, "points": 3}
    assert connect.run(_write(minima, name, curve=settings), OPTIONS, world=None) == 0
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


def test_a_missing_end_is_named_before_any_work(minima):
    """Both the key and the path are there."""
    with pytest.raises(JobError, match=r"curve\.to: no such file: .*nowhere\.pt"):
        jobs.load(_write(minima, "nowhere", curve={"to": "nowhere.pt"}), command="connect")
