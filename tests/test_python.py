"""Surfaces for notebooks: `lsengine.open`, and what pages say of values."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import xarray
from nbclient import NotebookClient
from torch import nn
from torch.nn import functional as F

import lsengine
from lsengine import store
from lsengine.errors import EnvironmentUnfit, SurfaceError, UsageError
from lsengine.store import CellResults, Layout, TrajectoryLayout
from lsengine.surface.grid import make_grid

ROOT = Path(__file__).parents[1]
ARCHIVED = ROOT / "tests" / "archive" / "surface-v2.h5"


class Curve(nn.Module):
    """u(t) = a exp(-b t), which solves u' = -u."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward(self, t):
        """Return u (N, 1) at times (N, 1)."""
        return self.a * torch.exp(-self.b * t)


class Zero(nn.Linear):
    """All outputs are zero at the centre; a mask does not matter."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        nn.init.zeros_(self.weight), nn.init.zeros_(self.bias)

    def forward(self, x, mask=None):
        """Return the outputs (N, K)."""
        return super().forward(x.to(self.weight))


def test_the_objectives_of_the_page_have_their_values():
    """Of the solution of an equation, and of networks whose outputs are zero."""
    gymnasium = pytest.importorskip("gymnasium")
    page = (ROOT / "docs" / "howto" / "objective.md").read_text()
    found = {"torch": torch, "F": F, "gymnasium": gymnasium, "lsengine": lsengine}
    for text in re.findall(r"```python\n(def \w+\(network,.*?)```", page, re.DOTALL):
        exec(compile(text, "docs/howto/objective.md", "exec"), found)
    x, y = torch.randn(12, 3), torch.tensor([0, 0, 1, 2, 3, 0, 1, 2, 0, 3, 1, 2])

    def centre(name, network, data, **more):
        surface = lsengine.evaluate(
            network, data, objective=found[name], grid={"alpha": [0, 1, 2]}, normalize="none",
            ignore=[], progress=False, threads=1, device="cpu", **more,
        )  # fmt: skip
        return {name: float(values[0]) for name, values in surface.quantities.items()}

    assert centre("residual", Curve(), x[:, :1])["train_loss"] == pytest.approx(0, abs=1e-12)
    contrast = centre("contrast", Zero(3, 2), (x, x), batch_size=12)
    assert contrast["train_loss"] == pytest.approx(np.log(12))
    left = centre("play", Zero(4, 2), torch.arange(3))  # it always pushes to the left
    assert -11 <= left["train_loss"] <= -8
    judged = centre("judge", Zero(3, 4), {"ids": x, "mask": x > 0, "y": y})
    expected = {"loss": np.log(4), "match": 4 / 12, "brier": 3 / 4, "calibration": 1 / 3 - 1 / 4}
    assert {name: judged[f"train_{name}"] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_the_notebook_runs(tmp_path, monkeypatch):
    """From top to bottom in a kernel of its own; surfaces, figures and pages show themselves."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # outputs are not kept
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=place).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output["data"] for output in outputs if "data" in output]
    assert ["image/png" in data for data in shown] == [False, True, False, True, True]
    assert shown[0]["text/html"].count("data:image/png;base64,") == 1
    assert "121 of 121 cells done" in shown[0]["text/html"]
    assert "<iframe" in shown[2]["text/html"]
    bar = "".join(output["text"] for output in outputs if output.get("name") == "stderr")
    assert "121/121" in bar
    assert lsengine.open(tmp_path / "margin.h5").counts()["done"] == 11


