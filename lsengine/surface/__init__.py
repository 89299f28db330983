"""Grids, surfaces and records as values."""

from __future__ import annotations

from lsengine.surface.surface import DONE as DONE
from lsengine.surface.surface import FAILED as FAILED
from lsengine.surface.surface import MISSING as MISSING
from lsengine.surface.surface import PlaneCurve as PlaneCurve
from lsengine.surface.surface import Surface as Surface
from lsengine.surface.surface import Trajectory as Trajectory
