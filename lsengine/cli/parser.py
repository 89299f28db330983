"""What can be written on the command line, and its help."""

from __future__ import annotations

import argparse
from pathlib import Path

from lsengine import __version__
from lsengine.cli import commands

_Subparsers = argparse._SubParsersAction  # argparse has no public name for it
_EPILOG = """\
exit codes: 0 done, 1 a bug, 2 job or usage wrong, 3 environment unfit, 4 the file belongs to
another job, is locked or damaged, 5 finished but some cells failed, 75 stopped before the end
(the same command goes on)"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; what it parses has the command's function as ``run``."""
    whole = argparse.ArgumentParser(
        prog="lsengine",
        description="Loss surfaces of neural networks, evaluated on as many devices as you have.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"lsengine {__version__}")
    subparsers = whole.add_subparsers(metavar="COMMAND", required=True)
    _add_train(subparsers)
    _add_eval(subparsers)
    _add_submit(subparsers)
    _add_merge(subparsers)
    _add_spectrum(subparsers)
    _add_trajectory(subparsers)
    _add_connect(subparsers)
    _add_status(subparsers)
    _add_render(subparsers)
    _add_export(subparsers)
    _add_compare(subparsers)
    _add_histogram(subparsers)
    _add_doctor(subparsers)
    _add_small(subparsers)
    return whole


def _add_train(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    train = subparsers.add_parser(
        "train",
        help="train a job's network: checkpoints and history; under mpirun one job per rank",
    )
    train.add_argument("jobs", metavar="JOB", nargs="+", help="job file with a train section")
    _add_only(train)
    _add_progress(train)
    train.set_defaults(run=commands.train)


def _add_eval(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    evaluate = subparsers.add_parser(
        "eval",
        help="evaluate a job's surface; alone, or under mpirun, mpiexec or srun",
        description="Evaluate what is missing of a job's surface.  Run it again after any "
        "interruption, with any number of ranks: it goes on where the file ends.",
    )
    evaluate.add_argument("jobs", metavar="JOB", nargs="+", help="job file")
    _add_only(evaluate)
    _add_retry(evaluate)
    evaluate.add_argument(
        "--chunk",
        type=_count,
        metavar="N",
        help="hand out N cells at a time (default: by measured time; never affects values)",
    )
    evaluate.add_argument(
        "--extend",
        type=Path,
        metavar="OLD.h5",
        help="a new surface takes over the cells of an old one: a finer or wider grid, or one "
        "more quantity, of the same checkpoint, data and directions",
    )
    evaluate.add_argument(
        "--shard",
        type=_shard,
        metavar="K/N",
        help="evaluate the K-th of N parts only, into NAME.shard-K.h5; see merge",
    )
    _add_progress(evaluate)
    evaluate.set_defaults(run=commands.evaluate)


def _add_submit(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    submit = subparsers.add_parser(
        "submit",
        help="write batch scripts for SLURM, and hand them to sbatch",
        description="A job goes back into the queue until its surface is done.  What the cluster "
        "needs is said by the job's section launch and by a site file.  Prints number, step and "
        "name of every batch job.",
    )
    submit.add_argument("jobs", metavar="JOB", nargs="+", help="job file")
    _add_only(submit)
    submit.add_argument(
        "--site",
        type=Path,
        metavar="FILE",
        help="site file, .yaml or .toml (default: $LSENGINE_SITE, ~/.config/lsengine/site.*)",
    )
    submit.add_argument(
        "--dry-run", action="store_true", help="print the scripts, and submit nothing"
    )
    submit.add_argument(
        "--array",
        type=_count,
        metavar="N",
        help="N shards without MPI, each a job of an array, and a job that merges them",
    )
    submit.add_argument(
        "--chain", action="store_true", help="train first, then evaluate, then draw"
    )
    submit.add_argument(
        "--probe",
        type=_number,
        metavar="N",
        help="evaluate N cells first, for an estimate: here, or in a job of its own if GPUs are "
        "asked for and none is here (default: 3 here, unless GPUs are asked for and none is, or "
        "the surface has cells; 0: none); a cell longer than the time limit is refused",
    )
    submit.set_defaults(run=commands.submit)


def _add_merge(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    merge = subparsers.add_parser(
        "merge",
        help="make one surface of shards, or of any partial surfaces of one job",
        description="Shards may be partial, and may have cells in common.  A surface that is at "
        "FILE already is one of them.  Ends with 0, with 5 if cells failed, with 75 if some are "
        "missing, and with 4, having changed nothing, if the shards do not belong together.",
    )
    merge.add_argument("shards", metavar="SHARD", nargs="+", type=Path, help="surface file")
    merge.add_argument("--output", "-o", type=Path, required=True, metavar="FILE")
    merge.set_defaults(run=commands.merge)


def _add_spectrum(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    spectrum = subparsers.add_parser(
        "spectrum",
        help="trace, density and leading eigenvectors of the Hessian at the centre",
        description="Of the mean training loss, at the job's checkpoint.  Needs neither directions "
        "nor a grid.  One process does it; under mpirun the others wait.",
    )
    spectrum.add_argument("job", metavar="JOB", help="job file")
    spectrum.add_argument(
        "--vectors", type=_number, default=5, metavar="K", help="leading eigenvectors (default: 5)"
    )
    spectrum.add_argument(
        "--trace", type=_number, default=32, metavar="N", help="probes of the trace (default: 32)"
    )
    spectrum.add_argument(
        "--density",
        type=_number,
        default=8,
        metavar="N",
        help="probes of the density (default: 8), of curvature.basis products each; 0 of any of "
        "the three leaves it out",
    )
    spectrum.add_argument(
        "--output",
        "-o",
        type=Path,
        metavar="FILE",
        help="HDF5 file (default: beside the surface, NAME-spectrum.h5)",
    )
    spectrum.set_defaults(run=commands.spectrum)


def _add_trajectory(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    trajectory = subparsers.add_parser(
        "trajectory",
        help="project a run's checkpoints on a job's directions, with their losses",
        description="Evaluate the checkpoints of a job's trajectory, and not the grid; eval does "
        "both.  The result is in the job's output file, and a table is printed.",
    )
    trajectory.add_argument("jobs", metavar="JOB", nargs="+", help="job file")
    _add_only(trajectory)
    _add_retry(trajectory)
    _add_progress(trajectory)
    trajectory.set_defaults(run=commands.trajectory)


def _add_connect(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    connect = subparsers.add_parser(
        "connect",
        help="train a curve of low loss between two minima, and evaluate it",
        description="Train the curve of a job's section curve, then evaluate its points and "
        "those of the straight line between the same ends, and report both barriers.",
    )
    connect.add_argument("job", metavar="JOB", help="job file with a curve section")
    _add_retry(connect)
    _add_progress(connect)
    connect.set_defaults(run=commands.connect)


def _add_status(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    status = subparsers.add_parser("status", help="how far a surface is; also while it is written")
    status.add_argument("surface", metavar="SURFACE|JOB", help="surface file or job file")
    _add_only(status)
    status.add_argument("--json", action="store_true", help="print JSON; a list for several jobs")
    _add_watch(status, "print", 2.0)
    status.set_defaults(run=commands.status)


def _add_render(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    render = subparsers.add_parser("render", help="draw surfaces; needs neither torch nor MPI")
    render.add_argument(
        "surfaces",
        metavar="SURFACE",
        nargs="+",
        help="surface file; for history and histogram, a file of train's or histogram's",
    )
    render.add_argument(
        "--as",
        dest="kind",
        metavar="STYLE",
        help="contour, filled, heatmap, surface, trajectory, curve, curvature, history, histogram "
        "or html, a page to turn and to ask (default: what the first file holds: filled of a "
        "plane, with --style lit surface; curve of one direction; history; histogram)",
    )
    render.add_argument(
        "--output",
        "-o",
        type=Path,
        metavar="FILE",
        help="picture: .png, .pdf or .svg; of a trajectory and a lit surface .gif or .mp4, too; "
        "of html .html",
    )
    render.add_argument(
        "--quantity",
        metavar="NAME",
        help="what to draw (default: train_loss; of curvature ratio, sign, eigenvalue_min and "
        "eigenvalue_max)",
    )
    render.add_argument("--scale", help="auto, linear, log or quantile (default: auto)")
    render.add_argument(
        "--style",
        default="default",
        help="default, paper, dark, lit (of surfaces), or a style file (.toml)",
    )
    render.add_argument("--levels", type=_count, metavar="N", help="number of contour levels")
    render.add_argument(
        "--limits", type=float, nargs=2, metavar=("LOW", "HIGH"), help="limits of the colours"
    )
    _add_watch(render, "draw", 5.0)
    render.set_defaults(run=commands.render)


def _add_export(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    export = subparsers.add_parser(
        "export",
        help="write a surface in another program's format",
        description="One file, whole or not at all.  Needs neither torch nor MPI.",
    )
    export.add_argument("surface", metavar="SURFACE", help="surface file")
    export.add_argument(
        "--to",
        required=True,
        metavar="FORMAT",
        help="csv, npz, netcdf, vts (ParaView), glb or ply (coloured mesh: Blender, slides), or "
        "loss-landscape (surface and direction files of tomgoldstein/loss-landscape)",
    )
    export.add_argument(
        "--output", "-o", type=Path, metavar="FILE", help="default: beside the surface"
    )
    export.add_argument(
        "--quantity", metavar="NAME", help="of vts, glb and ply, the height (default: train_loss)"
    )
    export.add_argument(
        "--scale",
        metavar="SCALE",
        help="of glb and ply, what height and colours follow: auto, linear or log (default: auto)",
    )
    export.set_defaults(run=commands.export)


def _add_compare(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    compare = subparsers.add_parser(
        "compare",
        help="a table of flatness figures beside training loss and test error",
        description="Measure how flat surfaces are around their centres.  Partial surfaces give "
        "lower bounds, or n/a with the reason.",
    )
    compare.add_argument("surfaces", metavar="SURFACE", nargs="+", help="surface file")
    compare.add_argument(
        "--level",
        default="+0.1",
        help="what counts as flat: +0.1 (above the centre's loss; default), x2 (times it) or 0.5",
    )
    compare.add_argument("--quantity", metavar="NAME", help="a loss (default: train_loss)")
    compare.add_argument("--csv", type=Path, metavar="FILE", help="write the table as CSV, too")
    compare.add_argument("--json", action="store_true", help="print JSON")
    compare.set_defaults(run=commands.compare)


def _add_histogram(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    histogram = subparsers.add_parser(
        "histogram", help="count the weights of checkpoints, for render --as histogram"
    )
    histogram.add_argument("checkpoints", metavar="CHECKPOINT", nargs="+", type=Path)
    histogram.add_argument(
        "--output", "-o", type=Path, required=True, metavar="FILE", help="HDF5 file (.h5)"
    )
    histogram.add_argument(
        "--name",
        dest="names",
        action="append",
        default=[],
        metavar="NAME",
        help="what to call a checkpoint; once for each, in order (default: from their paths)",
    )
    histogram.add_argument("--bins", type=_count, default=101, metavar="N", help="default: 101")
    histogram.set_defaults(run=commands.histogram)


def _add_doctor(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    doctor = subparsers.add_parser(
        "doctor",
        help="try what a run needs here, with a verdict and a remedy for each; also under mpirun",
        description="Try the launcher, messages, devices, memory, the output's file system and "
        "SLURM.  Exit code 0 without problems, else 3.  Under a launcher all ranks are checked.",
    )
    doctor.add_argument(
        "--output",
        "-o",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="where surfaces are to go (default: here)",
    )
    doctor.add_argument("--json", action="store_true", help="print a JSON list of the checks")
    doctor.set_defaults(run=commands.doctor)


def _add_small(subparsers: _Subparsers[argparse.ArgumentParser]) -> None:
    models = subparsers.add_parser("models", help="the built-in networks with parameter counts")
    models.set_defaults(run=commands.models)
    init = subparsers.add_parser("init", help="write a commented starter job")
    init.add_argument("path", metavar="FILE", nargs="?", default="job.yaml", type=Path)
    init.set_defaults(run=commands.init)
    schema = subparsers.add_parser("schema", help="print the JSON schema of job files, for editors")
    schema.set_defaults(run=commands.schema)


def _add_retry(command: argparse.ArgumentParser) -> None:
    command.add_argument("--retry-failed", action="store_true", help="evaluate failed cells again")


def _add_watch(command: argparse.ArgumentParser, verb: str, every_s: float) -> None:
    command.add_argument(
        "--watch", action="store_true", help=f"{verb} again as a run goes on, until it is complete"
    )
    command.add_argument(
        "--every",
        type=_seconds,
        default=every_s,
        metavar="SECONDS",
        help=f"how often --watch looks (default: {every_s:g})",
    )


def _add_only(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--only",
        metavar="NAME",
        default="*",
        help="of a file with a matrix, the jobs whose name matches (a pattern, quoted)",
    )


def _add_progress(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--progress",
        choices=("auto", "bar", "lines", "none"),
        default="auto",
        help="auto is a bar on a terminal, else a line now and then",
    )


def _count(text: str, least: int = 1) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected an integer of at least {least}")
    return value


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"got {text!r}; expected K/N, K from 1 to N, such as 2/8")
    return int(part), int(parts)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected seconds, 0.1 to 86400")
    return value


def _number(text: str) -> int:
    return _count(text, least=0)
