"""Jobs for checkpoints that are there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from lsengine import job as jobs
from lsengine import store
from lsengine.cli import main
from lsengine.data import normalized
from lsengine.engine.prepare.first_job import first_job, told
from lsengine.job.schema import ModelSpec
from lsengine.models import build
from tests.support.datasets import load

SMALL = ["--set", "grid={alpha: [0, 0, 1], beta: [0, 1, 2]}"]


def _network(arch, args=None, size=(8, 8)):
    torch.manual_seed(0)
    spec = ModelSpec(arch=arch, args=args or {})
    return build(spec, channels=1, classes=10, size=size, job_folder=Path())


def test_the_job_of_a_network_on_digits_is_evaluated_as_it_is(tmp_path, monkeypatch, capsys):
    """Its centre is the checkpoint; and it lies where the command was given."""
    monkeypatch.chdir(tmp_path)
    network = _network("mlp", {"hidden": [6]})
    (tmp_path / "runs").mkdir()
    content = {"epoch": 3, "state_dict": {f"model.{n}": t for n, t in network.state_dict().items()}}
    torch.save(content, "runs/la{st.ckpt")
    assert main(["init", "runs/la{st.ckpt"]) == 0
    said = capsys.readouterr().out
    assert "a guess: arch: mlp" in said
    assert "to be filled in" not in said
    assert "# the file says: epoch=3" in Path("la{st.yaml").read_text()
    assert main(["eval", "la{st.yaml", *SMALL]) == 0
    surface = store.read(Path("surfaces/la{st.h5"))
    data = jobs.load("la{st.yaml").document.data
    assert (data.dataset, data.splits) == ("digits", ["train", "test"])
    loss = float(surface.quantities["test_loss"][0, 0])
    digits = load("digits")
    with torch.no_grad():
        outputs = network(normalized(digits, "test", torch.float32))
    expected = nn.functional.cross_entropy(outputs, digits.splits["test"].y)
    assert loss == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("network", "arch", "dataset", "open_lines"),
    [
        (_network("vit", {"depth": 1, "width": 8, "heads": 2}), "vit", "digits", 1),
        (nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2)), "mine:network", "arrays", 3),
    ],
    ids=["heads", "own"],
)
def test_what_no_shape_tells_is_to_be_filled_in(tmp_path, network, arch, dataset, open_lines):
    """The text is a job all the same, and each such line says so."""
    torch.save(network.state_dict(), tmp_path / "c.pt")
    text = first_job(tmp_path / "c.pt", tmp_path / "job.yaml")
    content = yaml.safe_load(text)
    assert (content["model"]["arch"], content["data"]["dataset"]) == (arch, dataset)
    assert content["model"]["checkpoint"] == "c.pt"
    assert len(told(text)["to be filled in"]) == open_lines


def test_no_job_is_written_over(tmp_path, capsys):
    """Nor is a file of another kind taken for a checkpoint."""
    torch.save(_network("mlp").state_dict(), tmp_path / "c.pt")
    (tmp_path / "job.yaml").write_text("name: mine\n")
    job = str(tmp_path / "job.yaml")
    assert main(["init", str(tmp_path / "c.pt"), "--output", job]) == 2
    assert main(["init", job]) == 2
    (tmp_path / "notes.txt").write_text("no checkpoint")
    other = str(tmp_path / "other.yaml")
    assert main(["init", str(tmp_path / "notes.txt"), "--output", other]) == 2
    assert main(["init", str(tmp_path / "missing.pt"), "--output", other]) == 2
    assert not Path(other).exists()
    assert (tmp_path / "job.yaml").read_text() == "name: mine\n"
    assert "exists; give another name" in capsys.readouterr().err
