"""The files that a job names: are they there, may they be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lsengine.job import rules
from lsengine.job.job import absolute, direction_files
from lsengine.job.schema import Document
from lsengine.wording import short


def matching(pattern: str) -> list[Path]:
    """Return the files that match an absolute glob, hidden ones left out, sorted by name."""
    path = Path(pattern)
    found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    return sorted(p for p in found if not p.name.startswith(".") and p.is_file())


def file_checks(source: Path, job: Document, command: str) -> Iterator[str]:
    """Yield what is wrong with the files that a command needs."""
    surface = command in ("eval", "trajectory")
    if (surface or command in ("spectrum", "connect")) and job.model and job.model.checkpoint:
        hint = '; "lsengine train" of this job writes one' if job.train else ""
        yield from _missing(source, "model.checkpoint", job.model.checkpoint, hint)
    if surface:
        for key, written in direction_files(job):
            yield from _missing(source, key, written, "")
        if (found := rules.trajectory_glob(job)) is not None:
            yield from _no_match(source, *found)
        yield from _unwritable(absolute(source, job.output or "surfaces/x.h5"), "output")
    if command == "connect" and job.curve:
        yield from _missing(source, "curve.to", job.curve.to, "")
        yield from _unwritable(absolute(source, job.curve.output) / "curve.pt", "curve.output")
        yield from _unwritable(absolute(source, job.output or "surfaces/x.h5"), "output")
    if command == "train" and job.train:
        yield from _unwritable(absolute(source, job.train.output) / "history.h5", "train.output")
    if job.data and job.data.dataset == "arrays" and job.data.root:
        yield from _missing(source, "data.root", job.data.root, "; expected an .npz file")


def _missing(source: Path, key: str, written: str, hint: str) -> Iterator[str]:
    path = absolute(source, written)
    if path.is_dir():
        yield f"{key}: {path} is a directory; expected a file"
    elif not path.is_file():
        yield f"{key}: no such file: {path}{hint}"
    elif not os.access(path, os.R_OK):
        yield f"{key}: {path} cannot be read; check its permissions"


def _no_match(source: Path, key: str, written: str) -> Iterator[str]:
    pattern = absolute(source, written)
    if pattern.is_dir():
        yield f"{key}: {pattern} is a folder; expected a pattern such as {pattern / 'epoch_*.pt'}"
    elif not matching(str(pattern)):
        yield f"{key}: no file matches {pattern}"


def _unwritable(path: Path, key: str) -> Iterator[str]:
    if "\0" in str(path):
        yield f"{key}: no file can have the name {short(path.name)}"
        return
    if path.is_dir():
        yield f"{key}: {path} is a directory; expected the name of a file"
        return
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent  # the rest is made when it is needed
    if not folder.is_dir():
        yield f"{key}: {folder} is not a directory"
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield f"{key}: cannot write in {folder}; check its permissions"
