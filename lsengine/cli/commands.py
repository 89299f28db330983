"""The commands: each calls one function and prints what a person wants to know.

Nothing heavy is imported before a command needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import lsengine
from lsengine import files
from lsengine.errors import SurfaceError, UsageError
from lsengine.log import say


def tell(text: object) -> None:
    """Print a result, if there is one, and anybody reads it: the work is done all the same.

    Characters that a terminal obeys are shown as escapes.
    """
    with suppress(BrokenPipeError):
        if text != "":
            say(str(text))


def _join(parsed: argparse.Namespace) -> Any:
    """Join the other ranks, before anything imports HDF5: that may load another MPI library."""
    from lsengine import log
    from lsengine.ranks import join

    log.set_quiet(parsed.quiet)
    if parsed.quiet:
        parsed.progress = "none"
    return join()


def _options(parsed: argparse.Namespace, **more: Any) -> Any:
    from lsengine.engine import Options

    common = {"retry_failed": parsed.retry_failed, "progress": parsed.progress}
    return Options(**common, end_if_hung=True, **more)


def train(parsed: argparse.Namespace) -> int:
    """Train the jobs' networks."""
    _check_workers(parsed)
    world = _join(parsed)
    if parsed.workers is not None:
        from lsengine.api import trainers

        task = _files(parsed, "train")
        return trainers.train(task, workers=parsed.workers, progress=parsed.progress)
    from lsengine.training.command import run_all

    return run_all(
        parsed.jobs,
        world=world,
        only=parsed.only,
        changes=parsed.changes,
        progress=parsed.progress,
    )


def _check_workers(parsed: argparse.Namespace) -> None:
    from lsengine import ranks

    with ranks.refused_once():
        if parsed.workers is not None and ranks.launched_size() > 1:
            raise UsageError(
                "--workers: these are ranks of a launch already; leave it out, or start the "
                "command without mpirun or srun"
            )


def _files(parsed: argparse.Namespace, command: str) -> Any:
    from lsengine.api.tasks import JobFiles

    paths, changes = tuple(map(Path, parsed.jobs)), tuple(parsed.changes)
    return JobFiles(paths=paths, command=command, only=parsed.only, changes=changes)


def evaluate(parsed: argparse.Namespace) -> int:
    """Evaluate the jobs' surfaces."""
    from lsengine import ranks

    with ranks.refused_once():
        if parsed.extend is not None and (len(parsed.jobs) > 1 or parsed.shard is not None):
            raise UsageError("--extend goes with one job, and not with --shard")
        if parsed.workers is not None and parsed.shard is not None:
            raise UsageError("--workers shares the cells out itself; leave --shard out")
    _check_workers(parsed)
    world = _join(parsed)
    from lsengine.engine import evaluate

    options = _options(parsed, chunk=parsed.chunk, shard=parsed.shard, extend=parsed.extend)
    if parsed.workers is not None:
        from lsengine.api import workers

        return workers.evaluate(_files(parsed, "eval"), options, workers=parsed.workers)
    return evaluate(parsed.jobs, options, world=world, only=parsed.only, changes=parsed.changes)


def submit(parsed: argparse.Namespace) -> int:
    """Submit jobs, and print number, step and name of each; or print scripts or estimates."""
    from lsengine import submit

    if parsed.dry_run and parsed.estimate:
        raise UsageError("--dry-run evaluates nothing, --estimate prints no script; give one")
    options = submit.SubmitOptions(
        site=parsed.site,
        shards=parsed.array,
        chain=parsed.chain,
        probe=parsed.probe,
        may_evaluate=not parsed.dry_run,
        changes=tuple(parsed.changes),
    )
    planned = submit.plan(parsed.jobs, options, only=parsed.only)
    if parsed.dry_run:
        steps = [step for _, steps in planned for step in steps]
        for place, step in enumerate(steps, 1):
            if len(steps) > 1:
                tell(f"# ==== {place} of {len(steps)}: {step.kind} {step.name}")
            tell(step.text)
    elif not parsed.estimate:
        for job, steps in planned:
            for step, number in zip(steps, submit.send(job, steps), strict=True):
                tell(f"{number} {step.kind} {step.name}")
    return 0


def merge(parsed: argparse.Namespace) -> int:
    """Make one surface of shards, and print what it lacks."""
    from lsengine import log as logs
    from lsengine.store.shards import merge

    logs.configure(rank=0)
    merged = merge(parsed.shards, parsed.output)
    tell(merged.text)
    return merged.code


