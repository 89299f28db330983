"""The command line."""

from __future__ import annotations

from lsengine.cli.entry import main as main
from lsengine.cli.parser import build_parser as build_parser
