"""Formats of other programs: what can go wrong with any of them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from lsengine.cli import main
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.export import FORMATS, export
from lsengine.external import installation
from lsengine.surface.grid import make_grid
from tests.support.exported import ALPHA, BETA, write_surface


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--to", "vtp"], 2, "did you mean"),
        (["--to", "csv", "--output", "s.txt"], 2, ".csv"),
        (["--to", "csv", "--quantity", "train_loss"], 2, "--quantity"),
        (["--to", "vts", "--scale", "log"], 2, "--scale"),
        (["--to", "ply", "--scale", "loq"], 2, "linear"),
        (["--to", "vts", "--quantity", "train_los"], 2, "train_loss"),
        (["--to", "csv", "--output", "nowhere/s.csv"], 3, "nowhere"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_what_cannot_be_met_is_said(plane, capsys, monkeypatch, arguments, code, words):
    """One message, no file; 2 of a wrong request, 3 where nothing can be written."""
    monkeypatch.chdir(plane.parent)
    assert main(["export", "plane.h5", *arguments]) == code
    assert words in capsys.readouterr().err
    assert [p.name for p in plane.parent.iterdir()] == ["plane.h5"]


@pytest.mark.parametrize(
    ("form", "module"), [("vts", "vtkmodules"), ("glb", "trimesh"), ("netcdf", "h5netcdf")]
)
def test_a_missing_library_is_named_with_its_extra(bowl, form, module):
    """Exit code 3 and what to install."""
    code = (
        "import sys; sys.modules[sys.argv[1]] = None\n"
        "from lsengine.cli import main\n"
        "sys.exit(main(['export', sys.argv[2], '--to', sys.argv[3]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, module, str(bowl), form],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == EnvironmentUnfit.exit_code, done.stderr
    assert installation.install("").removesuffix("]'") in done.stderr
    assert "Traceback" not in done.stderr
    assert [p.name for p in bowl.parent.iterdir()] == ["bowl.h5"]


@pytest.mark.parametrize("form", FORMATS)
def test_files_of_loss_landscape_are_exported_like_any_other(tmp_path, form):
    """A partial plane that is not square."""
    from tests.support import loss_landscape_files

    path = loss_landscape_files.write_surface(
        tmp_path / "old.h5", ALPHA, BETA, done=range(12), train_loss=lambda x, y: 1 + x**2 + y
    )
    (written,) = export(path, form)
    assert written.stat().st_size > 100


@pytest.mark.parametrize("form", ["vts", "glb", "ply"])
def test_a_surface_without_a_height_is_refused_with_counts_and_advice(tmp_path, form):
    """What keeps each cell out is counted, and the format that takes it is named."""
    grid = make_grid([-1, 1, 3], [-1, 1, 3])
    path = tmp_path / "nan.h5"
    write_surface(path, grid, range(8), failed=[8], train_loss=lambda row, column: np.nan)
    with pytest.raises(UsageError, match=r"8 NaN, 1 failed of 9 cells.*--to csv"):
        export(path, form)


def test_a_plane_with_nothing_to_join_is_drawn_cell_by_cell(tmp_path, capsys):
    """Without --as one cell becomes a heat map; contours would be refused."""
    path = tmp_path / "one.h5"
    write_surface(path, make_grid([0, 0, 1], [0, 0, 1]), [0], train_loss=lambda b, a: 2.0)
    assert main(["render", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "one-heatmap.png")
