"""What several files of unit tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(
    scope="module",
    params=[(kind, steps) for kind in ("mlp", "resnet") for steps in (2, 60)],
    ids=["mlp-away", "mlp-minimum", "resnet-away", "resnet-minimum"],
)
def case_solved(request):
    """A network away from and near a minimum, with the eigenvalues of its dense Hessian."""
    from hessians import solved  # imports torch

    return solved(*request.param)
