"""What can be written on the command line, and its help: one table of commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lsengine.cli import commands, values
from lsengine.cli.speaking import Parser, Told
from lsengine.looks import OPTIONS

_EPILOG = """\
exit codes: 0 done, 1 a bug, 2 job or usage wrong, 3 environment unfit, 4 the file belongs to
another job, is locked or damaged, 5 finished but some cells failed, 75 stopped before the end
(the same command goes on)"""

_OF_ALL_RANKS = {"train", "eval", "spectrum", "trajectory", "connect", "doctor"}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; what it parses has the command's function as ``run``."""
    parser = Parser(
        prog="lsengine",
        description="Loss surfaces of neural networks, evaluated on as many devices as you have.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=Told, tell=commands.version, help="and the commit")
    parser.add_argument("--cite", action=Told, tell=commands.cite, help="BibTeX, with the paper")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        described = subparsers.add_parser(name, **command.texts)
        for names, options in command.arguments:
            described.add_argument(*names, **options)
        described.set_defaults(run=command.run)
        described.is_of_all_ranks = name in _OF_ALL_RANKS
    return parser


_Argument = tuple[list[str], dict[str, Any]]


class _Command:
    """One command: its function, its line in the list, its arguments, what its help says first."""

    def __init__(
        self,
        run: Callable[[argparse.Namespace], int],
        help: str,
        *arguments: _Argument,
        description: str | None = None,
    ) -> None:
        self.run, self.arguments = run, arguments
        self.texts: dict[str, Any] = {"help": help, "description": description}


def _argument(usage: str, help: str | None, **options: Any) -> _Argument:
    """Return an argument as argparse takes it; ``usage`` is like ``--output -o FILE``."""
    first, *words = usage.split()
    names = [first, *(word for word in words if word.startswith("-"))]
    metavars = tuple(words[len(names) - 1 :])
    if metavars:
        options["metavar"] = metavars if len(metavars) > 1 else metavars[0]
    return names, {**options, "help": help}


def _path(usage: str, help: str | None, **options: Any) -> _Argument:
    return _argument(usage, help, type=Path, **options)


def _flag(name: str, help: str) -> _Argument:
    return _argument(name, help, action="store_true")


def _watching(verb: str, every_s: float) -> tuple[_Argument, _Argument]:
    every = f"how often --watch looks (default: {every_s:g})"
    return (
        _flag("--watch", f"{verb} again as a run goes on, until it is complete"),
        _argument("--every SECONDS", every, type=values.seconds, default=every_s),
    )


def _looks() -> list[_Argument]:
    """Return what may be said of a picture, as the one table of it has it."""
    looks = []
    for name, option in OPTIONS.items():
        taken = [word for word in option.usage.split() if not word.startswith("-")]
        more: dict[str, Any] = {"nargs": len(taken)} if len(taken) > 1 else {}
        more |= {"action": "append"} if option.repeats else {}
        looks.append(_argument(option.usage, option.help, dest=name, type=option.type, **more))
    return looks


_JOBS = _argument("jobs JOB", "job file", nargs="+")
_ONLY = _argument(
    "--only NAME",
    "of a file with a matrix, the jobs whose name matches (a pattern, quoted)",
    default="*",
)
_SET = _argument(
    "--set KEY=VALUE",
    "a value of the job in the place of the file's; a dotted key and YAML, such as "
    "'grid.alpha=[-1, 1, 9]'; may be repeated",
    dest="changes",
    action="append",
    default=[],
)
_RETRY = _flag("--retry-failed", "evaluate failed and damaged cells again")
_PROGRESS = _argument(
    "--progress",
    "auto is a bar on a terminal, else a line now and then",
    choices=("auto", "bar", "lines", "none"),
    default="auto",
)
_QUIET = _flag("--quiet", "print no log lines but warnings and errors, and no progress")

_COMMANDS = {
    "train": _Command(
        commands.train,
        "train jobs' networks: checkpoints and histories; several at once under mpirun",
        _argument("jobs JOB", "job file with a train section", nargs="+"),
        _ONLY,
        _SET,
        _argument(
            "--workers N",
            "train N networks at once on this machine, each in a process of its own; auto: one for "
            "each card, or else for each core (default: one after the other)",
            type=values.workers,
        ),
        _PROGRESS,
        _QUIET,
        description="Train what is not trained yet, in the order of the jobs.  Whoever is done, a "
        "worker or a rank of mpirun or srun, takes the next network that nobody has begun.  One "
        "that fails, or that another run trains just now, does not keep the others from it.  Run "
        "it again after any interruption: each goes on after its last epoch, with the same bits.",
    ),
    "eval": _Command(
        commands.evaluate,
        "evaluate a job's surface; alone, or under mpirun, mpiexec or srun",
        _JOBS,
        _ONLY,
        _SET,
        _RETRY,
        _argument(
            "--chunk N",
            "hand out N cells at a time (default: by measured time; never affects values)",
            type=values.count,
        ),
        _path(
            "--extend OLD.h5",
            "a new surface takes over the cells of an old one: a finer or wider grid, or one more "
            "quantity, of the same checkpoint, data and directions",
        ),
        _argument(
            "--shard K/N",
            "evaluate the K-th of N parts only, into NAME.shard-K.h5; see merge",
            type=values.shard,
        ),
        _argument(
            "--workers N",
            "start N processes on this machine, which evaluate together; auto: one for each card, "
            "or else for each core (default: this process, or the ranks of mpirun or srun)",
            type=values.workers,
        ),
        _PROGRESS,
        _QUIET,
        description="Evaluate what is missing of a job's surface.  Run it again after any "
        "interruption, with any number of ranks: it goes on where the file ends.",
    ),
    "submit": _Command(
        commands.submit,
        "write batch scripts for SLURM, and hand them to sbatch",
        _JOBS,
        _ONLY,
        _SET,
        _path(
            "--site FILE",
            "site file, .yaml or .toml (default: $LSENGINE_SITE, ~/.config/lsengine/site.*)",
        ),
        _flag("--dry-run", "print the scripts with what is known; evaluate and submit nothing"),
        _flag("--estimate", "evaluate as --probe says, print the estimate, submit nothing"),
        _argument(
            "--array N",
            "N shards without MPI, each a job of an array, and a job that merges them",
            type=values.count,
        ),
        _flag("--chain", "train first, then evaluate, then draw"),
        _argument(
            "--probe N",
            "evaluate N cells first, for an estimate; 0: none.  They are evaluated here.  If the "
            "job asks for GPUs and there is none here, in a job of their own.  Default: 3 if they "
            "can be evaluated here and the surface has no cells yet, else 0.  A cell that takes "
            "longer than the time limit is refused",
            type=values.number,
        ),
        description="A job goes back into the queue until its surface is done.  What the cluster "
        "needs is said by the job's section launch and by a site file.  Prints number, step and "
        "name of every batch job.",
    ),
    "merge": _Command(
        commands.merge,
        "make one surface of shards, or of any partial surfaces of one job",
        _path("shards SHARD", "surface file", nargs="+"),
        _path("--output -o FILE", None, required=True),
        description="Shards may be partial, and may have cells in common.  A surface that is at "
        "FILE already is one of them.  Ends with 0, with 5 if cells failed, with 75 if some are "
        "missing, and with 4, having changed nothing, if the shards do not belong together.",
    ),
    "spectrum": _Command(
        commands.spectrum,
        "trace, density and leading eigenvectors of the Hessian at the centre",
        _argument("job JOB", "job file"),
        _SET,
        _argument(
            "--vectors K", "leading eigenvectors (default: 5)", type=values.number, default=5
        ),
        _argument("--trace N", "probes of the trace (default: 32)", type=values.number, default=32),
        _argument(
            "--density N",
            "probes of the density (default: 8), of curvature.basis products each; 0 of any of "
            "the three leaves it out",
            type=values.number,
            default=8,
        ),
        _path("--output -o FILE", "HDF5 file (default: beside the surface, NAME-spectrum.h5)"),
        _QUIET,
        description="Of the mean training loss, at the job's checkpoint.  Needs neither "
        "directions nor a grid.  One process does it; under mpirun the others wait.",
    ),
    "trajectory": _Command(
        commands.trajectory,
        "project a run's checkpoints on a job's directions, with their losses",
        _JOBS,
        _ONLY,
        _SET,
        _RETRY,
        _PROGRESS,
        _QUIET,
        description="Evaluate the checkpoints of a job's trajectory, and not the grid; eval does "
        "both.  The result is in the job's output file, and a table is printed.",
    ),
    "connect": _Command(
        commands.connect,
        "train a curve of low loss between two minima, and evaluate it",
        _argument("job JOB", "job file with a curve section"),
        _SET,
        _RETRY,
        _PROGRESS,
        _QUIET,
        description="Train the curve of a job's section curve, then evaluate its points and those "
        "of the straight line between the same ends, and report both barriers.",
    ),
    "status": _Command(
        commands.status,
        "how far a surface is; also while it is written",
        _argument("surface SURFACE|JOB", "surface file or job file"),
        _ONLY,
        _flag("--json", "print JSON; a list for several jobs"),
        _argument(
            "--count WHAT",
            "print one number, for scripts: how many cells and checkpoints of a trajectory are "
            "done, missing or failed; or missing-cells, without checkpoints",
            choices=("done", "missing", "failed", "missing-cells"),
        ),
        _flag(
            "--verify",
            "look at all of the file: whether its layout, its data and its finished cells are as "
            "they were written; exit code 4 if anything is damaged",
        ),
        *_watching("print", every_s=2.0),
    ),
    "render": _Command(
        commands.render,
        "draw surfaces; needs neither torch nor MPI",
        _argument(
            "surfaces SURFACE",
            "surface file; for history and histogram, a file of train's or histogram's",
            nargs="+",
        ),
        _argument(
            "--as STYLE",
            "contour, filled, heatmap, surface, trajectory, curve, curvature, history, histogram "
            "or html, an interactive page (default: what the first file holds: filled of a "
            "plane, with --style lit surface; curve of one direction; history; histogram)",
            dest="kind",
        ),
        _path(
            "--output -o FILE",
            "picture: .png, .pdf or .svg; of a trajectory and a lit surface .gif or .mp4, too; of "
            "html .html; may be repeated",
            action="append",
        ),
        *_looks(),
        *_watching("draw", every_s=5.0),
    ),
    "export": _Command(
        commands.export,
        "write a surface in another program's format",
        _argument("surface SURFACE", "surface file"),
        _argument(
            "--to FORMAT",
            "csv, npz, netcdf, vts (ParaView), glb or ply (coloured mesh: Blender, slides), or "
            "loss-landscape (surface and direction files of tomgoldstein/loss-landscape)",
            required=True,
        ),
        _path("--output -o FILE", "default: beside the surface"),
        _argument("--quantity NAME", "height for vts, glb and ply (default: train_loss)"),
        _argument(
            "--scale SCALE",
            "of glb and ply, what height and colours follow: auto, linear or log (default: auto)",
        ),
        description="One file, whole or not at all.  Needs neither torch nor MPI.",
    ),
    "compare": _Command(
        commands.compare,
        "a table of flatness figures beside training loss and test error",
        _argument("surfaces SURFACE", "surface file", nargs="+"),
        _argument(
            "--level",
            "what counts as flat: +0.1 (above the centre's loss; default), x2 (times it) or 0.5",
            default="+0.1",
        ),
        _argument("--quantity NAME", "a loss (default: train_loss)"),
        _path("--csv FILE", "write the table as CSV, too"),
        _flag("--json", "print JSON"),
        description="Measure how flat surfaces are around their centres.  Partial surfaces give "
        "lower bounds, or n/a with the reason.",
    ),
    "histogram": _Command(
        commands.histogram,
        "count the weights of checkpoints, for render --as histogram",
        _path("checkpoints CHECKPOINT", None, nargs="+"),
        _path("--output -o FILE", "HDF5 file (.h5)", required=True),
        _argument(
            "--name NAME",
            "what to call a checkpoint; once for each, in order (default: from their paths)",
            dest="names",
            action="append",
            default=[],
        ),
        _argument("--bins N", "default: 101", type=values.bins, default=101),
    ),
    "doctor": _Command(
        commands.doctor,
        "try what a run needs here, with a verdict and a remedy for each; also under mpirun",
        _path("--output -o FOLDER", "where surfaces are to go (default: here)", default=Path()),
        _flag("--json", "print a JSON list of the checks"),
        description="Try the launcher, messages, devices, memory, the output's file system and "
        "SLURM.  Exit code 0 without problems, else 3.  Under a launcher all ranks are checked.",
    ),
    "models": _Command(
        commands.models,
        "the built-in networks with parameter counts",
        description="For 3x32x32 images and 10 classes or tokens.  ResNets have projections (1x1 "
        "convolutions) as shortcuts where the shape changes, as the checkpoints of Li et al. have; "
        "those with _noshort have no shortcuts.  docs/howto/networks.md says more.",
    ),
    "init": _Command(
        commands.init,
        "write a commented starter job, or one for a checkpoint; or list what a job moves",
        _path(
            "path FILE",
            "the job to write (default: job.yaml); or a checkpoint that is there, for which a job "
            "is written by looking at it",
            nargs="?",
            default="job.yaml",
        ),
        _path("--output -o JOB", "the job for a checkpoint (default: its name with .yaml, here)"),
        _flag("--list", "list what the directions of this job move and what stays, by its network"),
        _ONLY,
        _SET,
    ),
    "schema": _Command(commands.schema, "print the JSON schema of job files, for editors"),
    "completion": _Command(
        lambda parsed: commands.complete(parsed, build_parser()),
        "print a script that lets a shell complete commands, options and file names",
        _argument("shell SHELL", "bash, zsh or fish", choices=("bash", "zsh", "fish")),
        description='In ~/.bashrc or ~/.zshrc: eval "$(lsengine completion bash)" or zsh.  In '
        "~/.config/fish/config.fish: lsengine completion fish | source",
    ),
}
