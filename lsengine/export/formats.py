"""Every format of other programs, and the one way to write it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from lsengine import files, store
from lsengine.errors import UsageError
from lsengine.surface import Surface
from lsengine.wording import did_you_mean

SCALES = ("auto", "linear", "log")


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format.

    The writer is a module in `lsengine.export` and its function, imported when it is needed.  That
    takes a surface, a path and the options, and returns the files it wrote.
    """

    suffix: str  # what a file's name ends in
    writer: str
    options: tuple[str, ...] = ()  # a user's: quantity that is the height, scale of it


FORMATS = {
    "csv": Format(suffix=".csv", writer="arrays:write_csv"),
    "npz": Format(suffix=".npz", writer="arrays:write_npz"),
    "netcdf": Format(suffix=".nc", writer="arrays:write_netcdf"),
    "vts": Format(suffix=".vts", writer="vts:write", options=("quantity",)),
    "glb": Format(suffix=".glb", writer="mesh:write_glb", options=("quantity", "scale")),
    "ply": Format(suffix=".ply", writer="mesh:write_ply", options=("quantity", "scale")),
    "loss-landscape": Format(suffix=".h5", writer="loss_landscape:write"),
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
        output: The file; default beside the surface.  An existing one is replaced, unless it is a
            surface of lsengine's.
        quantity: Of a format with a height, the dataset that is it; default the training loss.
        scale: Of a mesh, how height and colours follow it: ``auto``, ``linear`` or ``log``.

    Returns:
        The files written.

    Raises:
        UsageError: If the request cannot be met; the message says what can.
        EnvironmentUnfit: If a library that the format needs is missing, or nothing can be written.
        SurfaceError: If the surface is damaged.
    """
    form = FORMATS.get(to)
    if form is None:
        hint = did_you_mean(to, FORMATS)
        raise UsageError(f"--to: got {to!r}; allowed: {', '.join(FORMATS)}{hint}")
    given = {"quantity": quantity, "scale": scale}
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name not in form.options:
            raise UsageError(f"--{name} has no effect with --to {to}, which writes all quantities")
    if scale is not None and scale not in SCALES:
        raise UsageError(f"--scale: got {scale!r}; allowed: {', '.join(SCALES)}")
    if not isinstance(surface, Surface):
        surface = store.read(surface)
    source = Path(surface.source)
    mark = f"-{to}" if form.suffix == source.suffix else ""
    target = Path(output or source.parent / f"{source.stem}{mark}{form.suffix}")
    if target.suffix.lower() != form.suffix:
        raise UsageError(f"--output {target}: --to {to} writes files that end in {form.suffix}")
    files.check_target(target)
    module, _, function = form.writer.partition(":")
    write = getattr(import_module(f"lsengine.export.{module}"), function)
    return list(write(surface, target, **options))
