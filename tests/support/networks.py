"""Networks built as a job would."""

from __future__ import annotations

from pathlib import Path

from lsengine import models
from lsengine.job import schema


def build(arch, *, channels=3, classes=10, size=(32, 32), job_folder=Path(), **args):
    """Build with the data's shape given, as a job would."""
    spec = schema.ModelSpec(arch=arch, args=args)
    return models.build(spec, channels=channels, classes=classes, size=size, job_folder=job_folder)
