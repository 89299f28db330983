"""From a job to how its network is evaluated."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from lsengine import data
from lsengine import job as jobs
from lsengine.curvature import LanczosOptions
from lsengine.engine.prepare import settings
from lsengine.objective import EvaluationSettings
from tests.support.jobs import write_job

CPU = torch.device("cpu")


@pytest.fixture
def job(tmp_path):
    """A job in which nothing that can be set has its default."""
    return jobs.load(
        write_job(
            tmp_path,
            batch_norm={"policy": "recalibrated", "samples": 40, "batch_size": 20},
            quantities=["loss", "curvature"],
            compile=True,
            precision="bfloat16",
            curvature={
                "tolerance": 0.1,
                "max_products": 50,
                "basis": 12,
                "parameters": "moved",
                "ignore": ["bias"],
                "precision": "tf32",
            },
            seed=7,
            objective="mine:judge",
            batch_size=16,
        )
    )


def test_the_job_decides_every_field(job):
    """None is left at its default, so none can be forgotten when one is added."""
    found = settings.evaluation_settings(job, CPU, precision="float64", batch_size=16)
    default = EvaluationSettings(device=CPU, precision="float32", batch_size=1)
    same = {f.name for f in fields(found) if getattr(found, f.name) == getattr(default, f.name)}
    of_machines = {"device", "products_by", "channels_last", "peers", "residence", "hosted"}
    of_machines.add("at_once")  # the twin finds it out
    assert same == of_machines  # not the job
    assert found.curvature == LanczosOptions(tolerance=0.1, max_products=50, basis=12, seed=7)


def test_what_a_caller_leaves_out_keeps_its_default(job):
    """Running statistics and curvature, each without the other."""
    given = {"precision": "float32", "batch_size": 16}
    plain = settings.evaluation_settings(job, CPU, **given, without=settings.BATCH_NORM)
    assert (plain.batch_norm, plain.seed) == ("frozen", 0)
    assert plain.curvature is not None
    hessian = settings.evaluation_settings(job, CPU, **given, without=settings.CURVATURE)
    assert (hessian.batch_norm, hessian.recalibration) == ("recalibrated", (40, 20))
    assert hessian.curvature is None
    names = {f.name for f in fields(EvaluationSettings)}
    assert names >= settings.BATCH_NORM | settings.CURVATURE


@pytest.mark.parametrize(
    ("asked", "kind", "expected"), [(48, "cuda H100", 48), ("auto", "cpu avx2", 512)]
)
def test_the_batch_size_is_the_jobs_or_by_arithmetic(tmp_path, asked, kind, expected):
    """The kind of a device begins with its type."""
    job = jobs.load(write_job(tmp_path, batch_size=asked))
    assert settings.batch_size(job, (1, 8, 8), kind) == expected


def test_the_shape_of_a_sample_is_without_the_axis_of_samples(job):
    """As the network sees one."""
    root = job.path(job.document.data.root)
    dataset = data.load(job.document.data, root=root, job_folder=root.parent, seed=0)
    assert settings.sample_shape(dataset) == (6,)
