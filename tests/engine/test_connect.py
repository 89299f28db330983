"""Curves between two minima, and the straight line beside them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from lsengine import job as jobs
from lsengine import store
from lsengine.engine import Options, connect
from lsengine.errors import JobError, Stopped, UsageError
from lsengine.ranks import StopRequest
from tests.support.jobs import values
from tests.support.minima import connecting, write_connection

OPTIONS = Options(progress="none")


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
        job = jobs.load(write_connection(minima, name, curve={"epochs": 4}), command="connect")
        if name == "parts":
            with pytest.raises(Stopped, match="in epoch 3 of 4; the same command goes on"):
                connect.train_curve(job, _StopsAfter(20))
        files.append(connect.train_curve(job, StopRequest()).read_bytes())
    assert files[0] == files[1]


class _StopsAfter(StopRequest):
    """A request to stop that comes after some questions."""

    def __init__(self, questions):
        super().__init__()
        self.signal, self.left = "a test", questions

    def raise_if_requested(self):
        """Wait for the questions."""

    def __bool__(self):
        self.left -= 1
        return self.left < 0


def test_ranks_write_what_one_process_writes(minima, pool):
    """One rank trains while the others wait; curve, line and plane have the same bytes."""
    settings = {"epochs": 2, "points": 3, "plane": [3, 2]}
    alone, ranks = (
        write_connection(minima, name, curve=settings) for name in ("alone", "together")
    )
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
    assert connect.run(write_connection(minima, name, curve=settings), OPTIONS, world=None)[0] == 0
    found, line = (store.read(minima / f"{name}{way}.h5") for way in ("", "-line"))
    for position in (0, -1):
        loss = found.quantities["train_loss"][position]
        assert loss == pytest.approx(line.quantities["train_loss"][position], rel=1e-5)
    directions = store.read_directions(minima / f"{name}.h5")["alpha"]
    assert {len(stacked) for stacked in directions.values()} == {bends + 1}


def test_another_curves_folder_is_refused(minima, connected):
    """The first difference is named, and nothing is overwritten."""
    path = write_connection(minima, "done", curve={"seed": 5})
    with pytest.raises(UsageError, match=r"another curve: curve\.seed is 5 in the job, 0"):
        connect.run(path, OPTIONS, world=None)


def test_ends_of_different_networks_do_not_connect(minima):
    """The key and what does not fit are named."""
    torch.save({"state_dict": {"0.weight": torch.zeros(2, 2)}}, minima / "foreign.pt")
    path = write_connection(minima, "foreign", curve={"to": "foreign.pt"})
    with pytest.raises(UsageError, match=r"curve\.to: .*foreign\.pt does not fit the model"):
        connect.run(path, OPTIONS, world=None)


def test_an_end_twice_is_refused_before_any_training(minima):
    """Also as another file with the same parameters; no curve is written."""
    shutil.copy(minima / "end0" / "epoch_008.pt", minima / "copy.pt")
    path = write_connection(minima, "twice", curve={"to": "copy.pt"})
    with pytest.raises(UsageError, match=r"curve\.to: .*copy\.pt has the same parameters as model"):
        connect.run(path, OPTIONS, world=None)
    assert not (minima / "twice-curve" / "curve.pt").exists()


def test_a_curve_of_some_parameters_leaves_the_others(minima):
    """Those off the curve keep their bytes, and have to be equal at both ends."""
    centre = torch.load(minima / "end0" / "epoch_008.pt")["state_dict"]
    last = [n for n in centre if n.startswith(max(k.split(".")[0] for k in centre))]
    other = torch.load(minima / "end1" / "epoch_008.pt")["state_dict"]
    end = {n: other[n] if n in last else t for n, t in centre.items()}
    torch.save({"state_dict": end}, minima / "head.pt")
    curve = {"to": "head.pt", "epochs": 2, "points": 3}
    path = write_connection(minima, "head", curve={**curve, "only": last})
    assert connect.run(path, OPTIONS, world=None)[0] == 0
    controls = torch.load(minima / "head-curve" / "curve.pt")["controls"]
    assert set(controls[1]) == set(last)
    bend = torch.load(minima / "head-curve" / "bend_1.pt")["state_dict"]
    for name, tensor in bend.items():
        assert torch.equal(tensor, controls[1].get(name, centre[name]))
    ends = store.read(minima / "head.h5"), store.read(minima / "head-line.h5")
    for k in (0, -1):
        assert ends[0].quantities["train_loss"][k] == ends[1].quantities["train_loss"][k]
    path = write_connection(minima, "head2", curve={**curve, "ignore": [last[0]]})
    with pytest.raises(UsageError, match=rf"curve\.to: {last[0]} differ between the ends"):
        connect.run(path, OPTIONS, world=None)
    path = write_connection(minima, "head3", curve={**curve, "only": ["tail.*"]})
    with pytest.raises(UsageError, match=r"curve\.only: tail\.\* fits no parameter"):
        connect.run(path, OPTIONS, world=None)


def test_a_missing_end_is_named_before_any_work(minima):
    """Both the key and the path are there."""
    with pytest.raises(JobError, match=r"curve\.to: no such file: .*nowhere\.pt"):
        jobs.load(
            write_connection(minima, "nowhere", curve={"to": "nowhere.pt"}), command="connect"
        )


def test_statistics_are_computed_anew_along_both_ways_and_in_the_plane(normalised):
    """Unless the job says otherwise; frozen ones give other losses but at the first end."""
    losses = {}
    for policy, section in (("recalibrated", None), ("frozen", "frozen")):
        path = connecting(normalised, policy, batch_norm=section)
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


def test_a_damaged_state_is_named(minima):
    """With what is wrong in it and what to do; nothing is trained over it."""
    job = jobs.load(write_connection(minima, "damaged", curve={"epochs": 3}), command="connect")
    with pytest.raises(Stopped):
        connect.train_curve(job, _StopsAfter(20))
    resume = minima / "damaged-curve" / "resume.pt"
    state = torch.load(resume)
    torch.save({"identity": state["identity"]}, resume)
    with pytest.raises(UsageError, match=r"curve\.output: .*resume\.pt is damaged \(KeyError"):
        connect.train_curve(job, StopRequest())
    torch.save([1, 2], resume)
    with pytest.raises(UsageError, match=r"resume\.pt is damaged: it holds a list; remove it"):
        connect.train_curve(job, StopRequest())
