"""What may differ between the runs of a surface, and what may not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lsengine import store
from lsengine.engine import Options, evaluate
from lsengine.errors import SurfaceError
from lsengine.store.shards import merge
from lsengine.surface.identity import cell_identity, fingerprint
from tests.support.jobs import values
from tests.support.surfaces import edited


def test_a_resume_elsewhere_is_warned_of(make_job, capsys):
    """Another torch version, device kind or thread count: both are named, and the run goes on."""
    job = make_job()
    assert evaluate([job], Options(progress="none"), world=None) == 0
    with edited(job.with_suffix(".h5")) as file:
        file["status"][0] = 0
        file.attrs["torch_version"] = "1.0"
        file.attrs["threads"] = 64
    assert evaluate([job], Options(progress="none"), world=None) == 0
    text = capsys.readouterr().err
    assert 'torch_version is "2' in text
    assert '"1.0" in the file' in text
    assert "threads is 1 here, 64 in the file" in text


def test_another_grid_is_told_of_extend(make_job):
    """Where only the grid differs the refusal names the way to keep what is there."""
    assert evaluate([make_job()], Options(progress="none"), world=None) == 0
    finer = make_job(grid={"alpha": [-1, 1, 13], "beta": [-0.5, 1, 4]})
    with pytest.raises(SurfaceError, match=r"grid\.alpha is .*--extend"):
        evaluate([finer], Options(progress="none"), world=None)


def test_another_checkpoint_is_named_in_words(make_job, tmp_path):
    """The refusal speaks of contents, not of digests."""
    job = make_job()
    assert evaluate([job], Options(progress="none"), world=None) == 0
    content = torch.load(tmp_path / "centre.pt")
    content["state_dict"]["0.weight"] += 1
    torch.save(content, tmp_path / "centre.pt")
    with pytest.raises(SurfaceError, match="the content of checkpoint is not what it was"):
        evaluate([job], Options(progress="none"), world=None)


@pytest.mark.parametrize(
    ("attributes", "warning"),
    [
        ({"device_kind": "cpu AVX1"}, 'here, "cpu AVX1" in the file'),
        ({"forward": "fused"}, 'forward is "eager" here, "fused" in the file'),
        ({"device_kind": "cpu", "forward": None}, None),  # as older versions write it
    ],
)
def test_a_resume_on_another_processor_is_warned_of(make_job, capsys, attributes, warning):
    """Other instructions give other last bits, and so does a network that is not fused.

    A file that does not say which instructions or which forward pass it has may be of the same.
    """
    job = make_job(directions={"alpha": {"kind": "random"}}, grid={"alpha": [0, 1, 2]})
    assert evaluate([job], Options(progress="none"), world=None) == 0
    with edited(job.with_suffix(".h5")) as file:
        file["status"][0] = 0
        assert file.attrs["device_kind"].startswith("cpu ")
        assert file.attrs["forward"] == "eager"
        del file.attrs["forward"]
        file.attrs.update({k: v for k, v in attributes.items() if v is not None})
    capsys.readouterr()
    assert evaluate([job], Options(progress="none"), world=None) == 0
    text = capsys.readouterr().err
    if warning is None:
        assert "WARNING" not in text
    else:
        assert warning in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda group: group.__delitem__("0.weight"), "0.weight stays there and moves here"),
        (lambda group: group["0.weight"].__setitem__(0, 9.0), "0.weight leads elsewhere"),
        (
            lambda group: group.create_dataset("0.bias", data=group["0.weight"][:, 0]),
            "0.bias moves there and stays",
        ),
    ],
)
def test_extending_a_surface_that_lies_elsewhere_is_refused(make_job, tmp_path, change, said):
    """Its rule of what moves was another: the parameter is named, and no file is made."""
    job = make_job(directions={"alpha": {"kind": "random"}}, grid={"alpha": [0, 1, 2]})
    assert evaluate([job], Options(progress="none"), world=None) == 0
    old = tmp_path / "old.h5"
    job.with_suffix(".h5").rename(old)
    finer = make_job(directions={"alpha": {"kind": "random"}}, grid={"alpha": [0, 1, 3]})
    assert evaluate([finer], Options(progress="none", extend=old), world=None) == 0
    finer.with_suffix(".h5").unlink()
    with edited(old) as file:
        change(file["directions/along_alpha"])
    with pytest.raises(SurfaceError, match=said):
        evaluate([finer], Options(progress="none", extend=old), world=None)
    assert not finer.with_suffix(".h5").exists()


NETWORK = "from torch import nn\ndef make():\n    from {part} import layers\n    return layers()\n"
LAYERS = """from torch import nn
def layers():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def own_job(make_job, tmp_path):
    """Return a function that makes a job of a network of the user's, in two files."""
    (tmp_path / "edited_net.py").write_text(NETWORK.format(part="edited_layers"))
    (tmp_path / "edited_layers.py").write_text(LAYERS)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    torch.save(network.state_dict(), tmp_path / "own.pt")

    def make(points=2):
        return make_job(
            model={"arch": "edited_net:make", "checkpoint": "own.pt"},
            data={"dataset": "digits", "subset": 20, "splits": ["train"]},
            directions={"alpha": {"kind": "random"}},
            grid={"alpha": [0, 1, points]},
        )

    return make


