"""From a job to what an objective is made of."""

from __future__ import annotations

from lsengine.engine.prepare.checks import check as check
from lsengine.engine.prepare.directions import make_directions as make_directions
from lsengine.engine.prepare.loading import Loaded as Loaded
from lsengine.engine.prepare.loading import code as code
from lsengine.engine.prepare.loading import criterion_of as criterion_of
from lsengine.engine.prepare.loading import grid as grid
from lsengine.engine.prepare.loading import identity as identity
from lsengine.engine.prepare.loading import load as load
from lsengine.engine.prepare.loading import moving_parts as moving_parts
from lsengine.engine.prepare.loading import quantity_names as quantity_names
from lsengine.engine.prepare.loading import trajectory_quantity_names as trajectory_quantity_names
