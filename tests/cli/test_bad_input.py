"""Broken jobs and files through the real commands.

Each gives one clear message and the documented exit code; nothing that was there changes, and
nothing new is left behind.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from lsengine import store
from lsengine.cli import main
from lsengine.store import lock
from lsengine.surface.grid import Grid
from tests.support.jobs import write_job

USER_CODE = '''
"""What a user may have beside a job."""

import resource

import torch
from torch import nn

calls = 0


def raises():
    raise ValueError("no such width")


def leaves():
    raise SystemExit(0)


def limited(highest=1.0):
    from testnets import mlp
    return mlp()


def words():
    return "a network"


class Pair(nn.Sequential):
    def __init__(self):
        from testnets import mlp
        super().__init__(*mlp())

    def forward(self, x):
        return super().forward(x), x


def undefined_loss(output, target):
    return output.sum() + undefined


def wrong_shape_loss(output, target):
    return torch.zeros(7)


def worse_later_loss(output, target):
    global calls
    calls += 1
    if calls > 22:
        raise RuntimeError("no loss any more")
    return nn.functional.cross_entropy(output, target, reduction="none")


def disk_full_loss(output, target):
    """The disk takes nothing more after some cells."""
    global calls
    calls += 1
    if calls > 100:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))
    return nn.functional.cross_entropy(output, target, reduction="none")


def no_data():
    return [1, 2, 3]


def hollow_data():
    return {"x_train": [[1.0, 2.0], [3.0]], "y_train": [0, 1]}


not_callable = 7
'''

WIDE = {"alpha": [-1, 1, 40], "beta": [-1, 1, 40]}
CURVE = {"directions": {"alpha": {"kind": "random"}}, "grid": {"alpha": [-1, 1, 3]}}
MLP = {"arch": "testnets:mlp", "checkpoint": "centre.pt"}
ARRAYS = {"dataset": "arrays", "root": "data.npz"}
FOREIGN = {"alpha": {"kind": "toward", "checkpoint": "other.pt"}}
TRAIN = {"output": "trained", "epochs": 1, "batch_size": 16}


@pytest.fixture(autouse=True)
def _undisturbed(monkeypatch):
    """Put signal handlers back, and leave no compiled modules beside jobs."""
    numbers = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def job(tmp_path):
    """Write a small complete job, with some user's code beside it; changes replace sections."""
    (tmp_path / "mine.py").write_text(USER_CODE)
    return lambda name="job", **changes: write_job(tmp_path, name, **changes)


@pytest.fixture
def surface(tmp_path):
    """A finished surface of a small plane, made without evaluating anything."""
    path = tmp_path / "plane.h5"
    shutil.copy(_plane(tmp_path.parent), path)
    return path


def _plane(folder):
    path = folder / "plane-template.h5"
    if not path.exists():
        grid = Grid({"beta": np.arange(3.0), "alpha": np.arange(4.0)})
        store.create(
            path, store.Layout(grid=grid, quantities=["train_loss"], attributes={"name": "plane"})
        )
        cells = list(range(12))
        times = [float(c) for c in cells]
        values = {"train_loss": times}
        writer = store.Writer(path)
        writer.write(
            store.CellResults(cells=cells, values=values, wall_s=[0.1] * 12, finished=times)
        )
        writer.close()
    return path


@pytest.fixture
def refused(tmp_path, capfd):
    """Run a command that must fail, and check all that every refusal has in common."""

    def run(*arguments, code=2, says=()):
        before = _content(tmp_path)
        capfd.readouterr()
        try:
            found = main([str(a) for a in arguments])
        except SystemExit as ended:
            found = ended.code
        output, error = capfd.readouterr()
        _check_refusal(found, output, error, code, says)
        assert _content(tmp_path) == before
        return error

    return run


def _check_refusal(found, output, error, code, says):
    assert "Traceback" not in output + error, (output + error)[-400:]
    assert found == code, error
    for words in [says] if isinstance(says, str) else says:
        assert words in error, error
    # Log lines start with the rank, further lines of one message are indented.
    heads = [line for line in error.splitlines() if not line.startswith((" ", "r000", "usage"))]
    assert len(heads) == 1, error


