"""Directions of every kind, from a job to arrays."""

from __future__ import annotations

import itertools

import h5py
import numpy as np
import pytest
import torch

from lsengine import data, models, store
from lsengine import job as jobs
from lsengine.engine import Options, evaluate, prepare
from lsengine.engine.prepare import warnings
from lsengine.errors import UsageError
from lsengine.job.schema import DataSpec, ModelSpec
from tests.support.checkpoints import CURVE, other_checkpoint, toward
from tests.support.jobs import write_job

ZOO = ModelSpec(arch="resnet20", args={"width": 8})


def _run(job):
    assert evaluate([job], Options(progress="none"), world=None) == 0
    return store.read(job.with_suffix(".h5"))


def _naive_loss(folder, weights, statistics="own"):
    """Return a checkpoint's training loss, evaluated by torch alone in float64.

    ``statistics`` are its ``own``, the ``centre``'s, or ``fresh``: those of all training samples.
    """
    module = {"__name__": "testnets"}
    exec(compile((folder / "testnets.py").read_text(), "testnets.py", "exec"), module)
    network = module["mlp"]().double()
    state = torch.load(folder / weights)["state_dict"]
    if statistics == "centre":
        centre = torch.load(folder / "centre.pt")["state_dict"]
        state |= {n: t for n, t in centre.items() if "running" in n}
    network.load_state_dict(state)
    with np.load(folder / "data.npz") as arrays:
        x, y = (torch.from_numpy(arrays[f"{name}_train"]) for name in "xy")
    x = x.double()
    with torch.no_grad():
        if statistics == "fresh":
            network[1].momentum = 1.0
            network.train()(x)
        return float(torch.nn.functional.cross_entropy(network.eval()(x), y))


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(
    ("policy", "statistics"),
    [
        ("interpolated", ("own", "own")),
        ("frozen", ("own", "centre")),
        ({"policy": "recalibrated", "samples": 60, "batch_size": 60}, ("fresh", "fresh")),
    ],
    ids=["interpolated", "frozen", "recalibrated"],
)
def test_interpolation_ends_at_the_two_checkpoints(tmp_path, policy, statistics, precision):
    """Each end is its checkpoint, with the statistics that the policy says it has there."""
    write_job(tmp_path)
    other_checkpoint(tmp_path)
    surface = _run(toward(tmp_path, batch_norm=policy, precision=precision))
    ends = zip(("centre.pt", "other.pt"), statistics, strict=True)
    expected = [_naive_loss(tmp_path, *end) for end in ends]
    found = surface.quantities["train_loss"][[0, 2]]
    assert found == pytest.approx(expected, rel=1e-6)
    own = _naive_loss(tmp_path, "other.pt")
    if statistics[1] != "own":  # the policies do differ here, and only one is the checkpoint's
        assert abs(found[1] - own) > 1e-3 * own


