"""The command line: parse, call one function, map errors to exit codes.

Nothing heavy is imported before a command needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lsengine import __version__
from lsengine.errors import LsengineError, Stopped, UsageError

_EPILOG = """\
exit codes: 0 done, 1 a bug, 2 job or usage wrong, 3 environment unfit, 4 the file belongs to
another job, is locked or damaged, 5 finished but some cells failed, 75 stopped before the end
(the same command goes on)"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an uncaught exception ends all ranks."""
    parsed = _parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except LsengineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        from lsengine.ranks import end_others

        print("interrupted; the same command goes on", file=sys.stderr)
        end_others(Stopped.exit_code)
        return Stopped.exit_code
    except BrokenPipeError as error:
        if parsed.run in (_train, _evaluate):  # what was asked for has not been done
            from lsengine.ranks import abort_all

            abort_all(error)
            return 1
        sys.stderr.close()  # the reader of our output has gone; nobody is left to tell
        return 0
    except Exception as error:
        from lsengine.ranks import abort_all

        abort_all(error)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lsengine",
        description="Loss surfaces of neural networks, evaluated on as many devices as you have.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lsengine {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_train(commands)
    _add_eval(commands)
    _add_spectrum(commands)
    _add_trajectory(commands)
    _add_connect(commands)
    _add_status(commands)
    _add_render(commands)
    _add_compare(commands)
    _add_histogram(commands)
    _add_small(commands)
    return parser


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = commands.add_parser(
        "train",
        help="train a job's network: checkpoints and history; under mpirun one job per rank",
    )
    train.add_argument("jobs", metavar="JOB", nargs="+", help="job file with a train section")
    _add_only(train)
    _add_progress(train)
    train.set_defaults(run=_train)


