"""How a cell is evaluated: parameters in, metrics out, on one device."""

from __future__ import annotations

from lsengine.objective.device_state import Directions as Directions
from lsengine.objective.device_state import EvaluationSettings as EvaluationSettings
from lsengine.objective.objective import Metrics as Metrics
from lsengine.objective.objective import Objective as Objective
from lsengine.objective.vectors import Steps as Steps
