"""Signals outside of a run."""

from __future__ import annotations

import subprocess
import sys


def test_a_warning_that_comes_while_a_process_ends_does_not_kill_it():
    """SIGUSR1 after the last cell, while MPI is finalized: the exit code stays the run's.

    MPI is finalized after Python has given up its signal handlers; what has been registered first
    is called last, just before that.
    """
    script = (
        "import atexit, signal\n"
        "atexit.register(lambda: print(signal.getsignal(signal.SIGUSR1).name))\n"
        "from lsengine.ranks import join\n"
        "join()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "SIG_IGN\n"
