"""Fixtures: small jobs, and a warm pool of ranks."""

from __future__ import annotations

import compileall
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Tests run beside each other; threads that wait for each other would only burn the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell that starts the tests in the background has them, and all they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from tests.support.pool import Pool


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package once, for hundreds of processes import it, and may not be let to keep it.

    Pictures of one process share their formulas.
    """
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(__file__).parents[1] / "lsengine", quiet=2)
    from tests.support import formulas

    formulas.keep()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no long one is left for the end."""
    tests = Path(__file__).parent
    first = tuple(tests / name for name in ("slurm", "fuzz", "system", "cli"))
    items.sort(key=lambda item: not any(item.path.is_relative_to(folder) for folder in first))


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """A warm pool of five ranks, one for all processes of pytest-xdist."""
    from tests.support.pool import Pool

    folder = tmp_path_factory.getbasetemp()
    pool = Pool(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)
    yield pool
    pool.close()


@pytest.fixture(autouse=True)
def _borrowed() -> Iterator[None]:
    """Give the search path back: the next test may have a module of the same name."""
    from lsengine.external import user_code

    with user_code.borrowed():
        yield


@pytest.fixture(autouse=True)
def _aloud() -> Iterator[None]:
    """End what --quiet of a command in this process has asked for: a process has one command."""
    yield
    from lsengine import log

    log.set_quiet(False)


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Path]:
    """Write small complete jobs in the test's folder; see `tests/support/jobs.py`."""
    from tests.support.jobs import write_job

    return lambda name="job", **changes: write_job(tmp_path, name, **changes)


@pytest.fixture(
    scope="module",
    params=[(kind, steps) for kind in ("mlp", "resnet") for steps in (2, 60)],
    ids=["mlp-away", "mlp-minimum", "resnet-away", "resnet-minimum"],
)
def case_solved(request):
    """A network away from and near a minimum, with the eigenvalues of its dense Hessian."""
    from tests.support.hessians import solved  # imports torch

    return solved(*request.param)
