"""What the command line does to surfaces, as functions.

Surfaces are values or the names of their files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lsengine import store
from lsengine.api.surface import Surface as Surface
from lsengine.errors import UsageError
from lsengine.files import is_regular
from lsengine.report import inputs
from lsengine.surface import Surface as Values
from lsengine.surface.records import WeightHistograms

if TYPE_CHECKING:
    from lsengine.report.compare import Comparison
    from lsengine.report.status import Summary

AnySurface = Values | str | Path


def open(path: str | Path) -> Surface:
    """Read a surface into arrays; see `docs/PYTHON.md`.

    Args:
        path: A surface file of lsengine's, also one that is being written, or one of
            github.com/tomgoldstein/loss-landscape.

    Returns:
        What the file says of its cells, as it is now.

    Raises:
        UsageError: If there is no such file.
        SurfaceError: If it is damaged or no surface.
    """
    return Surface.of(store.read(path))


def render(
    surfaces: AnySurface | Sequence[AnySurface],
    output: str | Path | None = None,
    *,
    kind: str | None = None,
    **look: Any,
) -> Path:
    """Draw surfaces, or other files that `lsengine render` takes, and write the picture.

    Args:
        surfaces: One or several, drawn on one scale.
        output: The picture; its extension decides the format.  Default: beside the first file.
        kind: What ``--as`` says; default: what suits the first one.
        look: Titles, labels, limits, camera and more; see `lsengine.looks.Look`.

    Returns:
        The file.

    Raises:
        UsageError: If the request cannot be met.
        SurfaceError: If a surface is damaged.
        EnvironmentUnfit: If a library is missing, or the file cannot be written.
    """
    from lsengine import render

    several = _listed(surfaces)
    first = several[0]
    style = str(look.get("style") or "default")
    if kind is None and isinstance(first, Values):
        kind = inputs.kind_of_surface(first, style)
    kind = kind or inputs.kind_of(str(first), style)
    if output is None:
        if isinstance(first, Values) and not is_regular(Path(first.source)):
            raise UsageError("render: this surface is in no file; say output")
        source = Path(first.source if isinstance(first, Values) else first)
        output = source.parent / f"{source.stem}-{kind}.{'html' if kind == 'html' else 'png'}"
    render.check_output(output, kind)
    read = [s if isinstance(s, Values) else inputs.read([str(s)], kind)[0] for s in several]
    return Path(render.write(read, output, kind=kind, **look))


def export(
    surface: AnySurface,
    to: str,
    output: str | Path | None = None,
    *,
    quantity: str | None = None,
    scale: str | None = None,
) -> list[Path]:
    """Write a surface in another program's format; see `lsengine.export.export`.

    Raises:
        UsageError: If the request cannot be met.
        SurfaceError: If the surface is damaged.
        EnvironmentUnfit: If a library is missing, or nothing can be written.
    """
    from lsengine.export import export

    (read,) = _read(surface)
    return export(read, to, output, quantity=quantity, scale=scale)


def compare(
    surfaces: AnySurface | Sequence[AnySurface],
    *,
    level: str | float | None = None,
    quantity: str | None = None,
) -> Comparison:
    """Measure how flat surfaces are, by the same rules; its text is a table.

    ``level`` and ``quantity`` are as on the command line; docs/COMPARE.md defines the figures.

    Raises:
        UsageError: If a surface lacks the quantity, or nothing of it is done.
        SurfaceError: If a surface is damaged.
    """
    from lsengine.report import compare
    from lsengine.report.flatness import Level

    chosen = None if level is None else Level.parse(str(level))
    return compare.compare(_read(surfaces), level=chosen, quantity=quantity)


def status(path: str | Path, *, only: str = "*") -> list[Summary]:
    """Return how far a surface file is, or the surfaces of a job file.

    ``only`` is a pattern of the names of jobs.

    Raises:
        UsageError: If there is no such file.
        SurfaceError: If a surface is damaged.
    """
    from lsengine.report import status  # reads jobs, which pictures need not

    return status.summaries(path, only)


def merge(shards: Sequence[str | Path], output: str | Path) -> Surface:
    """Make one surface of shards, or of any partial surfaces of one job.

    Returns:
        What is in the file now; its `counts` say what is missing.

    Raises:
        UsageError: If a shard is missing.
        SurfaceError: If shards do not belong together.
        EnvironmentUnfit: If the file cannot be written.
    """
    from lsengine.store.shards import merge

    merge([Path(shard) for shard in shards], Path(output))
    return open(output)


def histogram(
    checkpoints: Sequence[Any],
    output: str | Path,
    *,
    names: Sequence[str] = (),
    bins: int | None = None,
) -> WeightHistograms:
    """Count the numbers of checkpoints on common bins; write and return the result.

    Args:
        checkpoints: Networks, state dicts or files, of any networks.
        output: The file, ``.h5``, of which `render` draws a picture.
        names: What to call the checkpoints; default: what tells their paths apart, or numbers.
        bins: How many, at most 10,000; default 101.

    Raises:
        UsageError: If a checkpoint cannot be read, names do not fit, or nothing is finite.
    """
    from lsengine.api import memory
    from lsengine.training import weight_histogram as weights

    with TemporaryDirectory(prefix="lsengine-") as folder:
        paths = []
        for number, thing in enumerate(checkpoints):
            paths.append(
                Path(folder, f"{number}.pt") if memory.is_in_memory(thing) else Path(thing)
            )
            if memory.is_in_memory(thing):
                memory.write_checkpoint(paths[-1], thing, f"checkpoints[{number}]")
        return weights.histograms(
            paths, Path(output), names=names, bins=weights.BINS if bins is None else bins
        )


def _listed(surfaces: AnySurface | Sequence[AnySurface]) -> list[AnySurface]:
    several = [surfaces] if isinstance(surfaces, Values | str | Path) else list(surfaces)
    if not several:
        raise UsageError("expected a surface, or several; got none")
    return several


def _read(surfaces: AnySurface | Sequence[AnySurface]) -> list[Values]:
    return [
        s if isinstance(s, Values) else inputs.read_surfaces([str(s)])[0] for s in _listed(surfaces)
    ]
