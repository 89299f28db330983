"""Every format of other programs, and the one way to write it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from lsengine import store
from lsengine.errors import UsageError
from lsengine.surface import Surface
from lsengine.wording import did_you_mean

SCALES = ("auto", "linear", "log")


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format.

    Attributes:
        suffix: What a file's name ends in.
        writer: Module in `lsengine.export` and function, imported when it is needed.  The
            function takes a surface, a path and the options, and returns the files it wrote.
        options: What a user may choose: ``quantity`` that is the height, ``scale`` of it.
    """

    suffix: str
    writer: str
    options: tuple[str, ...] = ()


FORMATS = {
    "csv": Format(suffix=".csv", writer="csv:write"),
    "npz": Format(suffix=".npz", writer="npz:write"),
    "netcdf": Format(suffix=".nc", writer="netcdf:write"),
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
    if to not in FORMATS:
        raise UsageError(
            f"--to: got {to!r}; allowed: {', '.join(FORMATS)}{did_you_mean(to, FORMATS)}"
        )
    form = FORMATS[to]
    asked = {"quantity": quantity, "scale": scale}
    options = {name: value for name, value in asked.items() if value is not None}
    for name in options:
        if name not in form.options:
            raise UsageError(f"--{name} is of no use for --to {to}, which has all quantities as is")
    if scale is not None and scale not in SCALES:
        raise UsageError(f"--scale: got {scale!r}; allowed: {', '.join(SCALES)}")
    if not isinstance(surface, Surface):
        surface = store.read(surface)
    target = Path(output) if output is not None else _beside(Path(surface.source), to, form)
    if target.suffix.lower() != form.suffix:
        raise UsageError(f"--output {target}: --to {to} writes files that end in {form.suffix}")
    module, _, function = form.writer.partition(":")
    write = getattr(import_module(f"lsengine.export.{module}"), function)
    written: list[Path] = write(surface, target, **options)
    return written


def _beside(source: Path, to: str, form: Format) -> Path:
    mark = f"-{to}" if form.suffix == source.suffix else ""
    return source.with_name(f"{source.stem}{mark}{form.suffix}")
