"""What may differ between runs of one job."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine.engine.options import Options
from lsengine.surface import DONE, FAILED, MISSING

STATUS = np.array([MISSING, DONE, FAILED, MISSING, DONE], np.uint8)


@pytest.mark.parametrize(
    ("retry_failed", "pending"),
    [(False, [True, False, False, True, False]), (True, [True, False, True, True, False])],
)
def test_missing_cells_are_pending_and_failed_ones_on_request(retry_failed, pending):
    """What is done is never evaluated again."""
    assert Options(retry_failed=retry_failed).pending(STATUS).tolist() == pending
