"""The text of batch scripts: pure functions of a job and what its cluster needs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from importlib.resources import files
from itertools import takewhile
from pathlib import Path

from lsengine.errors import Stopped, UsageError
from lsengine.external import installation
from lsengine.job import Job
from lsengine.job.schema import LaunchSpec
from lsengine.submit.quoting import join, line, option, quote
from lsengine.submit.site import ranks

_STARTERS: dict[str, tuple[str, ...]] = {
    "openmpi": ("mpirun", "-n"),
    "openmpi-ulfm": ("mpirun", "--with-ft", "ulfm", "-n"),
    "mpich": ("mpiexec", "-n"),
    # Intel's mpirun is a shell script, which a signal would end; this is what it starts.
    "intel": ("mpiexec.hydra", "-bootstrap", "slurm", "-n"),
    "srun-pmix": ("srun", "--mpi=pmix", "--kill-on-bad-exit=1", "-n"),
    "srun-pmi2": ("srun", "--mpi=pmi2", "--kill-on-bad-exit=1", "-n"),
}
_IN_ROUNDS = ("train", "eval")  # steps that go on after their time limit, in another round
_LONGEST_NAME = 200  # of a log's file name, which has a number, too
_EXPORTED = "HOME,USER,LANG,PATH"  # of the submitter's environment; nothing else, so no secrets


@dataclass(frozen=True, slots=True)
class ScriptContext:
    """Where a script is written."""

    binaries: Path  # the folder of lsengine and, as a rule, of the launcher
    is_matrix: bool = False  # whether the job file makes several jobs; the script is for one
    changes: tuple[str, ...] = ()  # KEY=VALUE that replace values of the job file


def evaluating(
    job: Job, launch: LaunchSpec, context: ScriptContext, shards: int | None = None
) -> str:
    """Return the script that evaluates a job's surface; with shards, as an array of shards."""
    command = ["lsengine", "eval", *_named(job, context), "--progress", "lines"]
    surface = quote(str(job.surface))
    if shards is not None:
        surface = f'{quote(str(job.surface.with_suffix("")))}.shard-"$SLURM_ARRAY_TASK_ID".h5'
    counting = join([*_inside(job, launch), "lsengine", "status", "--count"])
    # Checkpoints of a section that the job does not have any more are none of its business.
    missing = "missing" if job.trajectory else "missing-cells"
    left = [
        f"    if ! [ -e {surface} ]; then echo all; return; fi",
        f"    {counting} {missing} {surface} 2>/dev/null",
    ]
    title, shard = f"The loss surface of {job.document.name}", ""
    if shards is not None:
        left = ["    echo 0 # of the others' cells a shard knows nothing"]
        title += f", one of {shards} shards"
        shard = f' --shard "$SLURM_ARRAY_TASK_ID/{shards}"'
    lines = [
        "progress() { # cells and checkpoints that are done",
        f"    {counting} done {surface} 2>/dev/null || echo 0",
        "}",
        "left() { # those that are missing",
        *left,
        "}",
        *_run(job, launch, command, more=shard),
    ]
    return _script(title, "eval", job, launch, context, lines, shards)


def probing(
    job: Job,
    launch: LaunchSpec,
    context: ScriptContext,
    cells: int,
    site: Path | None,
    shards: int | None,
) -> str:
    """Return the script that evaluates a few cells on one device, and says what all will cost.

    It ends with 2 if a cell takes longer than a round.
    """
    one = of_one_rank(launch, gpus=min(1, launch.gpus_per_node))
    folders = [str(site.resolve().parent)] if site else []
    command = [*_inside(job, one, folders), "lsengine", "submit"]
    command += [*_named(job, context), "--estimate", "--probe", str(cells)]
    command += ["--site", str(site.resolve())] if site else []
    command += ["--array", str(shards)] if shards else []
    lines = [join(command)]
    title = f"What the loss surface of {job.document.name} will cost"
    return _script(title, "probe", job, one, context, lines)


def training(job: Job, launch: LaunchSpec, context: ScriptContext) -> str:
    """Return the script that trains a job's network, as one rank."""
    assert job.document.train is not None
    folder = job.path(job.document.train.output)
    launch = of_one_rank(launch, gpus=min(1, launch.gpus_per_node))
    command = ["lsengine", "train", *_named(job, context), "--progress", "lines"]
    lines = [
        "progress() { # changes with every epoch",
        f"    find {quote(str(folder))} -name '*.pt' -printf '%p %T@\\n' 2>/dev/null |",
        "        sort | cksum | cut -d ' ' -f 1",
        "}",
        "left() { echo 0; }",
        *_run(job, launch, command),
    ]
    return _script(f"The training of {job.document.name}", "train", job, launch, context, lines)


