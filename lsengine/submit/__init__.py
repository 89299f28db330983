"""`submit`: jobs to a cluster's queue, as scripts that anyone can read."""

from __future__ import annotations

from lsengine.submit.command import SubmitOptions as SubmitOptions
from lsengine.submit.command import plan as plan
from lsengine.submit.command import send as send
