"""What writers of formats share: a file that costs no surface, and the quantity for a height."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lsengine import store
from lsengine.cli import main
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.export import export
from lsengine.export.output import height, output
from lsengine.surface.grid import make_grid
from tests.support.exported import value, write_surface
from tests.support.landscapes import make_plane


def test_a_file_takes_its_name_when_it_is_complete(plane, tmp_path):
    """Until then it stands beside, with the same suffix; what was there before is replaced."""
    path = tmp_path / "a.csv"
    path.write_text("old")
    with output(path, store.read(plane)) as part:
        assert (part.parent, part.suffix) == (tmp_path, ".csv")
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "plane.h5"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), RuntimeError("HDF5")])
def test_a_file_that_cannot_be_written_is_the_environments_fault(plane, tmp_path, failure):
    """Python's errors and HDF5's; nothing is left behind."""
    surface = store.read(plane)

    def write():
        with output(tmp_path / "a.nc", surface) as part:
            part.write_text("half")
            raise failure

    with pytest.raises(EnvironmentUnfit, match=r"a\.nc: cannot be written: .*another --output"):
        write()
    assert [p.name for p in tmp_path.iterdir()] == ["plane.h5"]


def test_the_height_is_the_one_asked_for_or_the_one_that_is_drawn():
    """The training loss if there is one, else what a picture would show."""
    plane = make_plane()
    assert height(plane, None) == "train_loss"
    assert height(plane, "test_accuracy") == "test_accuracy"
    bare = replace(plane, quantities={"b": plane.status, "a": plane.status})
    assert height(bare, None) == "a"


def test_a_height_that_is_not_there_is_refused_with_what_is():
    """With the nearest name; a surface of nothing lacks the training loss."""
    plane = make_plane()
    with pytest.raises(UsageError, match=r"'train_los'; it has: test_accuracy, train_loss.*mean"):
        height(plane, "train_los")
    with pytest.raises(UsageError, match=r"plane\.h5: has no quantity 'train_loss'"):
        height(replace(plane, quantities={}), None)


def test_a_surface_is_never_replaced(plane, capsys):
    """Neither the one that is exported, nor through a link, nor another."""
    other = write_surface(plane.with_name("other.h5"), make_grid((0, 1, 2)), [], train_loss=value)
    link = plane.with_name("link.h5")
    link.symlink_to(plane)
    for target in (plane, link, other):
        before = target.read_bytes()
        arguments = ["export", str(plane), "--to", "loss-landscape", "-o", str(target)]
        assert main(arguments) == 2
        assert "choose another name" in capsys.readouterr().err
        assert target.read_bytes() == before


def test_a_killed_export_leaves_the_old_file(plane, monkeypatch):
    """The new one appears when it is complete, and not before."""
    (path,) = export(plane, "npz")
    before = path.read_bytes()

    def interrupted(member, *_, **__):
        member.write(b"half an array")
        raise KeyboardInterrupt

    monkeypatch.setattr(np.lib.format, "write_array", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(plane, "npz")
    assert path.read_bytes() == before
    assert {p.name for p in plane.parent.iterdir()} == {"plane.h5", "plane.npz"}
