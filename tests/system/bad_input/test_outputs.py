"""Outputs that cannot be written, or must not be replaced."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lsengine import store
from lsengine.cli import main
from lsengine.store import lock
from lsengine.surface.grid import Grid
from tests.support.refusals import (
    CURVE,
    MLP,
    TRAIN,
    WIDE,
    check_refusal,
    content_of,
    fill,
    run_process,
    run_unprivileged,
)


@pytest.mark.parametrize("output", ["/proc/lsengine.h5", "/proc/lsengine/s.h5", "/dev/null/s.h5"])
def test_outputs_nobody_can_write(job, refused, output):
    """Not even root: the folder takes no files, or is none."""
    path = job(output=output)
    code = 2 if output.startswith("/dev") else 3
    refused("eval", path, code=code, says=str(Path(output).parent))


def test_folders_and_surfaces_that_may_not_be_written(job, tmp_path):
    """Output, training folder and an unfinished surface are closed; all stay as they are."""
    path = job(train=TRAIN, **CURVE)
    assert main(["eval", str(path)]) == 0
    with h5py.File(tmp_path / "job.h5", "r+") as file:
        file["status"][0] = 0
    (tmp_path / "job.h5").chmod(0o444)
    before = content_of(tmp_path)
    check_refusal(*run_unprivileged("eval", path), 4, ["job.h5: cannot be opened for writing"])
    assert content_of(tmp_path) == before
    tmp_path.chmod(0o555)
    try:
        for command, key in (("eval", "output: "), ("train", "train.output: ")):
            says = [key, "cannot write in", "check its permissions"]
            check_refusal(*run_unprivileged(command, path), 2, says)
        check_refusal(*run_unprivileged("init", tmp_path / "new.yaml"), 3, "cannot be written")
    finally:
        tmp_path.chmod(0o755)
    assert content_of(tmp_path) == before


def test_a_folder_that_is_mounted_read_only_is_named(job, refused, small_disk):
    """Other permissions would not help."""
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    path = job(output=str(small_disk / "a.h5"))
    refused("eval", path, says=[f"cannot write in {small_disk}", "mounted read-only"])


@pytest.mark.parametrize("command", ["eval", "train"])
def test_a_disk_without_room_for_a_lock(job, refused, small_disk, command):
    """Nothing but the message: neither a surface nor a lock."""
    path = job(output="disk/s.h5", train={**TRAIN, "output": "disk/trained"})
    (small_disk / "trained").mkdir()
    fill(small_disk)
    refused(command, path, code=3, says="No space left on device")


@pytest.mark.parametrize("command", ["eval", "train"])
def test_a_disk_without_room_for_the_results(job, small_disk, command):
    """A process of its own shows that its end is clean, too: HDF5 has crashed here."""
    model = {"arch": "testnets:mlp", "args": {"width": 4096}, "checkpoint": "centre.pt"}
    train = {**TRAIN, "output": "disk/trained"}
    path = job(model=model, output="disk/s.h5", train=train, grid=WIDE)
    (small_disk / "trained").mkdir()
    fill(small_disk, leave=8192)
    before = content_of(path.parent)
    check_refusal(*run_process(command, path), 3, "No space left on device")
    assert {k: v for k, v in content_of(path.parent).items() if k.name != "history.h5"} == before


def test_a_quota_without_room_for_the_surface(job):
    """A limit that the free space of the disk does not tell, as on a cluster's file systems."""
    path = job(grid=WIDE)
    before = content_of(path.parent)
    limit = ["sh", "-c", 'ulimit -f 64; exec "$0" "$@"']
    check_refusal(*run_process("eval", path, prefix=limit), 3, "job.h5: ")
    assert content_of(path.parent) == before


def test_a_disk_that_fills_up_after_the_layout(job, small_disk, capfd):
    """The space is the file's own from the start: the run ends as if nothing had happened."""
    path = job(output="disk/s.h5", **CURVE)
    assert main(["eval", str(path)]) == 0
    with h5py.File(small_disk / "s.h5", "r+") as file:
        file["status"][:] = 0
    fill(small_disk, leave=4096)  # for the lock
    assert main(["eval", str(path)]) == 0
    assert "Traceback" not in capfd.readouterr().err
    assert store.read(small_disk / "s.h5").done.all()


def test_a_disk_that_refuses_writing_in_the_middle(job, tmp_path):
    """Code 3, the lock is gone, the file opens, and the same command goes on from it."""
    path = job(loss="mine:disk_full_loss")
    says = ["job.h5: cannot be written", "the same command goes on"]
    check_refusal(*run_process("eval", path, "--chunk", "1"), 3, says)
    counts = store.read(tmp_path / "job.h5").counts()
    assert counts["done"] > 0
    assert counts["missing"] > 0
    assert not (tmp_path / "job.h5.lock").exists()


