"""The page about transformers: its script, its figures, and the helpers of its jobs."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from lsengine.job import load_all
from lsengine.models.gpt import GPT
from tests.support.launchers import ROOT

JOBS = ROOT / "jobs" / "transformers"
PAGE = ROOT / "docs" / "TRANSFORMERS.md"


def made(file: str) -> dict[str, object]:
    """Return what a script beside the jobs defines."""
    return runpy.run_path(str(JOBS / file))


@pytest.fixture
def calls(tmp_path: Path) -> list[list[str]]:
    """Run the script with commands that only take note; return their arguments."""
    for folder in ("launch", "env/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "transformers.sh", tmp_path / "launch")
    for name in ("lsengine", "python"):
        stub = tmp_path / "env" / "bin" / name
        stub.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/notes.txt\n')
        stub.chmod(0o755)
    script = tmp_path / "launch" / "transformers.sh"
    environment = {**os.environ, "ENVIRONMENT": "env"}
    subprocess.run([script], env=environment, check=True, capture_output=True, timeout=60)
    return [line.split() for line in (tmp_path / "notes.txt").read_text().splitlines()]


def test_the_script_draws_what_its_jobs_write(calls: list[list[str]]) -> None:
    """All jobs of the folder are run; what is drawn is written by one; the page shows all of it."""
    files = {a for _, *rest in calls for a in rest if a.endswith(".yaml")}
    there = {f"jobs/transformers/{path.name}" for path in JOBS.glob("*.yaml")}
    assert files == there - {f"jobs/transformers/{name}.yaml" for name in ("base", "vit")}
    written = {
        str(job.output.relative_to(ROOT))
        for file in files
        for job in load_all(ROOT / file)
        if job.document.directions is not None
    }
    drawn = {a for _, *rest in calls for a in rest if a.endswith(".h5")}
    assert drawn <= written
    assert written - drawn == {
        *("surfaces/transformers/most.h5", "surfaces/transformers/worst-sharpest.h5"),
        "surfaces/transformers/worst-ascent.h5",  # which basin.py draws
    }
    figures = {Path(a).name for _, *rest in calls for a in rest if a.endswith(".png")}
    assert figures == set(re.findall(r"\(transformers/(\w+\.png)\)", PAGE.read_text()))
    assert figures == {path.name for path in (ROOT / "docs" / "transformers").glob("*.png")}


def test_the_twin_computes_the_same() -> None:
    """Numbers of attention are others, and the outputs are the same in float64."""
    torch.manual_seed(0)
    network = GPT(vocabulary=5, context=6, depth=2, width=16, heads=4).double()
    tokens = torch.randint(0, 5, (3, 6))
    state = {k: torch.randn_like(v) for k, v in network.state_dict().items()}
    twin = made("twin.py")["twin"](state, 4.0)  # type: ignore[operator]
    outputs = []
    for numbers in (state, twin):
        network.load_state_dict(numbers)
        outputs.append(network(tokens))
    torch.testing.assert_close(*outputs)
    name = "blocks.1.attention.value.weight"
    assert not torch.allclose(state[name], twin[name])


def test_a_radius_is_where_the_loss_passes_the_rise() -> None:
    """Linear between cells; infinity if the loss stays below."""
    radius = made("basin.py")["radius"]
    distance, loss = np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 1.0, 3.0, 0.0])
    assert radius(distance, loss, 0.5) == 1.25  # type: ignore[operator]
    assert radius(distance, loss, 2.5) == np.inf  # type: ignore[operator]


def test_ascent_finds_a_step_that_raises_the_loss_more_than_chance() -> None:
    """It ends at distance 1 of its weights; all else stays."""
    torch.manual_seed(0)
    network = GPT(vocabulary=5, context=6, depth=1, width=8, heads=2)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    x, y = torch.randint(0, 5, (2, 4, 6))
    with torch.no_grad():
        flat = torch.nn.functional.cross_entropy(network(x).flatten(0, 1), y.flatten()).item()
    loss = made("ascent.py")["ascend"](network, x, y, 0.5)  # type: ignore[operator]
    moved = {name: (p - before[name]).norm().item() for name, p in network.named_parameters()}
    assert np.hypot.reduce(list(moved.values())) == pytest.approx(1, rel=1e-5)
    assert all(d == 0 for name, d in moved.items() if before[name].ndim < 2)
    assert loss > flat + 0.1


def test_an_adapter_starts_as_the_model_and_moves_alone(tmp_path: Path) -> None:
    """B is zero, so the outputs are the same; its factors alone want gradients."""
    torch.manual_seed(0)
    base = GPT(vocabulary=5, context=64, depth=4, width=16, heads=4)
    torch.save({"state_dict": base.state_dict()}, tmp_path / "base.pt")
    network = made("adapter.py")["adapted"](str(tmp_path / "base.pt"), 2)  # type: ignore[operator]
    tokens = torch.randint(0, 5, (2, 7))
    torch.testing.assert_close(network(tokens), base(tokens), rtol=0, atol=0)
    free = [name for name, p in network.named_parameters() if p.requires_grad]
    assert len(free) == 4 * 2 * 2
    assert all(".lora_" in name for name in free)
