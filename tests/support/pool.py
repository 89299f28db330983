"""A warm pool of ranks: evaluates jobs again and again without starting Python anew.

Started under mpiexec.  Rank 0 reads one JSON line per request from standard input, ``{"command":
"evaluate", "jobs": paths, "ranks": n, "options": {...}}`` or ``null`` to end, the first n ranks
evaluate it (or connect, train, take its spectrum), and rank 0 answers with one JSON line.  Waiting
ranks probe and sleep, as lsengine's own do.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from mpi4py import MPI

from lsengine.engine import Options, connect, evaluate, spectrum
from lsengine.errors import LsengineError
from lsengine.ranks import World, abort_all
from lsengine.training.command import run_all


def main() -> None:
    """Serve requests until standard input ends."""
    comm = MPI.COMM_WORLD
    groups = {
        n: comm.Create_group(comm.group.Incl(list(range(n))), tag=n)
        for n in range(2, comm.size + 1)
        if comm.rank < n
    }
    while (request := _next_request(comm)) is not None:
        ranks = request["ranks"]
        if comm.rank >= ranks:
            continue
        world = World(groups[ranks], MPI.COMM_SELF, "pool") if ranks > 1 else World.alone()
        code, message = 0, ""
        try:
            given = request.get("options", {})
            if "extend" in given:
                given["extend"] = Path(given["extend"])
            options = Options(progress="none", **given)
            if request["command"] == "connect":
                code, message = connect.run(request["jobs"][0], options, world=world)
            elif request["command"] == "spectrum":
                sizes = spectrum.Sizes(vectors=1, trace=2, density=0)
                code, message = spectrum.run(request["jobs"][0], sizes, world=world)
            elif request["command"] == "train":
                code = run_all(request["jobs"], world=world, progress="none")
            else:
                code = evaluate(request["jobs"], options, world=world)
        except LsengineError as error:
            code, message = error.exit_code, str(error)
        if comm.rank == 0:
            print("ANSWER " + json.dumps({"code": code, "message": message}), flush=True)


def _next_request(comm: Any) -> dict[str, Any] | None:
    """Read a request on rank 0 and pass it on without a blocking collective."""
    if comm.rank == 0:
        request = json.loads(sys.stdin.readline() or "null")
        for rank in range(1, comm.size):
            comm.send(request, dest=rank, tag=99)
        return request
    while not comm.iprobe(source=0, tag=99):
        time.sleep(0.02)
    return comm.recv(source=0, tag=99)


try:
    main()
except Exception as error:
    abort_all(error)
