"""What the parameters of a network are."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from lsengine import models
from lsengine.external.torchvision import torchvision
from tests.support.networks import build


def moved(network, *ignore):
    """Return the parameters that stay if these roles are ignored, the others."""
    roles = models.parameter_roles(network)
    stay = set().union(*(roles[word] for word in ignore or ("bias", "norm")))
    names = [name for name, _ in network.named_parameters()]
    return [n for n in names if n in stay], [n for n in names if n not in stay]


class Own(nn.Module):
    """A module of the user's with the parameters given by name and shape."""

    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.ones(shape)))


class LayerScale(Own):
    """A gain by its class."""


class RelativePositionBias(nn.Module):
    """A table in a module that is called a bias."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 2)


class LinearWithBias(Own):
    """A class that is named for what it has."""


class Special(nn.Linear):
    """A layer of torch's with one more parameter."""

    def __init__(self):
        super().__init__(3, 1)
        self.gain = nn.Parameter(torch.ones(1))


class Named(nn.Module):
    """Modules by name, as a network has them."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)


LAYERS = {
    "linear": (lambda: nn.Linear(8, 1), {"bias"}),
    "bilinear": (lambda: nn.Bilinear(2, 2, 1), {"bias"}),
    "convolution": (lambda: nn.Conv2d(1, 1, 1), {"bias"}),
    "transposed": (lambda: nn.ConvTranspose1d(2, 1, 1), {"bias"}),
    "embedding": (lambda: nn.Embedding(5, 1), set()),
    "lstm": (
        lambda: nn.LSTM(3, 4, bidirectional=True, proj_size=2),
        {f"bias_{k}_l0{r}" for k in ("ih", "hh") for r in ("", "_reverse")},
    ),
    "cell": (lambda: nn.GRUCell(3, 4), {"bias_ih", "bias_hh"}),
    "attention": (
        lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True, kdim=3),
        {"in_proj_bias", "bias_k", "bias_v", "out_proj.bias"},
    ),
    "prelu": (lambda: nn.PReLU(), {"weight"}),
    "subclass": (Special, {"bias", "gain"}),
    "weight norm": (
        lambda: parametrizations.weight_norm(nn.Linear(3, 2)),
        {"bias", "parametrizations.weight.original0"},
    ),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(3, 1)), {"bias"}),
    "own vectors": (
        lambda: Own(gain=[4], scale=[1], threshold=[4], logit_scale=[], kernel=[4, 4]),
        {"gain", "scale", "threshold", "logit_scale"},
    ),
    "own gains": (
        lambda: Own(layer_scale=[4, 1, 1], gamma_1=[1, 4, 1, 1], gate=[1, 1, 1, 1], heat=[2, 1, 1]),
        {"layer_scale", "gamma_1", "gate", "heat"},
    ),
    "channels last": (
        lambda: Own(gamma=[1, 1, 4], beta=[1, 1, 4], cls_token=[1, 1, 4]),
        {"gamma", "beta"},
    ),
    "affine": (
        lambda: Named(
            a=Own(alpha=[1, 1, 4], beta=[1, 1, 4]), b=Own(weight=[4, 1, 1], bias=[4, 1, 1])
        ),
        {"a.alpha", "a.beta", "b.weight", "b.bias"},
    ),
    "own matrices": (lambda: Own(weight=[1, 8], w=[8, 1], bias_table=[9, 2]), {"bias_table"}),
    "by letters": (
        lambda: Own(W_Q=[2, 4, 3], b_Q=[2, 3], w1=[2, 2], b1=[1, 2], basis=[3, 3]),
        {"b_Q", "b1"},
    ),
    "swin": (lambda: Own(relative_position_bias_table=[9, 2]), {"relative_position_bias_table"}),
    "layer scale": (lambda: Named(ls=LayerScale(lambda1=[1, 1, 4])), {"ls.lambda1"}),
    "levit": (
        lambda: Named(attention_biases=nn.ParameterList([torch.ones(2, 9)])),
        {"attention_biases.0"},
    ),
    "t5": (
        lambda: Named(relative_attention_bias=nn.Embedding(9, 2), word=nn.Embedding(5, 2)),
        {"relative_attention_bias.weight"},
    ),
    "t5, a list": (
        lambda: Named(rel_biases=nn.ModuleList([nn.Embedding(9, 2)])),
        {"rel_biases.0.weight"},
    ),
    "table in a module": (lambda: Named(rpb=RelativePositionBias()), {"rpb.table.weight"}),
    "named for its bias": (lambda: LinearWithBias(weight=[3, 3], bias=[3]), {"bias"}),
    "a layer called bias": (lambda: Named(to_bias=nn.Linear(3, 3, bias=False)), set()),
    "without": (lambda: Named(no_bias=Own(kernel=[3, 3])), set()),
}


@pytest.mark.parametrize("name", LAYERS)
def test_biases_and_gains_stay(name):
    """Of a module exactly the biases and gains are known, whatever their names end in."""
    make, expected = LAYERS[name]
    assert set(moved(make())[0]) == expected


def test_shapes_do_not_make_weights_of_torchs_layers_biases():
    """The weight of a linear layer with one output is a weight, also where a user's tensor is."""
    network = Named(a=nn.Linear(8, 1), b=nn.Conv1d(1, 1, 1))
    assert moved(network)[1] == ["a.weight", "b.weight"]


