"""What a job expects of its centre, and what a file has of it, compared with a loop by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lsengine import store
from lsengine.engine import Options, centre, evaluate
from lsengine.errors import SurfaceError, UsageError
from tests.support.jobs import NETWORKS

QUIET = Options(progress="none")
LINE = {"directions": {"alpha": {"kind": "random"}}, "grid": {"alpha": [-1, 1, 3]}}


def _by_hand(folder):
    """Return mean cross-entropy and accuracy of the training samples, in float64."""
    names: dict = {"__name__": "testnets"}
    exec(NETWORKS, names)
    network = names["mlp"]().double().eval()
    network.load_state_dict(torch.load(folder / "centre.pt")["state_dict"])
    arrays = np.load(folder / "data.npz")
    x, y = arrays["x_train"].astype(np.float64), arrays["y_train"]
    losses, hits = [], []
    with torch.no_grad():
        for sample, label in zip(x, y, strict=True):
            logits = network(torch.from_numpy(sample)[None])[0].tolist()
            losses.append(math.log(sum(map(math.exp, logits))) - logits[label])
            hits.append(int(np.argmax(logits)) == label)
    return float(np.mean(losses)), float(np.mean(hits))


def test_what_is_expected_of_the_centre_is_found(make_job, tmp_path):
    """Numbers as a person notes them, rounded to a few digits."""
    make_job()
    loss, accuracy = _by_hand(tmp_path)
    expect = {"train_loss": round(loss, 3), "train_accuracy": round(accuracy, 2)}
    job = make_job(expect=expect, **LINE)
    assert evaluate([job], QUIET, world=None) == 0
    assert evaluate([job], QUIET, world=None) == 0  # all is done, and the file is looked at


def test_another_centre_is_refused_before_a_cell(make_job, tmp_path):
    """With all that differs and what was found; no file is left, so the job can be corrected."""
    make_job()
    loss, _ = _by_hand(tmp_path)
    job = make_job(expect={"train_loss": 1.02 * loss, "test_accuracy": 2}, **LINE)
    with pytest.raises(UsageError) as refused:
        evaluate([job], QUIET, world=None)
    assert f"train_loss is {loss:.6g}, not {1.02 * loss:.6g}" in str(refused.value)
    assert "test_accuracy is" in str(refused.value)
    assert not job.with_suffix(".h5").exists()
    job = make_job(expect={"train_loss": [1.02 * loss, loss]}, **LINE)
    assert evaluate([job], QUIET, world=None) == 0


def test_a_file_whose_centre_is_done_is_refused_too(make_job):
    """Where nothing is left to evaluate, its values are compared."""
    assert evaluate([make_job(**LINE)], QUIET, world=None) == 0
    with pytest.raises(UsageError, match="expect: at the centre test_loss is"):
        evaluate([make_job(expect={"test_loss": 77.0}, **LINE)], QUIET, world=None)


def test_a_quantity_that_no_cell_has_is_refused_by_name(make_job):
    """With the nearest one."""
    job = make_job(expect={"train_los": 1.0}, **LINE)
    with pytest.raises(UsageError, match=r'expect\.train_los: .*did you mean "train_loss"'):
        evaluate([job], QUIET, world=None)


def test_an_eigenvalue_can_be_expected(make_job):
    """To the tolerance of the section curvature."""
    line = {**LINE, "quantities": ["loss", "curvature"], "grid": {"alpha": [0, 1, 2]}}
    job = make_job("first", **line)
    assert evaluate([job], QUIET, world=None) == 0
    value = float(store.read(job.with_suffix(".h5")).quantities["eigenvalue_max"][0])
    near = make_job("near", expect={"eigenvalue_max": 1.005 * value}, **line)
    assert evaluate([near], QUIET, world=None) == 0
    far = make_job("far", expect={"eigenvalue_max": 1.5 * value}, **line)
    with pytest.raises(UsageError, match="eigenvalue_max is"):
        evaluate([far], QUIET, world=None)


@pytest.mark.parametrize(
    ("given", "precision", "allowed"),
    [
        (0.0123, "float32", 0.00005),
        (2.41226, "float32", 2.41226e-4),  # the precision's, more than half of the last digit
        (2.4, "float32", 0.024),  # 1 %, less than half of the last digit
        (0.98, "float32", 0.005),
        (0.0123, "bfloat16", 0.05 * 0.0123),
        (120.0, "float64", 1.2),
        (0.0, "float32", 0.0),
        ([0.5, 0.2], "float32", 0.2),
    ],
)
def test_how_far_a_value_may_be_off(given, precision, allowed):
    """By its digits, within 1 %; at least by the precision; or as the job says."""
    job = SimpleNamespace(document=SimpleNamespace(expect={"train_loss": given}))
    assert centre.expected(job, "train_loss", precision)[1] == pytest.approx(allowed)


def test_a_resume_refuses_another_loss_at_the_centre(tmp_path):
    """Beyond the precision's tolerance; what is not finite or no loss is not compared."""
    now = {"train_loss": 1.0, "test_loss": math.nan, "train_accuracy": 0.5}
    centre.refuse_other_centre(tmp_path, now, {"train_loss": 1.00005}, "float32")
    same = {"test_loss": 1.0, "train_accuracy": 0.25}
    centre.refuse_other_centre(tmp_path, now, same, "float32")
    with pytest.raises(SurfaceError, match=r"centre's train_loss is 1 now, and 1\.01 in the"):
        centre.refuse_other_centre(tmp_path, now, {"train_loss": 1.01}, "float32")


def test_a_file_tells_its_centre_only_if_that_is_done(make_job, tmp_path):
    """Before that, and without a cell there, it knows nothing."""
    job = make_job(**LINE)
    assert evaluate([job], Options(progress="none", cell_limit=1), world=None) == 0
    surface = store.read(tmp_path / "job.h5")
    known = {n: float(v[1]) for n, v in surface.quantities.items()} if surface.done[1] else {}
    assert centre.stored_at_centre(tmp_path / "job.h5") == known
    assert evaluate([job], QUIET, world=None) == 0
    assert centre.stored_at_centre(tmp_path / "job.h5")["train_loss"] == pytest.approx(
        _by_hand(tmp_path)[0], rel=1e-6
    )


def test_an_undefined_centre_explains_itself(make_job, tmp_path, capsys):
    """By the samples whose loss is no number, where all parameters are numbers."""
    model = {"arch": "testnets:mlp", "args": {"batch_norm": False}, "checkpoint": "centre.pt"}
    job = make_job(model=model, **LINE)
    content = torch.load(tmp_path / "centre.pt")
    for name, tensor in content["state_dict"].items():
        content["state_dict"][name] = tensor * 1e25
    torch.save(content, tmp_path / "centre.pt")
    assert evaluate([job], QUIET, world=None) == 0
    assert "the loss of 60 of 60 train samples, the first at index 0" in capsys.readouterr().err
