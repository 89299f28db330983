"""Which checkpoints are a run's, and what is missing or foreign."""

from __future__ import annotations

import shutil

import pytest
import torch

from lsengine import job as jobs
from lsengine.engine.prepare import checkpoint_series
from lsengine.errors import SurfaceError, UsageError
from lsengine.training import training
from tests.support.jobs import write_job
from tests.support.runs import MODEL, TRAIN, checkpoints_of, evaluated, run_job


def test_changed_missing_and_new_checkpoints_are_named(own):
    """A surface refuses a run whose checkpoints are others, and says which."""
    (own / "run/history.h5").unlink()  # it would miss them first
    job = run_job(own)
    evaluated(job, trajectory_only=True)
    (own / "run/epoch_003.pt").rename(own / "hidden.pt")
    with pytest.raises(SurfaceError, match=r"missing: epoch_003\.pt"):
        evaluated(job)
    shutil.copy(own / "run/epoch_002.pt", own / "run/epoch_003.pt")
    with pytest.raises(UsageError, match=r"epoch_002\.pt and .*epoch_003\.pt are both of epoch 2"):
        evaluated(job)


@pytest.mark.parametrize("train_section", [TRAIN, None])
@pytest.mark.parametrize("epoch", [3, 8])
def test_a_checkpoint_that_the_training_saves_is_missed(own, train_section, epoch):
    """By the job's recipe or the history's; a pattern that does not ask for it is legal."""
    job = run_job(own, train=train_section, model={**MODEL, "checkpoint": "run/epoch_000.pt"})
    (own / f"run/epoch_00{epoch}.pt").unlink()
    with pytest.raises(UsageError, match=rf"checkpoints: missing: epoch_00{epoch}\.pt; the train"):
        checkpoint_series.find(jobs.load(job, command="eval"))
    some = {"kind": "principal", "checkpoints": "run/epoch_00[0246].pt"}
    job = run_job(
        own,
        "some",
        train=train_section,
        model={**MODEL, "checkpoint": "run/epoch_000.pt"},
        directions={"alpha": some, "beta": some},
    )
    assert checkpoint_series.find(jobs.load(job, command="eval")).numbers == (0, 2, 4, 6)


def test_a_gap_is_warned_of_where_nothing_says_what_is_saved(own, capsys):
    """Without recipe and history a step longer than the usual one is named; even steps are not."""
    (own / "run/history.h5").unlink()
    evaluated(run_job(own, "even"), trajectory_only=True)
    assert "no checkpoint between" not in capsys.readouterr().err
    (own / "run/epoch_003.pt").unlink()
    evaluated(run_job(own, "uneven"), trajectory_only=True)
    text = capsys.readouterr().err
    assert "no checkpoint between epochs: 2 and 4; elsewhere they are closer" in text


def test_reordered_checkpoints_are_named(own):
    """Names that say another order than the files are refused with both."""
    (own / "run/epoch_003.pt").rename(own / "run/epoch_030.pt")
    with pytest.raises(UsageError, match=r"epoch_004\.pt says that it is of epoch 4, epoch_030"):
        evaluated(run_job(own))


def test_foreign_checkpoints_are_named(own):
    """One of another network is refused with its name and what does not fit."""
    content = torch.load(own / "run/epoch_003.pt")
    content["state_dict"]["3.weight"] = torch.zeros(5, 16)
    torch.save(content, own / "run/epoch_003.pt")
    with pytest.raises(UsageError, match=r"epoch_003\.pt does not fit the model: .*3\.weight"):
        evaluated(run_job(own))


def test_a_checkpoint_of_another_training_is_named(own):
    """One that fits the network, but whose numbers are not those of the history beside it."""
    other = write_job(
        own, "other", model={"arch": "testnets:mlp", "args": {}},
        train={**TRAIN, "output": "other", "seed": 7},
    )  # fmt: skip
    training.run(jobs.load(other), progress="none")
    (own / "other/epoch_003.pt").replace(own / "run/epoch_003.pt")
    with pytest.raises(UsageError, match=r"not of this run: epoch_003\.pt; .*history\.h5"):
        evaluated(run_job(own))
    (own / "run/history.h5").unlink()  # nothing says so any more
    assert evaluated(run_job(own), trajectory_only=True).trajectory.done.all()


def test_without_an_epoch_in_the_file_the_name_counts(own):
    """Bare state dicts are sorted by the last number of their names, not by the alphabet."""
    for epoch, path in enumerate(checkpoints_of(own)):
        torch.save(torch.load(path)["state_dict"], own / "run" / f"m-{epoch * 5}.pth")
    checkpoints = {"kind": "principal", "checkpoints": "run/m-*.pth"}
    job = jobs.load(run_job(own, directions={"alpha": checkpoints, "beta": checkpoints}))
    assert checkpoint_series.find(job).numbers == tuple(range(0, 45, 5))
