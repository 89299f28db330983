"""Surfaces in the formats of other programs."""

from __future__ import annotations

from lsengine.export.formats import FORMATS as FORMATS
from lsengine.export.formats import export as export
