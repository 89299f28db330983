"""Data in memory as one split, against the arrays that were put together by hand."""

from __future__ import annotations

import dataclasses
import random
from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lsengine import data
from lsengine.errors import UsageError

IDS = torch.arange(21).reshape(7, 3)
MASK, Y = IDS % 2 == 0, torch.arange(7) % 3
Pair = namedtuple("Pair", "ids labels")


@dataclasses.dataclass
class Fields:
    """A batch."""

    ids: torch.Tensor
    labels: torch.Tensor


class Samples(Dataset):
    """Samples of which the arrays are numbers, lists, arrays and tensors."""

    def __len__(self):
        """Return the number of samples."""
        return 7

    def __getitem__(self, i):
        """Return a sample."""
        return {"ids": IDS[i].tolist(), "mask": MASK[i].numpy()}, int(Y[i])


class OfArrays(Samples):
    """Samples that torch's own collation takes."""

    def __getitem__(self, i):
        """Return a sample."""
        return {"ids": IDS[i], "mask": MASK[i].numpy()}, int(Y[i])


class Stream(IterableDataset):
    """Samples one after the other."""

    def __iter__(self):
        """Go through the samples."""
        return ((Samples()[i][0]["ids"], np.int64(Y[i])) for i in range(7))


class Drawn(Dataset):
    """Samples with noise of torch, NumPy and Python."""

    def __len__(self):
        """Return the number of samples."""
        return 7

    def __getitem__(self, i):
        """Return a sample."""
        return torch.rand(2) + np.random.rand() + random.random(), i


def _loader(*tensors, **options):
    return DataLoader(TensorDataset(*tensors), batch_size=3, **options)


def _cut(nested):
    return [data.nesting.mapped(lambda t, i=i: t[i : i + 3], nested) for i in (0, 3, 6)]


NAMED = {"ids": IDS, "labels": Y}
SOURCES = {
    "a loader": (_loader(IDS, Y), IDS, Y),
    "a loader of three": (_loader(IDS, MASK, Y), (IDS, MASK), Y),
    "a loader of samples": (DataLoader(OfArrays(), batch_size=2), {"ids": IDS, "mask": MASK}, Y),
    "a data set": (Samples(), {"ids": IDS, "mask": MASK}, Y),
    "a data set of tensors": (TensorDataset(IDS, Y), IDS, Y),
    "a stream": (Stream(), IDS, Y),
    "tensors": ((IDS, Y), IDS, Y),
    "tensors in a list": ([IDS, Y], IDS, Y),
    "arrays": ((IDS.numpy(), Y.tolist()), IDS, Y),
    "one batch by names": (NAMED, {"ids": IDS}, Y),
    "batches by names": (_cut(NAMED), {"ids": IDS}, Y),
    "batches one by one": (iter(_cut({"x": IDS, "y": Y})), IDS, Y),
    "nested tuples": ([*_cut(((IDS, (MASK, IDS)), Y))], (IDS, (MASK, IDS)), Y),
    "like a dict": ([UserDict(part) for part in _cut(NAMED)], {"ids": IDS}, Y),
    "data classes": ([Fields(**part) for part in _cut(NAMED)], {"ids": IDS}, Y),
    "named tuples": ([Pair(**part) for part in _cut(NAMED)], {"ids": IDS}, Y),
    "a data class and targets": ((Fields(IDS, Y), Y), NAMED, Y),
    "targets by names": ((IDS, {"a": Y, "b": MASK}), IDS, {"a": Y, "b": MASK}),
}


@pytest.mark.parametrize(("source", "x", "y"), SOURCES.values(), ids=SOURCES.keys())
def test_all_samples_are_read_in_order(source, x, y):
    """The nesting is that of the batches, and types are kept."""
    split = data.from_memory(source)
    for found, expected in ((split.x, x), (split.y, y)):
        pairs = zip(data.nesting.leaves(found), data.nesting.leaves(expected), strict=True)
        for (place, tensor), (where, wanted) in pairs:
            assert place == where
            assert tensor.dtype == wanted.dtype
            assert torch.equal(tensor, wanted)


