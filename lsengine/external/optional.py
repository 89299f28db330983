"""Libraries that not everybody needs: imported when used, or missed with a plain hint."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lsengine.errors import EnvironmentUnfit
from lsengine.external import installation


def library(module: str, extra: str, purpose: str) -> Any:
    """Import a module of an optional library, which an extra of lsengine's installs.

    Raises:
        EnvironmentUnfit: If it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise EnvironmentUnfit(
            f"{purpose} needs {name}, which cannot be imported ({error}); install it with "
            f'"{installation.install(extra)}"'
        ) from error
