"""How a run ends."""

from __future__ import annotations

import shutil

import h5py
import pytest

from lsengine import store
from lsengine.engine import Options, evaluate
from lsengine.errors import EnvironmentUnfit


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        ("remove", "is not there any more .*bring it back"),
        ("replace", "is another file than the one this run has written"),
        ("lose", "28 cells that were written are not in the file"),
    ],
)
def test_a_file_that_has_gone_is_not_called_done(make_job, monkeypatch, deed, message):
    """Removed, replaced, or without what was written: exit 3 and one message, no success."""
    job = make_job()
    surface = job.with_suffix(".h5")
    conclude = store.Writer.close

    def close(writer):
        conclude(writer)
        if deed == "replace":
            shutil.copy(surface, surface.with_suffix(".copy"))
            surface.with_suffix(".copy").rename(surface)
        elif deed == "remove":
            surface.unlink()
        else:
            with h5py.File(surface, "r+") as file:
                file["status"][...] = 0

    monkeypatch.setattr(store.Writer, "close", close)
    with pytest.raises(EnvironmentUnfit, match=message):
        evaluate([job], Options(progress="none"), world=None)