def _content(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# Jobs.


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gird": {}}, 'gird: unknown key; did you mean "grid"?'),
        ({"model": {**MLP, "chekpoint": "x"}}, 'model.chekpoint: unknown key; did you mean "check'),
        ({"batch_size": "large"}, 'batch_size: expected "auto" or an integer of at least 1, got "'),
        ({"threads": 1.5}, 'threads: expected "auto" or an integer of at least 1, got 1.5'),
        ({"loss": 3}, "loss: expected string, got 3"),
        ({"seed": True}, "seed: expected integer, got true"),
        ({"seed": 10**30}, "seed: expected less than"),
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
        ({"output": "a\0b"}, "output: no file can have the name"),
        ({"output": "~nobody_of_that_name/data.npz/s.h5", "data": None}, "data: required"),
        ({"data": {"dataset": "arrays", "root": "gone.npz"}}, "expected an .npz file"),
        ({"data": {"dataset": "imagenet"}}, "data.dataset: got"),
        ({"data": {"dataset": "arrays", "root": "."}}, "is a directory; expected a file"),
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
        (b"7: 8\n", "[7]: expected Keys should be strings, got 7"),
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


# Checkpoints.


def _text(path):
    path.write_text("these are not weights\n")


def _empty(path):
    path.write_bytes(b"")


def _truncated(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _foreign_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights here")


class _Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path.with_name("owned")),)


def _code(path):
    torch.save({"state_dict": {"0.weight": _Evil(path)}}, path)


def _bare_code(path):
    path.write_bytes(pickle.dumps({"state_dict": {"0.weight": _Evil(path)}}, protocol=2))


def _module(path):
    torch.save({"model": torch.nn.Linear(6, 3)}, path)


def _list(path):
    torch.save([torch.zeros(3)], path)


def _other_network(path):
    torch.save(torch.nn.Linear(6, 3).state_dict(), path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_text, "is not a checkpoint of torch, or damaged"),
        (_empty, "is not a checkpoint of torch, or damaged"),
        (_truncated, "is not a checkpoint of torch, or damaged"),
        (_foreign_zip, "is not a checkpoint of torch, or damaged"),
        (_code, "reading those may run code (posix.mkdir)"),
        (_bare_code, "reading those may run code (posix.mkdir)"),
        (_module, "reading those may run code (torch.nn.modules.linear.Linear)"),
        (_list, "holds no parameters"),
        (_other_network, "does not fit the model: missing: 0.weight"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_checkpoints_that_are_none(job, refused, tmp_path, damage, says):
    """Refused with the key, the file and the reason; no code of theirs is run."""
    path = job()
    damage(tmp_path / "centre.pt")
    refused("eval", path, says=["model.checkpoint: ", "centre.pt", says])
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_of_another_width(job, refused):
    """Both shapes of the first parameters are named."""
    path = job()
    document = yaml.safe_load(path.read_text())
    document["model"]["args"] = {"width": 8}
    path.write_text(yaml.safe_dump(document))
    refused("eval", path, says=["0.weight (16x6, in the model 8x6)", "model.args"])


def test_weights_that_are_not_numbers_are_legitimate(job, tmp_path, capfd):
    """A diverged network has a surface, too: NaN is its value."""
    path = job(**CURVE)
    content = torch.load(tmp_path / "centre.pt")
    content["state_dict"]["0.weight"][0] = float("nan")
    torch.save(content, tmp_path / "centre.pt")
    assert main(["eval", str(path)]) == 0
    surface = store.read(tmp_path / "job.h5")
    assert surface.done.all()
    assert np.isnan(surface.quantities["train_loss"]).all()
    assert "train_loss is nan" in capfd.readouterr().err


# The user's own code.


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
        ({"model": {**MLP, "arch": "mine:Pair"}}, "expected one tensor, a row per sample"),
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


# Data.


def _arrays(**changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.normal(size=(8, 6)).astype("f4"),
        "y_train": np.arange(8) % 3,
        "x_test": rng.normal(size=(5, 6)).astype("f4"),
        "y_test": np.arange(5) % 3,
    }
    return {k: v for k, v in {**arrays, **changes}.items() if v is not None}


_HOLED = np.ones((8, 6), "f4")
_HOLED[3, 2] = np.nan


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x_train": np.zeros((0, 6), "f4"), "y_train": np.zeros(0, int)}, "train: is empty"),
        ({"y_train": np.arange(7) % 3}, "train: 8 inputs, but 7 labels"),
        ({"y_train": np.full(8, -1)}, "train has the label -1; expected 0 to"),
        ({"y_train": np.full(8, 10**9)}, "train has the label 1000000000; expected 0 to"),
        ({"y_test": np.full(5, 9)}, ["the data need 10", "check model.args"]),
        ({"x_train": _HOLED}, ["1 of 8 inputs have NaN", "first at index 3"]),
        ({"x_train": np.ones((8, 5), "f4"), "x_test": np.ones((5, 5), "f4")}, "[5] per sample"),
        ({"x_train": np.ones((8, 7), "f4")}, ["the splits differ", "[7]", "[6]"]),
        ({"x_train": np.ones((8, 6), int)}, "inputs are int64; expected floats"),
        ({"y_train": np.array(list("abcabcab"))}, "train labels: not an array of numbers"),
        ({"y_train": None}, "has x_train, but no y_train"),
        ({"x_test": None, "y_test": None}, ["data.splits: test is asked for", "train"]),
        ({"y_train": np.ones((8, 3)), "y_test": np.ones((5, 2))}, "the splits differ"),
        ({"x_train": np.array([{}] * 8)}, "not a readable .npz file of plain arrays"),
    ],
    ids=lambda v: ",".join(v) if isinstance(v, dict) else "",
)
@pytest.mark.parametrize("command", ["eval", "train"])
def test_data_that_cannot_be_evaluated(job, refused, tmp_path, command, changes, says):
    """Empty, ragged, out of range, not finite or of the wrong shape."""
    path = job(train=TRAIN)
    np.savez(tmp_path / "data.npz", **_arrays(**changes))
    refused(command, path, says=says)


