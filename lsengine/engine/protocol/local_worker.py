"""Rank 0's own evaluation of cells, between messages."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from lsengine.engine.messages import Assignment, Plan, Report, WorkerInfo
from lsengine.engine.protocol.watchdog import Watchdog
from lsengine.errors import Stopped

if TYPE_CHECKING:
    from lsengine.engine.workspace import Workspace

T = TypeVar("T")
Make = Callable[[Assignment, Callable[[], None], int], "Workspace"]
"""Makes what a rank evaluates with: from assignment, what to call before every mini-batch, rank."""


class LocalWorker:
    """Evaluates cells on rank 0, and serves the other ranks before every mini-batch.

    Args:
        assignment: Of rank 0.
        make: Makes its workspace.
        serve: Serves the others.  What it raises ends the evaluation.
        patience_s: See `Watchdog`.
    """

    def __init__(
        self,
        assignment: Assignment,
        make: Make,
        serve: Callable[[], None],
        patience_s: float,
    ) -> None:
        self._assignment, self._make, self._serve = assignment, make, serve
        self._watchdog = Watchdog(patience_s)
        self._error: Exception | None = None

    @functools.cached_property
    def _workspace(self) -> Workspace:
        with self._watchdog.watching():
            return self._call(lambda: self._make(self._assignment, self._tick, 0))

    def info(self, host: str) -> WorkerInfo:
        """Return where its values come from."""
        return self._workspace.info(host)

    def begin(self, plan: Plan) -> None:
        """Put everything on the device."""
        workspace = self._workspace
        with self._watchdog.watching():
            self._evaluator = self._call(lambda: workspace.evaluator(plan))

    def run(self, cells: Sequence[int], absorb: Callable[[Report, bool], None]) -> None:
        """Evaluate cells, and hand each report on, with whether there are cells left.

        Raises:
            Exception: What ``serve`` has raised, after the cells finished till then.
        """
        with self._watchdog.watching():
            remaining = list(cells)
            while remaining:
                report = self._evaluator.run(remaining)
                remaining = remaining[len(report.results.cells) :]
                if self._error is None:
                    absorb(report, bool(remaining))
                    continue
                if isinstance(self._error, Stopped):  # any other would be met again
                    absorb(Report(report.results, report.seconds), False)
                raise self._error

    def _call(self, make: Callable[[], T]) -> T:
        try:
            return make()
        except Stopped:
            raise self._error or Stopped("rank 0") from None

    def _tick(self) -> None:
        """Serve the others; a mistake there must not pass for one of the cell's."""
        self._watchdog.progress()
        try:
            self._serve()
        except Exception as error:
            self._error = error
            raise Stopped("rank 0") from error
