"""Surfaces, trajectories and spectra: of networks in memory, and of job files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from lsengine import log
from lsengine.api import memory, running, tasks
from lsengine.api.surface import Surface
from lsengine.api.tasks import JobFiles
from lsengine.api.workers import surfaces
from lsengine.engine import Options
from lsengine.engine.spectrum import Sizes
from lsengine.errors import UsageError
from lsengine.surface.records import Spectrum
from lsengine.wording import short

Patterns = str | Sequence[str]
Loss = str | Mapping[str, Any] | Callable[..., Any]
_PLANE = ("alpha", "beta")


def evaluate(
    model: nn.Module,
    data: Any,
    *,
    loss: Loss | None = None,
    objective: str | Callable[..., Any] | None = None,
    grid: int | Mapping[str, Any] = 51,
    directions: Mapping[str, Any] | None = None,
    toward: Any = None,
    normalize: str | Mapping[str, Any] | None = None,
    ignore: Patterns | None = None,
    only: Patterns | None = None,
    seed: int = 0,
    split: str = "train",
    pad: float | None = None,
    output: str | Path | None = None,
    extend: str | Path | None = None,
    retry_failed: bool = False,
    workers: int | str = 1,
    progress: bool = True,
    **keys: Any,
) -> Surface:
    """Evaluate the surface of a network around its parameters.

    The network is only read.  Under a launcher of MPI every rank makes the call, and gets the same
    surface.

    Args:
        model: The centre.
        data: A `DataLoader`, a data set of torch's, tensors or batches of them, see
            `lsengine.data.loaders.from_memory`; or such by split: ``{"train": ..., "test": ...}``.
        loss: A name of a job's, perhaps with options (docs/howto/loss.md), or a function of output
            and target.  Default: ``cross_entropy``; of a network of transformers whose batches are
            by name, its own: ``output``.
        objective: In place of a loss: a function of network and batch, or ``module:function``.
        grid: So many points of both axes from -1 to 1; or the section of a job:
            ``{"alpha": [-1, 1, 51]}`` makes a curve.
        directions: The section of a job, in which a ``checkpoint`` may be a network or a state
            dict.  Default: random ones, drawn by ``seed``.
        toward: One or two other checkpoints of the network (a network, a state dict or a file):
            alpha leads to the first, beta to the second; at 1 it is reached.
        normalize: How all directions are normalised: a word, or a mapping of units by role;
            default: by filter, toward others not.
        ignore: What they do not move: patterns of names, and roles such as ``bias``.
        only: What alone they move, likewise.
        seed: Of all random numbers.
        split: What the data are, if they do not say it: ``train`` or ``test``.
        pad: With what batches of different lengths are filled up.  The network has to leave
            padding out, by a mask or by lengths; else its losses are others than batch by batch.
        output: A surface file.  What is in it is not evaluated again.  Default: none is kept.
        extend: A surface file whose cells a new ``output`` takes over: of a finer or wider grid,
            or with one more quantity.  n points keep all their cells as k(n - 1) + 1 points.
        retry_failed: Evaluate failed and damaged cells again.
        workers: How many processes of this machine evaluate, which are started for it; ``auto``:
            one for each card, or else for each core.
        progress: Whether a bar and warnings are shown.
        keys: Any other key of a job: ``quantities``, ``precision``, ``batch_size``, ``device``...

    Returns:
        The surface.

    Raises:
        UsageError: If an argument is wrong, or network, data and loss do not go together.
        SurfaceError: If the output is of something else, or another run is writing it.
        EnvironmentUnfit: If there is no such device, or a file cannot be written.
        CellsFailed: If cells failed; its ``surfaces`` has the surface.
        KeyboardInterrupt, Stopped: If a signal ended it.  The same call goes on with an output.
    """
    default = {
        axis: {"kind": "random", "seed": 2 * seed + place} for place, axis in enumerate(_PLANE, 1)
    }
    if toward is not None:
        default |= tasks.toward(toward)
    axes = tasks.grid(grid, lambda points: [-1, 1, points])
    moves = {"normalize": normalize, "ignore": ignore, "only": only}
    section, checkpoints = tasks.directions(directions, default, axes, moves)
    task = tasks.in_memory(
        "evaluate",
        model,
        data,
        command="eval",
        loss=loss,
        objective=objective,
        split=split,
        pad=pad,
        keys={"grid": axes, "directions": section, "seed": seed, **keys},
        output=output,
    )
    task = replace(task, checkpoints={**task.checkpoints, **checkpoints})
    old = None if extend is None else Path(extend).absolute()
    (surface,) = _surfaces(task, workers, progress, retry_failed=retry_failed, extend=old)
    return surface


def trajectory(
    checkpoints: Sequence[Any] | Mapping[int, Any],
    model: nn.Module,
    data: Any,
    *,
    loss: Loss | None = None,
    objective: str | Callable[..., Any] | None = None,
    grid: int | Mapping[str, Any] = 21,
    directions: Mapping[str, Any] | None = None,
    normalize: str | Mapping[str, Any] | None = None,
    ignore: Patterns | None = None,
    only: Patterns | None = None,
    seed: int = 0,
    split: str = "train",
    pad: float | None = None,
    output: str | Path | None = None,
    retry_failed: bool = False,
    workers: int | str = 1,
    progress: bool = True,
    **keys: Any,
) -> Surface:
    """Project the checkpoints of a training on a plane, and evaluate both.

    With batch normalisation give ``batch_norm="recalibrated"``.  The default, ``frozen``, keeps
    the running statistics of ``model`` in the whole plane; earlier checkpoints had others, so the
    plane under the path can be far too high.  A warning says so.

    Args:
        checkpoints: Networks, state dicts or files, in the order of time, or by their epochs.
        model: The centre of the plane: most often the last of them.
        data: As for `evaluate`.
        loss: As for `evaluate`.
        objective: As for `evaluate`.
        grid: So many points of both axes, which fit the checkpoints; or the section of a job.
        directions: Default: the principal components of the checkpoints.
        normalize: How directions are normalised, as for `evaluate`.
        ignore: What they do not move: patterns of names, and roles.
        only: What alone they move, likewise.
        seed: Of all random numbers.
        split: What the data are, if they do not say it: ``train`` or ``test``.
        pad: With what batches of different lengths are filled up, as for `evaluate`.
        output: A surface file.  Default: none is kept.
        retry_failed: Evaluate failed and damaged cells and checkpoints again.
        workers: How many processes of this machine evaluate, as for `evaluate`.
        progress: Whether a bar and warnings are shown.
        keys: Any other key of a job: ``batch_norm``, ``precision``, ``batch_size``...

    Returns:
        The surface; the checkpoints are its ``trajectory``.

    Raises:
        UsageError: As `evaluate`, which also raises the others.
    """
    given = memory.as_epochs(checkpoints)
    pattern = tasks.InFolder("epoch_*.pt")
    principal = {axis: {"kind": "principal", "checkpoints": pattern} for axis in _PLANE}
    axes = tasks.grid(grid, lambda points: ["auto", points])
    moves = {"normalize": normalize, "ignore": ignore, "only": only}
    section, others = tasks.directions(directions, principal, axes, moves)
    more = {} if directions is None else {"trajectory": {"checkpoints": pattern}}
    task = tasks.in_memory(
        "trajectory",
        model,
        data,
        command="eval",
        loss=loss,
        objective=objective,
        split=split,
        pad=pad,
        keys={"grid": axes, "directions": section, "seed": seed, **more, **keys},
        output=output,
    )
    named = {f"epoch_{epoch:06d}.pt": (thing, epoch) for epoch, thing in given.items()}
    task = replace(task, checkpoints={**task.checkpoints, **others, **named})
    (surface,) = _surfaces(task, workers, progress, retry_failed=retry_failed)
    return surface


def run(
    jobs: str | Path | Sequence[str | Path],
    *,
    only: str = "*",
    changes: Mapping[str, Any] | None = None,
    extend: str | Path | None = None,
    retry_failed: bool = False,
    workers: int | str = 1,
    progress: bool = True,
) -> list[Surface]:
    """Evaluate the surfaces of job files, as `lsengine eval` does.

    Args:
        jobs: One file or several, each of which may make several jobs.
        only: A pattern of the names of the wanted jobs.
        changes: Values by key, such as ``{"grid.alpha": [-1, 1, 9]}``, in place of the files'.
        extend: A surface file whose cells a new, larger or finer surface takes over.
        retry_failed: Evaluate failed and damaged cells again.
        workers: As for `evaluate`.
        progress: Whether a bar and warnings are shown.

    Returns:
        The surfaces, in the order of the jobs.

    Raises:
        JobError: If a job file is wrong.
        UsageError: As `evaluate`, which also raises the others.
    """
    paths = [jobs] if isinstance(jobs, str | Path) else jobs
    files = tuple(Path(path).absolute() for path in paths)
    task = JobFiles(paths=files, command="eval", only=only, changes=_changes(changes or {}))
    old = None if extend is None else Path(extend).absolute()
    return _surfaces(task, workers, progress, retry_failed=retry_failed, extend=old)


def spectrum(
    model: nn.Module | str | Path,
    data: Any = None,
    *,
    loss: Loss | None = None,
    objective: str | Callable[..., Any] | None = None,
    vectors: int = 5,
    trace: int = 32,
    density: int = 8,
    ignore: Patterns | None = None,
    only: Patterns | None = None,
    split: str = "train",
    pad: float | None = None,
    output: str | Path | None = None,
    progress: bool = True,
    **keys: Any,
) -> Spectrum:
    """Compute trace, density and leading eigenvectors of the Hessian of the mean training loss.

    Under a launcher every rank makes the call; rank 0 computes.

    Args:
        model: A network, which is only read; or a job file, which stands for data and loss.
        data: As for `evaluate`.
        loss: As for `evaluate`.
        objective: As for `evaluate`.
        vectors: How many eigenvectors; 0 leaves a part out, here and in the next two.
        trace: How many random probes of the trace.
        density: How many random probes of the density.
        ignore: Parameters that the Hessian is not of: patterns of names, and roles.
        only: What alone it is of, likewise.
        split: What the data are, if they do not say it: ``train`` or ``test``.
        pad: With what batches of different lengths are filled up, as for `evaluate`.
        output: A file for the result.  Default: none is kept.
        progress: Whether a bar and warnings are shown.
        keys: Any other key of a job, ``seed`` or ``precision`` for instance, also in place of a
            job file's; the section ``curvature`` says how hard to look.

    Returns:
        Arrays: ``eigenvalues``, ``residuals``, ``vectors``, ``trace``, ``grid``, ``density``...

    Raises:
        UsageError: If an argument is wrong, or network, data and loss do not go together.
        EnvironmentUnfit: If there is no such device, or the file cannot be written.
        KeyboardInterrupt, Stopped: If a signal ended it.
    """
    given = {"ignore": ignore, "only": only}
    section = {name: tasks.patterns(value) for name, value in given.items() if value}
    task: running.Task
    if isinstance(model, str | Path):
        task = _of_file(model, section, data=data, loss=loss, objective=objective, **keys)
    else:
        if section:
            keys["curvature"] = {**keys.get("curvature", {}), **section}
        task = tasks.in_memory(
            "spectrum",
            model,
            data,
            command="spectrum",
            loss=loss,
            objective=objective,
            split=split,
            pad=pad,
            keys=keys,
            output=None,
        )
    path = None if output is None else Path(output).absolute()
    return running.spectrum(task, Sizes(vectors, trace, density), path, shows=progress)


def _of_file(
    path: str | Path,
    section: Mapping[str, Any],
    *,
    data: Any,
    loss: Any,
    objective: Any,
    **keys: Any,
) -> JobFiles:
    """Return the spectrum of a job file, with other values of some keys."""
    if data is not None:
        raise UsageError("data: the job file has its own; leave data out")
    said = {"loss": loss, "objective": objective}
    said = {name: value for name, value in said.items() if value is not None} | keys
    said |= {f"curvature.{name}": value for name, value in section.items()}
    return JobFiles(paths=(Path(path).absolute(),), command="spectrum", changes=_changes(said))


def _changes(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return values by key as the command line takes them.

    Raises:
        UsageError: If a value has no form in a job file.
    """
    changes = []
    for key, value in values.items():
        try:
            changes.append(f"{key}={json.dumps(value)}")
        except (TypeError, ValueError, RecursionError):
            raise UsageError(
                f"{key}: got {type(value).__name__} {short(str(value))}; expected numbers, texts, "
                "lists and dicts of them, as in a job file"
            ) from None
    return tuple(changes)


def _surfaces(
    task: running.Task, count: int | str, progress: bool, **options: Any
) -> list[Surface]:
    style = log.default_style() if progress else "none"
    asked = Options(progress=style, **options)
    return surfaces(task, asked, workers=count, shows=progress)
