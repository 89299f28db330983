"""The names of networks that a job may give."""

from __future__ import annotations

from lsengine.job.schema import ARCHITECTURES


def test_the_zoo_of_the_schema_is_the_zoo_of_the_models():
    """Names known without torch are the names that can be built."""
    from lsengine import models

    assert {name for name, _ in models.zoo()} == set(ARCHITECTURES)
