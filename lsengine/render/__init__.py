"""Figures from surfaces and records; reads files only."""

from __future__ import annotations

from lsengine.render.drawing import animate as animate
from lsengine.render.drawing import figure as figure
from lsengine.render.drawing import html_page as html_page
from lsengine.render.drawing import save as save
from lsengine.render.drawing import write as write
from lsengine.render.request import EXTENSIONS as EXTENSIONS
from lsengine.render.request import KINDS as KINDS
from lsengine.render.request import MOVING as MOVING
from lsengine.render.request import check_look as check_look
from lsengine.render.request import check_output as check_output
from lsengine.render.style import SCALES as SCALES
from lsengine.render.style import STYLES as STYLES
