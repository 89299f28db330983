"""What is to be evaluated, as a value that other processes can get: jobs, and what they name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lsengine import job as jobs
from lsengine.api import memory
from lsengine.errors import UsageError
from lsengine.job import Job
from lsengine.models import calling, vocabulary


@dataclass(frozen=True, slots=True)
class InFolder:
    """The place of a file's name in a job: it is in a folder that is not known yet."""

    name: str


@dataclass(frozen=True, kw_only=True)
class JobFiles:
    """Jobs that are in files.

    ``only`` is a pattern of their names; ``changes`` such as ``seed=3`` replace the files' values.
    """

    paths: tuple[Path, ...]
    command: str
    only: str = "*"
    changes: tuple[str, ...] = ()
    is_kept = True  # whether surfaces are in files that stay

    @property
    def objects(self) -> Mapping[str, Callable[..., Any]]:
        """What the jobs name of this process: nothing."""
        return {}

    def jobs(self, folder: Path) -> list[Job]:
        """Return the jobs.

        Raises:
            JobError: If one is wrong.
        """
        asked: dict[str, Any] = {"command": self.command, "only": self.only}
        loaded = [jobs.load_all(path, **asked, changes=self.changes) for path in self.paths]
        return [job for of_file in loaded for job in of_file]

    def outputs(self) -> list[Path]:
        """Return the files of the surfaces; raises as `jobs`."""
        return [job.output for job in self.jobs(Path())]

    def portable(self, folder: Path) -> JobFiles:
        """Return what another process on this machine can do."""
        return self


@dataclass(frozen=True, kw_only=True)
class InMemory:
    """One job about objects of a process.

    Attributes:
        who: The function that was called.
        command: The command that it stands for.
        content: Keys and values; `InFolder` where a file of ``checkpoints`` is meant.
        objects: What the job names: makers of networks and samples, losses.
        checkpoints: Networks and state dicts, by the names of their files; with epochs or None.
        started_in: The folder where paths start.
    """

    who: str
    command: str
    content: dict[str, Any]
    objects: Mapping[str, Callable[..., Any]]
    checkpoints: Mapping[str, tuple[Any, int | None]] = field(default_factory=dict)
    started_in: Path

    def jobs(self, folder: Path) -> list[Job]:
        """Write the checkpoints into a folder and return the job.

        Raises:
            JobError: If keys or values are wrong.
            UsageError: If a checkpoint holds no numbers.
            EnvironmentUnfit: If the folder cannot be written.
        """
        for name, (thing, epoch) in self.checkpoints.items():
            memory.write_checkpoint(folder / name, thing, _argument(name), epoch)
        content = _plain(self.content, folder)
        command, who = self.command, self.who
        return [jobs.from_values(content, folder=self.started_in, command=command, who=who)]

    @property
    def is_kept(self) -> bool:
        """Whether the surface is in a file that stays."""
        return isinstance(self.content["output"], str)

    def outputs(self) -> list[Path]:
        """Return the file of the surface, if it is known."""
        return [self.started_in / self.content["output"]]

    def portable(self, folder: Path) -> InMemory:
        """Return what another process on this machine can do; a surface is in the folder at least.

        Raises:
            UsageError: If a checkpoint holds no numbers.
        """
        output = self.content["output"]
        if isinstance(output, InFolder):
            output = str(folder / output.name)
        states = {
            name: (memory.state_of(thing, _argument(name)), epoch)
            for name, (thing, epoch) in self.checkpoints.items()
        }
        return replace(self, content={**self.content, "output": output}, checkpoints=states)


def _argument(name: str) -> str:
    """Return which argument a checkpoint comes from."""
    stem = Path(name).stem.partition("-")[0]
    return "checkpoints" if stem.startswith("epoch") else stem


def in_memory(
    who: str,
    model: Any,
    data: Any,
    *,
    command: str,
    loss: Any,
    objective: Any = None,
    split: str,
    pad: float | None = None,
    keys: Mapping[str, Any],
    output: str | Path | None,
) -> InMemory:
    """Return a job about a network and its data; ``keys`` are the job's others.

    Raises:
        UsageError: If it is no network, no loss, or a key is one that a function sets itself.
    """
    samples = memory.Samples(data, split, with_targets=objective is None, pad=pad)
    objects: dict[str, Callable[..., Any]] = {"data": samples}
    if loss is None and objective is None:
        loss = _usual_loss(model, samples)
    judge = _judge(loss, objective, objects)
    objects["model"] = memory.Copies(model, samples, _used(objects))
    if taken := {"model", "data", "train", "curve", "launch"} & keys.keys():
        raise UsageError(f"{who}: {sorted(taken)[0]} is no key of a job in memory")
    about = {"dataset": "memory:data", "splits": samples.splits}
    content = {
        "name": Path(output).stem if output is not None else type(model).__name__,
        "model": {"arch": "memory:model", "checkpoint": InFolder("model.pt")},
        "data": about | ({"subset": keys["subset"]} if "subset" in keys else {}),
        **judge,
        "output": InFolder("surface.h5") if output is None else str(output),
        **{key: value for key, value in keys.items() if key != "subset"},
    }
    return InMemory(
        who=who,
        command=command,
        content=content,
        objects=objects,
        checkpoints={"model.pt": (model, None)},
        started_in=Path.cwd(),
    )