def test_a_shared_weight_is_a_weight_in_all_its_places():
    """An embedding that the last layer shares moves, and so does one that is called otherwise."""
    network = Named(word=nn.Embedding(5, 3), last=nn.Linear(3, 5))
    network.last.weight = network.word.weight
    assert moved(network)[1] == ["word.weight"]
    assert {"word.weight", "last.weight"}.isdisjoint(
        *[set().union(*models.parameter_roles(network).values())]
    )


def test_a_transformer_moves_its_matrices_alone():
    """Against a list that is made by the number of axes, which here is the whole truth."""
    network = nn.Transformer(8, 2, 1, 1, 16)
    matrices = [n for n, p in network.named_parameters() if p.ndim > 1]
    assert moved(network)[1] == matrices == moved(network, "one_axis")[1]


@pytest.mark.parametrize(
    ("name", "tables", "gains"),
    [
        ("vit_b_16", 0, 0),
        ("swin_t", 12, 0),
        ("swin_v2_t", 0, 12),
        ("convnext_tiny", 0, 18),
        ("resnet18", 0, 0),
    ],
)
def test_networks_of_torchvision_keep_all_but_their_matrices(name, tables, gains):
    """Beside tensors with one axis, tables of positions and gains per channel stay, no others."""
    with torch.device("meta"):
        network = getattr(torchvision().models, name)(weights=None)
    stay = set(moved(network)[0])
    more = [n for n, p in network.named_parameters() if n in stay and p.ndim > 1]
    assert len([n for n in more if n.endswith("relative_position_bias_table")]) == tables
    assert len([n for n in more if n.endswith(("layer_scale", "logit_scale"))]) == gains
    assert len(more) == tables + gains
    assert {n for n, p in network.named_parameters() if p.ndim <= 1} <= stay


def test_a_zoo_network_is_what_it_was():
    """Weights of convolutions and of the linear layer move, in their order."""
    network = build("resnet20")
    norm = models.normalisation_parameters(network)
    expected = [n for n, _ in network.named_parameters() if n not in norm and "bias" not in n]
    assert moved(network)[1] == expected
    assert models.parameter_roles(network)["norm"] == norm


def test_the_rule_of_the_authors_script_goes_by_axes_alone():
    """A gain of three axes moves by it, and a table; a vector of any name stays."""
    network = Own(layer_scale=[4, 1, 1], relative_position_bias_table=[9, 2], v=[4])
    assert moved(network, "one_axis")[0] == ["v"]
