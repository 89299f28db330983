"""Mistakes in jobs, on command lines and in users' own code."""

from __future__ import annotations

import pytest
import torch
import yaml

from lsengine import store
from lsengine.cli import main
from tests.support.refusals import (
    ARRAYS,
    CURVE,
    MLP,
)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gird": {}}, 'gird: unknown key; did you mean "grid"?'),
        ({"model": {**MLP, "chekpoint": "x"}}, 'model.chekpoint: unknown key; did you mean "check'),
        ({"batch_size": "large"}, 'batch_size: expected "auto" or an integer of at least 1, got "'),
        ({"threads": 1.5}, 'threads: expected "auto" or an integer of at least 1, got 1.5'),
        ({"loss": 3}, "loss: expected string, got 3"),
        ({"seed": True}, "seed: expected integer, got true"),
        ({"seed": 10**30}, "seed: an integer of more than 64 bits"),
        ({"grid": {"alpha": [-1, 1]}}, "grid.alpha: expected [start, stop, points]"),
        ({"grid": {"alpha": [0, 1, 10**6], "beta": [0, 1, 10**6]}}, "1,000,000,000,000 cells"),
        ({"repeats": 3}, "repeats: got 3; two directions allow 1 only"),
        (
            {"batch_norm": "recalibrated", "data": {**ARRAYS, "splits": ["test"]}},
            "batch_norm: recalibrated is from training samples; data.splits needs train",
        ),
        ({"directions": None}, 'directions: required by "lsengine eval", but missing'),
        ({"model": {**MLP, "checkpoint": "gone.pt"}}, "model.checkpoint: no such file: "),
        ({"model": {**MLP, "checkpoint": "a\0b"}}, "model.checkpoint: "),
        ({"output": "a\0b"}, 'output: holds the control character "\\u0000"'),
        ({"output": "~nobody_of_that_name/data.npz/s.h5", "data": None}, "data: required"),
        ({"data": {"dataset": "arrays", "root": "gone.npz"}}, "expected an .npz file"),
        ({"data": {"dataset": "imagenet"}}, "data.dataset: got"),
        ({"data": {"dataset": "arrays", "root": "."}}, "is a directory; expected an .npz file"),
        ({"output": "."}, "is a directory; expected the name of a file"),
        ({"output": "data.npz/s.h5"}, "data.npz is not a directory"),
        ({"model": {"arch": "resnet57", "checkpoint": "data.npz"}}, 'did you mean "resnet5'),
        (
            {"data": {**ARRAYS, "normalize": {"mean": [float("nan")], "std": [1.0]}}},
            "data.normalize.mean",
        ),
    ],
    ids=str,
)
def test_jobs_with_a_wrong_key(job, refused, changes, says):
    """Key path, what was found and what is allowed, before anything is loaded."""
    refused("eval", job(**changes), says=says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "got an empty file"),
        (b"- model\n- data\n", "expected a mapping"),
        (b"model: [unclosed\n", "not valid YAML"),
        (b"\x89HDF\r\n\x1a\n\xff", "cannot be read as text"),
        (b"name: a\nname: b\n", "key name is given twice"),
        (b"model: !!python/object/apply:os.system ['touch owned']\n", "not valid YAML"),
        (b"name: " + b"[" * 500 + b"]" * 500, "nested too deeply"),
        (b"model: &m\n  arch: mlp\n  args: *m\n", "an alias stands for what it is part of"),
        (b"7: 8\n", "job: the key 7 is no text"),
        (b"? [a, b]\n: 1\n", "not valid YAML"),
    ],
    ids=lambda v: v[:20],
)
def test_files_that_are_no_jobs(tmp_path, refused, text, says):
    """Empty, binary, broken, dangerous, endless: one sentence each, whatever they are for."""
    path = tmp_path / "bad.yaml"
    path.write_bytes(text)
    for command in ("eval", "train", "status"):
        refused(command, path, says=says)


