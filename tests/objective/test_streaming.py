"""Batches that are copied while the ones before are computed."""

from __future__ import annotations

import itertools
import threading

import pytest
import torch

from lsengine.objective import streaming
from lsengine.objective.streaming import Paired, PreparedBatches

CPU = torch.device("cpu")
RAW = torch.arange(22).reshape(11, 2)


def _twice(raw):
    return raw * 2


def _batches(ahead, size=3):
    return PreparedBatches(RAW, size, _twice, CPU, ahead=ahead)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("size", [1, 3, 10, 11, 20])
def test_batches_are_those_of_the_whole(ahead, size):
    """In order, with an uneven last one, as often as they are asked for, one by one or all."""
    batches, expected = _batches(ahead, size), _twice(RAW).split(size)
    for _ in range(2):
        assert all(map(torch.equal, batches, expected))
    assert len(list(batches)) == len(batches) == len(expected)
    assert torch.equal(batches[-1], expected[-1])
    assert all(map(torch.equal, batches[1:], expected[1:]))
    with pytest.raises(IndexError):
        batches[len(expected)]


def test_two_passes_at_once_do_not_mix():
    """Each has room of its own, and what one yielded stays as it is."""
    batches, expected = _batches(True), _twice(RAW).split(3)
    kept = list(zip(batches, batches, strict=True))
    for pair, whole in zip(kept, expected, strict=True):
        assert all(torch.equal(batch, whole) for batch in pair)


def test_a_pass_that_is_given_up_leaves_no_thread_and_no_trace():
    """Whoever stops after the first batch finds the whole data the next time."""
    batches, before = _batches(True), threading.active_count()
    with torch.inference_mode():
        for _ in range(3):
            passed = iter(batches)
            next(passed)
            passed.close()
    assert threading.active_count() == before
    assert torch.equal(torch.cat(list(batches)), _twice(RAW))


def test_a_batch_is_read_only_when_there_is_room(monkeypatch):
    """Two are on their way at most: the third is read after the first was made ready."""
    events, fetch = [], streaming._Slot.fetch

    def noted(slot, part):
        fetch(slot, part)
        events.append(("read", int(part[0, 0]) // 6))

    def prepare(raw):
        events.append(("ready", int(raw[0, 0]) // 6))
        return _twice(raw)

    monkeypatch.setattr(streaming._Slot, "fetch", noted)
    list(PreparedBatches(RAW, 3, prepare, CPU, ahead=True))
    assert [n for what, n in events if what == "ready"] == [0, 1, 2, 3]
    for number in range(4):
        assert events.index(("read", number)) < events.index(("ready", number))
    for number in (2, 3):
        assert events.index(("ready", number - 2)) < events.index(("read", number))


def test_what_goes_wrong_while_reading_is_raised():
    """A batch of a file that cannot be read is not left out."""

    class Broken(streaming._Slot):
        def fetch(self, part):
            if part[0, 0] == RAW[6, 0]:
                raise OSError("input/output error")
            super().fetch(part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "_Slot", Broken)
        passed = iter(_batches(True))
        assert len(list(itertools.islice(passed, 2))) == 2
        with pytest.raises(OSError, match="input/output"):
            next(passed)


def test_inputs_and_targets_are_side_by_side():
    """By number and in order."""
    targets = torch.arange(11).split(3)
    pairs = Paired(_batches(True), targets)
    assert len(pairs) == 4
    for (x, y), inputs, expected in zip(pairs, _twice(RAW).split(3), targets, strict=True):
        assert torch.equal(x, inputs)
        assert torch.equal(y, expected)
    assert torch.equal(pairs[3][0], _twice(RAW[9:]))
