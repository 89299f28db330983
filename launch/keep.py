"""Keep finished surfaces, histories and histograms as small files: without their directions.

    python launch/keep.py FOLDER FILE|JOB.yaml...

Of a job file, the surfaces and histories of its jobs are kept.  A history is called after the
folder of its training.  What is not there or not finished is left out, and said.
Paths of this machine become relative to the repository.  The files are sealed again, so that
`lsengine status --verify` finds damage.  They are not compressed: they are small as they are.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py

import lsengine
from lsengine import files, store
from lsengine.job import load_all
from lsengine.store import digest
from lsengine.store.file import add_dataset, add_scale, scale_name

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = ("directions", "failure", digest.NAME)  # no cell of a finished surface has failed


def keep(source: Path, folder: Path) -> Path | None:
    """Write the small copy of a file into a folder; None if the file is not finished.

    Raises:
        SurfaceError, UsageError: If it is damaged or something else.
    """
    kind = store.format_of(source)
    if kind == store.WEIGHTS_FORMAT:
        return Path(shutil.copyfile(source, folder / source.name))
    if kind == store.HISTORY_FORMAT:
        history = store.read_history(source)
        target = folder / f"history-{source.parent.name}.h5"
        if not history.finished:
            return None
        plain = {key: relative(value) for key, value in history.attributes.items()}
        store.write_history(target, replace(history, attributes=plain))
        return target
    surface = lsengine.open(source)
    checkpoints = surface.trajectory.done.all() if surface.trajectory is not None else True
    if not (surface.done.all() and checkpoints):
        return None
    target = folder / source.name
    with files.whole(target) as part:
        with h5py.File(source) as old, h5py.File(part, "w", locking=False) as new:
            _copy(old, new)
        digest.seal(part)
    return target


def relative(value: Any) -> Any:
    """Return an attribute without the folders of this machine.

    Paths in the repository are relative to it.  Of others in a job the last part is left.
    """
    if not isinstance(value, str):
        return value
    value = value.replace(f"{ROOT}/", "")
    return re.sub(r"^( *[-\w]+: [\"']?)/.*/", r"\1", value, flags=re.MULTILINE)


def _copy(old: h5py.Group, new: h5py.Group) -> None:
    """Copy a group: attributes, scales, then what lies along the scales."""
    new.attrs.update({key: relative(value) for key, value in _plain(old).items()})
    items = {name: item for name, item in old.items() if name not in LEFT_OUT}
    scales = [n for n, item in items.items() if isinstance(item, h5py.Dataset) and item.is_scale]
    for name in scales:
        add_scale(new, name, items[name][...])
    for name, item in items.items():
        if isinstance(item, h5py.Group):
            _copy(item, new.create_group(name))
        elif name not in scales:
            along = [new[scale_name(axis).rpartition("/")[2]] for axis in item.dims]
            add_dataset(new, name, item[...], along)
        new[name].attrs.update(_plain(item))


def _plain(item: h5py.HLObject) -> dict[str, Any]:
    """Return the attributes that HDF5 does not write by itself."""
    own = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid"}
    return {key: value for key, value in item.attrs.items() if key not in own}


def made_by(path: Path) -> Iterator[Path]:
    """Yield the surfaces and histories that the jobs of a file make, or the file itself."""
    if path.suffix != ".yaml":
        yield path
        return
    for job in load_all(path):
        if job.document.directions is not None:
            yield job.surface
        if job.document.train is not None:
            yield job.path(job.document.train.output) / "history.h5"


def main(folder: Path, sources: list[Path]) -> None:
    """Keep all files; say how many bytes they take, and what is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for source in [file for path in sources for file in made_by(path)]:
        target = keep(source, folder) if source.exists() else None
        if target is None:
            print(f"not finished, not kept: {source}")
        else:
            total += target.stat().st_size
    print(f"{folder}: {total / 2**20:.1f} MiB kept")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
