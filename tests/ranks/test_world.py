"""Messages between ranks, and a process alone."""

from __future__ import annotations

import subprocess
import sys

from lsengine.ranks import World, join
from tests.support.launchers import BIN, launcher_environment

_ORDER = """
import sys, time
from mpi4py import MPI
from lsengine.ranks import Tag, World

world = World(MPI.COMM_WORLD, MPI.COMM_SELF, "test")
for number in range(20):
    if world.rank == 0:
        world.send(number, to=1, tag=Tag.PLAN)
        world.send(number, to=1, tag=Tag.STOP)
        world.wait(Tag.BYE)
    else:
        time.sleep(0.01)
        first = world.wait(Tag.PLAN, Tag.STOP)
        second = world.wait(Tag.PLAN, Tag.STOP)
        assert (first.tag, second.tag) == (Tag.PLAN, Tag.STOP), number
        world.send(None, to=0, tag=Tag.BYE)
world.flush()
if world.rank == 0:
    print("in order")
"""


def test_messages_are_received_in_the_order_they_were_sent(tmp_path):
    """A message of another kind never overtakes the one sent before it, twenty times."""
    script = tmp_path / "order.py"
    script.write_text(_ORDER)
    ended = subprocess.run(
        [str(BIN / "mpirun"), "-n", "2", sys.executable, str(script)],
        env=launcher_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout.strip() == "in order", ended.stderr


def test_a_process_alone_is_a_world_of_one_rank():
    """Nobody has died, nothing arrives, and its end is not held up."""
    world = World.alone()
    assert (world.rank, world.size, world.local_rank_and_size()) == (0, 1, (0, 1))
    assert not world.lost()
    assert world.poll() is None
    assert world.receive(limit_s=0.0) is None
    world.flush()
    world.exit_without_finalize(5)  # returns
    assert join().size == 1
