"""Write the pages of the reference that are made from the code: `make reference`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from lsengine.cli import build_parser
from lsengine.job.schema import json_schema

_SECTIONS = {  # heading: class of the schema, which pages say more
    "All keys of the file": ("Document", "[Job files](../JOBS.md)"),
    "model": (
        "ModelSpec",
        "[Checkpoints](../howto/checkpoint.md), [your own network](../tutorial/own-network.md), "
        "[Hugging Face](../howto/hugging-face.md), [LoRA](../howto/lora.md)",
    ),
    "data": (
        "DataSpec",
        "[CIFAR and MNIST](../howto/known.md), [arrays](../howto/data.md), "
        "[image folders](../howto/images.md), "
        "[tokens](../howto/tokens.md)",
    ),
    "data.normalize": ("NormalizeSpec", ""),
    "loss": ("LossSpec", "[Losses](../howto/loss.md)"),
    "directions": (
        "DirectionsSpec",
        "[Directions and their normalisation](../DIRECTIONS.md), "
        "[what moves](../howto/what-moves.md)",
    ),
    "kind: random": ("RandomDirection", ""),
    "kind: toward": ("TowardDirection", "[Lines and planes between networks](../howto/between.md)"),
    "kind: file": ("FileDirection", ""),
    "kind: hessian": ("HessianDirection", "[Curvature](../howto/curvature.md)"),
    "kind: principal": ("PrincipalDirection", "[Trajectories](../howto/trajectory.md)"),
    "kind: curve": ("CurveDirection", "[Curves of low loss](../howto/connect.md)"),
    "normalize by role": ("UnitsSpec", "[Directions](../DIRECTIONS.md)"),
    "grid": ("GridSpec", ""),
    "trajectory": ("TrajectorySpec", "[Trajectories](../howto/trajectory.md)"),
    "batch_norm": ("BatchNormSpec", "[Batch normalisation](../explanation/batch-norm.md)"),
    "curvature": ("CurvatureSpec", "[Curvature](../howto/curvature.md)"),
    "train": ("TrainSpec", "[Training](../howto/train.md)"),
    "curve": ("CurveSpec", "[Curves of low loss](../howto/connect.md)"),
    "launch": (
        "LaunchSpec",
        "[SLURM](../howto/slurm.md). None of these keys affects values. All but `coordinator` and "
        "`hang_s` may be in a [site file](../OPERATIONS.md#submitting) instead",
    ),
    "launch.container": ("ContainerSpec", ""),
}


def job_keys() -> str:
    """Return a table of keys for each section of a job, as Markdown."""
    schema = json_schema()
    defs = {"Document": schema, **schema["$defs"]}
    if missing := defs.keys() - {name for name, _ in _SECTIONS.values()}:
        raise ValueError(f"sections of a job without a heading here: {missing}")
    return "\n".join(
        line
        for heading, (name, pages) in _SECTIONS.items()
        for line in _section(heading, defs[name], pages)
    )


def _section(heading: str, section: dict[str, Any], pages: str) -> Iterator[str]:
    yield f"## {heading}\n"
    if text := section.get("description", ""):
        yield text.replace("``", "`") + "\n"
    yield "| key | meaning | values |\n| --- | --- | --- |"
    for key, content in section["properties"].items():
        cells = (f"`{key}`", content["description"], _values(content) + _default(content))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield f"\nMore: {pages}.\n" if pages else ""


def _default(content: dict[str, Any]) -> str:
    value = content.get("default")
    if value is None or (isinstance(value, dict) and value):
        return ""
    return f"; default `{yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}`"


_NUMBERS = {"integer": "an integer", "number": "a number"}
_WORDS = {"string": "a text", "boolean": "`true` or `false`", "object": "a mapping"}


def _values(content: dict[str, Any]) -> str:
    """Return what a key may be, in words."""
    if "anyOf" in content:
        options = [o for o in content["anyOf"] if o.get("type") != "null"]
        return " or ".join(dict.fromkeys(map(_values, options)))
    if "$ref" in content:
        return "a section"
    if "const" in content:
        return f"`{content['const']}`"
    if "enum" in content:
        return ", ".join(f"`{value}`" for value in content["enum"])
    kind = content.get("type", "")
    if kind == "array":
        return f"a list: {_values(content['items'])}"
    if kind in _NUMBERS:
        return _NUMBERS[kind] + _range(content)
    return _WORDS.get(kind, "any value")


def _range(content: dict[str, Any]) -> str:
    """Return the limits of a number; those that only a machine sees are left out."""
    words = []
    for key, word in (("minimum", "at least"), ("exclusiveMinimum", "above")):
        if key in content:
            words.append(f"{word} {content[key]:g}")
    for key, word in (("maximum", "at most"), ("exclusiveMaximum", "below")):
        if content.get(key, 1e9) < 1e9:
            words.append(f"{word} {content[key]:g}")
    return f" {', '.join(words)}" if words else ""


def command_line() -> str:
    """Return the help of every command, as Markdown."""
    parser = build_parser()
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    lines = ["| command | what it does |", "| --- | --- |"]
    helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
    lines += [f"| [`{name}`](#{name}) | {text} |" for name, text in helps.items()]
    for name, command in action.choices.items():
        if name in helps:
            lines += ["", f"## {name}", "", _sentence(command.description or helps[name]), ""]
            lines += ["```text", _usage(command), "```", "", *_arguments(command)]
    epilog = " ".join((parser.epilog or "").split())
    return "\n".join([*lines, "", "## Exit codes", "", _sentence(epilog)])


def _sentence(text: str) -> str:
    return (text[:1].upper() + text[1:]).rstrip(".") + "."


def _usage(command: argparse.ArgumentParser) -> str:
    formatter = argparse.HelpFormatter(command.prog, width=100)  # not as wide as this terminal
    formatter.add_usage(command.usage, command._actions, command._mutually_exclusive_groups, "")
    return formatter.format_help().rstrip()


def _arguments(command: argparse.ArgumentParser) -> Iterator[str]:
    formatter = command._get_formatter()
    yield "| argument | meaning |\n| --- | --- |"
    for action in command._actions:
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        names = formatter._format_action_invocation(action)
        text = formatter._expand_help(action) if action.help else ""
        cells = (f"`{names}`", re.sub(r"([*<>|])", r"\\\1", text))
        yield "| " + " | ".join(cells) + " |"


_FOLDER = Path(__file__).parent / "reference"
_MARK = "<!-- Written by make reference; what is above is written by hand. -->\n"
PAGES: dict[Path, Callable[[], str]] = {
    _FOLDER / "job-keys.md": job_keys,
    _FOLDER / "command-line.md": command_line,
}


def written(page: Path) -> str:
    """Return what a page has to be: its head as it is, and what the code says now."""
    head, mark, _ = page.read_text().partition(_MARK)
    if not mark:
        raise ValueError(f"{page}: no line {_MARK.strip()!r}")
    return f"{head}{mark}\n{PAGES[page]().rstrip()}\n"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(written(page))
