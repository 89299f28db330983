"""Whether the files and folders that a job names are there, before anything is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from lsengine import files
from lsengine.errors import UsageError
from lsengine.job import rules
from lsengine.job.checkpoint_paths import absolute, problem
from lsengine.job.checkpoint_search import Search
from lsengine.job.job import direction_files
from lsengine.job.schema import KNOWN, Document, ModelSpec


def file_checks(source: Path, job: Document, command: str, search: Search) -> Iterator[str]:
    """Yield what is wrong with the files that a command needs."""
    surface = command in ("eval", "trajectory")
    if job.model and job.model.path:
        yield from _no_network(source, job.model)
    if (surface or command in ("spectrum", "connect")) and job.model and job.model.checkpoint:
        hint = '; "lsengine train" of this job writes one' if job.train else ""
        yield from _missing(source, "model.checkpoint", job.model.checkpoint, hint)
    if surface:
        for key, written in direction_files(job):
            yield from _missing(source, key, written, "")
        if (found := rules.trajectory_glob(job)) is not None:
            yield from _no_match(source, *found, search)
    if command == "connect" and job.curve:
        yield from _missing(source, "curve.to", job.curve.to, "")
        yield from _unwritable(absolute(source, job.curve.output) / "curve.pt", "curve.output")
    if surface or (command == "connect" and job.curve):
        output = absolute(source, job.output or f"surfaces/{job.name}.h5")
        longest = f"{output.stem}-plane{output.suffix}"  # of those that connect writes
        yield from _unwritable(output if surface else output.parent / longest, "output")
    if command == "train" and job.train:
        yield from _unwritable(absolute(source, job.train.output) / "history.h5", "train.output")
    data, expected = job.data, {"arrays": "an .npz file", "text": "a text file"}
    if data and (data.root or "").endswith(".npz"):
        expected |= dict.fromkeys(KNOWN, "an .npz file")
    if command != "any" and data and data.dataset in expected and data.root:
        is_folder = data.dataset != "text" and files.is_folder(absolute(source, data.root))
        if not is_folder:
            hint = f"; expected {expected[data.dataset]}"
            yield from _missing(source, "data.root", data.root, hint)


def _no_network(source: Path, model: ModelSpec) -> Iterator[str]:
    """Yield why a network cannot be made of the folders that a job names."""
    for key, written, settings in (
        ("model.path", model.path, "config.json"),
        ("model.adapter", model.adapter, "adapter_config.json"),
    ):
        folder = absolute(source, written) if written else None
        if folder is None:
            continue
        if not files.is_folder(folder):
            yield (
                f"{key}: no such folder: {folder}; expected one with {settings} and weights, as "
                "save_pretrained writes it (nothing is downloaded)"
            )
        elif not os.path.isfile(folder / settings):  # noqa: PTH113  Path.is_file raises
            yield f"{key}: {folder} has no {settings}; save_pretrained writes one"
        elif found := problem(folder):
            yield f"{key}: {found}"


def _missing(source: Path, key: str, written: str, hint: str) -> Iterator[str]:
    path = absolute(source, written)
    if files.is_folder(path) and key.endswith(("checkpoint", "curve.to")):
        if found := problem(path):
            yield f"{key}: {found}"
        return
    try:
        is_there = files.is_regular(path, key)
    except UsageError as error:
        yield str(error)
        return
    if not is_there:
        yield f"{key}: no such file: {path}{hint}{_without_value(written)}"
    elif not os.access(path, os.R_OK):
        yield f"{key}: {path} cannot be read; check its permissions"


def _without_value(written: str) -> str:
    """Return what to say of braces in a path that nothing has filled."""
    name = next(iter(re.findall(r"\{([A-Za-z_][\w.]*)\}", written)), "")
    return name and f"; nothing gives {{{name}}} a value: add matrix: {{{name}: [...]}}"


def _no_match(source: Path, key: str, written: str, search: Search) -> Iterator[str]:
    pattern = absolute(source, written)
    if files.is_folder(pattern):
        yield f"{key}: {pattern} is a folder; expected a pattern such as {pattern / 'epoch_*.pt'}"
        return
    try:
        matches = search.find(key, str(pattern))
    except UsageError as error:
        yield str(error)
        return
    if not matches.checkpoints:
        reason = f"; {matches.hollow[0]}" if matches.hollow else ""
        yield f"{key}: no file matches {pattern}{reason}{_without_value(written)}"


def _unwritable(path: Path, key: str) -> Iterator[str]:
    try:
        files.check_target(path, key)
    except UsageError as error:
        yield str(error)
        return
    folder = path.parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent  # the rest is made when it is needed
    if not files.is_folder(folder):
        yield f"{key}: {folder} is not a directory"
    elif not os.access(folder, os.W_OK | os.X_OK):
        is_fixed = os.statvfs(folder).f_flag & os.ST_RDONLY
        why = (
            "it is mounted read-only; choose another folder"
            if is_fixed
            else "check its permissions"
        )
        yield f"{key}: cannot write in {folder}; {why}"
