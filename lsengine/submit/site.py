"""What a cluster needs of every job: the site file, overridden by a job's section launch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lsengine.errors import JobError
from lsengine.files import is_regular, read_toml
from lsengine.job import Job, read_mapping
from lsengine.job.messages import explain
from lsengine.job.schema import LaunchSpec
from lsengine.submit import slurm

_OF_THE_JOB = ("coordinator", "hang_s")  # eval reads them, and eval knows no site
_WRITTEN = """
--account --array --comment --constraint --cpus-per-task --dependency --export --gpus-per-node
--gpus-per-task --job-name --mem --no-requeue --nodes --ntasks --ntasks-per-node --open-mode
--output --partition --qos --requeue --signal --time
""".split()  # noqa: SIM905  by submit itself
_SECRET = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|(API|PRIVATE|ACCESS)_?KEY)", re.IGNORECASE
)
_ASSIGNMENT = re.compile(r"\b([A-Za-z_][A-Za-z0-9_]*)=(?!\"?\$\()[^\s]")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    launch: LaunchSpec


def find(asked: Path | None) -> Path | None:
    """Return the site file: the one asked for, else `LSENGINE_SITE`, else the user's, or None.

    Raises:
        JobError: If the first two name no file.
        UsageError: If one of them is there and is none.
    """
    if named := asked or os.environ.get("LSENGINE_SITE"):
        if not is_regular(Path(named)):
            source = "--site" if asked else "LSENGINE_SITE"
            raise JobError(str(named), [f"{source}: no such file"])
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    try:
        folder = Path(base).expanduser() / "lsengine"
    except RuntimeError:  # this user has no home
        return None
    names = ("site.yaml", "site.yml", "site.toml")
    return next((p for name in names if is_regular(p := folder / name)), None)


def read(path: Path | None) -> LaunchSpec:
    """Return what a site file says, defaults where it is silent.

    Raises:
        JobError: With every problem of the file.
    """
    if path is None:
        return LaunchSpec()
    if path.suffix == ".toml":
        try:
            raw = read_toml(path)
        except OSError as error:
            raise JobError(str(path), [f"cannot be read as text: {error}"]) from None
        except ValueError as error:
            raise JobError(str(path), [f"not valid TOML: {error}"]) from None
    else:
        raw = read_mapping(path)
    try:
        site = _File.model_validate({"launch": raw}).launch
    except ValidationError as error:
        problems = [p.removeprefix("launch.") for p in explain(error, {"launch": raw})]
        names = ", ".join(name for name in LaunchSpec.model_fields if name not in _OF_THE_JOB)
        for i, problem in enumerate(problems):
            if "unknown key" in problem and "allowed:" not in problem:
                problems[i] = f"{problem} allowed: {names}"
        raise JobError(str(path), problems) from None
    misplaced = [key for key in _OF_THE_JOB if key in site.model_fields_set]
    if problems := [f"{key}: belongs into the job's launch section" for key in misplaced]:
        raise JobError(str(path), problems)
    return site


def launch_of(job: Job, site: LaunchSpec) -> LaunchSpec:
    """Return a job's launch section on top of what the site says.

    A key of the job replaces the site's; of `environment` each name does.

    Raises:
        JobError: If keys do not go together, or a secret would get into the script.
    """
    of_job = job.document.launch
    merged = {k: getattr(site, k) for k in site.model_fields_set}
    merged |= {k: getattr(of_job, k) for k in of_job.model_fields_set}
    merged["environment"] = {**site.environment, **of_job.environment}
    launch = LaunchSpec.model_construct(**{**LaunchSpec().__dict__, **merged})
    if problems := [f"launch.{problem}" for problem in _problems(launch)]:
        raise JobError(str(job.source), problems)
    return launch


def ranks(launch: LaunchSpec) -> int:
    """Return how many ranks are started: one per GPU, else one per node, unless it is said."""
    return launch.ranks or launch.nodes * max(1, launch.gpus_per_node)


def _problems(launch: LaunchSpec) -> Iterator[str]:
    by_srun = launch.launcher.startswith("srun")
    if launch.time and slurm.seconds(launch.time) <= launch.signal_s:
        yield (
            f"time: got {launch.time}, of which the last {launch.signal_s} s (launch.signal_s) are "
            "for stopping; nothing is left to work in"
        )
    if launch.launcher == "none" and ranks(launch) > 1:
        yield f"launcher: none starts one rank, and {ranks(launch)} are asked for"
    if launch.nodes > ranks(launch):
        yield f"ranks: got {ranks(launch)}; expected at least one for each of {launch.nodes} nodes"
    if launch.gpu_binding == "task" and not by_srun:
        yield (
            f"gpu_binding: task is applied by srun, not by launcher {launch.launcher}; use node: "
            "each rank takes the GPU of its number"
        )
    if launch.gpu_binding == "task" and not launch.gpus_per_node:
        yield "gpu_binding: task needs gpus_per_node"
    if launch.container and launch.container.runtime == "pyxis" and not by_srun:
        yield f"container.runtime: pyxis is a part of srun; got launcher {launch.launcher}"
    for option in launch.sbatch:
        if (name := option.partition("=")[0].split()[0]) in _WRITTEN:
            yield f"sbatch: {name} is written by submit; give its own key"
    secret = [f"environment.{name}" for name in launch.environment if _SECRET.search(name)]
    assigned = [_ASSIGNMENT.findall(line) for line in launch.activate]
    secret += ["activate" for names in assigned if any(map(_SECRET.search, names))]
    for key in secret:
        yield (
            f"{key}: looks like a secret, and SLURM keeps scripts where others may read them; put "
            "it into a file of yours with mode 600, and read it in activate: export "
            'NAME="$(cat FILE)"'
        )
