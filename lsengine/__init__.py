"""Distributed loss surfaces of neural networks."""

from __future__ import annotations

import sys
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsengine.api.commands import Surface as Surface
    from lsengine.api.commands import compare as compare
    from lsengine.api.commands import histogram as histogram
    from lsengine.api.commands import merge as merge
    from lsengine.api.commands import open as open
    from lsengine.api.commands import status as status
    from lsengine.api.evaluating import evaluate as evaluate
    from lsengine.api.evaluating import run as run
    from lsengine.api.evaluating import spectrum as spectrum
    from lsengine.api.evaluating import trajectory as trajectory
    from lsengine.objective.summary import Summary as Summary

__version__ = "0.1.0"
_ROOMS = ("render", "export")  # folders of the package, and functions as well
_READING = ("open", "Surface", "compare", "histogram", "merge", "status")
_EVALUATING = ("evaluate", "run", "spectrum", "trajectory")


class _Module(ModuleType):
    """A module that is sent to another process by its name, as Python's own are."""

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (self.__name__,)


class _Room(_Module):
    """A folder of the package that can be called as the function of its name."""

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return _function(self)(*args, **keywords)

    # What `help` and the completion of a notebook show is the function's.
    __signature__ = property(lambda self: signature(_function(self)))
    __doc__ = property(
        lambda self: f"{_function(self).__name__}{signature(self)}\n\n{_function(self).__doc__}"
    )


def _function(room: ModuleType) -> Any:
    name = room.__name__.rpartition(".")[2]
    return getattr(import_module("lsengine.api.commands"), name)


class _Package(_Module):
    """The package, whose functions are loaded when they are asked for."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _ROOMS and isinstance(value, ModuleType):
            value.__class__ = _Room
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name in _ROOMS:
            return import_module(f"lsengine.{name}")
        # Importing the package is part of every command, its help included.
        if name in _READING:
            return getattr(import_module("lsengine.api.commands"), name)
        if name in _EVALUATING:
            # Under a launcher before anything imports HDF5, which may load another MPI library.
            import_module("lsengine.ranks").meet()
            return getattr(import_module("lsengine.api.evaluating"), name)
        if name == "Summary":
            return import_module("lsengine.objective.summary").Summary
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_ROOMS, *_READING, *_EVALUATING, "Summary"})


sys.modules[__name__].__class__ = _Package