def spectrum(parsed: argparse.Namespace) -> int:
    """Write what is known of a Hessian, and print it."""
    world = _join(parsed)
    from lsengine.engine import spectrum

    sizes = spectrum.Sizes(parsed.vectors, parsed.trace, parsed.density)
    code, text = spectrum.run(
        parsed.job, sizes, world=world, output=parsed.output, changes=parsed.changes
    )
    tell(text)
    return code


def connect(parsed: argparse.Namespace) -> int:
    """Train and evaluate a curve between two minima, and print the barriers."""
    world = _join(parsed)
    from lsengine.engine import connect

    code, text = connect.run(parsed.job, _options(parsed), world=world, changes=parsed.changes)
    tell(text)
    return code


def trajectory(parsed: argparse.Namespace) -> int:
    """Evaluate the jobs' checkpoints and print their tables."""
    world = _join(parsed)
    from lsengine.engine import evaluate
    from lsengine.report import trajectory

    options = _options(parsed, trajectory_only=True)
    code = evaluate(parsed.jobs, options, world=world, only=parsed.only, changes=parsed.changes)
    if world.rank == 0:
        tell(trajectory.text(parsed.jobs, parsed.only, parsed.changes))
    return code


def status(parsed: argparse.Namespace) -> int:
    """Print how far surfaces are."""
    from lsengine.report import status

    if parsed.count and (parsed.json or parsed.watch):
        raise UsageError("--count prints one number; it goes neither with --json nor with --watch")
    if parsed.verify and (parsed.count or parsed.json or parsed.watch):
        raise UsageError("--verify goes with none of --count, --json and --watch")
    if parsed.verify:
        verdicts = status.verdicts(parsed.surface, parsed.only)
        tell("\n".join(map(str, verdicts)))
        return SurfaceError.exit_code if any(v.is_damaged for v in verdicts) else 0
    if parsed.watch:
        from lsengine.report import watch

        return watch.progress(
            parsed.surface, parsed.only, every_s=parsed.every, as_json=parsed.json
        )
    summaries = status.summaries(parsed.surface, parsed.only)
    if parsed.count:
        tell(sum(summary.count(parsed.count) for summary in summaries))
    elif parsed.json:
        values = [summary.as_dict() for summary in summaries]
        tell(json.dumps(values if len(values) > 1 else values[0], indent=2))
    else:
        tell("\n".join(map(status.text, summaries)))
    return 0


def render(parsed: argparse.Namespace) -> int:
    """Draw one picture, into each file that is asked for, and print their names."""
    from lsengine import render
    from lsengine.api import commands as api
    from lsengine.looks import OPTIONS
    from lsengine.report import inputs

    given = ((name, getattr(parsed, name)) for name in OPTIONS)
    looks = {name: value for name, value in given if value is not None}
    first, style = Path(parsed.surfaces[0]), looks.get("style", "default")
    kind = parsed.kind or inputs.kind_of(parsed.surfaces[0], style, growing=parsed.watch)
    suffix = "html" if kind == "html" else "png"
    outputs = parsed.output or [first.parent / f"{first.stem}-{kind}.{suffix}"]
    for output in outputs:
        render.check_output(output, kind)
    if parsed.watch:
        from lsengine.report import watch  # knows jobs, for which a picture need not wait

        if len(outputs) > 1:
            raise UsageError("--watch follows a run with one picture; give one --output")
        return watch.picture(parsed.surfaces, kind, outputs[0], every_s=parsed.every, **looks)
    for output in outputs:
        tell(api.render(parsed.surfaces, output, kind=kind, **looks))
    return 0


def export(parsed: argparse.Namespace) -> int:
    """Write a surface in another format and print the files' names."""
    from lsengine.api import commands as api

    height = {"quantity": parsed.quantity, "scale": parsed.scale}
    for path in api.export(parsed.surface, parsed.to, parsed.output, **height):
        tell(path)
    return 0


def compare(parsed: argparse.Namespace) -> int:
    """Print a table of flatness figures."""
    from lsengine.api import commands as api
    from lsengine.report import compare

    if parsed.csv and parsed.csv.suffix != ".csv":  # a slip must not cost a surface
        raise UsageError(f"{parsed.csv}: expected a name that ends in .csv")
    if parsed.csv:
        files.check_target(parsed.csv)
    comparison = api.compare(parsed.surfaces, level=parsed.level, quantity=parsed.quantity)
    if parsed.csv:
        files.write(parsed.csv, compare.csv_text(comparison))
    if parsed.json:
        tell(json.dumps(compare.as_dict(comparison), indent=2))
    else:
        tell(comparison)
    return 0