def _minimum(folder, name, seed):
    """Write a ResNet-20 with running statistics of its own and return it in float64."""
    torch.manual_seed(seed)
    network = models.build(ZOO, channels=1, classes=10, size=(8, 8), job_folder=folder)
    for buffer_name, buffer in network.named_buffers():
        if buffer_name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    network.linear.bias.data.normal_()  # untrained, they would have nearly equal losses
    torch.save({"state_dict": network.state_dict()}, folder / name)
    return network.double().eval()


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(
    ("policy", "statistics"),
    [
        ("interpolated", "own"),
        ("frozen", "centre"),
        ({"policy": "recalibrated", "samples": 150, "batch_size": 64}, "fresh"),
    ],
    ids=["interpolated", "frozen", "recalibrated"],
)
def test_ends_of_a_line_between_fused_networks_are_the_networks(
    tmp_path, policy, statistics, precision
):
    """Folded, fused and in channels-last, a ResNet's ends agree with torch alone to 1e-6.

    Two batches of 64 recalibrate; the rest of 22 is left out, and the average is a plain one.
    """
    one, other = (_minimum(tmp_path, f"{n}.pt", n) for n in (1, 2))
    job = write_job(
        tmp_path,
        model={"arch": "resnet20", "args": {"width": 8}, "checkpoint": "1.pt"},
        data={"dataset": "digits", "subset": 200, "splits": ["train"]},
        directions={"alpha": {"kind": "toward", "checkpoint": "2.pt"}},
        grid=CURVE,
        batch_size=64,
        batch_norm=policy,
        precision=precision,
    )
    found = _run(job).quantities["train_loss"][[0, 2]]
    spec = DataSpec(dataset="digits", subset=200, splits=["train"])
    digits = data.load(spec, root=None, job_folder=tmp_path, seed=0)
    inputs = data.normalized(digits, "train", torch.float64)
    if statistics == "centre":
        of_centre = {n: b for n, b in one.named_buffers() if "running" in n}
        other.load_state_dict(of_centre, strict=False)
    expected = []
    for network in (one, other):
        if statistics == "fresh":
            chosen = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:128]
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.reset_running_stats()
                    module.momentum = None
            with torch.no_grad():
                for half in inputs[chosen].split(64):
                    network.train()(half)
        with torch.no_grad():
            output = network.eval()(inputs)
        loss = torch.nn.functional.cross_entropy(output, digits.splits["train"].y)
        expected.append(float(loss))
    assert found == pytest.approx(expected, rel=1e-6)


def test_without_batch_norm_frozen_ends_are_the_checkpoints_too(tmp_path):
    """A network without running statistics needs no policy."""
    model = {"arch": "testnets:mlp", "args": {"batch_norm": False}, "checkpoint": "centre.pt"}
    write_job(tmp_path, model=model)
    other_checkpoint(tmp_path)
    surface = _run(toward(tmp_path, model=model, precision="float64"))
    swapped = write_job(
        tmp_path, "own", model={**model, "checkpoint": "other.pt"}, grid={"alpha": [0, 0, 1]},
        directions={"alpha": {"kind": "random"}}, precision="float64",
    )  # fmt: skip
    expected = _run(swapped).quantities["train_loss"][0]
    assert surface.quantities["train_loss"][2] == pytest.approx(expected, rel=1e-6)


def test_a_plane_through_three_fused_networks_passes_through_all_three(tmp_path):
    """ResNets with running statistics of their own, by torch alone in float64."""
    minima = [_minimum(tmp_path, f"{n}.pt", n) for n in (1, 2, 3)]
    job = write_job(
        tmp_path,
        model={"arch": "resnet20", "args": {"width": 8}, "checkpoint": "1.pt"},
        data={"dataset": "digits", "subset": 100, "splits": ["train"]},
        directions={
            "alpha": {"kind": "toward", "checkpoint": "2.pt"},
            "beta": {"kind": "toward", "checkpoint": "3.pt"},
        },
        grid={"alpha": [0, 1, 2], "beta": [0, 1, 2]},
        batch_norm="interpolated",
    )
    loss = _run(job).quantities["train_loss"]  # beta, alpha
    spec = DataSpec(dataset="digits", subset=100, splits=["train"])
    digits = data.load(spec, root=None, job_folder=tmp_path, seed=0)
    inputs = data.normalized(digits, "train", torch.float64)
    with torch.no_grad():
        own = [
            float(torch.nn.functional.cross_entropy(network(inputs), digits.splits["train"].y))
            for network in minima
        ]
    assert [loss[0, 0], loss[0, 1], loss[1, 0]] == pytest.approx(own, rel=1e-6)
    assert min(abs(a - b) for a, b in itertools.combinations(own, 2)) > 1e-4


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_plane_through_three_checkpoints_passes_through_all_three(tmp_path, precision):
    """Corners (0, 0), (1, 0) and (0, 1) have the three checkpoints' own losses."""
    write_job(tmp_path)
    other_checkpoint(tmp_path)
    (tmp_path / "other.pt").rename(tmp_path / "second.pt")
    state = torch.load(tmp_path / "centre.pt")["state_dict"]
    third = {n: t + 0.2 if t.is_floating_point() else t for n, t in state.items()}
    torch.save({"state_dict": third}, tmp_path / "third.pt")
    job = write_job(
        tmp_path,
        directions={
            "alpha": {"kind": "toward", "checkpoint": "second.pt"},
            "beta": {"kind": "toward", "checkpoint": "third.pt"},
        },
        grid={"alpha": [0, 1, 2], "beta": [0, 1, 2]},
        batch_norm="interpolated",
        precision=precision,
    )
    loss = _run(job).quantities["train_loss"]
    found = [loss[0, 0], loss[0, 1], loss[1, 0]]
    own = [_naive_loss(tmp_path, n) for n in ("centre.pt", "second.pt", "third.pt")]
    assert found == pytest.approx(own, rel=1e-6)


