"""One job: what a user asked for, as a checked value, and whether the files it names are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from lsengine.external import user_code
from lsengine.job import rules
from lsengine.job.checkpoint_paths import absolute as absolute
from lsengine.job.direction_types import Direction
from lsengine.job.schema import Document, TrajectorySpec


@dataclass(frozen=True, slots=True)
class Job:
    """A valid job and the file it came from, to whose folder its paths are relative.

    With a shard, k and n, a run evaluates the k-th of n parts into a file of its own.
    """

    source: Path
    document: Document
    shard: tuple[int, int] | None = None

    def path(self, written: str) -> Path:
        """Return a path of the document, made absolute against the job file's folder."""
        return absolute(self.source, written)

    @property
    def checkpoint(self) -> Path:
        """The centre's checkpoint; only for jobs loaded for a command that needs one."""
        assert self.document.model.centre is not None
        return self.path(self.document.model.centre)

    @property
    def surface(self) -> Path:
        """The surface file."""
        return self.path(self.document.output or f"surfaces/{self.document.name}.h5")

    @property
    def output(self) -> Path:
        """The file that a run writes: the surface's, or the shard's beside it."""
        surface = self.surface
        return surface.with_suffix(f".shard-{self.shard[0]}.h5") if self.shard else surface

    @property
    def directions(self) -> dict[str, Direction]:
        """The directions by axis name, ``alpha`` first."""
        return rules.directions_of(self.document)

    @property
    def stores_directions(self) -> bool:
        """Whether the surface file is to hold the directions."""
        return self.document.directions is None or self.document.directions.stored

    def direction_files(self) -> dict[str, Path]:
        """Return every file that a direction reads, by key path."""
        return {key: self.path(p) for key, p in direction_files(self.document)}

    @property
    def trajectory(self) -> tuple[str, str] | None:
        """Key path and absolute glob of the checkpoints that are projected, if any are."""
        written = rules.trajectory_glob(self.document)
        return written and (written[0], str(self.path(written[1])))

    @property
    def is_curve_plane(self) -> bool:
        """Whether the directions are the plane of a trained curve."""
        return rules.is_curve_plane(self.document)

    @property
    def margin(self) -> float:
        """Room around a trajectory or curve on axes that fit it, as a fraction of its extent."""
        return (self.document.trajectory or TrajectorySpec()).margin

    @property
    def fits_trajectory(self) -> bool:
        """Whether an axis takes its range from the trajectory or the curve."""
        return self.document.grid is not None and any(rules.automatic_axes(self.document))

    def resolved(self) -> str:
        """Return the whole document as YAML text, defaults filled in and paths absolute."""
        content = self.document.model_dump(mode="json")
        content["output"] = str(self.surface)
        if not content["expect"]:  # files are older than it
            del content["expect"]
        del content["objective" if self.document.objective is None else "loss"]
        tokenizer = ["data.args.tokenizer"] if self.document.data.dataset == "text" else []
        for *sections, last in (path.split(".") for path in [*_PATHS, *tokenizer]):
            section: Any = content
            for key in sections:
                section = (section or {}).get(key)
            if section and section.get(last) is not None:
                section[last] = str(self.path(section[last]))
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)

    @property
    def own_modules(self) -> list[str]:
        """The names of the user's modules that the job names: of data, loss and network."""
        document = self.document
        judged_by = document.objective or document.loss_spec.name
        specs = [document.data.dataset, judged_by]
        if document.model.is_own:
            specs.append(document.model.arch)
        named = [spec for spec in specs if ":" in spec and not user_code.is_provided(spec)]
        return [spec.partition(":")[0] for spec in named]

    def data_identity(self) -> dict[str, Any]:
        """Return what the job says of its data, but where they are, as plain JSON values."""
        content = self.document.data.model_dump(mode="json")
        if content["resize"] is None:  # left out without one: files are older than it
            del content["resize"]
        del content["root"]
        if content["dataset"] == "text":  # the digest of the data is of what a tokenizer makes
            content["args"].pop("tokenizer", None)
        return content

    def network_identity(self) -> dict[str, Any]:
        """Return what decides the network beside its checkpoint's file, as plain JSON values."""
        content = self.document.model.model_dump(mode="json")
        reading = {k: content[k] for k in ("checkpoint_key", "strip_prefix")}
        given = {k: v for k, v in reading.items() if v is not None}  # files are older than these
        return {k: content[k] for k in ("arch", "args")} | given

    def _loss_identity(self) -> Any:
        """Return the loss as a plain JSON value; classes are on the second axis if nothing is said.

        Files are older than that key.
        """
        content = self.document.model_dump(mode="json", include={"loss"})["loss"]
        if isinstance(content, dict) and content.get("class_axis") == "second":
            del content["class_axis"]
        return content["name"] if content == {"name": self.document.loss_spec.name} else content

    def identity(
        self, digests: Mapping[str, str], code: Mapping[str, str] = MappingProxyType({})
    ) -> dict[str, Any]:
        """Return everything that decides the values of the surface, as plain JSON values.

        ``digests`` are the SHA-256 of the checkpoint, of the data and of each direction's files,
        and of the trajectory's where an axis fits it; ``code`` those of the user's sources.
        """
        content = self.document.model_dump(mode="json")
        identity = {k: content[k] for k in _IDENTITY}
        if self.document.objective is not None:
            del identity["loss"]
            identity["objective"] = self.document.objective
        else:
            identity["loss"] = self._loss_identity()
        # Defaults of what is younger than some files are left out.
        if self.document.cells_per_pass != 1:
            identity["cells_per_pass"] = self.document.cells_per_pass
        if self.document.curvature.precision == "float32":
            del identity["curvature"]["precision"]
        identity["curvature"] = without_no_choice(identity["curvature"])
        identity["model"] = self.network_identity()
        identity["data"] = self.data_identity()
        identity["directions"] = {
            axis: {
                k: v
                for k, v in content["directions"][axis].items()
                if k not in _DIRECTION_PATHS and (k, v) != ("only", None)
            }
            for axis in self.directions
        }
        if self.fits_trajectory:
            identity["trajectory"] = {"margin": self.margin}
        identity["digests"] = dict(digests)
        if code:
            identity["code"] = dict(code)
        return identity


_DIRECTION_FILES = ("checkpoint", "path")
_DIRECTION_PATHS = (*_DIRECTION_FILES, "checkpoints")
_PATHS = ["model.checkpoint", "model.path", "model.adapter", "data.root"]
_PATHS += ["trajectory.checkpoints", "train.output", "curve.to", "curve.output"]
_PATHS += [f"directions.{axis}.{key}" for axis in ("alpha", "beta") for key in _DIRECTION_PATHS]
_IDENTITY = ["loss", "batch_norm", "curvature", "precision", "batch_size", "quantities"]
_IDENTITY += ["grid", "repeats", "seed"]


def without_no_choice(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section without ``only`` and ``ignore`` that say nothing: files are older."""
    return {k: v for k, v in section.items() if k not in ("only", "ignore") or v}


def direction_files(job: Document) -> Iterator[tuple[str, str]]:
    """Yield key and path of every file that a direction reads."""
    for axis, spec in rules.directions_of(job).items():
        for key in _DIRECTION_FILES:
            if getattr(spec, key, None) is not None:
                yield f"directions.{axis}.{key}", getattr(spec, key)
