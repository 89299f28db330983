"""Every format of other programs, and the one way to write it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lsengine import store
from lsengine.errors import UsageError
from lsengine.export.height import HeightOptions
from lsengine.store import records
from lsengine.surface import Surface
from lsengine.wording import did_you_mean


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Attributes:
        suffix: What a file's name ends in.
        has_height: Whether one quantity is its height, and may be chosen.
        has_scale: Whether that height may be logarithmic.
    """

    suffix: str
    has_height: bool = False
    has_scale: bool = False


FORMATS = {
    "csv": Format(".csv"),
    "npz": Format(".npz"),
    "netcdf": Format(".nc"),
    "vts": Format(".vts", has_height=True),
    "glb": Format(".glb", has_height=True, has_scale=True),
    "ply": Format(".ply", has_height=True, has_scale=True),
    "loss-landscape": Format(".h5"),
}


"""Every format by the word after ``--to``."""


def export(
    surface: Surface | str | Path,
    to: str,
    output: str | Path | None = None,
    *,
    quantity: str | None = None,
    scale: str | None = None,
) -> list[Path]:
    """Write a surface in another format; each file whole or not at all.

    Args:
        surface: A surface, finished or not, or its file.
        to: A key of `FORMATS`.
        output: The file; default beside the surface.  One that is there is replaced, unless
            it is a surface of lsengine's.
        quantity: Of a format with a height, the dataset that is it; default the training loss.
        scale: Of a mesh, how height and colours follow it: ``auto``, ``linear`` or ``log``.

    Returns:
        The files written.

    Raises:
        UsageError: If the request cannot be met; the message says what can.
        EnvironmentUnfit: If a library that the format needs is missing.
        SurfaceError: If the surface is damaged.
    """
    form = _format(to, quantity, scale)
    if not isinstance(surface, Surface):
        surface = store.read(surface)
    source = Path(surface.source)
    target = Path(output) if output is not None else _beside(source, to, form)
    if target.suffix.lower() != form.suffix:
        raise UsageError(f"--output {target}: --to {to} writes files that end in {form.suffix}")
    wishes = HeightOptions(quantity, scale or "auto")
    if to == "loss-landscape":
        from lsengine.export import loss_landscape

        return loss_landscape.write(surface, source, target, _whole)
    write = _writer(to)
    with _whole(target, source) as part:
        write(surface, part, wishes)
    return [target]


def _format(to: str, quantity: str | None, scale: str | None) -> Format:
    if to not in FORMATS:
        raise UsageError(
            f"--to: got {to!r}; allowed: {', '.join(FORMATS)}{did_you_mean(to, FORMATS)}"
        )
    form = FORMATS[to]
    for name, given, allowed in (
        ("--quantity", quantity, form.has_height),
        ("--scale", scale, form.has_scale),
    ):
        if given is not None and not allowed:
            raise UsageError(f"{name} is of no use for --to {to}, which has all quantities as is")
    if scale not in (None, "auto", "linear", "log"):
        raise UsageError(f"--scale: got {scale!r}; allowed: auto, linear, log")
    return form


def _beside(source: Path, to: str, form: Format) -> Path:
    mark = f"-{to}" if form.suffix == source.suffix else ""
    return source.with_name(f"{source.stem}{mark}{form.suffix}")


def _writer(to: str) -> Callable[[Surface, Path, HeightOptions], None]:
    """Import the one module that writes a format."""
    if to == "csv":
        from lsengine.export import csv

        return csv.write
    if to == "npz":
        from lsengine.export import npz

        return npz.write
    if to == "netcdf":
        from lsengine.export import netcdf

        return netcdf.write
    if to == "vts":
        from lsengine.export import vts

        return vts.write
    from lsengine.export import mesh

    return mesh.write_glb if to == "glb" else mesh.write_ply


@contextmanager
def _whole(target: Path, source: Path) -> Iterator[Path]:
    """Give a name beside ``target``; what is written there takes its place when complete.

    Raises:
        UsageError: If that would cost a surface, or cannot be done.
    """
    if target.exists():
        if source.exists() and target.samefile(source):
            raise UsageError(f"--output {target}: is the surface itself; choose another name")
        if (records.format_of(target) or "").startswith("lsengine-"):
            raise UsageError(
                f"--output {target}: is a file of lsengine's own; choose another name, or move "
                "it away"
            )
    part = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}{target.suffix}")
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(target)
    except OSError as error:
        raise UsageError(
            f"{target}: cannot be written ({error.strerror or error}); choose another --output"
        ) from error
    finally:
        part.unlink(missing_ok=True)
