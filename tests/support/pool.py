"""A warm pool of ranks that stays up between tests, shared by all processes that run tests."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.launchers import BIN, ROOT, launcher_environment

POOL_RANKS = 5
_TURN_S = 600  # until other processes have had their turn
_START_S = 120


class Pool:
    """For tests that kill nothing.

    The first request of any process starts the ranks.  They end when the last process has gone.

    Args:
        folder: The same for all processes of one test run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = "lsengine-pool-" + hashlib.sha256(str(folder).encode()).hexdigest()[:32]
        self._connection: _Connection | None = None

    def evaluate(
        self,
        jobs: Path | list[Path],
        ranks: int,
        *,
        timeout: float = 120,
        command: str = "evaluate",
        **options: Any,
    ) -> dict[str, Any]:
        """Evaluate (or connect) jobs on the first ``ranks`` ranks; return code and message."""
        assert 1 <= ranks <= POOL_RANKS
        paths = [str(job) for job in (jobs if isinstance(jobs, list) else [jobs])]
        request = {"jobs": paths, "ranks": ranks, "options": options, "command": command}
        for _ in range(3):  # another process's request may have ended the ranks
            if self._connection is None:
                self._connection = self._connect()
            if self._connection.ask(request):
                break
            self._connection = None
        else:
            raise AssertionError(f"no ranks are there: {self._said()}")
        if (answer := self._connection.read(timeout)) is None:
            self._connection.kill()
            self._connection = None
            raise AssertionError(f"no answer within {timeout} s: {self._said()}")
        return answer

    def close(self) -> None:
        """Leave."""
        if self._connection is not None:
            self._connection.close()

    def _connect(self) -> _Connection:
        """Connect to the ranks; start them if they are not there."""
        with (self._folder / "pool.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if connection := _Connection.to(self._name):
                return connection
            launcher, end = self._start(), time.monotonic() + _START_S
            while (connection := _Connection.to(self._name)) is None:
                assert launcher.poll() is None, self._said()
                assert time.monotonic() < end, self._said()
                time.sleep(0.1)
            return connection

    def _start(self) -> subprocess.Popen[bytes]:
        script = ROOT / "tests" / "support" / "pool_ranks.py"
        temporaries = self._folder / "pool"  # outlives this process
        temporaries.mkdir(exist_ok=True)
        command = [str(BIN / "mpirun"), "-n", str(POOL_RANKS), sys.executable, str(script)]
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [*command, self._name],
                env=launcher_environment(TMPDIR=str(temporaries)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def _log(self) -> Path:
        return self._folder / "pool.log"

    def _said(self) -> str:
        return self._log.read_text(errors="replace")[-5000:]


class _Connection:
    """A connection to rank 0 that has been greeted."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._lines = connection, connection.makefile()
        self._launcher = 0

    @classmethod
    def to(cls, name: str) -> _Connection | None:
        """Return a connection, None if nobody answers."""
        connection = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(ConnectionError):
            connection.connect("\0" + name)
            greeted = cls(connection)
            if greeting := greeted.read(_TURN_S):
                greeted._launcher = greeting["launcher"]
                return greeted
        connection.close()
        return None

    def ask(self, request: dict[str, Any]) -> bool:
        """Send a request and wait for its turn; False if the ranks have gone before."""
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except ConnectionError:
            return False
        return self.read(_TURN_S) is not None

    def read(self, timeout: float) -> dict[str, Any] | None:
        """Return the next line of rank 0; None if there is none within a time."""
        self._socket.settimeout(timeout)
        try:
            line = self._lines.readline()
        except (TimeoutError, ConnectionError):
            return None
        return json.loads(line) if line else None

    def kill(self) -> None:
        """End ranks that hang."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._launcher, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """Leave; the ranks end with their last client."""
        self._lines.close()
        self._socket.close()
