"""Tries on this machine what a run needs."""

from __future__ import annotations

from lsengine.doctor.command import run as run
