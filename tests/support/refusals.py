"""Broken jobs and files: how they are made, and what every refusal has in common."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

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
    if calls > 90:
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


def check_refusal(found, output, error, code, says):
    """Check what every refusal has in common: one message, its words, its code, no traceback."""
    assert "Traceback" not in output + error, (output + error)[-400:]
    assert found == code, error
    for words in [says] if isinstance(says, str) else says:
        assert words in error, error
    # Log lines start with the rank, further lines of one message are indented.
    heads = [line for line in error.splitlines() if not line.startswith((" ", "r000", "usage"))]
    assert len(heads) == 1, error


def content_of(folder):
    """Return the bytes of all files below a folder."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def as_text(path):
    """Make a file one of words."""
    path.write_text("these are not weights\n")


def as_empty(path):
    """Make a file empty."""
    path.write_bytes(b"")


def as_truncated(path):
    """Cut a file in the middle."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def as_foreign_zip(path):
    """Make a file an archive of something else."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights here")


def as_other_network(path):
    """Make a file a checkpoint of another network."""
    torch.save(torch.nn.Linear(6, 3).state_dict(), path)


def run_process(*arguments, prefix=()):
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


def run_unprivileged(*arguments):
    """Run a command as somebody whom permissions bind, root too."""
    if os.geteuid() != 0:
        return run_process(*arguments)
    if shutil.which("setpriv") is None:
        pytest.skip("root ignores permissions, and there is no setpriv to change that")
    drop = "-dac_override,-dac_read_search"
    prefix = ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}"]
    return run_process(*arguments, prefix=prefix)


def fill(folder, leave=0):
    """Fill a disk up, but for some bytes."""
    with (folder / "filler").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        file.truncate(max(0, file.tell() - leave))