def merging(job: Job, launch: LaunchSpec, context: ScriptContext, shards: int) -> str:
    """Return the script that makes one surface of shards."""
    launch = of_one_rank(launch)
    command = [*_inside(job, launch), "lsengine", "merge"]
    stem = quote(str(job.surface.with_suffix("")))
    lines = [
        "shards=()",
        f"for ((part = 1; part <= {shards}; part++)); do # a shard without cells has no file",
        f'    if [ -e {stem}.shard-"$part".h5 ]; then shards+=({stem}.shard-"$part".h5); fi',
        "done",
        "if [ ${#shards[@]} = 0 ]; then",
        f'    echo "none of {shards} shards has a file: there is nothing to merge; the logs of"',
        '    echo "the shards say why none has begun; mend that, and submit again"',
        f"    exit {Stopped.exit_code}",
        "fi",
        f'{join(command)} "${{shards[@]}}" --output {quote(str(job.surface))}',
    ]
    title = f"The loss surface of {job.document.name}, from its shards"
    return _script(title, "merge", job, launch, context, lines)


def drawing(job: Job, launch: LaunchSpec, context: ScriptContext) -> str:
    """Return the script that draws a finished surface."""
    launch = of_one_rank(launch)
    assert job.document.directions is not None
    kind = "filled" if job.document.directions.beta is not None else "curve"
    figure = job.surface.with_name(f"{job.surface.stem}-{kind}.png")
    command = [*_inside(job, launch), "lsengine", "render", str(job.surface)]
    lines = [join([*command, "--as", kind, "--output", str(figure)])]
    title = f"A picture of the loss surface of {job.document.name}"
    return _script(title, "render", job, launch, context, lines)


def of_one_rank(launch: LaunchSpec, gpus: int = 0) -> LaunchSpec:
    """Return the launch settings of a single process."""
    changes = {"nodes": 1, "ranks": 1, "gpus_per_node": gpus, "gpu_binding": "node"}
    return launch.model_copy(update=changes)


def _named(job: Job, context: ScriptContext) -> list[str]:
    # In one word, because a name may begin with a hyphen.
    only = [f"--only={escape(job.document.name)}"] if context.is_matrix else []
    return [str(job.source), *only, *(w for c in context.changes for w in ("--set", c))]


def _run(job: Job, launch: LaunchSpec, command: Sequence[str], more: str = "") -> list[str]:
    inside = _inside(job, launch) if ranks(launch) == 1 else _container(job, launch)
    lines = [
        "restarts=${SLURM_RESTART_COUNT:-0}",
        "case $restarts in *[!0-9]*) restarts=0 ;; esac # bash would evaluate what is no number",
        f"run=({join([*_start(launch), *inside, *command])}{more})",
        f"most_fruitless={launch.max_fruitless}",
        f"signal_s={launch.signal_s}",
    ]
    if ranks(launch) == 1 or launch.launcher != "srun-pmi2":
        return lines
    # By the number of its step MPICH names its shared memory, and does not start where a killed
    # round of the same number has left some: each round gets a number of its own.
    return [
        *lines,
        "for ((round = 0; round < restarts; round++)); do",
        "    srun --nodes=1 --ntasks=1 true # moves the number of the next step on",
        "done",
    ]


def _start(launch: LaunchSpec) -> list[str]:
    """Return the launcher's part of a command; nothing for one rank."""
    if ranks(launch) == 1:
        return []
    start = [*_STARTERS[launch.launcher], str(ranks(launch))]
    if launch.launcher.startswith("srun"):
        if launch.cores_per_rank:  # which srun does not take over from the job
            start.append(f"--cpus-per-task={launch.cores_per_rank}")
        if launch.gpu_binding == "task":
            start.append(f"--gpus-per-task={_gpus(launch, 1)}")
    return start + launch.launcher_options


def _inside(job: Job, launch: LaunchSpec, more: Sequence[str] = ()) -> list[str]:
    """Return what goes before a command without launcher so that it runs in the container."""
    is_pyxis = launch.container is not None and launch.container.runtime == "pyxis"
    starter = ["srun", "-n", "1", "--overlap"] if is_pyxis else []
    return [*starter, *_container(job, launch, more)]


