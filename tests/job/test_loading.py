"""Job files: everything that is wrong, at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lsengine import job as jobs
from lsengine.errors import JobError
from lsengine.job import documents
from tests.job.conftest import MINIMAL, problems_of


def test_all_problems_come_at_once(load):
    """A schema error, a cross-section error and a missing file are reported together."""
    problems = problems_of(
        load,
        model={"arch": "resnet21", "chekpoint": "x", "checkpoint": "gone.pt"},
        data={"dataset": "digits", "splits": ["train", "tset"]},
        batch_size=0,
        precision="flot32",
    )
    text = "\n".join(problems)
    assert 'model.chekpoint: unknown key; did you mean "checkpoint"?' in text
    assert 'model.arch: got "resnet21"' in text
    assert "model.checkpoint: no such file" in text
    assert 'data.splits[1]: got "tset"; allowed: train, test; did you mean "test"?' in text
    assert 'batch_size: expected "auto" or an integer of at least 1, got 0' in text
    assert 'precision: got "flot32"' in text
    assert len(problems) == 6


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"gird": {}}, 'gird: unknown key; did you mean "grid"?'),
        ({"grid": None}, 'grid: required by "lsengine eval", but missing'),
        ({"model": {"arch": "resnet20"}}, "model.checkpoint: required"),
        ({"model": {}}, "model.arch: required, but missing"),
        ({"data": {}}, "data.dataset: required, but missing"),
        ({"data": {"dataset": "arrays", "root": "no.npz"}}, "data.root: no such file"),
        (
            {"data": {"dataset": "digits", "resize": [8, 8]}},
            "data.resize: dataset digits takes none; only image_folder does",
        ),
        *(
            (
                {"data": {"dataset": "image_folder", "root": ".", "resize": size}},
                "data.resize: expected [rows, columns], two integers of at least 1, got",
            )
            for size in ([8], [8, 0], [8.5, 8], 8, [True, 8])
        ),
        ({"data": {"dataset": "digits", "subset": 0}}, "data.subset: expected at least 1"),
        ({"data": {"dataset": "digits", "splits": []}}, "data.splits: "),
        (
            {"data": {"dataset": "digits", "splits": ["test", "test"]}},
            "data.splits: expected each entry once",
        ),
        ({"grid": {"alpha": [-1, 1, 0], "beta": [0, 1, 2]}}, "grid.alpha: "),
        ({"grid": {"alpha": [1, -1, 5], "beta": [0, 1, 2]}}, "start must not be greater"),
        ({"grid": {"alpha": [0, float("inf"), 5], "beta": [0, 1, 2]}}, "finite"),
        ({"grid": {"alpha": [0, 1, 2.5], "beta": [0, 1, 2]}}, "points is an integer"),
        ({"grid": {"alpha": "wide", "beta": [0, 1, 2]}}, "expected [start, stop, points]"),
        ({"repeats": 0}, "repeats: expected at least 1, got 0"),
        ({"threads": "many"}, 'threads: expected "auto" or an integer'),
        ({"device": "gpu"}, "device: got"),
        ({"quantities": ["loss", "error"]}, "quantities[1]: got"),
        ({"batch_norm": "thawed"}, "batch_norm: got"),
        ({"output": "."}, "is a directory; expected the name of a file"),
        ({"name": "a/b"}, "name: "),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
        ({"model": {"arch": "resnet20", "checkpoint": "."}}, "is a directory; expected a file"),
        ({"directions": {"alpha": {}, "beta": {"kind": "random"}}}, "directions.alpha.kind"),
        (
            {"directions": {"alpha": {"kind": "random"}, "beta": {"kind": "hessian", "rank": 0}}},
            "directions.beta.rank: expected at least 1, got 0",
        ),
        ({"trajectory": {"checkpoints": "none_*.pt"}}, "trajectory.checkpoints: no file matches"),
        (
            {"directions": {"alpha": {"kind": "randm"}, "beta": {"kind": "random"}}},
            'did you mean "random"?',
        ),
    ],
)
def test_a_problem_names_its_key_what_was_found_and_what_to_do(load, changes, expected):
    """One broken key, one line that starts with its path."""
    problems = problems_of(load, **changes)
    assert any(expected in p for p in problems), problems
    assert len(problems) == 1, problems


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "an empty file"),
        ("- a\n- b\n", "expected a mapping"),
        ("model: [unclosed", "not valid YAML"),
        ("name: a\nname: b\n", "key name is given twice"),
        ("model: !!python/object/apply:os.system [echo]\n", "not valid YAML"),
    ],
)
def test_what_is_no_job_is_refused_as_a_whole(load, text, expected):
    """Empty files, lists, broken or dangerous YAML and repeated keys."""
    assert expected in problems_of(load, text=text or "# only a comment\n")[0]


def test_numbers_in_scientific_notation_are_numbers(load):
    """YAML 1.1 reads 1e-2 as a string; users mean 0.01."""
    text = yaml.safe_dump(MINIMAL) + "train: {output: out, epochs: 3, lr: 1e-2}\n"
    assert load(text=text).document.train.lr == 0.01


def test_training_needs_no_checkpoint(load):
    """A command does not demand what it does not need."""
    text = "model: {arch: resnet20}\ndata: {dataset: digits}\ntrain: {output: out, epochs: 3}\n"
    assert load(command="train", text=text).document.model.checkpoint is None


def test_checking_a_job_imports_nothing_heavy(tmp_path):
    """A bad job is refused before torch, MPI or HDF5 are touched."""
    script = (
        "import sys; from lsengine import errors, job\n"
        "try: job.load('no.yaml', command='eval')\n"
        "except errors.JobError: pass\n"
        "print(sorted({'torch', 'mpi4py', 'h5py', 'numpy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "[]"


def test_example_jobs_are_valid():
    """The jobs a newcomer meets first pass all checks but those for missing files."""
    root = Path(__file__).parents[2] / "jobs"
    for path in sorted(root.glob("*.yaml")):
        jobs.load_all(path)


BOMB = "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\n" + "".join(
    f"a{n}: &a{n} [{', '.join(10 * [f'*a{n - 1}'])}]\n" for n in range(1, 30)
)


@pytest.mark.parametrize("where", ["itself", "extends", "matrix"])
def test_aliases_of_aliases_are_refused_at_once(tmp_path, where):
    """Thirty lines that stand for 10^30 values cost no time and no memory; one message, code 2."""
    (tmp_path / "bomb.yaml").write_text(BOMB)
    text = {
        "itself": BOMB,
        "extends": "extends: bomb.yaml\n",
        "matrix": yaml.safe_dump(MINIMAL) + BOMB + "matrix: {seed: [*a29, *a29]}\n",
    }[where]
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(
        JobError, match=r"its aliases \(\*name\) stand for more than 100,000"
    ) as refusal:
        jobs.load_all(tmp_path / "job.yaml")
    assert len(refusal.value.problems) == 1
    assert refusal.value.exit_code == 2


def test_honest_aliases_and_long_files_are_welcome(load, monkeypatch):
    """A section used twice, and more values than the limit on aliases without any."""
    text = (
        "model: {arch: resnet20, checkpoint: centre.pt}\ndata: {dataset: digits}\n"
        "directions: {alpha: &one {kind: random}, beta: *one}\n"
        "grid: {alpha: &axis [-1, 1, 5], beta: *axis}\n"
    )
    assert load(text=text).document.directions.beta.kind == "random"
    monkeypatch.setattr(documents, "MOST_VALUES", 100)
    epochs = list(range(200))
    train = {"output": "out", "epochs": 200, "save_epochs": epochs}
    assert load(command="train", train=train).document.train.save_epochs == epochs


def _changed(tmp_path, *changes, **content):
    """Load a job file with changes, as documents by name."""
    (tmp_path / "centre.pt").touch()
    path = tmp_path / "some.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **content}))
    return {
        j.document.name: j.document for j in jobs.load_all(path, command="eval", changes=changes)
    }


def test_a_change_is_as_if_the_file_said_it(tmp_path):
    """Dotted keys, YAML values, new sections, the matrix; the last of two counts."""
    changes = ["grid.alpha=[0, 1, 3]", "seed=1e0", "seed=4", "directions.beta.normalize=layer"]
    changes += ["curvature={basis: 12}", "matrix.repeats=[1]", "output=a=b.h5"]
    (document,) = _changed(tmp_path, *changes, matrix={"repeats": [1, 1]}).values()
    assert document.grid.alpha == (0.0, 1.0, 3)
    assert (document.seed, document.curvature.basis, document.output) == (4, 12, "a=b.h5")
    assert document.directions.beta.normalize == "layer"
    assert document.directions.alpha.normalize == "filter"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("gird.alpha=[0, 1, 3]", 'gird: unknown key; did you mean "grid"?'),
        ("directions.alpha.normalise=layer", "directions.alpha.normalise: unknown key; did you me"),
        ("batch_size=large", 'batch_size: expected "auto" or an integer of at least 1, got "larg'),
        ("batch_size", "--set batch_size: expected KEY=VALUE, such as grid.alpha=[-1,1,9]"),
        (".=3", "--set .=3: expected KEY=VALUE"),
        ("grid.alpha=[0, 1", "--set grid.alpha: not valid YAML"),
        ("loss.name=mse", "--set loss.name: loss is no section of the job"),
        ("seed=3", "--set seed: the matrix of the file gives it; set matrix.seed"),
    ],
)
def test_a_change_that_is_wrong_reads_as_in_a_file(tmp_path, change, says):
    """Key path, what was found and what is allowed."""
    with pytest.raises(JobError) as caught:
        _changed(tmp_path, change, loss="mse", matrix={"seed": [1, 2]})
    assert any(
        problem.partition("-1: ")[2].startswith(says) or problem.startswith(says)
        for problem in caught.value.problems
    ), caught.value.problems
