"""The evaluator: its check of the centre, and who is to blame if that fails."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine import devices
from lsengine.engine import Options, evaluate
from lsengine.errors import UsageError
from lsengine.objective import vectors
from tests.support.jobs import values, write_job


def test_a_centre_that_is_not_the_checkpoint_stops_the_run(make_job, monkeypatch):
    """If displacing were wrong by a little, the naive twin would say so."""
    displace = vectors.Vectors.displace

    def wrong(self, cell, out):
        displace(self, cell, out)
        out.mul_(1.001)

    monkeypatch.setattr(vectors.Vectors, "displace", wrong)
    job = make_job()
    with pytest.raises(UsageError, match=r"at alpha=0 beta=0 are .*by a plain evaluation"):
        evaluate([job], Options(progress="none"), world=None)
    assert not job.with_suffix(".h5").exists()


def test_a_network_of_chance_is_no_bug(make_job):
    """Dropout that evaluation mode leaves on is the user's to switch off, and said so."""
    job = make_job(model={"arch": "testnets:Chance", "checkpoint": "centre.pt"})
    with pytest.raises(UsageError, match="two evaluations of the same weights differ"):
        evaluate([job], Options(progress="none"), world=None)


@pytest.mark.parametrize("quantities", [["loss", "accuracy"], ["loss", "curvature"]])
def test_a_surface_has_the_same_bytes_wherever_its_inputs_are(
    tmp_path, monkeypatch, capsys, quantities
):
    """A user's own mapped arrays: ready in much memory; from their file, copied ahead, in none."""
    write_job(tmp_path)  # the data
    with np.load(tmp_path / "data.npz") as arrays:
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
    names = "('x_train', 'y_train', 'x_test', 'y_test')"
    mapped = f"{{n: np.load(f'{{folder}}/{{n}}.npy', mmap_mode='r') for n in {names}}}"
    (tmp_path / "mine.py").write_text(
        f"import numpy as np\n\ndef make(folder):\n    return {mapped}\n"
    )
    data = {"dataset": "mine:make", "args": {"folder": str(tmp_path)}}
    grid = {"alpha": [-1, 1, 3], "beta": [0, 1, 2]}
    found = []
    for name, free in (("much", 2**40), ("none", 0)):
        monkeypatch.setattr(devices, "free_bytes", lambda device, free=free: free)
        job = write_job(tmp_path, name, data=data, grid=grid, quantities=quantities)
        assert evaluate([job], Options(progress="none"), world=None) == 0
        found.append(values(job.with_suffix(".h5")))
    assert found[0] == found[1]
    said = capsys.readouterr().err
    assert "data: ready for cpu: 0.0 MiB as stored, 0.0 MiB ready, 1,048,576.0 MiB free" in said
    assert "data: file for cpu: 0.0 MiB as stored, 0.0 MiB ready, 0.0 MiB free" in said
    assert said.count("data: ") == 2
