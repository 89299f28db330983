"""The plane of a trained curve."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from lsengine import store
from lsengine.engine import Options, connect, evaluate
from tests.support.minima import write_connection

OPTIONS = Options(progress="none")


@pytest.fixture(scope="module")
def planar(minima, connected):
    """The surface of the plane of the trained curve, by the same command."""
    path = write_connection(minima, "done", curve={"plane": [4, 3]})
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
    job = yaml.safe_load(write_connection(minima, "at-bend").read_text()) | {
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