@pytest.mark.parametrize("damage", [_text, _empty, _truncated, _foreign_zip])
def test_data_files_that_are_none(job, refused, tmp_path, damage):
    """The .npz is text, empty, half there or another archive."""
    path = job()
    damage(tmp_path / "data.npz")
    refused("eval", path, says="data.root: ")


def test_accuracy_of_a_regression(job, refused, tmp_path):
    """There is none, if it is asked for."""
    y = {"y_train": np.ones((8, 2), "f4"), "y_test": np.ones((5, 2), "f4")}
    model = {"arch": "testnets:regression", "checkpoint": "centre.pt"}
    path = job(model=model, loss="mse", quantities=["loss", "accuracy"])
    np.savez(tmp_path / "data.npz", **_arrays(**y))
    refused("eval", path, says=["quantities: accuracy needs integer labels", "leave it out"])
    path = job(model=model)
    shares = np.full((8, 5), 0.2)
    np.savez(tmp_path / "data.npz", **_arrays(y_train=shares, y_test=shares[:5]))
    refused("eval", path, says="loss: cross_entropy refuses the network's output of shape [2, 2]")


def test_a_zoo_network_for_data_that_are_no_images(job, refused):
    """What to use instead is said."""
    path = job()
    path.write_text(path.read_text().replace("testnets:mlp", "resnet20"))
    refused("eval", path, says=["resnet20 needs images, but the data have 6", "use mlp"])


# Directions.


def _same(path):
    shutil.copy(path.with_name("centre.pt"), path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_same, "directions.alpha: nothing moves"),
        (_other_network, ["directions.alpha", "other.pt does not fit", "missing: 0.weight"]),
        (_text, ["directions.alpha.checkpoint: ", "is not a checkpoint of torch"]),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_directions_to_nowhere(job, refused, tmp_path, make, says):
    """The other checkpoint is the centre itself, of another network, or none."""
    path = job(directions=FOREIGN, grid={"alpha": [0, 1, 3]})
    make(tmp_path / "other.pt")
    refused("eval", path, says=says)


def test_directions_in_which_nothing_moves(job, refused):
    """Everything is ignored."""
    alpha = {"kind": "random", "ignore": ["*"]}
    path = job(directions={"alpha": alpha}, grid={"alpha": [0, 1, 3]})
    refused("eval", path, says="directions.alpha: nothing moves; every parameter is ignored")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("plane.h5", ["directions.alpha.which", "no direction alpha; it has none"]),
        ("mine.py", ["directions.alpha.path: ", "not a readable HDF5 file"]),
        ("gone.h5", "directions.alpha.path: no such file"),
    ],
)
def test_directions_from_files_that_have_none(job, refused, surface, source, says):
    """A surface without directions, no HDF5 file, and no file."""
    directions = {"alpha": {"kind": "file", "path": source}}
    refused("eval", job(directions=directions, grid={"alpha": [0, 1, 3]}), says=says)


# Machines.


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


@pytest.mark.parametrize("output", ["/proc/lsengine.h5", "/proc/lsengine/s.h5", "/dev/null/s.h5"])
def test_outputs_nobody_can_write(job, refused, output):
    """Not even root: the folder takes no files, or is none."""
    path = job(output=output)
    code = 2 if output.startswith("/dev") else 3
    refused("eval", path, code=code, says=str(Path(output).parent))