def test_a_surface_of_another_job(job, refused, tmp_path):
    """The first difference is named, finished cells or not."""
    assert main(["eval", str(job(**CURVE))]) == 0
    says = ["belongs to another job", "grid.alpha", "give this job another output"]
    refused("eval", job(**{**CURVE, "grid": {"alpha": [-1, 1, 5]}}), code=4, says=says)
    torch.save({"state_dict": _moved(tmp_path / "centre.pt")}, tmp_path / "moved.pt")
    model = {**MLP, "checkpoint": "moved.pt"}
    refused(
        "eval",
        job(model=model, **CURVE),
        code=4,
        says="the content of checkpoint is not what it was",
    )


def _moved(path):
    state = torch.load(path)["state_dict"]
    return {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}


def test_a_surface_that_another_run_is_writing(job, refused, tmp_path, monkeypatch):
    """Who holds the lock is said, and how to remove it if that run is dead."""
    monkeypatch.setattr(lock, "_DYING_S", 0.1)
    path = job()
    with lock.held(tmp_path / "job.h5", lost=lambda: None):
        says = [f"locked by process {os.getpid()}", f"rm {tmp_path / 'job.h5.lock'}"]
        refused("eval", path, code=4, says=says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--as", "countour"], ["unknown kind of picture 'countour'", 'did you mean "contour"?']),
        (["--as", "curve"], ["has two directions", "use --as contour"]),
        (["--quantity", "train_los"], ["no quantity 'train_los'", 'did you mean "train_loss"?']),
        (["--scale", "square"], ["got 'square'", "expected auto, linear, log, quantile"]),
        (["--style", "pastel"], "unknown style 'pastel'"),
        (["--levels", "1"], ["levels: got 1", "expected an integer from 2 to 100"]),
        (["--limits", "3", "2"], "expected two numbers, the lower first"),
        (["--limits", "0", "2", "--scale", "log"], "a log scale cannot show"),
        (["--output", "FOLDER/picture.jpg"], ["extension '.jpg'", "png, pdf, svg"]),
        (["--output", "FOLDER/plane.h5"], "extension '.h5'"),
        (["--output", "FOLDER/gone/picture.png"], "there is no folder"),
        (["--output", "FOLDER/folder.png"], "is a folder; name a file in it"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_pictures_that_cannot_be_drawn(refused, surface, options, says):
    """What was asked for, what there is, and what to ask instead."""
    (surface.parent / "folder.png").mkdir()
    options = [o.replace("FOLDER", str(surface.parent)) for o in options]
    refused("render", surface, *options, says=says)


def test_pictures_on_a_full_disk(surface, small_disk, refused):
    """The picture that was there stays."""
    (small_disk / "plane.png").write_bytes(b"the old one")
    fill(small_disk)
    says = ["plane.png: cannot be written: No space left on device", "another --output"]
    refused("render", surface, "-o", small_disk / "plane.png", code=3, says=says)


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "plane.h5", "--csv", "plane.h5"],
        ["histogram", "centre.pt", "-o", "plane.h5"],
        ["histogram", "centre.pt", "-o", "centre.pt"],
    ],
    ids=" ".join,
)
def test_tables_never_replace_what_they_are_made_of(job, surface, refused, arguments):
    """A slip with the output must not cost a surface or a checkpoint."""
    job()
    names = ("plane.h5", "centre.pt")
    refused(*(surface.with_name(a) if a in names else a for a in arguments))


def test_pictures_of_a_surface_without_results(refused, tmp_path):
    """A file that has just been laid out."""
    grid = Grid({"beta": np.arange(3.0), "alpha": np.arange(4.0)})
    store.create(
        tmp_path / "new.h5", store.Layout(grid=grid, quantities=["train_loss"], attributes={})
    )
    refused("render", tmp_path / "new.h5", says=["none of 12 cells is done", "run lsengine eval"])


def test_init_never_overwrites(refused, tmp_path):
    """An existing file, a folder, and a folder that is not there."""
    (tmp_path / "job.yaml").write_text("mine")
    refused("init", tmp_path / "job.yaml", says="job.yaml: exists; give another name")
    refused(
        "init",
        tmp_path,
        says=["checkpoint: ", "is a directory", "expected a file, or a folder with"],
    )
    refused(
        "init", tmp_path / "gone" / "job.yaml", code=3, says=["cannot be written", "No such file"]
    )
