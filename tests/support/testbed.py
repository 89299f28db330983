"""A whole SLURM on one machine, for tests: munge, slurmctld and three virtual nodes.

Root of a Debian can start one in a second, without systemd, control groups or a network: every
node is a slurmd of its own under one host name, its GPUs are null devices.  Everything lives in
one folder, a key and socket of munge's own included, so that a SLURM of the machine's is neither
needed nor disturbed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

PACKAGES = (
    *("slurmctld", "slurmd", "slurm-client", "munge"),
    *("slurm-wlm-basic-plugins", "libpmix2"),
)
NODES, CORES, GPUS = 3, 4, 2
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
_OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
_NULL_DEVICE = os.makedev(1, 3)


def unfit() -> str | None:
    """Return why no SLURM can be started here, None if one can; installs what is missing."""
    if os.geteuid() != 0:
        return "starting a SLURM needs root"
    if all(map(shutil.which, _PROGRAMS)):
        return None
    if not shutil.which("apt-get"):
        return "SLURM is not installed, and this is no Debian"
    try:
        _install()
    except (subprocess.SubprocessError, OSError) as error:
        return f"SLURM cannot be installed: {error}"
    return None


def _install() -> None:
    """Install the packages, and keep them from starting daemons of their own."""
    policy = Path("/usr/sbin/policy-rc.d")
    is_ours = not policy.exists()
    if is_ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *PACKAGES],
        ):
            subprocess.run(command, env=quiet, check=True, capture_output=True, timeout=300)
    finally:
        if is_ours:
            policy.unlink()


class Testbed:
    """A running SLURM.

    Args:
        folder: Where it lives; short, because sockets have short names.
    """

    __test__ = False  # a name that pytest would take for a test's

    def __init__(self, folder: Path) -> None:
        self._folder, self._pids = folder, folder / "pids"
        for name in ("state", "log", "pids", "munge", "dev", "tmp"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        self._socket = folder / "munge" / "socket"
        self.environment: dict[str, str] = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "TMPDIR": str(folder / "tmp"),  # see launchers.launcher_environment
        }

    def start(self) -> None:
        """Start everything, and wait until all nodes are idle."""
        self._configure()
        key = self._folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self._run(
            *("munged", "--force", f"--socket={self._socket}", f"--key-file={key}"),
            *(f"--pid-file={self._pids / 'munged'}", f"--seed-file={key}.seed"),
            *(f"--log-file={self._folder / 'log' / 'munged'}", "--num-threads=2"),
        )
        self._run("slurmctld")
        for node in range(1, NODES + 1):
            (self._folder / f"spool.n{node}").mkdir()
            self._run("slurmd", "-N", f"n{node}")
        end = time.monotonic() + 60
        while self._run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").count("n") < NODES:
            assert time.monotonic() < end, self._logs()
            time.sleep(0.1)

    def stop(self) -> None:
        """End all jobs, then all daemons."""
        jobs = self._run("squeue", "-h", "-o", "%A").split()
        if jobs:
            self._run("scancel", "--signal=KILL", *jobs)
            self._run("scancel", *jobs)
            time.sleep(1)
        pids = [int(file.read_text()) for file in self._pids.iterdir() if file.read_text().strip()]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in filter(_is_alive, pids):
                os.kill(pid, number)
            end = time.monotonic() + 10
            while any(map(_is_alive, pids)) and time.monotonic() < end:
                time.sleep(0.05)

    def call(self, *command: str, timeout: float = 60, **environment: str) -> str:
        """Run a command with this SLURM and return what it prints."""
        return self._run(*command, timeout=timeout, environment=environment)

    def job(self, number: str) -> Mapping[str, str]:
        """Return what scontrol knows of a job; of an array, of its first task."""
        text = self._run("scontrol", "-o", "show", "job", number).splitlines()[0]
        return {k: v for k, _, v in (word.partition("=") for word in text.split())}

    def wait_for_end(self, number: str, limit_s: float) -> Mapping[str, str]:
        """Wait until a job is over, and return what is known of it.

        SLURM keeps a requeued job back for two minutes, so that nothing of the round before is
        taken for the next one's; that is cut short once its processes have gone.
        """
        released = time.monotonic()
        end = time.monotonic() + limit_s
        while (job := self.job(number))["JobState"] not in _OVER:
            assert time.monotonic() < end, (dict(job), self._logs())
            is_kept_back = (job["JobState"], job["Reason"]) == ("PENDING", "BeginTime")
            if not is_kept_back or _has_steps(number):
                released = time.monotonic() + 1
            elif time.monotonic() > released:
                self._run("scontrol", "update", f"JobId={number}", "StartTime=now")
            time.sleep(0.2)
        return job

    def _configure(self) -> None:
        folder, host = self._folder, socket.gethostname()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        port = 20000 + port % 10000  # a row of them, out of the system's own range
        for gpu in range(GPUS):
            os.mknod(folder / "dev" / f"gpu{gpu}", stat.S_IFCHR | 0o666, _NULL_DEVICE)
        (folder / "gres.conf").write_text(
            f"NodeName=n[1-{NODES}] Name=gpu File={folder}/dev/gpu[0-{GPUS - 1}]\n"
        )
        # Asked to find out, slurmd refuses to start where /sys/fs/cgroup is missing.
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        settings = {
            "ClusterName": "testbed",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": port,
            "SlurmUser": "root",
            "SlurmdUser": "root",
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self._socket}",
            "CredType": "cred/munge",
            # MPICH names shared memory by it; a killed test may have left some, another may run.
            "FirstJobId": secrets.randbelow(60_000_000) + 1,
            "StateSaveLocation": folder / "state",
            "SlurmdSpoolDir": f"{folder}/spool.%n",
            "SlurmctldPidFile": self._pids / "slurmctld",
            "SlurmdPidFile": f"{self._pids}/slurmd.%n",
            "SlurmctldLogFile": folder / "log" / "slurmctld",
            "SlurmdLogFile": f"{folder}/log/slurmd.%n",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "AccountingStorageType": "accounting_storage/none",
            "JobCompType": "jobcomp/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "SlurmdParameters": "config_overrides",
            "SchedulerParameters": "sched_interval=1,bf_interval=1,batch_sched_delay=0",
            "GresTypes": "gpu",
            "MpiDefault": "none",
            "ReturnToService": 2,
            "KillWait": 5,
            "MinJobAge": 3600,
            "SlurmctldTimeout": 60,
            "SlurmdTimeout": 60,
        }
        lines = [f"{key}={value}" for key, value in settings.items()]
        for node in range(1, NODES + 1):
            lines.append(
                f"NodeName=n{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + node} "
                f"CPUs={CORES} RealMemory=4000 Gres=gpu:{GPUS} State=UNKNOWN"
            )
        lines.append("PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
        (folder / "slurm.conf").write_text("\n".join(lines) + "\n")

    def _run(
        self, *command: str, timeout: float = 60, environment: Mapping[str, str] | None = None
    ) -> str:
        ended = subprocess.run(
            command,
            env={**self.environment, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert ended.returncode == 0, (command, ended.stdout, ended.stderr, self._logs())
        return ended.stdout

    def _logs(self) -> str:
        return "\n".join(
            f"{file.name}: {line}"
            for file in sorted((self._folder / "log").iterdir())
            for line in file.read_text(errors="replace").splitlines()[-5:]
        )


def _has_steps(number: str) -> bool:
    """Whether a daemon of a job's steps runs still."""
    name = f"slurmstepd: [{number}.".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(name):
                return True
        except OSError:  # has just ended
            continue
    return False


def _is_alive(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z"