@pytest.mark.parametrize("command", ["eval", "train", "status"])
def test_a_job_that_is_not_there_or_a_folder(tmp_path, refused, command):
    """The message says how to get one."""
    refused(command, tmp_path / "gone.yaml", says='no such file; "lsengine init" writes')
    (tmp_path / "folder.yaml").mkdir()
    refused(command, tmp_path / "folder.yaml", says="is a directory; expected a YAML job file")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["evaluate", "x"],
        ["eval"],
        ["eval", "x.yaml", "--chunk", "0"],
        ["eval", "x.yaml", "--resume"],
        ["render", "x.h5", "--levels", "many"],
        ["render", "x.h5", "--limits", "1"],
    ],
    ids=" ".join,
)
def test_wrong_command_lines(refused, arguments):
    """Argparse's own code for them is the documented one."""
    refused(*arguments, says="lsengine")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there(job, refused):
    """The job is right, this machine is unfit for it."""
    refused("eval", job(device="cuda"), code=3, says="device: cuda is asked for")


def test_parallel_writing_alone_or_without_mpi(job, tmp_path, capfd):
    """A process alone has nobody to write in parallel with; serial h5py refuses."""
    path = job(writing="parallel", **CURVE)
    code = main(["eval", str(path)])
    assert code == (0 if store.has_mpi() else 3)
    assert "Traceback" not in capfd.readouterr().err
    assert (tmp_path / "job.h5").exists() == store.has_mpi()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {**MLP, "arch": "mine:raises"}}, ["model.arch", "ValueError: no such width"]),
        ({"model": {**MLP, "arch": "mine:gone"}}, ['model.arch: no "gone" in', "mine.py"]),
        ({"model": {**MLP, "arch": "his:net"}}, 'model.arch: no module "his", neither on PYTHON'),
        (
            {"model": {**MLP, "arch": "broken:net"}},
            ['importing "broken" failed: SyntaxError', "line 1"],
        ),
        ({"model": {**MLP, "arch": "script:net"}}, ["model.arch", "SystemExit"]),
        ({"model": {**MLP, "arch": "mine:leaves"}}, ["model.arch", "SystemExit"]),
        ({"model": {**MLP, "arch": "mine:words"}}, "returned str; expected a torch.nn.Module"),
        ({"model": {**MLP, "arch": "mine:Pair"}}, "let it return one tensor, or a dict"),
        ({"model": {**MLP, "arch": "mine:not_callable"}}, "is int; expected a function"),
        ({"model": {**MLP, "args": {"depth": 3}}}, ["model.arch", "'depth'"]),
        ({"model": {**MLP, "args": {"width": float("nan")}}}, "model.ar"),
        ({"loss": "mine:undefined_loss"}, ["loss: mine:undefined_loss", "NameError"]),
        ({"loss": "mine:wrong_shape_loss"}, "loss: mine:wrong_shape_loss refuses the network's"),
        ({"loss": "mine:gone"}, 'loss: no "gone" in'),
        ({"data": {"dataset": "mine:no_data"}}, "returned list; expected a mapping with x_train"),
        (
            {"data": {"dataset": "mine:hollow_data", "splits": ["train"]}},
            "data.dataset: mine:hollow_data: train inputs",
        ),
        ({"data": {"dataset": "mine:raises"}}, ["data.dataset", "ValueError: no such width"]),
    ],
    ids=lambda v: next(iter(v.values())) if isinstance(v, dict) else "",
)
def test_code_of_the_user_that_fails(job, refused, tmp_path, changes, says):
    """The message says which of the job's keys called it, and what it raised."""
    (tmp_path / "broken.py").write_text("def net(:\n    pass\n")
    (tmp_path / "script.py").write_text("import sys\nsys.exit('usage: script FILE')\n")
    model = changes.get("model", MLP)
    path = job()  # with its checkpoint
    document = {**yaml.safe_load(path.read_text()), **changes, "model": model}
    path.write_text(yaml.safe_dump(document))
    refused("eval", path, says=says)


def test_arguments_may_be_infinite(job, tmp_path):
    """A factory's own numbers are its own business."""
    path = job()  # with its checkpoint
    model = {**MLP, "arch": "mine:limited", "args": {"highest": float("inf")}}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "model": model}))
    for _ in range(2):  # its identity is found again
        assert main(["eval", str(path)]) == 0


def test_a_loss_that_fails_on_the_way_fails_its_cells(job, tmp_path, capfd):
    """The run ends with code 5 and lists the cells; the others are done."""
    path = job(loss="mine:worse_later_loss", **CURVE)
    assert main(["eval", str(path)]) == 5
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert "--retry-failed tries them again" in error
    assert "RuntimeError: no loss any more" in error
    counts = store.read(tmp_path / "job.h5").counts()
    assert counts["failed"] == 2
    assert counts["done"] == 1
    assert not (tmp_path / "job.h5.lock").exists()
