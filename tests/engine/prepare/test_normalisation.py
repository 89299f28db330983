"""Directions of jobs in units of their network, to whole surfaces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from lsengine import job as jobs
from lsengine import store
from lsengine.cli import main
from lsengine.engine import Options, evaluate, prepare
from lsengine.errors import UsageError
from tests.support.attention import HEADS, SIZE, change
from tests.support.jobs import write_job

CODE = """
import torch
from torch import nn
from tests.support.attention import WIDTH, Separate

class Net(nn.Module):
    def __init__(self, adapted=False):
        super().__init__()
        self.enter, self.leave = nn.Linear(1, WIDTH), nn.Linear(WIDTH, 3)
        self.attention = Separate()
        if adapted:
            self.lora_A = nn.Parameter(torch.ones(2, WIDTH))
            self.lora_B = nn.Parameter(torch.zeros(3, 2))

    def forward(self, x):
        x = self.attention(self.enter(x[:, :, None])).tanh().mean(1)
        more = x @ self.lora_A.T @ self.lora_B.T if hasattr(self, "lora_A") else 0
        return self.leave(x) + more
"""


def _job(folder, name, edit=lambda attention: None, *, args=None, **alpha):
    """Write a job along one direction of the network, changed by a function that keeps its own."""
    (folder / "heads.py").write_text(CODE)
    module = {"__name__": "heads"}
    exec(compile(CODE, "heads.py", "exec"), module)
    torch.manual_seed(2)
    network = module["Net"](**(args or {})).double()
    edit(network.attention)
    torch.save({"state_dict": network.state_dict()}, folder / f"{name}.pt")
    return write_job(
        folder,
        name,
        model={"arch": "heads:Net", "args": args or {}, "checkpoint": f"{name}.pt"},
        directions={"alpha": {"kind": "random", "seed": 3, **alpha}},
        grid={"alpha": [-1, 1, 5]},
        precision="float64",
    )


def _losses(path):
    assert evaluate([path], Options(progress="none"), world=None) == 0
    return store.read(path.with_suffix(".h5")).quantities["train_loss"]


def _rescaled(attention, *, is_general=False):
    for number in range(HEADS):
        matrix = torch.eye(SIZE, dtype=torch.float64) * (4.0 if number else 0.5)
        if is_general:
            matrix = torch.randn(SIZE, SIZE, dtype=torch.float64) + 2 * torch.eye(SIZE)
        for one, other in ("qk", "vo"):
            change(attention, one, number, matrix)
            change(attention, other, number, torch.linalg.inv(matrix).T)


@pytest.mark.parametrize(
    ("normalize", "is_general", "is_same"),
    [
        ("head", False, True),
        ({"attention": "balanced"}, True, True),
        ("filter", False, False),
        ({"attention": "head", "other": "layer"}, True, False),
    ],
    ids=str,
)
def test_a_surface_is_that_of_its_twin(tmp_path, normalize, is_general, is_same):
    """All cells of two jobs, of networks that compute the same; directions are in float32."""
    network = _losses(_job(tmp_path, "one", normalize=normalize))

    def edit(attention):
        _rescaled(attention, is_general=is_general)

    twin = _losses(_job(tmp_path, "twin", edit, normalize=normalize))
    assert network[2] == pytest.approx(twin[2], rel=1e-12)
    distance = np.abs(network - twin).max()
    assert distance < 1e-6 if is_same else distance > 1e-3


def test_directions_that_are_drawn_again_are_the_same(tmp_path):
    """Every worker finds the units by itself; the digests of the file agree."""
    path = _job(tmp_path, "one", normalize={"attention": "balanced"})
    kept = _losses(path)
    document = yaml.safe_load(path.read_text())
    document["directions"]["stored"], document["output"] = False, "again.h5"
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(document))
    np.testing.assert_array_equal(_losses(again), kept)


def _refusal(path):
    job = jobs.load(path, command="eval")
    with pytest.raises(UsageError) as caught:
        prepare.make_directions(job, prepare.load(job).model)
    return str(caught.value)


def test_what_units_cannot_do_is_refused(tmp_path):
    """The key, what was found and the way out, before any cell."""
    fresh = _refusal(_job(tmp_path, "a", args={"adapted": True}, normalize="head"))
    assert fresh.startswith("directions.alpha.normalize: lora_B and lora_A: their product is zero")
    half = {"attention": "balanced", "lora": "filter"}
    one_factor = _job(tmp_path, "b", only=["*.q_proj.*"], normalize=half, args={"adapted": True})
    assert "both factors of a product have to move, but attention.k_proj.weight stays" in (
        _refusal(one_factor)
    )
    no_roles = _refusal(_job(tmp_path, "c", normalize={"embedding": "layer"}))
    assert (
        "directions.alpha.normalize: embedding is spoken of, but the network has none" in no_roles
    )


def test_only_drawn_directions_are_balanced(tmp_path):
    """Another checkpoint has a gauge of its own; heads and filters are fine for it."""
    _job(tmp_path, "other", _rescaled)
    toward = {"kind": "toward", "checkpoint": "other.pt", "ignore": ["bias"]}
    path = _job(tmp_path, "a", **toward, normalize={"attention": "balanced"})
    path.write_text(path.read_text().replace("    seed: 3\n", ""))
    assert "only directions of kind random are drawn where factors are balanced" in _refusal(path)
    path.write_text(path.read_text().replace("attention: balanced", "attention: head"))
    job = jobs.load(path, command="eval")
    model = prepare.load(job).model
    found = prepare.make_directions(job, model)["alpha"]["attention.o_proj.weight"]
    weights = model.attention.o_proj.weight.detach()
    assert np.linalg.norm(found[:, :SIZE]) == pytest.approx(float(weights[:, :SIZE].norm()))


def test_orthogonal_and_balanced_exclude_each_other(tmp_path):
    """Both keys are named by the message; heads are made orthogonal."""
    path = _job(tmp_path, "a")
    document = yaml.safe_load(path.read_text())
    beta = {"kind": "random", "seed": 5, "orthogonal": True}
    document["grid"]["beta"] = [-1, 1, 3]
    for unit in ("balanced", "head"):
        beta["normalize"] = {"attention": unit}
        document["directions"] = {"alpha": {"kind": "random", "normalize": "head"}, "beta": beta}
        path.write_text(yaml.safe_dump(document))
        if unit == "balanced":
            assert "directions.beta.orthogonal: attention: queries and keys of head 0" in (
                _refusal(path)
            )
        else:
            job = jobs.load(path, command="eval")
            made = prepare.make_directions(job, prepare.load(job).model)
            one, other = (made[axis]["attention.o_proj.weight"][:, :SIZE] for axis in made)
            assert abs((one * other).sum()) < 1e-6


def test_a_mapping_is_in_the_surface(tmp_path, capsys):
    """The identity has it, so another one is another surface."""
    path = _job(tmp_path, "a", normalize={"attention": "head"})
    assert main(["eval", str(path), "--progress", "none"]) == 0
    filters = 6 + 3  # of the layers before and behind; biases stay
    said = f"directions.alpha.normalize: {filters} filters, {4 * HEADS} heads\n"
    assert said in capsys.readouterr().err
    changed = ["--set", "directions.alpha.normalize={attention: filter}"]
    assert main(["eval", str(path), *changed, "--progress", "none"]) == 4
    assert "directions.alpha.normalize.attention" in capsys.readouterr().err
