"""Two hosts on one machine: network namespaces joined by a cable, each with a name of its own.

MPI tells hosts by their names and addresses, so messages between them go over the cable.  A small
script stands in for ssh.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.launchers import launcher_environment

NAMES = ("nodea", "nodeb")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
_SHELL = """#!/bin/sh
# in place of ssh: [OPTIONS] HOST COMMAND...
while :; do case "$1" in -l | -p | -o) shift 2 ;; -[a-zA-Z]) shift ;; *) break ;; esac; done
host=$1
shift
case $host in {0}) space={2} name=nodea ;; {1}) space={3} name=nodeb ;; *) exit 255 ;; esac
exec ip netns exec $space unshare -u sh -c "hostname $name; exec sh -c \\"\\$0\\"" "$*" </dev/null
"""


def reason_not_to() -> str | None:
    """Return why this machine cannot have two hosts, or None."""
    if os.geteuid() != 0:
        return "two hosts need root"
    for program in ("ip", "unshare"):
        if shutil.which(program) is None:
            return f"two hosts need the program {program}"
    name = f"lsx{os.getpid()}"
    tried = subprocess.run(
        ["ip", "netns", "add", name], capture_output=True, text=True, check=False
    )
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return f"no network namespaces here: {tried.stderr.strip()}" if tried.returncode else None


@dataclass(frozen=True)
class Hosts:
    """Two running hosts."""

    spaces: tuple[str, str]
    shell: Path
    interface: str

    def run(
        self, kind: str, binaries: Path, arguments: Sequence[str], *, limit_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run ``lsengine ARGUMENTS`` as two ranks on each host, launched on the first.

        Args:
            kind: ``openmpi`` or ``mpich``.
            binaries: The environment's folder of programs.
            arguments: Of lsengine.
            limit_s: Seconds after which the ranks are ended.
        """
        flags = {
            "openmpi": [
                *("--prtemca", "plm_ssh_agent", str(self.shell), "--bind-to", "none"),
                *("--host", ",".join(f"{address}:2" for address in ADDRESSES)),
            ],
            "mpich": [
                *("-launcher", "ssh", "-launcher-exec", str(self.shell), "-ppn", "2"),
                *("-hosts", ",".join(ADDRESSES), "-iface", self.interface),
            ],
        }[kind]
        command = [str(binaries / "mpirun"), *flags, "-n", "4"]
        command += [str(binaries / "lsengine"), *arguments]
        inside = ["ip", "netns", "exec", self.spaces[0], "unshare", "-u", "sh", "-c"]
        inside += [f'hostname {NAMES[0]}; exec timeout -k 2 {limit_s} "$@"', "sh"]
        return subprocess.run(
            [*inside, *command],
            env=launcher_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s + 10,
            check=False,
        )


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[Hosts]:
    """Set two hosts up, and take them away in the end."""
    number = os.getpid()
    spaces = (f"ls{number}a", f"ls{number}b")
    cables = (f"va{number}", f"vb{number}")
    try:
        for space in spaces:
            _ip("netns", "add", space)
        _ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for space, cable, address in zip(spaces, cables, ADDRESSES, strict=True):
            _ip("link", "set", cable, "netns", space, "name", "cable")
            _ip("-n", space, "addr", "add", f"{address}/24", "dev", "cable")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "link", "set", "cable", "up")
        shell = folder / "shell"
        shell.write_text(_SHELL.format(*ADDRESSES, *spaces))
        shell.chmod(0o755)
        yield Hosts(spaces, shell, "cable")
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
