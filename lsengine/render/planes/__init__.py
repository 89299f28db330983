"""Pictures of planes from above."""

from __future__ import annotations

from lsengine.render.planes.planes import NOT_TO_SCALE as NOT_TO_SCALE
from lsengine.render.planes.planes import STANDS_IN as STANDS_IN
from lsengine.render.planes.planes import WIDEST as WIDEST
from lsengine.render.planes.planes import check as check
from lsengine.render.planes.planes import common_scale as common_scale
from lsengine.render.planes.planes import compose as compose
from lsengine.render.planes.planes import draw as draw
