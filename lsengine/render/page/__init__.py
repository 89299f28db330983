"""What figures have in common: sheets, scales, labels, notes."""

from __future__ import annotations

from lsengine.render.page.page import ERRORS as ERRORS
from lsengine.render.page.page import LONGEST_NAME as LONGEST_NAME
from lsengine.render.page.page import POINT as POINT
from lsengine.render.page.page import about_cells as about_cells
from lsengine.render.page.page import about_clipping as about_clipping
from lsengine.render.page.page import bar as bar
from lsengine.render.page.page import beyond_axis as beyond_axis
from lsengine.render.page.page import caption as caption
from lsengine.render.page.page import colors as colors
from lsengine.render.page.page import columns_for as columns_for
from lsengine.render.page.page import errors as errors
from lsengine.render.page.page import is_tiny as is_tiny
from lsengine.render.page.page import legend as legend
from lsengine.render.page.page import log_axis as log_axis
from lsengine.render.page.page import note as note
from lsengine.render.page.page import ordinal_minima as ordinal_minima
from lsengine.render.page.page import outer_labels as outer_labels
from lsengine.render.page.page import printable as printable
from lsengine.render.page.page import settle as settle
from lsengine.render.page.page import sheet as sheet