def _container(job: Job, launch: LaunchSpec, more: Sequence[str] = ()) -> list[str]:
    """Return the container's part of a command, if there is one.

    The container sees the site's folders, the job's, and ``more``.
    """
    container = launch.container
    if container is None:
        return []
    folders = [*_folders(job), *more]
    for folder in folders:
        if set(folder) & set(":,"):
            raise UsageError(
                f"launch.container: {folder} has a colon or a comma, which ends the name of a "
                "folder to what starts containers; rename it, or use a link without"
            )
    binds = [*container.binds, *(folder for folder in folders if folder not in container.binds)]
    if container.runtime == "pyxis":
        mounts = ",".join(b if ":" in b else f"{b}:{b}" for b in binds)
        return [f"--container-image={container.image}", f"--container-mounts={mounts}"]
    graphics = ["--nv"] if launch.gpus_per_node else []
    options = [word for bind in binds for word in ("--bind", bind)]
    return [container.runtime, "exec", *graphics, *options, container.image]


def _folders(job: Job) -> list[str]:
    """Return the folders a job reads and writes, without those inside of others."""
    model, train = job.document.model, job.document.train
    read = (model.checkpoint, model.path, model.adapter)
    used = [job.source, job.surface, *job.direction_files().values()]
    used += [job.path(name) for name in (*read, train and train.output) if name]
    used += [_above(job.trajectory[1]) / "checkpoint"] if job.trajectory else []
    root = job.document.data.root
    paths = {file.parent for file in used} | ({job.path(root)} if root else set())
    return sorted(str(p) for p in paths if not any(q in p.parents for q in paths))


def _above(pattern: str) -> Path:
    """Return the folder in or below which everything is that matches an absolute glob."""
    folders = Path(pattern).parts[:-1]
    return Path(*takewhile(lambda folder: not set(folder) & set("*?["), folders))


def _gpus(launch: LaunchSpec, count: int) -> str:
    return f"{launch.gpu_type}:{count}" if launch.gpu_type else str(count)


def _script(
    title: str,
    step: str,
    job: Job,
    launch: LaunchSpec,
    context: ScriptContext,
    lines: Sequence[str],
    shards: int | None = None,
) -> str:
    head = [
        "#!/bin/bash -l" if launch.modules else "#!/bin/bash",
        f"# {line(title)}: {line(str(job.source))}",
        f"# Written by lsengine submit {installation.version()}.  It goes on where the files end.",
        *(f"#SBATCH {words}" for words in _options(step, job, launch, shards)),
        "",
        "export SLURM_EXPORT_ENV=ALL # ranks get what is set here",
        *([f"module load {join(launch.modules)}"] if launch.modules else []),
        *map(line, launch.activate),
        *([] if launch.container else [f'export PATH={quote(str(context.binaries))}:"$PATH"']),
        *(f"export {name}={quote(value)}" for name, value in launch.environment.items()),
        "",
        *lines,
        "",
    ]
    if step in _IN_ROUNDS:
        head += files("lsengine.submit").joinpath("rounds.sh").read_text("utf-8").split("\n")
    return "\n".join(head)


def _options(step: str, job: Job, launch: LaunchSpec, shards: int | None) -> Iterator[str]:
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", job.document.name)[:_LONGEST_NAME]
    folder, number = str(job.surface.parent), "%A-%a" if shards else "%j"
    if "\\" in folder:  # sbatch would take no % of the log's name for a number
        raise UsageError(
            f"submit: output: {folder} has a backslash, which changes names of logs in SLURM; "
            "rename the folder"
        )
    yield f"--job-name={name}-{step}"
    yield option("output", f"{folder.replace('%', '%%')}/{name}-{step}-{number}.log")
    yield "--open-mode=append"
    if step in _IN_ROUNDS:
        yield "--requeue"
        yield f"--signal=B:USR1@{launch.signal_s}"
    if shards:
        yield f"--array=1-{shards}"
    if launch.time:
        yield f"--time={launch.time}"
    where = {"partition": launch.partition, "account": launch.account, "qos": launch.qos}
    for key, value in {**where, "constraint": launch.constraint, "mem": launch.memory}.items():
        if value is not None:
            yield option(key, value)
    yield f"--nodes={launch.nodes}"
    yield f"--ntasks={ranks(launch)}"
    if launch.nodes > 1:
        yield f"--ntasks-per-node={-(-ranks(launch) // launch.nodes)}"
    if launch.cores_per_rank:
        yield f"--cpus-per-task={launch.cores_per_rank}"
    if launch.gpus_per_node:
        yield option("gpus-per-node", _gpus(launch, launch.gpus_per_node))
    yield from map(line, launch.sbatch)
    yield f"--export={_EXPORTED}"
