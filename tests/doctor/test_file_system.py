"""What the doctor says of a file system on which something cannot be done."""

from __future__ import annotations

import pytest

from lsengine import store
from lsengine.doctor import file_system
from lsengine.errors import EnvironmentUnfit, SurfaceError
from lsengine.store import lock


def _raises(error):
    def function(*arguments, **options):
        raise error

    return function


def test_a_file_that_cannot_be_made_is_no_fault_of_the_lock(monkeypatch, tmp_path):
    """What failed decides, and not whether the message has a word of a lock in it."""
    error = EnvironmentUnfit("no room on volume home.lock for it")
    monkeypatch.setattr(store, "create", _raises(error))
    checks = file_system.survives(tmp_path)
    assert [(c.name, c.verdict) for c in checks] == [("lock", "ok"), ("writing", "problem")]
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("error", [EnvironmentUnfit("no room"), SurfaceError("somebody has it")])
def test_a_lock_that_cannot_be_made_is_told_as_such(monkeypatch, tmp_path, error):
    """Nothing else is tried then."""
    monkeypatch.setattr(lock, "held", _raises(error))
    (check,) = file_system.survives(tmp_path)
    assert (check.name, check.verdict, check.found) == ("lock", "problem", str(error))


def test_the_nearest_folder_that_exists_is_found_from_any_name(tmp_path):
    """A name too long and a circle of links are no folders, and no reason to fail."""
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("x" * 300, "circle", "gone/below"):
        assert file_system.existing(tmp_path / name) == tmp_path
