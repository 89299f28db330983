"""Several jobs in one file."""

from __future__ import annotations

import pytest
import yaml

from lsengine import job as jobs
from lsengine.errors import JobError
from lsengine.job.matrix import expanded, merged

BASE = {
    "name": "net-{train.batch_size}",
    "model": {"arch": "resnet20"},
    "data": {"dataset": "digits"},
    "train": {"output": "out/{train.batch_size}", "epochs": 3},
    "matrix": {"train.batch_size": [64, 512]},
}


def _write(folder, file="study.yaml", **changes):
    path = folder / file
    path.write_text(yaml.safe_dump({**BASE, **changes}))
    return path


def test_one_job_per_combination_in_the_order_written():
    """Two keys of two values make four jobs; the last key varies fastest."""
    raw = {"name": "n", "matrix": {"a.x": [1, 2], "a.y": {"low": 0.1, "high": 0.9}}}
    assert [(d["name"], d["a"]) for d in expanded(raw)] == [
        ("n-1-low", {"x": 1, "y": 0.1}),
        ("n-1-high", {"x": 1, "y": 0.9}),
        ("n-2-low", {"x": 2, "y": 0.1}),
        ("n-2-high", {"x": 2, "y": 0.9}),
    ]


def test_braces_stand_for_values_everywhere(tmp_path):
    """Names, checkpoints and outputs of each job carry its own values."""
    study = jobs.load_all(_write(tmp_path), command="train")
    assert [job.document.name for job in study] == ["net-64", "net-512"]
    assert [job.document.train.output for job in study] == ["out/64", "out/512"]
    assert [job.document.train.batch_size for job in study] == [64, 512]


def test_only_chooses_by_name(tmp_path):
    """A pattern picks jobs; one that fits none lists the names there are."""
    assert len(jobs.load_all(_write(tmp_path), only="*512")) == 1
    with pytest.raises(JobError, match=r"no job's name matches x; there are: net-64, net-512"):
        jobs.load_all(_write(tmp_path), only="x")


def test_a_command_for_one_job_says_which_there_are(tmp_path):
    """Loading a matrix as one job is refused with the names."""
    with pytest.raises(JobError, match="makes 2 jobs"):
        jobs.load(_write(tmp_path))


def test_jobs_that_would_share_an_output_are_refused(tmp_path):
    """Two jobs of a matrix may not write the same file."""
    with pytest.raises(JobError, match=r"train\.output: several jobs of the matrix share one"):
        jobs.load_all(_write(tmp_path, train={"output": "out", "epochs": 3}), command="train")


@pytest.mark.parametrize(
    ("matrix", "problem"),
    [
        ([1], "matrix: expected a mapping"),
        ({"train.lr": 0.1}, r"matrix\.train\.lr: expected a list"),
        ({"train.lr": []}, r"matrix\.train\.lr: expected a list"),
        ({"name.x": [1]}, "name is no section"),
        ({f"k{n}": list(range(10)) for n in range(9)}, r"matrix: makes 1,000,000,000 jobs"),
    ],
)
def test_a_broken_matrix_is_one_clear_message(tmp_path, matrix, problem):
    """What a matrix may be is said where it is not."""
    with pytest.raises(JobError, match=problem):
        jobs.load_all(_write(tmp_path, matrix=matrix))


def test_problems_of_one_job_name_that_job(tmp_path):
    """A value that is wrong in one combination only is reported for that one."""
    with pytest.raises(JobError, match=r"net-0: train\.batch_size: expected at least 1, got 0"):
        jobs.load_all(_write(tmp_path, matrix={"train.batch_size": [64, 0]}))


def test_a_file_wins_over_the_one_it_extends(tmp_path):
    """Sections are merged key by key, through several files; the name is not inherited."""
    _write(tmp_path, "base.yaml", matrix=None, name="base", train={"output": "o", "epochs": 3})
    (tmp_path / "middle.yaml").write_text("extends: base.yaml\ntrain: {epochs: 7}\n")
    (tmp_path / "top.yaml").write_text("extends: middle.yaml\ntrain: {lr: 0.5}\n")
    document = jobs.load(tmp_path / "top.yaml", command="train").document
    assert (document.name, document.train.epochs, document.train.lr) == ("top", 7, 0.5)
    assert document.train.output == "o"


def test_another_kind_replaces_the_whole_section():
    """Keys of a random direction do not survive in one toward a checkpoint."""
    base = {"alpha": {"kind": "random", "seed": 3}, "beta": {"kind": "random", "seed": 4}}
    over = {"alpha": {"kind": "toward", "checkpoint": "b.pt"}, "beta": {"seed": 5}}
    assert merged(base, over) == {
        "alpha": {"kind": "toward", "checkpoint": "b.pt"},
        "beta": {"kind": "random", "seed": 5},
    }


def test_a_file_that_extends_itself_is_refused(tmp_path):
    """A circle of files ends with a message."""
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(JobError, match="extends itself"):
        jobs.load(tmp_path / "a.yaml")


def test_a_key_that_is_none_of_a_job_is_a_variable_for_texts(tmp_path):
    """By its value or its label; names that do not have it get it at the end."""
    changes = {"name": "net", "matrix": {"run": {"first": 1, "second": 2}, "seed": [3]}}
    train = {"output": "out/{run}-{seed}", "epochs": 3}
    found = jobs.load_all(_write(tmp_path, **changes, train=train))
    assert [(j.document.name, j.document.train.output, j.document.seed) for j in found] == [
        ("net-first-3", "out/first-3", 3),
        ("net-second-3", "out/second-3", 3),
    ]


def test_a_variable_that_no_text_has_is_refused(tmp_path):
    """It is a slip; with the key that may be meant, and how variables are given."""
    with pytest.raises(JobError) as refused:
        jobs.load_all(_write(tmp_path, name="net", matrix={"sed": [1, 2]}))
    (problem,) = refused.value.problems
    assert problem.startswith('matrix.sed: is no key of a job; did you mean "seed"?')
    assert problem.endswith("a text of the file: {sed}")


def test_braces_in_a_path_that_nothing_fills_are_explained(tmp_path):
    """Where the file is not there; a file may be called so."""
    changes = {"name": "net", "model": {"arch": "mlp", "checkpoint": "{run}.pt"}, "matrix": {}}
    path = _write(tmp_path, **changes, train={"output": "out", "epochs": 3})
    with pytest.raises(JobError, match=r"nothing gives \{run\} a value: add matrix: \{run: "):
        jobs.load_all(path, command="spectrum")