def test_edited_code_is_refused_with_its_file(own_job, tmp_path):
    """On a resume and where cells are taken over; the edit undone, the run goes on."""
    job = own_job()
    assert evaluate([job], Options(progress="none"), world=None) == 0
    source = tmp_path / "edited_layers.py"
    source.write_text(LAYERS.replace("64, 10)", "64, 10, bias=True)"))
    with pytest.raises(
        SurfaceError, match=r"the source edited_layers\.py is not .*; undo the edit"
    ):
        evaluate([job], Options(progress="none"), world=None)
    old = tmp_path / "old.h5"
    job.with_suffix(".h5").rename(old)
    finer = own_job(points=3)
    with pytest.raises(
        SurfaceError, match=r"--extend .*than \S+: .*source edited_layers\.py is not .*undo"
    ):
        evaluate([finer], Options(progress="none", extend=old), world=None)
    assert not finer.with_suffix(".h5").exists()
    source.write_text(LAYERS)
    assert evaluate([finer], Options(progress="none", extend=old), world=None) == 0


def test_a_surface_that_does_not_know_its_code_goes_on_with_a_warning(own_job, capsys):
    """As an older version made it."""
    job = own_job()
    assert evaluate([job], Options(progress="none"), world=None) == 0
    with edited(job.with_suffix(".h5")) as file:
        identity = json.loads(file.attrs["identity"])
        assert set(identity.pop("code")) == {"edited_net.py", "edited_layers.py"}
        file.attrs["identity"] = json.dumps(identity, sort_keys=True)
        file.attrs["fingerprint"] = fingerprint(identity)
        file.attrs["cell_fingerprint"] = fingerprint(cell_identity(identity))
        file["status"][0] = 0
    assert evaluate([job], Options(progress="none"), world=None) == 0
    assert "does not say what was in edited_layers.py, edited_net.py" in capsys.readouterr().err


LATE = """import importlib
from torch import nn
class make(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
    def forward(self, x):
        part = importlib.import_module("late" + "_scale")
        return self.layer(x.flatten(1)) * part.SCALE
"""


def test_what_a_forward_pass_imports_is_known(make_job, tmp_path):
    """Also by a name that no source holds; its edit is refused."""
    (tmp_path / "late_net.py").write_text(LATE)
    (tmp_path / "late_scale.py").write_text("SCALE = 2")
    state = torch.nn.Linear(64, 10).state_dict()
    torch.save({f"layer.{name}": t for name, t in state.items()}, tmp_path / "own.pt")
    job = make_job(
        model={"arch": "late_net:make", "checkpoint": "own.pt"},
        data={"dataset": "digits", "subset": 20, "splits": ["train"]},
        directions={"alpha": {"kind": "random"}},
        grid={"alpha": [0, 1, 2]},
    )
    assert evaluate([job], Options(progress="none"), world=None) == 0
    (tmp_path / "late_scale.py").write_text("SCALE = 3")
    with pytest.raises(SurfaceError, match=r"the source late_scale\.py is not what it was"):
        evaluate([job], Options(progress="none"), world=None)


STATEFUL = (
    LATE.replace("import importlib", "import os")
    .replace(
        'part = importlib.import_module("late" + "_scale")\n',
        'scale = float(os.environ["SCALE"])\n',
    )
    .replace("part.SCALE", "scale")
)


def test_extending_with_another_state_is_refused(make_job, tmp_path, monkeypatch):
    """One that is in no file: the losses at the centre are not those of the surface."""
    (tmp_path / "stateful_net.py").write_text(STATEFUL)
    state = torch.nn.Linear(64, 10).state_dict()
    torch.save({f"layer.{name}": t for name, t in state.items()}, tmp_path / "own.pt")

    def job(points):
        return make_job(
            model={"arch": "stateful_net:make", "checkpoint": "own.pt"},
            data={"dataset": "digits", "subset": 20, "splits": ["train"]},
            directions={"alpha": {"kind": "random"}},
            grid={"alpha": [0, 1, points]},
        )

    monkeypatch.setenv("SCALE", "2")
    coarse = job(2)
    assert evaluate([coarse], Options(progress="none"), world=None) == 0
    old = tmp_path / "old.h5"
    coarse.with_suffix(".h5").rename(old)
    finer = job(3)
    monkeypatch.setenv("SCALE", "3")
    with pytest.raises(SurfaceError, match=r"old\.h5: the mean loss of a few train samples is"):
        evaluate([finer], Options(progress="none", extend=old), world=None)
    assert not finer.with_suffix(".h5").exists()
    monkeypatch.setenv("SCALE", "2")
    assert evaluate([finer], Options(progress="none", extend=old), world=None) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.__delitem__("test_loss"), "test_loss not there, which this job fills"),
        (lambda f: f.copy("test_loss", "other"), "other there, which this job does not fill"),
        (lambda f: f.attrs.__delitem__("precision"), "attribute precision is not there"),
        (lambda f: f.attrs.__setitem__("batch_size", "x"), "attribute batch_size is"),
        (lambda f: f.attrs.__setitem__("direction_cosine", "x"), "attribute direction_cosine is"),
    ],
)
def test_a_damaged_file_is_not_gone_on_with(make_job, change, says):
    """It is refused before a cell is evaluated, and stays as it is."""
    job = make_job()
    path = job.with_suffix(".h5")
    assert evaluate([job], Options(progress="none"), world=None) == 0
    with edited(path) as file:
        file["status"][0] = 0
        change(file)
    before = path.read_bytes()
    with pytest.raises(SurfaceError, match=says):
        evaluate([job], Options(progress="none"), world=None)
    assert path.read_bytes() == before


