"""Whole runs of jobs with an objective, against closed forms and loops that share no code."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import lsengine
from lsengine import store
from lsengine.engine import Options, evaluate
from lsengine.errors import SurfaceError, UsageError
from lsengine.report import trajectory
from lsengine.store.shards import merge
from tests.support.jobs import values
from tests.support.kills import trial
from tests.support.own_networks import networks_at_cells, run, write
from tests.support.surfaces import edited

PLAIN = {"grid": {"alpha": [-0.5, 0.5, 3]}, "quantities": ["loss"]}

EQUATION = """
class Decay(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.2))
        self.b = nn.Parameter(torch.tensor(0.4))

    def forward(self, t):
        return self.a * torch.exp(-self.b * t)

def make():
    return Decay()

def residual(network, t):
    t.requires_grad_()
    u = network(t)
    (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
    return (slope + u).square()[:, 0]
"""


def test_an_equation_has_the_surface_and_curvature_of_its_residual(tmp_path):
    """Of u' = -u with u = a exp(-b t): mean of (b - 1)^2 a^2 exp(-2 b t), and its Hessian."""
    t = np.linspace(0, 2, 9, dtype="f")[:, None]
    job = write(
        tmp_path, EQUATION, t, t, objective="net:residual",
        **PLAIN | {"quantities": ["loss", "curvature"], "precision": "float64"},
        curvature={"tolerance": 1e-8},
        directions={"alpha": {"kind": "random", "ignore": [], "normalize": "none"}},
    )  # fmt: skip
    np.savez(tmp_path / "d.npz", x_train=t)
    found = run(job)
    for n, model in enumerate(networks_at_cells(job)):
        a, b = model.a.item(), model.b.item()
        e, c, s = np.exp(-2 * b * t[:, 0].astype(float)), b - 1, t[:, 0].astype(float)
        loss = (c**2 * a**2 * e).mean()
        aa, ab = (2 * c**2 * e).mean(), (2 * a * e * (2 * c - 2 * c**2 * s)).mean()
        bb = (a**2 * e * (2 - 8 * c * s + 4 * c**2 * s**2)).mean()
        ends = np.linalg.eigvalsh([[aa, ab], [ab, bb]])
        assert found["train_loss"][n] == pytest.approx(loss, rel=1e-6)
        assert found["eigenvalue_min"][n] == pytest.approx(ends[0], rel=1e-4, abs=1e-6)
        assert found["eigenvalue_max"][n] == pytest.approx(ends[1], rel=1e-4)


CONTRAST = """
def make():
    return nn.ModuleDict({"first": nn.Linear(3, 4), "other": nn.Linear(3, 4)})

def contrast(network, batch):
    x, y = batch
    a, b = network["first"](x), network["other"](y)
    similar = torch.cosine_similarity(a[:, None], b[None], dim=-1) / 0.2
    each = -torch.log_softmax(similar, 1).diagonal()
    return {"loss": each, "rank": (similar > similar.diagonal()[:, None]).sum(1)}
"""


def test_a_contrastive_loss_needs_batches_that_the_job_fixes(tmp_path):
    """Then it is that of a double loop over batches in the order of the data."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(10, 3)).astype("f") for _ in range(2))
    given = {"objective": "net:contrast"} | PLAIN
    with pytest.raises(UsageError, match=r"depends on the rest of its batch.* say batch_size"):
        run(write(tmp_path, CONTRAST, x, y, **given))
    job = write(tmp_path, CONTRAST, x, y, **given, batch_size=4)
    found = run(job)
    for n, model in enumerate(networks_at_cells(job)):
        a, b = (
            m(torch.from_numpy(v).double()).detach().numpy()
            for m, v in zip(model.values(), (x, y), strict=True)
        )
        a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
        losses, ranks = [], []
        for batch in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9]):
            for i in batch:
                row = [a[i] @ b[j] / 0.2 for j in batch]
                own = row[batch.index(i)]
                losses.append(math.log(sum(map(math.exp, row))) - own)
                ranks.append(sum(other > own for other in row))
        assert found["train_loss"][n] == pytest.approx(np.mean(losses), rel=1e-5)
        assert found["train_rank"][n] == pytest.approx(np.mean(ranks), rel=1e-9)


RETURN = """
import gymnasium

def make():
    return nn.Linear(4, 2)

def play(network, seeds):
    returns = []
    for seed in seeds.tolist():
        env = gymnasium.make("CartPole-v1")
        state, _ = env.reset(seed=seed)
        total, done = 0.0, False
        while not done and total < 60:
            action = network(torch.tensor(state).to(network.weight)).argmax().item()
            state, reward, terminated, truncated, _ = env.step(action)
            total, done = total + reward, terminated or truncated
        env.close()
        returns.append(-total)
    return torch.tensor(returns)
"""


def test_a_policy_has_the_return_of_a_plain_rollout(tmp_path):
    """Of CartPole with a seed for every sample; there is no gradient, so no curvature."""
    gymnasium = pytest.importorskip("gymnasium")
    seeds = np.arange(4)
    job = write(tmp_path, RETURN, seeds, seeds, objective="net:play", **PLAIN)
    np.savez(tmp_path / "d.npz", x_train=seeds)
    found = run(job)
    for n, model in enumerate(networks_at_cells(job)):
        weight, bias = (p.detach().numpy() for p in model.parameters())
        returns = []
        for seed in range(4):
            env = gymnasium.make("CartPole-v1")
            state, steps, done = env.reset(seed=seed)[0], 0, False
            while not done and steps < 60:
                state, _, ended, cut, _ = env.step(int(np.argmax(weight @ state + bias)))
                steps, done = steps + 1, ended or cut
            returns.append(-steps)
        assert found["train_loss"][n] == pytest.approx(np.mean(returns))


JUDGED = """
import lsengine

class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(2, 8), nn.Linear(8, 3)

    def forward(self, x, mask):
        hidden = self.inner(x).tanh() * mask[..., None]
        return self.outer(hidden.sum(1) / mask.sum(1, keepdim=True))

def make():
    return Masked()

def judge(network, batch):
    p = network(batch["x"], batch["mask"]).softmax(1)
    sure, answer = p.max(1)
    right, y = answer == batch["y"], batch["y"]
    bins = F.one_hot((sure * 5).long().clamp(max=4), 5)
    return {
        "loss": -p.gather(1, y[:, None])[:, 0].log(),
        "brier": (p - F.one_hot(y, 3)).square().sum(1),
        "match": right,
        "calibration": lsengine.Summary(
            (sure - right.float())[:, None] * bins, lambda mean: mean.abs().sum()
        ),
    }
"""
SLOWED = """
def slowed(network):
    def call(*inputs):
        for _ in range(60):
            output = network(*inputs)
        return output

    return call
"""
NAMES = ["loss", "loss_se", "brier", "brier_se", "match", "match_se", "calibration"]


def judged(folder, slow=False, **changes):
    """Write a job of dicts with a mask and an objective with metrics; ``slow`` takes a second."""
    rng = np.random.default_rng(1)
    x, y, mask = (
        rng.normal(size=(30, 5, 2)).astype("f"),
        np.arange(30) % 3,
        rng.random((30, 5)) > 0.4,
    )
    mask[:, 0] = True
    code = JUDGED.replace("network(batch", "slowed(network)(batch") if slow else JUDGED
    job = write(folder, code + SLOWED, x, y, **{"objective": "net:judge"} | PLAIN | changes)
    np.savez(folder / "d.npz", x_train=x, y_train=y, mask_train=mask)
    return job


def test_metrics_of_dicts_with_a_mask_are_in_the_file(tmp_path):
    """Brier score, exact match, calibration error, by numpy; summaries have no error bar."""
    job = judged(tmp_path)
    found = run(job)
    assert sorted(found) == sorted(f"train_{name}" for name in NAMES)
    with np.load(tmp_path / "d.npz") as data:
        x, y, mask = (data[f"{name}_train"] for name in ("x", "y", "mask"))
    for n, model in enumerate(networks_at_cells(job)):
        w = {name: p.detach().numpy() for name, p in model.named_parameters()}
        p = []
        for row, counts in zip(x.astype(float), mask, strict=True):
            h = [np.tanh(w["inner.weight"] @ v + w["inner.bias"]) for v in row[counts]]
            logits = w["outer.weight"] @ np.mean(h, axis=0) + w["outer.bias"]
            p.append(np.exp(logits) / np.exp(logits).sum())
        p, right = np.array(p), np.argmax(p, 1) == y
        sure, bins = p.max(1), np.minimum((p.max(1) * 5).astype(int), 4)
        gaps = [((sure - right)[bins == k]).sum() / 30 for k in range(5)]
        expected = {
            "train_loss": -np.log(p[np.arange(30), y]).mean(),
            "train_brier": np.square(p - np.eye(3)[y]).sum(1).mean(),
            "train_match": right.mean(),
            "train_match_se": np.std(right, ddof=1) / math.sqrt(30),
            "train_calibration": np.abs(gaps).sum(),
        }
        assert {name: found[name][n] for name in expected} == pytest.approx(expected, rel=1e-4)
    metrics = json.loads(store.read_attributes(tmp_path / "job.h5")["metrics"])
    assert metrics == NAMES[2:]


def test_a_surface_goes_on_with_its_metrics_and_is_refused_with_others(tmp_path):
    """A cell that is lost is evaluated again with the same bytes, metrics included."""
    job = judged(tmp_path)
    before = run(job)
    with edited(tmp_path / "job.h5") as file:
        file["status"][1] = 0
        for name in before:
            file[name][1] = np.nan
    after = run(job)
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)
    with edited(tmp_path / "job.h5") as file:
        file.attrs["metrics"] = json.dumps(["other"])
        file["status"][1] = 0
    with pytest.raises(SurfaceError, match="its objective returned other at the beginning"):
        evaluate([job], Options(progress="none"), world=None)


def test_ranks_and_kills_leave_the_bytes_of_metrics_as_they_are(tmp_path, pool):
    """One process, three ranks, shards, and a run killed and resumed: all the same."""
    grid = {"alpha": [-1, 1, 11], "beta": [-1, 1, 5]}
    random = {axis: {"kind": "random", "seed": n} for n, axis in enumerate(("alpha", "beta"))}
    given = {"grid": grid, "directions": random}
    alone = judged(tmp_path / "alone", **given)
    run(alone)
    expected = values(alone.with_suffix(".h5"))
    assert {f"train_{name}" for name in NAMES} <= expected.keys()
    ranks = judged(tmp_path / "ranks", **given)
    assert pool.evaluate(ranks, 3)["code"] == 0
    assert values(ranks.with_suffix(".h5")) == expected
    shards = judged(tmp_path / "shards", **given)
    for k in (1, 2):
        assert evaluate([shards], Options(progress="none", shard=(k, 2)), world=None) == 0
    merge([shards.with_suffix(f".shard-{k}.h5") for k in (1, 2)], shards.with_suffix(".h5"))
    assert values(shards.with_suffix(".h5")) == expected
    killed = judged(tmp_path / "killed", **given, slow=True)
    slow = judged(tmp_path / "slow", **given, slow=True)
    run(slow)
    trial(killed, "all", 0.3, values(slow.with_suffix(".h5")), cells=5)


def test_checkpoints_of_a_trajectory_have_the_metrics(tmp_path):
    """Their own, and those of the plane under them; the last is the centre."""
    job = judged(tmp_path, trajectory={"checkpoints": "run/*.pt"})
    (tmp_path / "run").mkdir()
    centre = torch.load(tmp_path / "ck.pt")
    for n in range(2):
        torch.save({k: v * (n + 1) / 2 for k, v in centre.items()}, tmp_path / f"run/e_{n}.pt")
    found = run(job)
    columns = store.read(tmp_path / "job.h5").trajectory.columns
    for name in ("loss", "brier", "match", "calibration"):
        for kind in ("train", "plane_train"):
            assert columns[f"{kind}_{name}"][1] == found[f"train_{name}"][1]
    assert columns["train_brier"][0] != columns["train_brier"][1]
    assert "plane_train_brier_se" not in columns
    table = trajectory.text([job]).splitlines()
    for name in ("brier", "match", "calibration"):
        assert f"train {name}" in table[1]
    assert "_se" not in table[1]
    assert float(table[2].split()[-1]) == pytest.approx(columns["train_calibration"][0], rel=1e-4)


def test_metrics_are_drawn_and_exported(tmp_path):
    """By their names, with words; an unknown one is refused with those that there are."""
    job = judged(tmp_path)
    run(job)
    surface = str(tmp_path / "job.h5")
    assert lsengine.render(surface, quantity="train_calibration", output=tmp_path / "x.svg")
    assert "training calibration" in (tmp_path / "x.svg").read_text()
    lsengine.export(surface, to="csv", output=tmp_path / "x.csv")
    head = (tmp_path / "x.csv").read_text().splitlines()[0].split(",")
    assert {"train_match", "train_match_se", "train_calibration"} <= set(head)
    with pytest.raises(UsageError, match="it has: train_brier, train_brier_se"):
        lsengine.render(surface, quantity="train_other", output=tmp_path / "y.svg")


def test_a_loss_of_whole_numbers_may_stay_the_same_along_a_direction(tmp_path):
    """As a return does, or the share of wrong answers: between its steps it is constant."""
    code = """
def make():
    return nn.Linear(3, 2)

def wrong(network, batch):
    return network(batch[0]).argmax(1) != batch[1]
"""
    x = np.random.default_rng(0).normal(size=(25, 3)).astype("f")
    grid = {"grid": {"alpha": [-1e-6, 1e-6, 3]}, "quantities": ["loss"]}
    found = run(write(tmp_path, code, x, np.arange(25) % 2, objective="net:wrong", **grid))
    assert len(set(found["train_loss"])) == 1


BROKEN = """
kept = {}

def make():
    return nn.Linear(3, 2)

def each(network, batch):
    x, y = batch
    return F.cross_entropy(network(x), y, reduction="none")

def relative(network, batch):
    losses = each(network, batch)
    return {"loss": losses, "relative": losses / losses.mean()}

def stale(network, batch):
    losses = each(network, batch)
    return {"loss": losses, "old": kept.setdefault("old", losses.detach())}

def uneven(network, batch):
    losses = each(network, batch)
    return {"loss": losses, "more": losses} if len(losses) == 8 else losses

def weightless(network, batch):
    losses = each(network, batch)
    return losses, torch.zeros(len(losses))

def unfinished(network, batch):
    import lsengine
    return {"loss": each(network, batch), "s": lsengine.Summary(network(batch[0]), lambda m: m)}
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("relative", r"^objective: net:relative makes of 24 train samples .* say batch_size"),
        ("stale", '^objective: net:stale fails for .*: "old" has 8 numbers for 24 samples'),
        ("uneven", "^objective: net:uneven returned loss, more for a batch, and loss for another"),
        ("weightless", "^objective: the weights of all 25 train samples are 0"),
        ("unfinished", '^objective: finish of the summary "s" does not make one number of 2 means'),
    ],
)
def test_objectives_that_are_wrong_are_refused(tmp_path, name, message):
    """A metric of the batch or of an earlier call, other names, no weight, no number."""
    x = np.random.default_rng(0).normal(size=(25, 3)).astype("f")
    job = write(tmp_path, BROKEN, x, np.arange(25) % 2, objective=f"net:{name}", **PLAIN)
    with pytest.raises(UsageError, match=message):
        run(job)
