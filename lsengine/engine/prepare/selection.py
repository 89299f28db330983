"""Which parameters of a network a direction, a curve or a Hessian is about."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn

from lsengine import models
from lsengine.curvature import cells
from lsengine.errors import UsageError
from lsengine.geometry.parameters import can_move
from lsengine.job import Job
from lsengine.job.direction_types import Direction
from lsengine.job.schema import CurvatureSpec, CurveSpec
from lsengine.surface import parts
from lsengine.surface.parts import EVERYTHING, ROLES, Selection
from lsengine.wording import did_you_mean, listed

T = TypeVar("T")
Chooser = Direction | CurveSpec | CurvatureSpec


def selection(spec: Chooser) -> Selection:
    """Return what a section of a job says with ``only`` and ``ignore``."""
    return Selection.said(spec.only, spec.ignore)


def movable_tensors(job: Job, model: nn.Module, spec: Chooser | None) -> dict[str, Tensor]:
    """Return the centre's tensors that a direction moves, by name; without one, all that can."""
    tensors = {n: p.detach() for n, p in model.named_parameters() if can_move(p)}
    if job.document.batch_norm.policy == "interpolated":
        buffers = models.batch_norm_buffers(model)
        tensors |= {n: b for n, b in model.named_buffers() if n in buffers}
    chosen = selection(spec) if spec else EVERYTHING
    return {n: tensors[n] for n in chosen.of(tensors, roles(model))}


def weights_among(tensors: Mapping[str, T], model: nn.Module) -> dict[str, T]:
    """Return the entries of parameters, without running statistics: what lengths are taken of."""
    parameters = dict(model.named_parameters())
    return {name: tensor for name, tensor in tensors.items() if name in parameters}


def hessian_names(job: Job, model: nn.Module, *, at_cells: bool) -> list[str]:
    """Return the trainable parameters that the section ``curvature`` chooses.

    ``at_cells`` it may say that only those count which the directions move.

    Raises:
        UsageError: If none is left.
    """
    spec = job.document.curvature
    moved = None
    if at_cells and spec.parameters == "moved" and job.document.directions:
        axes = job.directions.values()
        moved = {name for axis in axes for name in movable_tensors(job, model, axis)}
    names = cells.trainable_names(model, selection(spec))
    if not names and cells.trainable_names(model):
        raise UsageError(
            "curvature: only and ignore leave no trainable parameter; give other patterns"
        )
    return cells.hessian_parameters(names, moved)


def roles(model: nn.Module) -> parts.Roles:
    """Return names by what ``ignore`` calls them; running statistics belong to normalisations."""
    buffers = models.batch_norm_buffers(model)
    found = models.parameter_roles(model)
    return found | {word: found[word] | buffers for word in ("norm", "one_axis")}


def check_patterns(job: Job, model: nn.Module) -> None:
    """Refuse words of ``only``, and patterns of ``ignore``, that fit no parameter.

    A role in ``ignore`` may be one that this network has not.

    Raises:
        UsageError: With the names that are near; or if ``ignore`` leaves nothing of ``only``.
    """
    names = [*dict(model.named_parameters()), *dict(model.named_buffers())]
    known = roles(model)
    for key, spec in _choosers(job):
        for word in spec.only or ():
            if not any(parts.fits(name, word, known) for name in names):
                raise UsageError(f"{key}.only: {_unfit(word, names)}")
        for word in spec.ignore:
            if word not in ROLES and not any(parts.fits(name, word, {}) for name in names):
                raise UsageError(f"{key}.ignore: {_unfit(word, names)}")
        if spec.only and not movable_tensors(job, model, spec):
            raise UsageError(
                f"{key}: of only: [{listed(spec.only)}] nothing moves beside ignore: "
                f"[{listed(spec.ignore)}]; give ignore: [] or other patterns"
            )


def _choosers(job: Job) -> Iterator[tuple[str, Chooser]]:
    """Yield key and section of all that choose parameters."""
    document = job.document
    if document.directions:
        yield from ((f"directions.{axis}", spec) for axis, spec in job.directions.items())
    yield "curvature", document.curvature
    if document.curve:
        yield "curve", document.curve


def _unfit(word: str, names: Collection[str]) -> str:
    """Return in words that nothing fits, and what is near."""
    if word in ROLES:
        return f"no parameter has the role {word}"
    near = _nearest(word, list(names))
    words = f"near: {listed(near, 3)}" if near else f"there are: {listed(names, 3)}"
    return f"{word} fits no parameter; {words}{did_you_mean(word, ROLES)}"


def _nearest(pattern: str, names: Sequence[str]) -> list[str]:
    """Return the names that a pattern with a slip of the keyboard may mean.

    A part of it that no name has is compared with the parts of names; else the whole.  Those most
    like the pattern come first.
    """
    odd = [p for p in re.split(r"[.*?\[\]]+", pattern) if p and not any(p in n for n in names)]
    words = sorted({part for name in names for part in name.split(".")})
    close = {word for part in odd for word in difflib.get_close_matches(part, words, 2)}
    alike = [name for name in names if close & set(name.split("."))]
    alike.sort(key=lambda name: -difflib.SequenceMatcher(None, pattern, name).ratio())
    return alike or difflib.get_close_matches(pattern, names, 3)