def test_without_need_of_targets_all_is_inputs_but_a_pair():
    """A tensor alone, names, three in a tuple."""
    for source in (IDS, [IDS], _loader(IDS), IDS.numpy(), iter([IDS[:4], IDS[4:]])):
        split = data.from_memory(source, with_targets=False)
        assert torch.equal(split.x, IDS)
        assert split.y is None
        with pytest.raises(UsageError, match="data: it has inputs, but no targets"):
            data.from_memory(IDS)
    assert set(data.from_memory(NAMED, with_targets=False).x) == {"ids", "labels"}
    assert len(data.from_memory((IDS, MASK, Y), with_targets=False).x) == 3
    assert torch.equal(data.from_memory((IDS, Y), with_targets=False).y, Y)


def test_what_is_drawn_is_kept_and_random_states_stay():
    """Of torch, NumPy, Python and of the loader's own generator; the order is as it was read."""
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(Drawn(), batch_size=2, shuffle=True, generator=generator)

    def states():
        return (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),
            random.getstate(),
            generator.get_state().tolist(),
        )

    before = states()
    split = data.from_memory(loader)
    assert states() == before
    batches = list(loader)
    assert torch.equal(split.x, torch.cat([x for x, _ in batches]))
    assert torch.equal(split.y, torch.cat([y for _, y in batches]))


def test_batches_of_other_lengths_are_padded_on_demand():
    """Inputs with the number, masks with 0, labels with -100, at the end of each axis."""
    wide = torch.arange(20).reshape(4, 5)
    square = torch.ones(4, 5, 5)
    batches = [
        {"ids": IDS[:3], "mask": MASK[:3], "pairs": square[:3, :3, :3], "labels": IDS[:3]},
        {"ids": wide, "mask": wide > 3, "pairs": square, "labels": wide},
    ]
    with pytest.raises(
        UsageError, match=r"inputs\.ids have shapes \[3, 3\] and \[4, 5\].*pad=0, if .* by a mask"
    ):
        data.from_memory(batches)
    split = data.from_memory(batches, pad=9)
    assert torch.equal(split.x["ids"][:3, :3], IDS[:3])
    assert (split.x["ids"][:3, 3:] == 9).all()
    assert not split.x["mask"][:3, 3:].any()
    assert (split.x["pairs"][:3] == 9).sum() == 3 * (25 - 9)
    assert (split.y[:3, 3:] == -100).all()
    for name, whole in (*split.x.items(), ("labels", split.y)):
        assert torch.equal(whole[3:], batches[1][name])
    free = data.from_memory(batches, pad=9, with_targets=False)
    assert torch.equal(free.x["labels"], split.y)


REFUSED = {
    "nothing": ([], "list has no batches"),
    "used up": (iter(()), "has no batches; is it used up"),
    "a path": (3.5, "got float; expected a DataLoader"),
    "a text": (["abc"], "data: not an array of numbers"),
    "no targets by name": ({"ids": IDS, "mask": MASK}, "data: has ids, but no y; targets are"),
    "other names": ([{"x": IDS, "y": Y}, {"z": IDS, "y": Y}], "inputs of one are one tensor, of"),
    "other places": ([((IDS, IDS), Y), (IDS, Y)], "one are 2 in a tuple, of another one tensor"),
    "other types": ([(IDS, Y), (IDS.double(), Y)], r"one are torch.int64 \[7, 3\], of another"),
    "one number": ([(IDS, 1.0), (IDS, 2.0)], "targets of a batch is one number"),
    "lists that torch has collated": (DataLoader(Samples(), 2), "ids is a list of 3 tensors, one"),
    "nothing in its place": ([(IDS, Y), (IDS, None)], "1: not an array of numbers"),
}


@pytest.mark.parametrize(("source", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_data_is_refused(source, said):
    """With what was found."""
    with pytest.raises(UsageError, match=said):
        data.from_memory(source)


def test_samples_without_a_transform_are_refused():
    """An image of Pillow is no tensor yet."""

    class Images(Samples):
        def __getitem__(self, i):
            return object(), 1

    with pytest.raises(UsageError, match=r"data: 0: a sample holds object; .* a transform"):
        data.from_memory(Images())


def test_filled_up_batches_without_a_mask_are_warned_of(caplog):
    """A network may read what they are filled up with, such as an LSTM its last step."""
    batches = [torch.ones(2, 3), torch.ones(2, 4)]
    labels = torch.zeros(2, dtype=torch.int64)
    data.from_memory([(x, labels) for x in batches], pad=0)
    assert "2 lengths are filled up to one; a network that reads" in caplog.text
    caplog.clear()
    data.from_memory([({"x": x, "mask": x.bool()}, labels) for x in batches], pad=0)
    assert not caplog.text
