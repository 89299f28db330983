"""A job for a checkpoint by looking at it: what is guessed, and what is left open."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from lsengine.job.networks import NETWORKS
from lsengine.job.plain import FILL_IN
from lsengine.models import checkpoint
from lsengine.models.guessing import Guess, Shapes, guess
from lsengine.wording import listed

_DATA = {  # by channels, classes and side: what has them, and needs no file of one's own
    (1, 10, 8): "digits",
    (1, 10, 28): "mnist",
    (3, 10, 32): "cifar10",
    (3, 100, 32): "cifar100",
}
_TEXT = """\
# Written by lsengine init for {path}.
# Replace each {open}: until then no command takes this job.
# What is marked as a guess may be wrong.
#   lsengine eval {job}
# Relative paths are relative to this file.

name: {name}

model:
{model}
  checkpoint: {checkpoint}

data:
{data}
  splits: [train, test]
{loss}
# Anything else at the centre is refused: it shows a wrong guess.
expect: {open}    # what your training says, such as {{test_accuracy: 0.97}}; {{}} if nothing{said}

directions:
  alpha: {{kind: random, normalize: {unit}, ignore: [bias, norm], seed: 1}}
  beta: {{kind: random, normalize: {unit}, ignore: [bias, norm], seed: 2}}

grid:                            # start, stop, points
  alpha: [-1, 1, 21]
  beta: [-1, 1, 21]
"""


def first_job(path: Path, job: Path) -> str:
    """Return the text of a job file ``job`` for a checkpoint: a file, or a folder of a library.

    A network of the zoo is found by names and shapes, and data by its channels and classes; what
    is not found says `FILL IN`, and so does what the centre has to be: a guess may be wrong.

    Raises:
        UsageError: If the checkpoint cannot be read.
    """
    content = checkpoint.load(path, key="checkpoint")
    shapes = {name: tuple(tensor.shape) for name, tensor in content.state.items()}
    found = guess(shapes)
    name = "".join(c if c.isprintable() and c != "/" else "_" for c in path.stem)[:200]
    numbers = {**({"epoch": content.epoch} if content.epoch is not None else {}), **content.numbers}
    said = ", ".join(f"{n}={v:g}" for n, v in numbers.items() if n.isprintable())
    return _TEXT.format(
        path=json.dumps(str(path)),
        open=FILL_IN,
        job=json.dumps(job.name)[1:-1],
        name=json.dumps(name),
        model=_model(found, shapes),
        checkpoint=json.dumps(_relative(path, job)),
        data=_data(found),
        loss="" if found is not None and found.arch == "gpt" else "\nloss: cross_entropy\n",
        said=f"; the file says: {said[:200]}" if said else "",
        unit="head" if found is not None and found.arch in ("gpt", "vit") else "filter",
    )  # fmt: skip


def _relative(path: Path, job: Path) -> str:
    """Return the path as a job says it: from its folder on, unless it lies elsewhere."""
    written = os.path.relpath(path.absolute(), job.absolute().parent)
    return str(path.absolute()) if written.startswith("..") else written


def _model(found: Guess | None, shapes: Shapes) -> str:
    if found is None:
        names = [f"{name} {[*shape]}" for name, shape in shapes.items()]
        ends = names if len(names) < 5 else [*names[:2], "...", *names[-2:]]
        return (
            f"  arch: {FILL_IN}    # module:factory of yours or of a library; none of lsengine's "
            f"own has these parameters\n  # ({json.dumps(', '.join(ends))[1:-1]})"
        )
    unsure = [name for name in found.unsure if name != "size"]
    args = found.args | dict.fromkeys(unsure, FILL_IN)
    if NETWORKS[found.arch].shortcut:
        line = f"{found.arch}    # a guess: all {len(shapes)} names and shapes are those of it"
    else:  # a checkpoint of He et al.'s networks for CIFAR has the same names
        line = (
            f"{FILL_IN}    # {found.arch}; or module:factory of yours if shortcuts have no "
            "parameters (option A), which no name tells"
        )
    lines = [f"  arch: {line}"]
    if args:
        lines.append(f"  args: {json.dumps(args)}")
        if unsure:
            lines[-1] += f"    # no shape tells {listed(unsure)}"
    return "\n".join(lines)


def _datasets(found: Guess) -> list[str]:
    """Return the data sets that a network may be of, `arrays` if no other."""
    if found.arch == "gpt":
        return ["text"]
    size = None if found.size is None or "size" in found.unsure else found.size[0]
    wanted = found.channels, found.classes
    fitting = [n for (c, k, s), n in _DATA.items() if (c, k) == wanted and size in (None, s)]
    return fitting or ["arrays"]


def _data(found: Guess | None) -> str:
    if found is None:
        return (
            f"  dataset: {FILL_IN}    # arrays (docs/howto/data.md), image_folder "
            "(docs/howto/images.md), text (docs/howto/tokens.md), "
            f"{', '.join(_DATA.values())}, or module:factory of yours\n"
            f"  root: {FILL_IN}    # where they are; no such line for digits and module:factory"
        )
    (name, *others), of = _datasets(found), _about(found)
    where = {"digits": "", "arrays": "your .npz file", "text": "your text file"}
    root = where.get(name, f"the folder or .npz file where {name} is, or a folder to load it into")
    lines = [f"  dataset: {name}    # a guess, from {'; or '.join([of, *others])}"]
    if root:
        lines.append(f"  root: {FILL_IN}    # {root}")
    return "\n".join(lines)


def _about(found: Guess) -> str:
    if found.arch == "gpt":
        return f"{found.classes} tokens"
    size = "" if found.size is None or "size" in found.unsure else " of {}x{}".format(*found.size)
    plural = "" if found.channels == 1 else "s"
    return f"{found.channels} channel{plural}{size} and {found.classes} classes"


def told(text: str) -> Mapping[str, list[str]]:
    """Return what a job file leaves to be filled in, and what is a guess: the lines, as written."""
    lines = [line.strip() for line in text.splitlines() if not line.startswith("#")]
    return {
        "a guess": [line for line in lines if "# a guess" in line],
        "to be filled in": [line for line in lines if FILL_IN in line.partition(" #")[0]],
    }