def _usual_loss(model: Any, samples: memory.Samples) -> str:
    """Return the loss where none is named.

    Batches for networks of transformers have labels as their own loss takes them: not shifted yet,
    for language models.
    """
    if vocabulary(model) is not None and all(isinstance(s.x, dict) for s in samples().values()):
        return "output"
    return "cross_entropy"


def _judge(loss: Any, objective: Any, objects: dict[str, Callable[..., Any]]) -> dict[str, Any]:
    """Return what a job says of its loss or objective; one in memory is added to the objects."""
    if objective is None:
        name = memory.named_loss(loss)
        if name is None:
            objects["loss"] = loss
        return {"loss": name or "memory:loss"}
    if loss is not None:
        raise UsageError("loss: an objective is given, which has its own; leave one of them out")
    if isinstance(objective, str):
        return {"objective": objective}
    if not callable(objective):
        raise UsageError(
            f"objective: expected a function of network and batch; got {type(objective).__name__}"
        )
    objects["objective"] = objective
    return {"objective": "memory:objective"}


def _used(objects: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """Return what is done with a network, inputs and targets, by objects in memory."""
    loss, objective = objects.get("loss"), objects.get("objective")

    def use(network: Any, x: Any, y: Any) -> None:
        if objective is not None:
            objective(network, x if y is None else (x, y))
            return
        output = calling.call(network, x)
        if loss is not None:
            loss(output, y)

    return use


def grid(points: Any, kind: Callable[[int], list[Any]]) -> Any:
    """Return the section of a job: as given, or both axes of so many points each.

    Raises:
        UsageError: If it is neither a number of points nor a mapping.
    """
    if isinstance(points, Mapping):
        return points
    if isinstance(points, bool) or not isinstance(points, int | np.integer):
        raise UsageError(
            f"grid: got {points!r}; expected a number of points of both axes, such as 51, or a "
            'mapping such as {"alpha": [-1, 1, 51], "beta": [-1, 1, 21]}'
        )
    return {axis: kind(int(points)) for axis in ("alpha", "beta")}


def directions(
    given: Mapping[str, Any] | None,
    default: Mapping[str, Mapping[str, Any]],
    axes: Any,
    moves: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, tuple[Any, int | None]]]:
    """Return the section of a job, and the checkpoints that it names.

    ``default`` is by axis, used where ``given`` is None, for the axes of a grid; ``moves`` say what
    moves and how it is normalised.

    Raises:
        UsageError: If both are given.
    """
    said = {
        name: patterns(value) if name in ("ignore", "only") else value
        for name, value in moves.items()
        if value is not None
    }
    if given is not None and said:
        raise UsageError(f"{next(iter(said))}: say it in directions, which are given")
    if given is None:
        wanted = axes if isinstance(axes, Mapping) else default
        given = {axis: {**spec, **said} for axis, spec in default.items() if axis in wanted}
    section: dict[str, Any] = dict(given)
    checkpoints: dict[str, tuple[Any, int | None]] = {}
    for axis, spec in given.items():
        other = spec.get("checkpoint") if isinstance(spec, Mapping) else None
        if other is not None and memory.is_in_memory(other):
            checkpoints[f"toward-{axis}.pt"] = other, None
            section[axis] = {**spec, "checkpoint": InFolder(f"toward-{axis}.pt")}
    return section, checkpoints


def patterns(given: Any) -> Any:
    """Return patterns as a list, also one by itself."""
    return [given] if isinstance(given, str) else given


def toward(others: Any, axes: Sequence[str] = ("alpha", "beta")) -> dict[str, dict[str, Any]]:
    """Return the directions toward one or two other checkpoints.

    Raises:
        UsageError: If there are more.
    """
    several = list(others) if isinstance(others, list | tuple) else [others]
    if not 1 <= len(several) <= len(axes):
        raise UsageError(f"toward: expected one or two checkpoints, got {len(several)}")
    pairs = zip(axes, several, strict=False)
    return {axis: {"kind": "toward", "checkpoint": other} for axis, other in pairs}


def _plain(value: Any, folder: Path) -> Any:
    """Return values as a YAML file would give them."""
    if isinstance(value, InFolder):
        return str(folder / value.name)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, folder) for key, inner in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(inner, folder) for inner in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value
