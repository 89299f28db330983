"""What is settled before the first cell, and recorded in the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lsengine import cores, store
from lsengine.cli import main
from lsengine.engine import Options, evaluate, messages
from lsengine.external import installation
from tests.support.surfaces import edited


def test_what_was_settled_is_taken_from_the_file(make_job):
    """A resume uses the file's batch size, whatever `auto` would give now."""
    job = make_job(batch_size="auto")
    assert evaluate([job], Options(progress="none"), world=None) == 0
    before = store.read(job.with_suffix(".h5"))
    assert before.attributes["batch_size"] == 512
    with edited(job.with_suffix(".h5")) as file:
        file["status"][...] = 0
        file.attrs["batch_size"] = 13
    assert evaluate([job], Options(progress="none"), world=None) == 0
    after = store.read(job.with_suffix(".h5")).quantities["train_loss"]
    np.testing.assert_allclose(after, before.quantities["train_loss"], rtol=1e-6)


def test_the_file_says_where_it_comes_from(make_job):
    """Every root attribute of the format is there and not empty."""
    job = make_job()
    assert evaluate([job], Options(progress="none"), world=None) == 0
    attributes = store.read(job.with_suffix(".h5")).attributes
    expected = (
        "format format_version lsengine_version job fingerprint cell_fingerprint created "
        "checkpoint_sha256 data_sha256 torch_version mpi_library writing precision batch_size "
        "threads device_kind forward direction_cosine direction_sizes"
    )
    assert all(attributes.get(name) not in (None, "") for name in expected.split())


def test_another_commit_goes_on(make_job, monkeypatch):
    """The file names the commit that began it, and has the cells of an undisturbed run."""
    job, undisturbed = make_job(), make_job("undisturbed")
    for path in (job, undisturbed):
        assert evaluate([path], Options(progress="none"), world=None) == 0
    with edited(job.with_suffix(".h5")) as file:
        begun = str(file.attrs["lsengine_version"])
        file["status"][0, :2] = 0
    monkeypatch.setattr(installation, "version", lambda: "0.1.0+gffffffffffff")
    assert evaluate([job], Options(progress="none"), world=None) == 0
    resumed, whole = (store.read(path.with_suffix(".h5")) for path in (job, undisturbed))
    assert resumed.attributes["lsengine_version"] == begun
    assert np.all(resumed.status == whole.status)
    for name, values in whole.quantities.items():
        np.testing.assert_array_equal(resumed.quantities[name], values)


def test_a_run_that_goes_on_keeps_the_threads_of_the_file(make_job, monkeypatch, capsys):
    """Last bits may depend on them; with fewer cores it warns.  What it keeps it says."""
    job = make_job(threads=2, grid={"alpha": [-1, 1, 3]}, directions={"alpha": {"kind": "random"}})
    assert evaluate([job], Options(progress="none"), world=None) == 0
    for name in cores.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    for count, threads in ((4, 2), (1, 1)):
        with edited(job.with_suffix(".h5")) as file:
            file["status"][...] = 0
        monkeypatch.setattr(cores, "bound", lambda count=count: frozenset(range(count)))
        monkeypatch.setattr(messages, "bound", lambda count=count: frozenset(range(count)))
        capsys.readouterr()
        changes = ["threads=auto"]
        assert evaluate([job], Options(progress="none"), world=None, changes=changes) == 0
        text = capsys.readouterr().err
        assert f"threads={threads} (" in text
        assert ("threads is 1 here, 2 in the file" in text) == (threads == 1)
    torch.set_num_threads(before)


@pytest.mark.parametrize(("count", "threads", "more"), [(5, 2, 2), (1, 1, 0), (3, 2, 0)])
def test_idle_cores_of_a_process_alone_are_named(
    make_job, monkeypatch, capsys, count, threads, more
):
    """Of a process alone, where more would use them, by the command that can start some."""
    alpha = {"alpha": {"kind": "random"}}
    job = make_job(threads=threads, grid={"alpha": [-1, 1, 3]}, directions=alpha)
    monkeypatch.setattr(cores, "count", lambda: count)
    assert main(["eval", str(job), "--progress", "none"]) == 0
    hint = f"; --workers {more} would use {more * threads} cores"
    said = capsys.readouterr().err
    assert (hint in said) if more else ("would use" not in said)
    job.with_suffix(".h5").unlink()
    assert evaluate([job], Options(progress="none"), world=None) == 0
    assert "would use" not in capsys.readouterr().err
