"""The barriers between two minima, and the losses of the ends."""

from __future__ import annotations

import pytest
import torch

from lsengine import job as jobs
from lsengine import store
from lsengine.cli import main
from lsengine.engine import Options, connect, evaluate
from lsengine.geometry import curve
from tests.support.jobs import write_job
from tests.support.minima import connecting, write_connection

OPTIONS = Options(progress="none")


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
    assert main(["connect", str(write_connection(minima, "done"))]) == 0
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


def test_ends_with_batch_norm_are_those_evaluated_alone(normalised):
    """Under the same policy; the losses with the checkpoints' own statistics are noted beside."""
    job = jobs.load(connecting(normalised, "ends"), command="connect")
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