def test_a_checkpoint_that_does_not_fit_names_what_differs(tmp_path):
    """Missing, reshaped and foreign parameters of the other checkpoint are named."""
    write_job(tmp_path)
    job = jobs.load(toward(tmp_path), command="any")
    model = prepare.load(job).model
    other = other_checkpoint(tmp_path, drop="3.weight")
    with pytest.raises(
        UsageError, match=r"directions\.alpha\.checkpoint: .*other\.pt .*missing: 3\.weight"
    ):
        prepare.make_directions(job, model)
    torch.save({**other, "3.weight": torch.ones(3, 4)}, tmp_path / "other.pt")
    shapes = r"of another shape: 3\.weight \(3x4, in the model 3x16\)"
    with pytest.raises(UsageError, match=rf"directions\.alpha\.checkpoint: .*other\.pt .*{shapes}"):
        prepare.make_directions(job, model)
    torch.save(
        {**other, "3.weight": torch.ones(3, 16), "4.weight": torch.ones(1)}, tmp_path / "other.pt"
    )
    with pytest.raises(UsageError, match=r"directions\.alpha\.checkpoint: .*unexpected: 4\.weight"):
        prepare.make_directions(job, model)


def test_the_centre_itself_is_no_direction(tmp_path):
    """Toward the same checkpoint nothing moves, which is an error and not a flat line."""
    write_job(tmp_path)
    other_checkpoint(tmp_path, scale=1.0)
    job = jobs.load(toward(tmp_path), command="eval")
    with pytest.raises(UsageError, match="nothing moves"):
        prepare.make_directions(job, prepare.load(job).model)


def test_a_direction_from_a_surface_gives_that_surface_again(tmp_path):
    """A stored direction, read back, reproduces the curve it came from, bit by bit."""
    one = write_job(tmp_path, "one", directions={"alpha": {"kind": "random"}}, grid=CURVE)
    first = _run(one).quantities["train_loss"]
    directions = {"alpha": {"kind": "file", "path": "one.h5", "which": "alpha"}}
    again = _run(write_job(tmp_path, "again", directions=directions, grid=CURVE))
    np.testing.assert_array_equal(again.quantities["train_loss"], first)


def test_a_surface_with_repeats_is_no_direction(tmp_path):
    """Of several directions none is chosen; the message counts them."""
    random = {"alpha": {"kind": "random"}}
    _run(write_job(tmp_path, "ten", directions=random, grid=CURVE, repeats=2))
    directions = {"alpha": {"kind": "file", "path": "ten.h5"}}
    job = jobs.load(write_job(tmp_path, directions=directions, grid=CURVE), command="eval")
    with pytest.raises(UsageError, match=r"alpha\.path: ten\.h5 has 2 repeats"):
        prepare.make_directions(job, prepare.load(job).model)


