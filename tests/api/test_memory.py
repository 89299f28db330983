"""Networks, samples, losses and checkpoints of a caller's."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lsengine.api import memory
from lsengine.errors import UsageError
from lsengine.models import checkpoint
from tests.support.memory import network, samples


class Closed(nn.Module):
    """Has a function that knows the network that it was made for."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.function = lambda x: self.layer(x)

    def forward(self, x):
        """Return the outputs."""
        return self.function(x)


def test_what_uses_the_model_itself_is_refused():
    """A function in a network, a loss or an objective that knows the model: nothing would move."""
    closed, plain, given = Closed(), nn.Linear(6, 3), memory.Samples(samples(), "train")
    judges = {
        "layer.weight": (closed, lambda net, x, y: net(x)),
        "bias": (plain, lambda net, x, y: net(x).sum() + plain.bias.norm()),
        "weight": (plain, lambda net, x, y: plain(x)),
    }
    for name, (model, judge) in judges.items():
        with pytest.raises(UsageError, match=f"model: {name} is used by a function that knows"):
            memory.Copies(model, given, judge)()
    assert memory.Copies(plain, given, lambda net, x, y: net(x))() is not plain


def test_copies_have_numbers_of_their_own_and_no_gradients():
    """Also of a network within torch's wrappers."""
    model = network()
    model[0].weight.grad = torch.ones(8, 6)
    given = memory.Samples(samples(), "train")
    copy = memory.Copies(nn.DataParallel(model), given, lambda net, x, y: net(x))()
    assert list(copy.state_dict()) == list(model.state_dict())
    assert copy[0].weight.grad is None
    assert copy[0].weight.data_ptr() != model[0].weight.data_ptr()
    assert model[0].weight.grad is not None
    assert torch.equal(copy[0].weight, model[0].weight)


def test_samples_travel_as_they_were_read():
    """Splits are known before anything is read."""
    train, test = samples(5), samples(4)
    given = memory.Samples({"test": test, "train": train}, "train")
    assert given.splits == ["train", "test"]
    sent = pickle.loads(pickle.dumps(given))
    assert sent.splits == given.splits
    assert sent().keys() == given().keys()
    assert memory.Samples(train, "test").splits == ["test"]


def test_loaders_by_other_names_than_splits_are_refused():
    """They would be taken for a batch of that name."""
    loader = DataLoader(TensorDataset(*samples(4)))
    with pytest.raises(UsageError, match="loaders by the names trian; splits are train and test"):
        memory.Samples({"trian": loader}, "train")


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (F.cross_entropy, "cross_entropy"),
        (F.mse_loss, "mse"),
        (nn.MSELoss(), "mse"),
        (nn.CrossEntropyLoss(), "cross_entropy"),
        (nn.CrossEntropyLoss(ignore_index=0), {"name": "cross_entropy", "ignore_index": 0}),
        (nn.NLLLoss(torch.ones(2)), {"name": "nll", "weight": [1.0, 1.0]}),
        (nn.HuberLoss(delta=2.0), {"name": "huber", "delta": 2.0}),
        (nn.BCEWithLogitsLoss(), "bce_with_logits"),
        (nn.BCEWithLogitsLoss(weight=torch.ones(3)), None),
        (nn.CrossEntropyLoss(reduction="sum"), None),
        (nn.SmoothL1Loss(), None),
        (nn.Softmax(), None),
        ("nll", "nll"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),  # no address: workers compare ids
)
def test_losses_that_a_job_can_name_are_named(loss, name):
    """With the options with which they come; others stay the caller's."""
    assert memory.named_loss(loss) == name


def test_numbers_of_networks_and_state_dicts_become_files(tmp_path):
    """The same numbers, the same bytes."""
    model, path = network(), tmp_path / "a.pt"
    memory.write_checkpoint(path, model, "model", epoch=4)
    assert checkpoint.load(path).epoch == 4
    memory.write_checkpoint(tmp_path / "b.pt", model.state_dict(), "toward", epoch=4)
    assert path.read_bytes() == (tmp_path / "b.pt").read_bytes()
    with pytest.raises(UsageError, match="toward: holds no tensors"):
        memory.write_checkpoint(path, {"a": 1}, "toward")


def test_checkpoints_have_epochs():
    """Those that are given, in order; else they are counted."""
    assert memory.as_epochs(["a", "b"]) == {0: "a", 1: "b"}
    assert list(memory.as_epochs({5: "b", 1: "a"})) == [1, 5]
    for wrong in ([], {"a": 1}, {-1: "x"}, 3, "epoch_*.pt"):
        with pytest.raises(UsageError, match="checkpoints: expected"):
            memory.as_epochs(wrong)
