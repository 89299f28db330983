"""Processes that a process starts on its own machine for its work.

They are started anew: a fork of a process with a card, or with threads, is none that could
compute.  What they need is in a folder, and so is how each ends.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import lsengine
from lsengine import cores
from lsengine import log as logs
from lsengine.errors import LsengineError, UsageError

PARTING_S = 60.0
"""For processes to finish a mini-batch and their writes."""
_OF_A_LAUNCH = ("OMPI_COMM_WORLD_", "PMIX_", "PMI_", "PRTE_LAUNCHED")
_LAUNCHER = {  # as many ranks as asked for, wherever they fit, also for root in a container
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}
_UNLESS_SET = {"OMPI_MCA_btl": "^ofi"}  # which sleeps for a second where it is not taken


@dataclass(frozen=True, slots=True)
class Process:
    """A process, and the file into which it writes how it ended."""

    process: subprocess.Popen[bytes]
    outcome: Path

    def stop(self) -> None:
        """Ask for a clean end: the other side of its standard input goes."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def error(self) -> Exception | None:
        """Return what it has raised; the outcome must be there."""
        raised: Exception | None = pickle.loads(self.outcome.read_bytes())
        return raised


def launcher() -> list[str] | None:
    """Return the launcher that belongs to this environment's MPI; None if there is none."""
    if importlib.util.find_spec("mpi4py") is None:
        return None
    for name in ("mpirun", "mpiexec"):
        beside = Path(sys.prefix) / "bin" / name
        if found := str(beside) if beside.exists() else shutil.which(name):
            return [found]
    return None


def environment(processes: int) -> dict[str, str]:
    """Return this process's environment for one of so many that share its cores.

    It is without what makes this process a rank of a launch.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_OF_A_LAUNCH)}
    package = str(Path(lsengine.__file__).parents[1])
    path = os.pathsep.join(filter(None, (package, kept.get("PYTHONPATH"))))
    share = cores.own_share(processes)
    of_team = {cores.SHARE: f"{share.count} {share.why}", "PYTHONPATH": path}
    return {**_UNLESS_SET, **kept, **_LAUNCHER, **of_team}


def write(folder: Path, name: str, work: Callable[..., None], **arguments: Any) -> None:
    """Write what the process of a name shall call: a function of its world and the arguments.

    Raises:
        UsageError: If they cannot be sent.
    """
    import cloudpickle

    try:
        content = cloudpickle.dumps((work, arguments, logs.is_quiet()))
    except LsengineError:
        raise
    except Exception as error:
        raise UsageError(
            "workers: network, data and loss must be such that another process can get them: "
            f"{type(error).__name__}: {error}"
        ) from error
    (folder / f"task{name}.pkl").write_bytes(content)
    (folder / "path.json").write_text(json.dumps(sys.path))


def start(
    folder: Path,
    name: str,
    environment: Mapping[str, str],
    launcher: Sequence[str] = (),
    output: IO[bytes] | None = None,
) -> Process:
    """Start the process of a name, or ranks of a launcher; they print to ``output``, if given."""
    process = subprocess.Popen(
        [*launcher, sys.executable, "-P", "-m", "lsengine.api.child", str(folder), name],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        start_new_session=True,  # Ctrl-C is for this process, which tells them
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has died
        process.stdin.write(b"\n")
        process.stdin.flush()
    return Process(process, folder / f"outcome{name}.pkl")


@contextlib.contextmanager
def ended(processes: Collection[Process]) -> Iterator[None]:
    """End those processes that still run when the context is left."""
    try:
        yield
    finally:
        for one in processes:
            one.stop()
            if one.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(one.process.pid, 9)
            one.process.wait()
