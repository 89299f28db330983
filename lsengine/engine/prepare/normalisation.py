"""From what a job says of normalisation to the units of its network."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from torch import nn

from lsengine.engine.prepare.selection import check_patterns, movable_tensors
from lsengine.errors import UsageError
from lsengine.geometry.units import Units
from lsengine.job import Job
from lsengine.job.direction_types import Direction, RandomDirection, UnitsSpec
from lsengine.models.units import Words, units_of

log = logging.getLogger(__name__)


def normalisation(model: nn.Module, axis: str, spec: Direction) -> str | Units:
    """Return what `geometry.directions` takes: a word, or the units of this network.

    Raises:
        UsageError: If the network's units are not known, or a direction that is not drawn would
            need another gauge.
    """
    if not isinstance(spec.normalize, UnitsSpec) and spec.normalize != "head":
        return spec.normalize
    said = UnitsSpec(attention="head") if spec.normalize == "head" else spec.normalize
    key = f"directions.{axis}.normalize"
    found = units_of(model, Words(**said.model_dump()), key)
    if found.pairs and not isinstance(spec, RandomDirection):
        raise UsageError(
            f"{key}: only directions of kind random are drawn where factors are balanced, and this "
            f"one is of kind {spec.kind}; give attention: head and lora: filter"
        )
    return found


def check_choices(job: Job, model: nn.Module) -> None:
    """Refuse words of `only` that fit nothing, and units that the network does not have.

    Raises:
        UsageError: As `check_patterns` and `normalisation` do.
    """
    check_patterns(job, model)
    if job.document.directions:
        for axis, spec in job.directions.items():
            found, key = normalisation(model, axis, spec), f"directions.{axis}.normalize"
            if isinstance(found, Units):
                with units_named(key):
                    text = found.text(movable_tensors(job, model, spec))
                log.info("%s: %s", key, text)


@contextlib.contextmanager
def units_named(key: str) -> Iterator[None]:
    """Turn what units cannot do into an error of a key of the job."""
    try:
        yield
    except ValueError as error:
        raise UsageError(f"{key}: {error}") from None
