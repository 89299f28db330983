"""The import of torchvision, also where it does not fit its torch."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

from lsengine.errors import EnvironmentUnfit
from lsengine.external import installation

_OPERATORS = ("nms", "qnms")


def torchvision() -> ModuleType:
    """Import torchvision, also where its operators were compiled for another torch.

    Networks, data sets and transforms need none of those operators, but the import looks
    two of them up.  If it fails it is tried once more, with their schemas declared.

    Raises:
        EnvironmentUnfit: If torchvision is not installed or cannot be imported.
    """
    try:
        return _import_torchvision()
    except ModuleNotFoundError as error:
        raise EnvironmentUnfit(
            f"torchvision cannot be imported ({error}); install the one that goes with "
            f"torch {torch.__version__} ({_fitting()}), or use digits, arrays and the built-in "
            "networks"
        ) from None
    except (ImportError, OSError, RuntimeError) as error:
        raise EnvironmentUnfit(
            f"torchvision does not fit torch {torch.__version__}: {error}; install the one that "
            f"goes with it ({_fitting()})"
        ) from error


def _fitting() -> str:
    return installation.fitting("torchvision", str(torch.__version__))


def _import_torchvision() -> ModuleType:
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:  # "operator torchvision::nms does not exist"
        for name in [n for n in _OPERATORS if not hasattr(torch.ops.torchvision, n)]:
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _libraries.append(library)
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    return importlib.import_module("torchvision")


_libraries: list[torch.library.Library] = []  # a schema lives as long as its library
