"""`doctor`: join the other ranks, check everything, print the verdicts on the first rank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lsengine import ranks
from lsengine.doctor.checks import Check, Verdict, as_json, problem, text
from lsengine.errors import EnvironmentUnfit


def run(output: Path, *, json: bool = False, tell: Callable[[str], None] = print) -> int:
    """Check everything, print the verdicts on rank 0, and return the exit code of all ranks.

    Surfaces are to go into the folder ``output``; ``json`` prints a list instead of lines.
    """

    def report(checks: list[Check]) -> int:
        tell(as_json(checks) if json else text(checks))
        worst = any(check.verdict is Verdict.PROBLEM for check in checks)
        return EnvironmentUnfit.exit_code if worst else 0

    try:
        world, mismatch = ranks.join(), None
    except EnvironmentUnfit as error:
        world, mismatch = ranks.World.alone(), error
    except SystemExit:
        return 0  # the first one speaks; an error here might end it before it has
    try:  # after MPI, or HDF5 may load another library of it
        from lsengine.doctor import examination, file_system, launcher
    except ImportError as error:
        if world.rank:
            return EnvironmentUnfit.exit_code
        remedy = "install h5py again, or what it was compiled with"
        return report([problem("installation", str(error), remedy)])
    if mismatch is not None:
        if ranks.launched_rank():
            return 0
        found, _, remedy = str(mismatch).rpartition("; ")
        check = problem("launcher", found, remedy)
        return report([check, *examination.check_alone(output)])
    if world.size == 1:
        starts = launcher.launcher(file_system.existing(output))
        return report([*starts, *examination.check_alone(output)])
    if world.rank:
        return examination.serve(world)
    of_ranks = examination.RankExamination(world)
    code = report(of_ranks.checks(output))
    of_ranks.end(code)
    return code