def _add_eval(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    evaluate = commands.add_parser(
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
    _add_progress(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _add_spectrum(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    spectrum = commands.add_parser(
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
    spectrum.set_defaults(run=_spectrum)


def _add_trajectory(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    trajectory = commands.add_parser(
        "trajectory",
        help="project a run's checkpoints on a job's directions, with their losses",
        description="Evaluate the checkpoints of a job's trajectory, and not the grid; eval does "
        "both.  The result is in the job's output file, and a table is printed.",
    )
    trajectory.add_argument("jobs", metavar="JOB", nargs="+", help="job file")
    _add_only(trajectory)
    _add_retry(trajectory)
    _add_progress(trajectory)
    trajectory.set_defaults(run=_trajectory)


def _add_connect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    connect = commands.add_parser(
        "connect",
        help="train a curve of low loss between two minima, and evaluate it",
        description="Train the curve of a job's section curve, then evaluate its points and "
        "those of the straight line between the same ends, and report both barriers.",
    )
    connect.add_argument("job", metavar="JOB", help="job file with a curve section")
    _add_retry(connect)
    _add_progress(connect)
    connect.set_defaults(run=_connect)


def _add_status(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    status = commands.add_parser("status", help="how far a surface is; also while it is written")
    status.add_argument("surface", metavar="SURFACE|JOB", help="surface file or job file")
    _add_only(status)
    status.add_argument("--json", action="store_true", help="print JSON; a list for several jobs")
    status.set_defaults(run=_status)


def _add_render(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    render = commands.add_parser("render", help="draw surfaces; needs neither torch nor MPI")
    render.add_argument(
        "surfaces",
        metavar="SURFACE",
        nargs="+",
        help="surface file; for history and histogram, a file of train's or histogram's",
    )
    render.add_argument(
        "--as",
        dest="kind",
        default="filled",
        metavar="STYLE",
        help="contour, filled, heatmap, surface, trajectory, curve, curvature, history or "
        "histogram (default: filled)",
    )
    render.add_argument(
        "--output", "-o", type=Path, metavar="FILE", help="picture: .png, .pdf or .svg"
    )
    render.add_argument(
        "--quantity",
        metavar="NAME",
        help="what to draw (default: train_loss; of curvature ratio, sign, eigenvalue_min and "
        "eigenvalue_max)",
    )
    render.add_argument("--scale", default="auto", help="auto, linear or log (default: auto)")
    render.add_argument("--style", default="default", help="default, paper or dark")
    render.add_argument("--levels", type=_count, metavar="N", help="number of contour levels")
    render.add_argument(
        "--limits", type=float, nargs=2, metavar=("LOW", "HIGH"), help="limits of the colours"
    )
    render.set_defaults(run=_render)


def _add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    compare = commands.add_parser(
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
    compare.set_defaults(run=_compare)


def _add_histogram(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    histogram = commands.add_parser(
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
    histogram.set_defaults(run=_histogram)


def _add_small(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    models = commands.add_parser("models", help="the built-in networks with parameter counts")
    models.set_defaults(run=_models)
    init = commands.add_parser("init", help="write a commented starter job")
    init.add_argument("path", metavar="FILE", nargs="?", default="job.yaml", type=Path)
    init.set_defaults(run=_init)
    schema = commands.add_parser("schema", help="print the JSON schema of job files, for editors")
    schema.set_defaults(run=_schema)


def _add_retry(command: argparse.ArgumentParser) -> None:
    command.add_argument("--retry-failed", action="store_true", help="evaluate failed cells again")


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


def _number(text: str) -> int:
    return _count(text, least=0)


def _train(parsed: argparse.Namespace) -> int:
    from lsengine.ranks import connect
    from lsengine.trainings import run_all

    return run_all(parsed.jobs, world=connect(), only=parsed.only, progress=parsed.progress)


def _evaluate(parsed: argparse.Namespace) -> int:
    from lsengine.engine import Options, evaluate
    from lsengine.ranks import connect

    options = Options(parsed.retry_failed, parsed.chunk, parsed.progress)
    return evaluate(parsed.jobs, options, world=connect(), only=parsed.only)


def _spectrum(parsed: argparse.Namespace) -> int:
    from lsengine import spectrum
    from lsengine.ranks import connect

    sizes = spectrum.Sizes(parsed.vectors, parsed.trace, parsed.density)
    code, text = spectrum.run(parsed.job, sizes, world=connect(), output=parsed.output)
    if text:
        print(text)
    return code


def _connect(parsed: argparse.Namespace) -> int:
    from lsengine import connect
    from lsengine.engine import Options
    from lsengine.ranks import connect as ranks

    options = Options(parsed.retry_failed, None, parsed.progress)
    return connect.run(parsed.job, options, world=ranks())


def _trajectory(parsed: argparse.Namespace) -> int:
    from lsengine import trajectories
    from lsengine.engine import Options, evaluate
    from lsengine.ranks import connect

    options = Options(parsed.retry_failed, None, parsed.progress, trajectory_only=True)
    world = connect()
    code = evaluate(parsed.jobs, options, world=world, only=parsed.only)
    if world is None or world.rank == 0:
        print(trajectories.text(parsed.jobs, parsed.only))
    return code


def _status(parsed: argparse.Namespace) -> int:
    import json

    from lsengine import status

    found = status.summaries(parsed.surface, parsed.only)
    if parsed.json:
        print(json.dumps(found if len(found) > 1 else found[0], indent=2))
    else:
        print("\n".join(status.text(surface) for surface in found))
    return 0


def _render(parsed: argparse.Namespace) -> int:
    from lsengine import inputs, render

    figure = render.figure(
        inputs.read(parsed.surfaces, parsed.kind),
        kind=parsed.kind,
        quantity=parsed.quantity,
        scale=parsed.scale,
        style=parsed.style,
        levels=parsed.levels,
        limits=tuple(parsed.limits) if parsed.limits else None,
    )
    first = Path(parsed.surfaces[0])
    output = parsed.output or first.with_name(f"{first.stem}-{parsed.kind}.png")
    render.save(figure, output)
    print(output)
    return 0


def _compare(parsed: argparse.Namespace) -> int:
    import json

    from lsengine import compare, inputs
    from lsengine.flatness import Level

    if parsed.csv and parsed.csv.suffix != ".csv":  # a slip must not cost a surface
        raise UsageError(f"{parsed.csv}: expected a name that ends in .csv")
    level = Level.parse(parsed.level)
    surfaces = inputs.read_surfaces(parsed.surfaces)
    found = compare.compare(surfaces, level=level, quantity=parsed.quantity)
    if parsed.csv:
        try:
            parsed.csv.write_text(compare.csv_text(found))
        except OSError as error:
            raise UsageError(f"{parsed.csv}: cannot be written: {error.strerror}") from None
    print(json.dumps(compare.as_dict(found), indent=2) if parsed.json else compare.text(found))
    return 0


def _histogram(parsed: argparse.Namespace) -> int:
    from lsengine import weights

    made = weights.histograms(
        parsed.checkpoints, parsed.output, names=parsed.names, bins=parsed.bins
    )
    for group, bins in made.groups.items():
        for name, norm, size in zip(
            made.checkpoints, bins.total_norms, bins.sizes.sum(axis=1), strict=True
        ):
            print(f"{name}: {size:,} {group}, norm {norm:.6g}")
    print(parsed.output)
    return 0


def _models(parsed: argparse.Namespace) -> int:
    from lsengine import models

    for name, parameters in models.zoo():
        print(f"{name:18} {parameters:>12,}")
    return 0


def _init(parsed: argparse.Namespace) -> int:
    starter = Path(__file__).with_name("starter.yaml").read_text()
    try:
        with parsed.path.open("x") as file:
            file.write(starter)
    except FileExistsError:
        raise UsageError(f"{parsed.path}: exists; give another name") from None
    except OSError as error:
        raise UsageError(f"{parsed.path}: cannot be written: {error.strerror}") from None
    print(f"{parsed.path}: try  lsengine train {parsed.path}  and then  lsengine eval it")
    return 0


def _schema(parsed: argparse.Namespace) -> int:
    import json

    from lsengine.job import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0