def _flip_a_bit(file):
    values = file["directions/along_alpha/0.weight"][...]
    values.view(np.uint32)[0, 0] ^= 1 << 30
    file["directions/along_alpha/0.weight"][...] = values


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda file: file["beta"].write_direct(file["beta"][...] + 0.01), "beta"),
        (_flip_a_bit, "directions/along_alpha/0.weight"),
        (lambda file: file.pop("directions/along_beta"), "attributes, names or other structure"),
        (lambda file: file.attrs.modify("precision", "bfloat16"), "attributes, names"),
        (lambda file: file["train_loss"].write_direct(np.zeros((4, 7))), "cells 7, 8, 9"),
    ],
)
def test_a_damaged_surface_is_neither_resumed_nor_extended_nor_merged(make_job, change, named):
    """What has changed is named, and nothing is written."""
    job, finer = make_job(), make_job("finer", grid={"alpha": [-1, 1, 7], "beta": [-1, 1, 7]})
    assert evaluate([job], Options(progress="none"), world=None) == 0
    surface = job.with_suffix(".h5")
    with edited(surface) as file:
        file["status"][0] = 0
    whole = Path(shutil.copy(surface, surface.with_name("whole.h5")))
    with h5py.File(surface, "r+") as file:
        change(file)
    before = surface.read_bytes()
    with pytest.raises(SurfaceError, match=f"job.h5: damaged: .*{named}"):
        evaluate([job], Options(progress="none"), world=None)
    with pytest.raises(SurfaceError, match=f"job.h5: damaged: .*{named}"):
        evaluate([finer], Options(progress="none", extend=surface), world=None)
    for shards in ([surface, whole], [whole, surface]):
        with pytest.raises(SurfaceError, match=f"job.h5: damaged: .*{named}"):
            merge(shards, surface.with_name("merged.h5"))
    assert surface.read_bytes() == before
    assert not finer.with_suffix(".h5").exists()
    assert not surface.with_name("merged.h5").exists()


def test_damaged_cells_are_evaluated_again_on_demand(make_job, capsys):
    """With `retry_failed` the bytes are those of the undisturbed run again."""
    job = make_job(quantities=["loss", "curvature"])
    assert evaluate([job], Options(progress="none"), world=None) == 0
    surface = job.with_suffix(".h5")
    expected = values(surface)
    with h5py.File(surface, "r+") as file:
        file["train_loss"][1, 2] = 0.5
        file["eigenvalue_max"][2, 2] = 0.5
        file["checksum"][3, 3] += 1
        file["status"][0, 0] = 77
    with pytest.raises(SurfaceError, match="cells 0, 9, 16, 24 do not fit"):
        evaluate([job], Options(progress="none"), world=None)
    assert evaluate([job], Options(progress="none", retry_failed=True), world=None) == 0
    assert "cells 0, 9, 16, 24 do not fit their checksums; they are evaluated again" in (
        capsys.readouterr().err
    )
    assert values(surface) == expected


def test_values_taken_over_in_part_are_not_believed_when_they_have_changed(make_job):
    """A surface that is extended by a quantity has losses of missing cells: one of them rots."""
    old, new = make_job("old"), make_job("new", quantities=["loss", "curvature"])
    assert evaluate([old], Options(progress="none"), world=None) == 0
    options = Options(progress="none", extend=old.with_suffix(".h5"))
    assert evaluate([new], replace(options, cell_limit=1), world=None) == 0
    with h5py.File(new.with_suffix(".h5"), "r+") as file:
        missing = np.argwhere(file["status"][...] == 0)
        assert np.isfinite(file["train_loss"][...]).all()
        file["train_loss"][tuple(missing[0])] = -5.0
        file["train_loss"][tuple(missing[1])] = np.nan
    assert evaluate([new], Options(progress="none"), world=None) == 0
    found, expected = (store.read(j.with_suffix(".h5")).quantities for j in (new, old))
    np.testing.assert_allclose(found["train_loss"], expected["train_loss"], rtol=1e-6)
