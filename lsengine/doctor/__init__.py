"""Whether this machine can do what lsengine asks of it: tried, with a verdict per line.

Nothing here is collective but the join of the ranks, and every wait has an end.  Under a launcher
all ranks are checked, and rank 0 speaks.
"""

from __future__ import annotations

from pathlib import Path

from lsengine import ranks
from lsengine.doctor.verdicts import Check, Verdict, as_json, problem, text
from lsengine.errors import EnvironmentUnfit


def run(output: Path, *, json: bool = False) -> int:
    """Check everything, print the verdicts on rank 0, and return the exit code of all ranks.

    Args:
        output: Folder where surfaces are to go.
        json: Print a JSON list instead of lines.
    """
    try:
        world, mismatch = ranks.connect(), None
    except EnvironmentUnfit as error:
        world, mismatch = None, error
    except SystemExit:
        return 0  # the first one speaks; an error here might end it before it has
    try:  # after MPI, or HDF5 may load another library of it
        from lsengine.doctor import examination, launching
    except ImportError as error:
        if world is not None and world.rank:
            return EnvironmentUnfit.exit_code
        remedy = "install h5py again, or what it was compiled with"
        return _tell([problem("installation", str(error), remedy)], json)
    if mismatch is not None:
        if not launching.is_first_rank():
            return 0
        found, _, remedy = str(mismatch).rpartition("; ")
        launcher = problem("launcher", found, remedy)
        return _tell([launcher, *examination.alone(output, launched=True)], json)
    if world is None:
        return _tell(examination.alone(output), json)
    if world.rank:
        return examination.serve(world)
    examined = examination.Examination(world)
    code = _tell(examined.checks(output), json)
    examined.end(code)
    return code


def _tell(checks: list[Check], json: bool) -> int:
    print(as_json(checks) if json else text(checks), flush=True)
    worst = any(check.verdict is Verdict.PROBLEM for check in checks)
    return EnvironmentUnfit.exit_code if worst else 0
