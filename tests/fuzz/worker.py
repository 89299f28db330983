"""One confined process: builds the world, then makes and runs cases; a line of JSON for each.

python -m tests.fuzz.worker FOLDER KIND FIRST COUNT
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import shutil
import sys
import warnings
from pathlib import Path

from tests.fuzz import confined, driver, stamps, warm, world
from tests.fuzz.surfaces import FORMATS
from tests.support import formulas


def main() -> None:
    """Confine this process before it makes anything, and print what becomes of each case."""
    folder = Path(sys.argv[1]).resolve()
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    confined.confine(folder)
    os.dup2(2, 1)
    for name in driver.LARGE_PAGES:  # they are for this process, and not for those it starts
        os.environ.pop(name, None)
    made = _warm_up(folder)
    for kind, first, count in (word.split(":") for word in sys.argv[2:]):
        prepare = importlib.import_module(f"tests.fuzz.{kind}").prepare
        numbers = range(int(first), int(first) + int(count))
        (folder / kind).mkdir(exist_ok=True)
        for told in warm.cases(prepare, made, numbers, folder / kind):
            print(json.dumps({"kind": kind, **told}), file=lines)


def _warm_up(folder: Path) -> world.World:
    for name in ("home", "tmp", "world"):
        (folder / name).mkdir(exist_ok=True)
    os.environ |= {
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "MPLCONFIGDIR": str(folder / "home"),
        "XDG_CONFIG_HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
    }
    warnings.simplefilter("ignore")
    formulas.keep()
    made = world.build(folder / "world", warm.call)
    for kind in ("contour", "filled", "heatmap", "surface", "trajectory", "html"):
        suffix = "html" if kind == "html" else "png"
        warm.call("render", made.good("plane"), "--as", kind, "-o", folder / f"tmp/{kind}.{suffix}")
    for shape in world.SHAPES:
        warm.call("render", made.good(shape), "-o", folder / f"tmp/{shape}.svg")
    for name, suffix in FORMATS.items():
        warm.call("export", made.good("plane"), "--to", name, "-o", folder / f"tmp/x{suffix}")
    warm.call("compare", made.good("plane"))
    warm.call("status", made.good("plane"))
    unsigned = folder / "tmp/unsigned.h5"  # starts the process that reads such files first
    shutil.copy(made.good("plane"), unsigned)
    stamps.change(unsigned, "none")
    warm.call("status", unsigned)
    _forget()
    gc.collect()
    gc.freeze()
    return made


def _forget() -> None:
    """Each case has a life of its own: nobody has asked who started it, run a job, or laid one out.

    A case's file may have the inode of one that was laid out here, and is gone.
    """
    from lsengine.external import user_code
    from lsengine.ranks import launch
    from lsengine.store import file

    launch.join.cache_clear()
    launch.meet.cache_clear()
    user_code._in_use.clear()
    file._trusted.clear()


if __name__ == "__main__":
    main()
