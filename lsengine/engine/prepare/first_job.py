"""A job for a checkpoint by looking at it: what is guessed, and what is left open."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from lsengine.job.networks import NETWORKS
from lsengine.models import checkpoint
from lsengine.models.guessing import Guess, Shapes, guess
from lsengine.wording import listed

_FILL_IN = "FILL IN"
_DATA = {  # by channels, classes and side: what has them, and needs no file of one's own
    (1, 10, 8): "digits",
    (1, 10, 28): "mnist",
    (3, 10, 32): "cifar10",
    (3, 100, 32): "cifar100",
}
_TEXT = """\
# Written by lsengine init for {path}.
{todo}
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
# What your training says of this checkpoint: anything else at the centre is refused.
# expect: {{test_accuracy: 0.97}}{said}

directions:
  alpha: {{kind: random, normalize: {unit}, ignore: [bias, norm], seed: 1}}
  beta: {{kind: random, normalize: {unit}, ignore: [bias, norm], seed: 2}}

grid:                            # start, stop, points
  alpha: [-1, 1, 21]
  beta: [-1, 1, 21]

output: {output}
"""


def first_job(path: Path, job: Path) -> str:
    """Return the text of a job file ``job`` for a checkpoint: a file, or a folder of a library.

    A network of the zoo is found by names and shapes, and data by its channels and classes; what
    is not found says `FILL IN`.

    Raises:
        UsageError: If the checkpoint cannot be read.
    """
    content = checkpoint.load(path, key="checkpoint")
    shapes = {name: tuple(tensor.shape) for name, tensor in content.state.items()}
    found = guess(shapes)
    name = "".join(c if c.isprintable() and c != "/" else "_" for c in path.stem)[:200]
    numbers = {**({"epoch": content.epoch} if content.epoch is not None else {}), **content.numbers}
    said = ", ".join(f"{n}={v:g}" for n, v in numbers.items() if n.isprintable())
    is_whole = found is not None and _dataset(found) == "digits" and not found.unsure
    return _TEXT.format(
        path=json.dumps(str(path)),
        todo="# All that is marked as a guess may be wrong." if is_whole
        else f"# Replace what says {_FILL_IN}; all that is marked as a guess may be wrong.",
        job=json.dumps(job.name)[1:-1],
        name=json.dumps(name),
        model=_model(found, shapes),
        checkpoint=json.dumps(_relative(path, job)),
        data=_data(found),
        loss="" if found is not None and found.arch == "gpt" else "\nloss: cross_entropy\n",
        said=f"   # the file says: {said[:200]}" if said else "",
        unit="head" if found is not None and found.arch in ("gpt", "vit") else "filter",
        output=json.dumps(f"surfaces/{name}.h5"),
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
            f"  arch: mine:network           # {_FILL_IN}: module:factory of yours, or a name of a "
            "library; none of lsengine's own has\n"
            f"  # these parameters: {json.dumps(', '.join(ends))[1:-1]}"
        )
    args = {**found.args, **{n: NETWORKS[found.arch].args[n] for n in found.unsure if n != "size"}}
    lines = [
        f"  arch: {found.arch}    # a guess: all {len(shapes)} names and shapes are those of it"
    ]
    if args:
        lines.append(f"  args: {json.dumps(args)}")
        if unsure := [name for name in found.unsure if name != "size"]:
            lines[-1] += f"    # {_FILL_IN}: no shape tells {listed(unsure)}"
    return "\n".join(lines)


def _dataset(found: Guess) -> str:
    """Return the data set that a network may be of, `arrays` if no other."""
    if found.arch == "gpt":
        return "text"
    size = None if found.size is None or "size" in found.unsure else found.size[0]
    wanted = found.channels, found.classes
    fitting = [n for (c, k, s), n in _DATA.items() if (c, k) == wanted and size in (None, s)]
    return fitting[0] if fitting else "arrays"


def _data(found: Guess | None) -> str:
    if found is None:
        return (
            f"  dataset: arrays                # {_FILL_IN}: or another one, docs/howto/data.md\n"
            f"  root: data.npz                 # {_FILL_IN}"
        )
    name, of = _dataset(found), _about(found)
    root = {"digits": "", "arrays": "data.npz", "text": "text.txt"}.get(name, "data")
    lines = [f"  dataset: {name}    # a guess, from {of}"]
    if root:
        lines.append(f"  root: {root}    # {_FILL_IN}: where the data are")
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
        "to be filled in": [line for line in lines if f"# {_FILL_IN}" in line],
    }