@pytest.mark.parametrize("order", ["weights", "states"])
@pytest.mark.parametrize("policy", ["frozen", "interpolated", "recalibrated"])
def test_direction_files_of_loss_landscape_are_read(tmp_path, order, policy):
    """Numbered tensors in either order lead to the other checkpoint, or a warning says why not.

    Its running statistics are there if the file and the policy have them; else they are the
    centre's, or computed anew.
    """
    write_job(tmp_path)
    other = other_checkpoint(tmp_path, scale=1.5)
    centre = torch.load(tmp_path / "centre.pt")["state_dict"]
    kept = [n for n in centre if order == "states" or (not n.startswith("1.n") and "run" not in n)]
    with h5py.File(tmp_path / "old.h5", "w") as file:
        for i, name in enumerate(kept):
            file[f"xdirection/{i}"] = (other[name] - centre[name]).float().numpy()
    directions = {"alpha": {"kind": "file", "path": "old.h5"}}
    spec = {"policy": policy, "samples": 60, "batch_size": 60}
    changes = {"precision": "float64", "batch_norm": spec if policy == "recalibrated" else policy}
    path = write_job(tmp_path, directions=directions, grid=CURVE, **changes)
    job = jobs.load(path, command="eval")
    said = list(warnings.of_statistics(job, prepare.load(job).model))
    statistics, words = {
        ("states", "frozen"): ("centre", "but old.h5 moves them along directions.alpha"),
        ("states", "interpolated"): ("own", None),
        ("weights", "frozen"): ("centre", None),
        ("weights", "interpolated"): ("centre", "old.h5 holds no running statistics to move"),
    }.get((order, policy), ("fresh", None))
    assert [words in text for text in said] == [True] if words else not said
    found = _run(path).quantities["train_loss"][2]
    assert found == pytest.approx(_naive_loss(tmp_path, "other.pt", statistics), rel=1e-6)
    assert (found == pytest.approx(_naive_loss(tmp_path, "other.pt"))) == (statistics == "own")


def test_a_direction_file_of_another_network_is_refused(tmp_path):
    """A wrong number of tensors is said with both numbers."""
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["xdirection/0"] = np.zeros(3, np.float32)
    directions = {"alpha": {"kind": "file", "path": "old.h5"}}
    job = jobs.load(write_job(tmp_path, directions=directions, grid=CURVE), command="eval")
    with pytest.raises(UsageError, match="1 numbered tensors; the model has 6 parameters"):
        prepare.make_directions(job, prepare.load(job).model)


def test_ignoring_does_not_change_what_moves(tmp_path):
    """The same seed draws the same numbers whatever is ignored."""
    drawn = []
    for name, ignore in (("all", []), ("some", ["bias", "norm"])):
        directions = {"alpha": {"kind": "random", "ignore": ignore}}
        path = write_job(tmp_path, name, directions=directions, grid=CURVE)
        job = jobs.load(path, command="eval")
        drawn.append(prepare.make_directions(job, prepare.load(job).model)["alpha"])
    assert set(drawn[1]) == {"0.weight", "3.weight"}
    for name, values in drawn[1].items():
        np.testing.assert_array_equal(values, drawn[0][name])


@pytest.mark.parametrize("normalize", ["filter", "layer", "weight", "none"])
def test_orthogonal_planes_are_orthogonal(tmp_path, normalize):
    """The key `orthogonal` makes the cosine of the two directions zero, and it is stored."""
    directions = {
        "alpha": {"kind": "random", "normalize": normalize},
        "beta": {"kind": "random", "seed": 2, "normalize": normalize, "orthogonal": True},
    }
    surface = _run(write_job(tmp_path, directions=directions, grid={**CURVE, "beta": [0, 0, 1]}))
    assert abs(surface.attributes["direction_cosine"]) < 1e-6


def test_the_file_says_which_numpy_has_drawn(tmp_path):
    """NumPy does not promise the same deviates in its next version."""
    random = {"alpha": {"kind": "random"}}
    surface = _run(write_job(tmp_path, directions=random, grid={"alpha": [0, 0, 1]}))
    assert surface.attributes["numpy_version"] == np.__version__