def _process(*arguments, prefix=()):
    """Run a command as a process and return its code, output and errors."""
    ended = subprocess.run(
        [*prefix, str(Path(sys.prefix, "bin", "lsengine")), *map(str, arguments)],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def _unprivileged(*arguments):
    """Run a command as somebody whom permissions bind, root too."""
    if os.geteuid() != 0:
        return _process(*arguments)
    if shutil.which("setpriv") is None:
        pytest.skip("root ignores permissions, and there is no setpriv to change that")
    drop = "-dac_override,-dac_read_search"
    prefix = ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}"]
    return _process(*arguments, prefix=prefix)


@pytest.mark.parametrize(
    ("closed", "command", "code", "says"),
    [
        ("centre.pt", ["eval", "job.yaml"], 2, "model.checkpoint: "),
        ("data.npz", ["eval", "job.yaml"], 2, "data.root: "),
        ("job.yaml", ["train", "job.yaml"], 2, "job.yaml"),
        ("plane.h5", ["status", "plane.h5"], 4, "plane.h5: "),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_files_that_may_not_be_read(job, surface, closed, command, code, says):
    """The file is named, with the reason."""
    folder = job().parent
    (folder / closed).chmod(0)
    before = {p.name for p in folder.iterdir()}
    found = _unprivileged(command[0], folder / command[1])
    _check_refusal(*found, code, says)
    assert "ermission" in found[2]
    assert {p.name for p in folder.iterdir()} == before


def test_folders_and_surfaces_that_may_not_be_written(job, tmp_path):
    """Output, training folder and an unfinished surface are closed; all stay as they are."""
    path = job(train=TRAIN, **CURVE)
    assert main(["eval", str(path)]) == 0
    with h5py.File(tmp_path / "job.h5", "r+") as file:
        file["status"][0] = 0
    (tmp_path / "job.h5").chmod(0o444)
    before = _content(tmp_path)
    _check_refusal(*_unprivileged("eval", path), 4, ["job.h5: cannot be opened for writing"])
    assert _content(tmp_path) == before
    tmp_path.chmod(0o555)
    try:
        for command, key in (("eval", "output: "), ("train", "train.output: ")):
            says = [key, "cannot write in", "check its permissions"]
            _check_refusal(*_unprivileged(command, path), 2, says)
        _check_refusal(*_unprivileged("init", tmp_path / "new.yaml"), 2, "cannot be written")
    finally:
        tmp_path.chmod(0o755)
    assert _content(tmp_path) == before


# Full disks.


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(folder, leave=0):
    with (folder / "filler").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        file.truncate(max(0, file.tell() - leave))


@pytest.mark.parametrize("command", ["eval", "train"])
def test_a_disk_without_room_for_a_lock(job, refused, small_disk, command):
    """Nothing but the message: neither a surface nor a lock."""
    path = job(output="disk/s.h5", train={**TRAIN, "output": "disk/trained"})
    (small_disk / "trained").mkdir()
    _fill(small_disk)
    refused(command, path, code=3, says="No space left on device")


@pytest.mark.parametrize("command", ["eval", "train"])
def test_a_disk_without_room_for_the_results(job, small_disk, command):
    """A process of its own shows that its end is clean, too: HDF5 has crashed here."""
    model = {"arch": "testnets:mlp", "args": {"width": 4096}, "checkpoint": "centre.pt"}
    train = {**TRAIN, "output": "disk/trained"}
    path = job(model=model, output="disk/s.h5", train=train, grid=WIDE)
    (small_disk / "trained").mkdir()
    _fill(small_disk, leave=8192)
    before = _content(path.parent)
    _check_refusal(*_process(command, path), 3, "No space left on device")
    assert {k: v for k, v in _content(path.parent).items() if k.name != "history.h5"} == before


def test_a_quota_without_room_for_the_surface(job):
    """A limit that the free space of the disk does not tell, as on a cluster's file systems."""
    path = job(grid=WIDE)
    before = _content(path.parent)
    limit = ["sh", "-c", 'ulimit -f 64; exec "$0" "$@"']
    _check_refusal(*_process("eval", path, prefix=limit), 3, "job.h5: ")
    assert _content(path.parent) == before


def test_a_disk_that_fills_up_after_the_layout(job, small_disk, capfd):
    """The space is the file's own from the start: the run ends as if nothing had happened."""
    path = job(output="disk/s.h5", **CURVE)
    assert main(["eval", str(path)]) == 0
    with h5py.File(small_disk / "s.h5", "r+") as file:
        file["status"][:] = 0
    _fill(small_disk, leave=4096)  # for the lock
    assert main(["eval", str(path)]) == 0
    assert "Traceback" not in capfd.readouterr().err
    assert store.read(small_disk / "s.h5").done.all()


def test_a_disk_that_refuses_writing_in_the_middle(job, tmp_path):
    """Code 3, the lock is gone, the file opens, and the same command goes on from it."""
    path = job(loss="mine:disk_full_loss")
    says = ["job.h5: cannot be written", "the same command goes on"]
    _check_refusal(*_process("eval", path, "--chunk", "1"), 3, says)
    counts = store.read(tmp_path / "job.h5").counts()
    assert counts["done"] > 0
    assert counts["missing"] > 0
    assert not (tmp_path / "job.h5.lock").exists()


# Surfaces.


def _foreign_hdf5(path):
    with h5py.File(path, "w") as file:
        file["train_loss"] = np.zeros((3, 4))


def _newer(path):
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99


def _without_status(path):
    with h5py.File(path, "r+") as file:
        del file["status"]


def _other_version(path):
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = "two"


def _bent(path):
    content = bytearray(path.read_bytes())
    content[8:2048] = bytes(2040)
    path.write_bytes(bytes(content))


SURFACES = [
    (_text, "not a readable HDF5 file"),
    (_empty, "not a readable HDF5 file"),
    (_truncated, "not a readable HDF5 file"),
    (_bent, "damaged"),
    (_foreign_hdf5, "not a surface of lsengine's"),
    (_newer, ["format_version is 99", "install a newer lsengine"]),
    (_other_version, "damaged"),
    (_without_status, "damaged"),
]


@pytest.mark.parametrize(("damage", "says"), SURFACES, ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.parametrize("command", ["status", "render"])
def test_surfaces_that_cannot_be_read(refused, surface, command, damage, says):
    """Truncated, foreign, bent, or of a version to come; no picture is left behind."""
    damage(surface)
    refused(
        command, surface, code=4, says=["plane.h5: ", *([says] if isinstance(says, str) else says)]
    )


_ROT = """
import contextlib, io, os, pathlib, signal, sys
from lsengine import status, store
from lsengine.cli import main

path = pathlib.Path(sys.argv[1])
content = path.read_bytes()
for part in range(40):
    first = len(content) * part // 40 // 64 * 64
    path.write_bytes(content[:first] + bytes(64) + content[first + 64 :])
    if not (child := os.fork()):
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with contextlib.redirect_stdout(io.StringIO()):
            os._exit(main(["status", str(path)]))
    ended = os.waitpid(child, 0)[1]
    # HDF5 itself may crash or run in circles: nothing can be said then.
    if not os.WIFSIGNALED(ended) and os.WEXITSTATUS(ended) not in (0, 4):
        print("byte", first, "ends with code", os.WEXITSTATUS(ended))
"""


def test_rotten_surfaces_never_end_in_a_traceback(surface):
    """Wherever some bytes are lost, `status` works or says that the file is damaged."""
    command = [sys.executable, "-c", _ROT, str(surface)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("damage", "says"),
    [*SURFACES[:6], (None, "damaged: it does not say which job it is of")],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_outputs_that_are_something_else(job, refused, surface, damage, says):
    """What `eval` finds in the place of its surface stays as it is."""
    if damage is not None:
        damage(surface)
    refused("eval", job(output="plane.h5"), code=4, says=says)


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


def test_a_surface_that_is_not_there(refused, tmp_path):
    """No file, and a folder."""
    for command in ("status", "render"):
        says = 'gone.h5: no such file; "lsengine eval JOB" writes one'
        refused(command, tmp_path / "gone.h5", says=says)
        refused(command, tmp_path, says="is a directory; expected a surface file")


def test_a_job_in_place_of_its_surface(refused, job, tmp_path):
    """A picture of a job file names the surface that the job makes, or has made."""
    path = job()
    says = [f"{path}: is a job file; --as filled needs a surface", "job.h5, which", "lsengine eval"]
    refused("render", path, "--as", "filled", says=says)
    refused("compare", path, says=["this command needs a surface", "job.h5"])
    (tmp_path / "job.h5").write_bytes(b"")
    output = refused("render", path, "--as", "filled", says="needs a surface: ")
    assert "will make" not in str(output)
    path.write_text("name: [")
    refused("render", path, "--as", "history", says="is a job file; --as history needs a training")


# Pictures.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--as", "countour"], ["unknown kind of picture 'countour'", 'did you mean "contour"?']),
        (["--as", "curve"], ["has two directions", "use --as contour"]),
        (["--quantity", "train_los"], ["no quantity 'train_los'", 'did you mean "train_loss"?']),
        (["--scale", "square"], "allowed: auto, linear, log"),
        (["--style", "pastel"], "unknown style 'pastel'"),
        (["--levels", "1"], "levels is 1; allowed: 2 to 100"),
        (["--limits", "3", "2"], "two finite numbers are needed, the lower first"),
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
    _fill(small_disk)
    says = ["plane.png: cannot be written (No space left on device)", "another --output"]
    refused("render", surface, "-o", small_disk / "plane.png", says=says)


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


# Training and starting.


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train": None}, 'train: required by "lsengine train", but missing'),
        ({"train": {**TRAIN, "epochs": 0}}, "train.epochs: expected at least 1, got 0"),
        ({"train": {**TRAIN, "lr": -1.0}}, "train.lr: expected greater than 0, got -1.0"),
        ({"train": {**TRAIN, "lr": float("nan")}}, "train.lr: "),
        ({"train": {**TRAIN, "optimizer": "sdg"}}, 'did you mean "sgd"?'),
        ({"train": {**TRAIN, "output": "data.npz"}}, "train.output: "),
        ({"train": {**TRAIN, "output": "/proc/trained"}}, "train.output: /proc/trained"),
        ({"train": {**TRAIN, "flip": True}}, "train.flip: needs images"),
        ({"train": {**TRAIN, "save_epochs": [9]}}, "train.save_epochs: got 9; train.epochs is 1"),
        ({"train": TRAIN, "data": {"dataset": "digits", "splits": ["test"]}}, "data.splits: train"),
        ({"train": TRAIN, "loss": "mine:undefined_loss"}, ["loss: mine:undefined_loss", "NameErr"]),
    ],
    ids=lambda v: str(v)[:60],
)
def test_recipes_that_cannot_be_trained(job, refused, changes, says):
    """Refused before the folder is touched."""
    refused("train", job(**changes), says=says)


def test_training_into_folders_of_something_else(job, refused, tmp_path):
    """Another recipe's, a foreign one, and one whose state is damaged."""
    assert main(["train", str(job(train=TRAIN)), "--progress", "none"]) == 0
    says = ["train.output: ", "holds another training", "train.lr is 0.5 in the job, 0.1"]
    refused("train", job(train={**TRAIN, "lr": 0.5}), says=says)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "epoch_300.pt").write_text("precious")
    path = job(train={**TRAIN, "output": "foreign"})
    refused("train", path, says=["holds epoch_300.pt, but no history.h5", "another folder"])
    (foreign / "history.h5").write_text("precious, too")
    refused("train", path, says="history.h5: is not HDF5, or damaged")
    with h5py.File(foreign / "history.h5", "w") as file:
        file.attrs["format"] = "lsengine-history"
    refused("train", path, says="history.h5: ")


@pytest.mark.parametrize("state", [{"weights": 1}, {"epoch": 0, "state_dict": {}}, [1, 2]])
def test_training_from_a_state_that_is_damaged(job, refused, tmp_path, state):
    """The file to remove is named."""
    path = job(train={**TRAIN, "epochs": 2})
    assert main(["train", str(path), "--progress", "none"]) == 0
    with h5py.File(tmp_path / "trained" / "history.h5", "r+") as file:
        file.attrs["epochs"] = 3  # as if it had been stopped
    torch.save(state, tmp_path / "trained" / "resume.pt")
    refused("train", path, says=["train.output: ", "resume.pt"])


def test_init_never_overwrites(refused, tmp_path):
    """An existing file, a folder, and a folder that is not there."""
    (tmp_path / "job.yaml").write_text("mine")
    refused("init", tmp_path / "job.yaml", says="job.yaml: exists; give another name")
    refused("init", tmp_path, says="exists; give another name")
    refused("init", tmp_path / "gone" / "job.yaml", says=["cannot be written", "No such file"])


def test_messages_are_for_json_readers_too(refused, tmp_path, capfd):
    """`status --json` prints JSON or nothing on its standard output."""
    refused("status", tmp_path / "gone.h5", "--json", says="no such file")
    assert capfd.readouterr().out == ""
