"""The ranks of the warm pool: evaluate jobs again and again without starting Python anew.

Started under mpiexec by `tests/support/pool.py`, with the name of a socket.  Rank 0 listens on it.
A request is a JSON line, ``{"command": "evaluate", "jobs": paths, "ranks": n, "options": {...}}``.
The first n ranks evaluate it (or connect, train, take its spectrum).  Rank 0 answers with two JSON
lines: one when it begins, one when it is done.  Requests are served one after another.  When the
last client has gone, all ranks end.  Waiting ranks probe and sleep, as lsengine's own do.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpi4py import MPI

from lsengine.engine import Options, connect, evaluate, spectrum
from lsengine.errors import LsengineError
from lsengine.ranks import World, abort_all
from lsengine.training.command import run_all

Request = dict[str, Any]


def main(name: str) -> None:
    """Serve requests until nobody is there to ask."""
    comm = MPI.COMM_WORLD
    groups = {
        n: comm.Create_group(comm.group.Incl(list(range(n))), tag=n)
        for n in range(2, comm.size + 1)
        if comm.rank < n
    }

    def serve(request: Request) -> dict[str, Any]:
        ranks = request["ranks"]
        world = World(groups[ranks], MPI.COMM_SELF, "pool") if ranks > 1 else World.alone()
        return _carry_out(request, world)

    if comm.rank > 0:
        while (request := _receive(comm)) is not None:
            if comm.rank < request["ranks"]:
                serve(request)
        return
    for client, request in _requests(name):
        _send(comm, request)
        _tell(client, {"begun": True})
        _tell(client, serve(request))
    _send(comm, None)


def _carry_out(request: Request, world: World) -> dict[str, Any]:
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
    return {"code": code, "message": message}


def _requests(name: str) -> Iterator[tuple[socket.socket, Request]]:
    """Yield what clients ask for until the last of them has gone.

    A new client is told which process to kill if a request hangs: the launcher.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0" + name)  # no file is left behind
    listener.listen()
    ready = selectors.DefaultSelector()
    ready.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fileobj is listener:
                client = listener.accept()[0]
                ready.register(client, selectors.EVENT_READ, client.makefile())
                _tell(client, {"launcher": os.getppid()})
            elif line := key.data.readline():
                yield key.fileobj, json.loads(line)
            else:
                ready.unregister(key.fileobj)
                if len(ready.get_map()) == 1:
                    return


def _tell(client: socket.socket, answer: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # it has gone meanwhile
        client.sendall(json.dumps(answer).encode() + b"\n")


def _send(comm: Any, request: Request | None) -> None:
    """Pass a request on without a blocking collective."""
    for rank in range(1, comm.size):
        comm.send(request, dest=rank, tag=99)


def _receive(comm: Any) -> Request | None:
    while not comm.iprobe(source=0, tag=99):
        time.sleep(0.02)
    return comm.recv(source=0, tag=99)


try:
    main(sys.argv[1])
except Exception as error:
    abort_all(error)
