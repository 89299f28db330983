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
from lsengine.errors import JobError
from lsengine.job.schema import ModelSpec
from lsengine.models import build
from tests.support.datasets import load

SMALL = ["--set", "grid={alpha: [0, 0, 1], beta: [0, 1, 2]}"]


def _network(arch, args=None, size=(8, 8)):
    torch.manual_seed(0)
    spec = ModelSpec(arch=arch, args=args or {})
    return build(spec, channels=1, classes=10, size=size, job_folder=Path())


def test_the_job_of_a_network_on_digits_needs_to_know_its_centre(tmp_path, monkeypatch, capsys):
    """No more than that; its centre is the checkpoint; and it lies where the command was given."""
    monkeypatch.chdir(tmp_path)
    network = _network("mlp", {"hidden": [6]})
    (tmp_path / "runs").mkdir()
    content = {"epoch": 3, "state_dict": {f"model.{n}": t for n, t in network.state_dict().items()}}
    torch.save(content, "runs/la{st.ckpt")
    assert main(["init", "runs/la{st.ckpt"]) == 0
    said = capsys.readouterr().out
    assert "a guess: arch: mlp" in said
    assert "a guess, from 1 channel of 8x8 and 10 classes\n" in said
    assert said.count("to be filled in: ") == said.count("to be filled in: expect: ") == 1
    assert "; the file says: epoch=3" in Path("la{st.yaml").read_text()
    assert main(["eval", "la{st.yaml", *SMALL]) == 2
    assert "1 problem(s)\n  expect: says FILL IN; give it a value" in capsys.readouterr().err
    assert main(["eval", "la{st.yaml", *SMALL, "--set", "expect={}"]) == 0
    surface = store.read(Path("surfaces/la{st.h5"))
    data = jobs.load("la{st.yaml", changes=["expect={}"]).document.data
    assert (data.dataset, data.splits) == ("digits", ["train", "test"])
    loss = float(surface.quantities["test_loss"][0, 0])
    digits = load("digits")
    with torch.no_grad():
        outputs = network(normalized(digits, "test", torch.float32))
    expected = nn.functional.cross_entropy(outputs, digits.splits["test"].y)
    assert loss == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("network", "arch", "dataset", "open_keys"),
    [
        (
            _network("vit", {"depth": 1, "width": 8, "heads": 2}),
            "vit",
            "digits",
            ["expect", "model.args.heads"],
        ),
        (
            nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2)),
            "FILL IN",
            "FILL IN",
            ["data.dataset", "data.root", "expect", "model.arch"],
        ),
    ],
    ids=["heads", "own"],
)
def test_what_no_shape_tells_is_to_be_filled_in(tmp_path, network, arch, dataset, open_keys):
    """Each such line says so, and all are refused together."""
    torch.save(network.state_dict(), tmp_path / "c.pt")
    text = first_job(tmp_path / "c.pt", tmp_path / "job.yaml")
    content = yaml.safe_load(text)
    assert (content["model"]["arch"], content["data"]["dataset"]) == (arch, dataset)
    assert content["model"]["checkpoint"] == "c.pt"
    assert len(told(text)["to be filled in"]) == len(open_keys)
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(JobError) as caught:
        jobs.load(tmp_path / "job.yaml")
    assert sorted(p.partition(":")[0] for p in caught.value.problems) == open_keys


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "resnet50"])
def test_shortcuts_without_parameters_are_asked_for(tmp_path, name):
    """A network with them has the names and shapes of its twin without any."""
    for arch, in_place in ((name, name), (f"{name}_noshort", "FILL IN")):
        torch.save(_network(arch, {"width": 4}).state_dict(), tmp_path / "c.pt")
        text = first_job(tmp_path / "c.pt", tmp_path / "job.yaml")
        assert yaml.safe_load(text)["model"]["arch"] == in_place
        assert "# a guess, from 1 channel and 10 classes; or mnist\n" in text
        (line,) = (line for line in text.splitlines() if line.startswith("  arch:"))
        assert (f"{name}_noshort; or module:factory" in line) == (in_place == "FILL IN")


def test_nothing_is_loaded_before_all_is_filled_in(tmp_path, monkeypatch, capsys):
    """Pictures for CIFAR would be downloaded; no folder for them is made either."""
    monkeypatch.chdir(tmp_path)
    spec = ModelSpec(arch="vgg9")
    network = build(spec, channels=3, classes=10, size=(32, 32), job_folder=Path())
    torch.save(network.state_dict(), "c.pt")
    assert main(["init", "c.pt"]) == 0
    assert main(["eval", "c.yaml", "--quiet"]) == 2
    assert "data.root: says FILL IN" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.pt", "c.yaml"]


def test_a_job_on_top_of_it_has_a_surface_of_its_own(tmp_path):
    """By its name."""
    torch.save(_network("mlp").state_dict(), tmp_path / "c.pt")
    (tmp_path / "c.yaml").write_text(first_job(tmp_path / "c.pt", tmp_path / "c.yaml"))
    (tmp_path / "fine.yaml").write_text("extends: c.yaml\nexpect: {}\n")
    assert jobs.load(tmp_path / "fine.yaml").surface == tmp_path / "surfaces" / "fine.h5"


@pytest.mark.parametrize("name", ["missing.pt", "runs/x.ckpt", "job"])
def test_a_checkpoint_that_is_not_there_gets_no_job(tmp_path, capsys, name):
    """Its name is not written to."""
    assert main(["init", str(tmp_path / name)]) == 2
    assert "no such checkpoint; the name of a job ends in .yaml" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


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
