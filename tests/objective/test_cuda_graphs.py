"""Recorded work: what is replayed, what is recorded anew, and what is not recorded at all.

Where there is no card, a stand-in for the recorder does the work again at every replay, into the
places of the first results, as a graph does.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from lsengine import data
from lsengine.objective import EvaluationSettings, Objective
from lsengine.objective.cuda_graphs import Replayed
from lsengine.objective.losses import SampleLosses, loss_function
from lsengine.surface.grid import Cell
from tests.support.objectives import CELLS, filter_normalized, objective_of, resnet

WITH_CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


class Recorder:
    """Stands for `record` on a CPU."""

    def __init__(self, *, wrong=0.0, failure=None):
        self.wrong, self.failure, self.recordings, self.replays = wrong, failure, 0, 0

    def __call__(self, work):
        """Record work; what is returned replays it."""
        if self.failure is not None:
            raise self.failure
        self.recordings += 1
        places = work()

        def replay():
            self.replays += 1
            for place, new in zip(places, work(), strict=True):
                if isinstance(place, torch.Tensor):
                    place.copy_(new + self.wrong)

        return replay, places


def _scaled(weight):
    return lambda x: (x * weight, x.sum(), True)


def test_a_shape_is_recorded_once_and_its_arguments_and_weights_are_read_anew():
    """Later calls replay, with what arguments and weights hold then."""
    weight, recorder = torch.tensor([2.0]), Recorder()
    step = Replayed(_scaled(weight), lambda: [weight], recorder)
    for factor in (2.0, 3.0, 5.0):
        weight.fill_(factor)
        step.refresh()
        for x in (torch.arange(3.0), torch.ones(3), torch.ones(2)):
            product, total, flag = step(x)
            assert product.tolist() == (x * factor).tolist()
            assert (float(total), flag) == (float(x.sum()), True)
    assert (recorder.recordings, recorder.replays) == (2, 2 + 7)  # one of each only to compare


def test_weights_that_have_moved_in_memory_are_recorded_anew():
    """A graph would go on reading the old place."""
    places, recorder = [torch.tensor([2.0])], Recorder()
    step = Replayed(lambda x: (x * places[0],), lambda: places, recorder)
    for factor in (2.0, 7.0):
        places[0] = torch.tensor([factor])
        step.refresh()
        assert step(torch.ones(1))[0].tolist() == [factor]
        assert step(torch.ones(1))[0].tolist() == [factor]
    assert recorder.recordings == 2


@pytest.mark.parametrize(
    ("recorder", "reason"),
    [
        (Recorder(wrong=1e-6), "a replay has other last bits"),
        (Recorder(failure=RuntimeError("operation not permitted")), "operation not permitted"),
        (Recorder(failure=torch.OutOfMemoryError("out of memory")), "there is no memory for one"),
    ],
)
def test_what_cannot_be_replayed_is_done_anew_and_said_once(recorder, reason, caplog):
    """The values are those of the work itself; nothing is tried again."""
    caplog.set_level(logging.INFO)
    weight = torch.tensor([2.0])
    step = Replayed(_scaled(weight), lambda: [weight], recorder)
    for factor in (2.0, 3.0):
        weight.fill_(factor)
        step.refresh()
        assert step(torch.ones(2))[0].tolist() == [factor] * 2
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("running without CUDA graphs, which is slower: ")
    assert message.endswith(reason)
    assert recorder.replays <= 1


def test_nan_is_equal_to_nan_when_a_replay_is_compared():
    """A diverged centre can be recorded."""
    recorder = Recorder()
    step = Replayed(lambda x: (x / x, True), lambda: [], recorder)
    for _ in range(2):
        assert step(torch.zeros(2))[0].isnan().all()
    assert recorder.replays == 2


def test_more_shapes_than_there_is_room_for_still_give_right_results():
    """Old recordings make room for new ones."""
    recorder = Recorder()
    step = Replayed(lambda x: (x + 1,), lambda: [], recorder)
    for size in [*range(1, 40), *range(1, 40)]:
        assert step(torch.zeros(size))[0].tolist() == [1.0] * size


def test_cells_by_replays_have_the_bytes_of_cells_without(digits):
    """Also out of order, after other weights, and after a cell that overflows."""
    network, directions = resnet(), filter_normalized(resnet())
    plain = objective_of(network, digits, directions)
    replayed, recorder = objective_of(network, digits, directions), Recorder()
    forward = replayed._network.forward
    work = replayed._judge.step_of(forward)
    flat = Recorder.__call__

    def record(step):
        def flattened():
            losses, right, _ = step()
            return (*losses, right)

        replay, (values, weights, is_mean, right) = flat(recorder, flattened)
        return replay, (SampleLosses(values, weights, is_mean), right, {})

    replayed._step = Replayed(work, forward.tensors, record)
    for cell in (*CELLS, Cell(1e30, 1e30), *reversed(CELLS)):
        found, expected = replayed.losses(cell), plain.losses(cell)
        assert str(found) == str(expected)
    assert recorder.replays > recorder.recordings > 0


def _on_card(precision, **more):
    dataset = data.Dataset(
        splits={"train": data.Split(torch.randn(50, 3, 8, 8), torch.arange(50) % 10)},
        mean=None,
        std=None,
        classes=10,
    )
    settings = EvaluationSettings(
        device=torch.device("cuda"), precision=precision, batch_size=16, **more
    )
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).eval()  # fmt: skip
    directions = {"alpha": {n: torch.randn_like(p) for n, p in network.named_parameters()}}
    loss = loss_function("cross_entropy", job_folder=None)
    return Objective(network, dataset, loss, directions, replace(settings))


@pytest.mark.gpu
@WITH_CARD
@pytest.mark.parametrize("fuses", [True, False])
@pytest.mark.parametrize("precision", ["float32", "tf32", "float16", "bfloat16"])
def test_graphs_on_a_card_give_the_bytes_of_eager_cells(precision, fuses):
    """In every precision, for a traced network and for one's own."""
    graph, eager = _on_card(precision, fuses=fuses), _on_card(precision, fuses=fuses)
    assert isinstance(graph._step, Replayed)
    eager._step = eager._judge.step_of(eager._network.forward)
    for alpha in (0.0, 0.5, -1.0, 1e30, 0.0):
        assert str(graph.losses(Cell(alpha))) == str(eager.losses(Cell(alpha)))
    assert not graph._step._gives_up
    assert graph.forward.startswith("fused (" if fuses else "eager")  # with its kernels
    assert len(graph._step._recorded) == 2  # whole batches, and the last one


@pytest.mark.gpu
@WITH_CARD
def test_a_network_that_reads_numbers_from_the_card_runs_without_graphs():
    """Values are right, by the network's own code."""

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(192, 10)

        def forward(self, x):
            h = self.linear(x.flatten(1))
            return h if float(h.sum()) > 0 else -h

    torch.manual_seed(0)
    network = Reads().eval()
    dataset = data.Dataset(
        splits={"train": data.Split(torch.randn(50, 3, 8, 8), torch.arange(50) % 10)},
        mean=None,
        std=None,
        classes=10,
    )
    settings = EvaluationSettings(
        device=torch.device("cuda"), precision="float32", batch_size=16, fuses=False
    )
    directions = {"alpha": {n: torch.randn_like(p) for n, p in network.named_parameters()}}
    loss = loss_function("cross_entropy", job_folder=None)
    objective = Objective(network, dataset, loss, directions, settings)
    first = objective.losses(Cell(0.5))
    assert objective._step._gives_up
    assert objective.losses(Cell(0.5)) == first
