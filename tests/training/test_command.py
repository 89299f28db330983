"""Several trainings in one launch."""

from __future__ import annotations

import torch
import yaml

from tests.support.launchers import run_alone, run_ranks

STUDY = {
    "name": "net-{train.batch_size}",
    "model": {"arch": "mlp", "args": {"hidden": [8]}},
    "data": {"dataset": "digits", "subset": 100},
    "train": {"output": "out/{train.batch_size}", "epochs": 2, "lr": 0.01},
    "matrix": {"train.batch_size": [16, 32, 50]},
    "threads": 1,
    "device": "cpu",
}


def test_ranks_share_the_jobs_and_train_the_same_networks(tmp_path):
    """Three jobs on two ranks give the checkpoints that three trainings alone give."""
    for folder in ("alone", "ranks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    alone = run_alone(["train", str(tmp_path / "alone" / "study.yaml")])
    assert alone.returncode == 0, alone.stderr
    ranks = run_ranks(2, ["train", str(tmp_path / "ranks" / "study.yaml")])
    assert ranks.returncode == 0, ranks.stderr
    for size in (16, 32, 50):
        states = [
            torch.load(tmp_path / f / "out" / str(size) / "epoch_002.pt")["state_dict"]
            for f in ("alone", "ranks")
        ]
        for name, tensor in states[0].items():
            assert torch.equal(tensor, states[1][name]), (size, name)


def test_one_training_that_cannot_be_done_spares_the_others(tmp_path):
    """A folder of another training fails its job only; all ranks leave with code 2."""
    (tmp_path / "out" / "32").mkdir(parents=True)
    (tmp_path / "out" / "32" / "epoch_001.pt").write_bytes(b"somebody else's")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    ended = run_ranks(2, ["train", str(tmp_path / "study.yaml")])
    assert ended.returncode == 2
    assert "net-32" in ended.stderr or "out/32" in ended.stderr
    assert (tmp_path / "out" / "16" / "epoch_002.pt").exists()
    assert (tmp_path / "out" / "50" / "epoch_002.pt").exists()
    assert (tmp_path / "out" / "32" / "epoch_001.pt").read_bytes() == b"somebody else's"