def test_importing_loads_nothing_heavy():
    """Neither the package nor, of torch and MPI, opening a file."""
    code = (
        "import sys, lsengine\n"
        "heavy = {'torch', 'mpi4py', 'h5py', 'numpy', 'matplotlib', 'yaml', 'xarray'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
        "surface = lsengine.open(sys.argv[1])\n"
        "repr(surface), surface.to_xarray()\n"
        "assert not {'torch', 'mpi4py', 'matplotlib'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(ARCHIVED)], check=True, timeout=60)


def test_a_file_that_is_being_written_opens(tmp_path):
    """With the cells that are done at that moment; the writer goes on."""
    path = tmp_path / "s.h5"
    grid = make_grid((-1.0, 1.0, 3), repeats=2)
    store.create(path, Layout(grid=grid, quantities=["train_loss"], attributes={"name": "live"}))
    writer = store.Writer(path)
    counts = []
    for cell in range(2):
        writer.write(
            CellResults(
                cells=[cell], values={"train_loss": [float(cell)]}, wall_s=[0.0], finished=[0.0]
            )
        )
        surface = lsengine.open(path)
        counts.append(surface.counts()["done"])
        assert surface.mask.sum() == 5 - cell
    writer.close()
    assert counts == [1, 2]
    assert surface.beta is None
    assert surface.repeat.tolist() == [0, 1]
    assert surface.job == ""
    assert "2 of 6 cells done" in repr(surface)


def test_xarray_has_names_for_cells(tmp_path):
    """Dimensions, coordinates and attributes of the surface, the status among the variables."""
    found = lsengine.open(ARCHIVED).to_xarray()
    surface = store.read(ARCHIVED)
    assert found["train_loss"].dims == ("beta", "alpha")
    assert set(found.data_vars) == {*surface.quantities, "status"}
    assert found["train_loss"].sel(alpha=-0.5, beta=0.5) == surface.quantities["train_loss"][2, 1]
    assert found.attrs["fingerprint"] == surface.attributes["fingerprint"]


def test_a_surface_is_a_tree_with_its_trajectory():
    """Names stay as they are, and the branch's alpha is the trajectory's, not the grid's."""
    surface = lsengine.open(ARCHIVED)
    tree = surface.to_datatree()
    np.testing.assert_array_equal(tree["train_loss"], surface.quantities["train_loss"])
    columns = surface.trajectory.columns
    np.testing.assert_array_equal(tree["trajectory/alpha"], columns["alpha"])
    np.testing.assert_array_equal(tree["trajectory"]["epoch"], columns["epoch"])


def test_what_cannot_be_opened_is_said(tmp_path, monkeypatch):
    """No such file, no surface, no xarray."""
    with pytest.raises(UsageError, match="no such file"):
        lsengine.open(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("alpha,beta")
    with pytest.raises(SurfaceError, match=r"text\.h5"):
        lsengine.open(tmp_path / "text.h5")
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(EnvironmentUnfit, match=r"pip install .*\[netcdf\]"):
        lsengine.open(ARCHIVED).to_xarray()


# The file in xarray, without lsengine.


@pytest.fixture(params=["alone", "trajectory", "directions", "both"])
def laid_out(request, tmp_path):
    """A plane with and without directions and a trajectory."""
    track = TrajectoryLayout(
        {"epoch": np.array([1, 5]), "alpha": np.array([0.5, 0.0]), "beta": np.array([0.25, 0.0])},
        ["train_loss"],
        {"expected_cosine": 0.125},
    )
    one = {"w": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32)}
    path, kind = tmp_path / "s.h5", request.param
    layout = Layout(
        grid=make_grid((-1.0, 1.0, 4), (0.0, 1.0, 3)),
        quantities=["train_loss"],
        attributes={"name": "plane"},
        directions={"alpha": one, "beta": one} if kind in ("directions", "both") else {},
        trajectory=track if kind in ("trajectory", "both") else None,
        state_dict_layout='[["w",[2,2],true],["b",[2],true]]',
    )
    store.create(path, layout)
    return path, layout


def test_xarray_opens_the_dataset_and_every_group(laid_out):
    """`open_dataset`, of the trajectory too, `open_groups`, and `open_datatree` of a group."""
    path, layout = laid_out
    with xarray.open_dataset(path) as found:
        assert found["train_loss"].dims == ("beta", "alpha")
        np.testing.assert_array_equal(found["alpha"], layout.grid.axes["alpha"])
    groups = {"/"}
    if layout.trajectory is not None:
        groups |= {"/trajectory"}
        with xarray.open_dataset(path, group="trajectory") as found:
            np.testing.assert_array_equal(found["alpha"].sel(epoch=1), 0.5)
    if layout.directions:
        groups |= {"/directions", "/directions/along_alpha", "/directions/along_beta"}
        with xarray.open_datatree(path, group="directions") as tree:
            assert tree["along_beta/w"].shape == (2, 2)
    found = xarray.open_groups(path)
    assert found.keys() == groups
    for dataset in found.values():
        dataset.close()


def test_xarray_opens_the_whole_file_as_a_tree(laid_out):
    """Without any option, whatever the file holds, and cells are found by coordinates."""
    path, layout = laid_out
    with xarray.open_datatree(path) as tree:
        assert tree["train_loss"].dims == ("beta", "alpha")
        assert tree["train_loss"].sel(beta=0.0).shape == (4,)
        np.testing.assert_array_equal(tree["alpha"], layout.grid.axes["alpha"])
        if layout.directions:
            assert tree["directions/along_alpha/w"].shape == (2, 2)
        if layout.trajectory is not None:
            own = tree["trajectory"].to_dataset(inherit=False)
            np.testing.assert_array_equal(own["alpha"], [0.5, 0.0])
            np.testing.assert_array_equal(own["epoch"], [1, 5])
            # The trap that docs/FORMAT.md warns of: an indexed coordinate hides a group's own.
            assert tree["trajectory/alpha"].dims == ("alpha",)


def test_the_format_page_reads_what_it_says(tmp_path, monkeypatch):
    """Its lines run on a file with directions and a trajectory."""
    shutil.copy(ARCHIVED, tmp_path / "surface.h5")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "FORMAT.md").read_text()
    (text,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(compile(text, "docs/FORMAT.md", "exec"), names)
    columns = store.read(ARCHIVED).trajectory.columns
    np.testing.assert_array_equal(names["track"]["alpha"], columns["alpha"])
    np.testing.assert_array_equal(names["path"]["alpha"], columns["alpha"])
    for name in ("surface", "track", "tree", "path"):
        names[name].close()
