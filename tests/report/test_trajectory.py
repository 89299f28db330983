"""The table of a trajectory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lsengine import store
from lsengine.engine import Options, evaluate
from lsengine.report import trajectory
from lsengine.surface import Trajectory
from tests.support.runs import PRINCIPAL, run_job

ONLY = Options(progress="none", trajectory_only=True)


def test_cosines_are_shown_beside_those_of_random_vectors(tmp_path):
    """With the share of the motion that is in the plane, however small."""
    job = run_job(
        tmp_path,
        directions={"alpha": {"kind": "random", "ignore": []}, "beta": {"kind": "random"}},
        grid={"alpha": [-1, 1, 3], "beta": [-1, 1, 2]},
        trajectory={"checkpoints": "run/epoch_*.pt"},
    )
    assert evaluate([job], ONLY, world=None) == 0
    track = store.read(job.with_suffix(".h5")).trajectory
    expected = np.sqrt(2 / (np.pi * 195))
    assert f"; of random vectors {expected:.3g}" in trajectory.text([job])
    tiny = replace(track, attributes=track.attributes | {"explained_displacement": 1.5e-5})
    assert "centre, 0.0015% is in the plane" in "\n".join(trajectory.summary(tiny))


def test_every_job_of_a_file_has_a_table(tmp_path):
    """With the drops of the learning rate, and the variance that the plane explains."""
    spec = {**PRINCIPAL, "ignore": ["bias"]}
    job = run_job(
        tmp_path,
        "{seed}",
        matrix={"seed": [0, 1]},
        output="several-{seed}.h5",
        directions={"alpha": spec, "beta": spec},
    )
    assert evaluate([job], ONLY, world=None) == 0
    text = trajectory.text([job])
    assert text.count("learning rate drops") == 2
    assert text.count("explained variance: ") == 2


@pytest.mark.parametrize(
    ("own", "plane", "distance", "said"),
    [
        ([2.0, 1.0, 0.0], [2.1, 1.0, 0.0], [0.1, 0.1, 0.0], None),
        ([2.0, 1.0, 0.0], [2.0, 2.1, 0.0], [0.0, 0.1, 0.0], "at epoch 3 the plane's train loss is"),
        ([2.0, 1.0, 0.0], [2.0, 2.1, 0.0], [0.0, 0.5, 0.0], None),  # far from the plane
        ([2.0, np.nan, 0.0], [2.0, 2.1, 0.0], [0.0, 0.1, 0.0], None),
        ([np.nan] * 3, [np.nan] * 3, [0.0, 0.1, 0.0], None),  # not evaluated yet
    ],
)
def test_a_plane_with_other_losses_than_its_checkpoints_is_said(own, plane, distance, said):
    """Where the plane is near, and the gap is more than half the range of the losses."""
    columns = {"epoch": [2, 3, 4], "train_loss": own, "plane_train_loss": plane}
    columns |= {"distance": distance, "length": [2.0, 1.0, 0.0]}
    track = Trajectory({n: np.array(c) for n, c in columns.items()})
    found = trajectory.gaps(track)
    assert len(found) == (said is not None)
    if said:
        assert found[0].startswith(f"{said} 2.1, the checkpoint's own 1, ")
        assert "use batch_norm: recalibrated" in found[0]