def histogram(parsed: argparse.Namespace) -> int:
    """Write histograms of checkpoints, and print their norms."""
    from lsengine.training import weight_histogram

    histograms = weight_histogram.histograms(
        parsed.checkpoints, parsed.output, names=parsed.names, bins=parsed.bins
    )
    for group, bins in histograms.groups.items():
        for name, norm, size in zip(
            histograms.checkpoints, bins.total_norms, bins.sizes.sum(axis=1), strict=True
        ):
            tell(f"{name}: {size:,} {group}, norm {norm:.6g}")
    tell(parsed.output)
    return 0


def doctor(parsed: argparse.Namespace) -> int:
    """Try what a run needs, and print a verdict for each."""
    from lsengine import doctor

    return doctor.run(parsed.output, json=parsed.json, tell=tell)


def models(parsed: argparse.Namespace) -> int:
    """Print the zoo."""
    from lsengine import models

    for name, parameters in models.zoo():
        tell(f"{name:18} {parameters:>12,}")
    return 0


def init(parsed: argparse.Namespace) -> int:
    """Write a starter job or one for a checkpoint, or list what the directions of a job move."""
    if parsed.list:
        return _list_parts(parsed.path, parsed.only, parsed.changes)
    if parsed.changes or parsed.only != "*":
        option = "--set" if parsed.changes else "--only"
        raise UsageError(f"{option} goes with --list; a starter job is written as it is")
    path = parsed.path
    if path.suffix not in (".yaml", ".yml"):
        if not (files.is_folder(path) or files.is_regular(path)):
            raise UsageError(f"{path}: no such checkpoint; the name of a job ends in .yaml or .yml")
        return _init_for(path, parsed.output or Path(f"{path.stem}.yaml"))
    if parsed.output:
        raise UsageError(f"{path}: is no checkpoint; --output goes with one")
    if files.special(path) or files.is_regular(path):
        raise UsageError(f"{path}: exists; give another name")
    files.write(path, (Path(lsengine.__file__).parent / "job" / "starter.yaml").read_bytes())
    tell(f"{path}: try  lsengine train {path}  and then  lsengine eval {path}")
    return 0


def _init_for(checkpoint: Path, job: Path) -> int:
    if files.special(job) or files.is_regular(job):
        raise UsageError(f"{job}: exists; give another name by --output")
    from lsengine.engine.prepare import first_job

    text = first_job.first_job(checkpoint, job)
    files.write(job, text)
    for what, lines in first_job.told(text).items():
        for line in lines:
            tell(f"{what}: {line}")
    tell(f"{job}: fill in what is left, then try  lsengine eval {job}")
    return 0


def _list_parts(path: Path, only: str, changes: list[str]) -> int:
    from lsengine.engine import prepare
    from lsengine.job import load_all
    from lsengine.surface import parts
    from lsengine.wording import listed

    job, *others = load_all(path, only=only, changes=changes)
    if others:
        names = listed(one.document.name for one in (job, *others))
        raise UsageError(f"{path}: a matrix makes {names}; take one of them with --only NAME")
    if not job.document.directions:
        raise UsageError(f"{path}: has no section directions; nothing moves")
    said: dict[str, list[str]] = {}
    for axis, of in prepare.moving_parts(job).items():
        lines = [f"  {why}: {', '.join(part.names)}" for why, part in of.items()]
        said.setdefault("\n".join([parts.text(of).partition(";")[0], *lines]), []).append(axis)
    for words, axes in said.items():
        tell(f"{' and '.join(axes)}: {words}")
    return 0


def complete(parsed: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Print the script that makes a shell complete the parser's commands."""
    from lsengine.cli import completion

    tell(completion.script(parsed.shell, parser).rstrip("\n"))
    return 0


def version() -> None:
    """Print the version, with the commit if there is one."""
    from lsengine.external import installation

    tell(f"lsengine {installation.version()}")


def cite() -> None:
    """Print how lsengine and the paper whose method it computes are cited, as BibTeX."""
    from lsengine.external import installation

    entries = Path(__file__).with_name("citation.bib").read_text(encoding="utf-8")
    tell(entries.replace("@VERSION@", installation.version()).rstrip("\n"))


def schema(parsed: argparse.Namespace) -> int:
    """Print the JSON schema of job files."""
    from lsengine.job.schema import json_schema

    tell(json.dumps(json_schema(), indent=2))
    return 0
