"""Arithmetic with parameters, and checkpoints read as vectors of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lsengine.geometry.directions import cosine, orthogonalized
from lsengine.geometry.parameters import (
    CheckpointVectors,
    dot,
    minus,
    misfit,
    norm,
    require_same,
    sign,
)
from lsengine.geometry.principal import gram
from tests.support.walks import NAMES, named, vectors, walk


class _Name(str):
    """A name with a hash of our choice, which decides the order of a set of names."""

    def __new__(cls, text, number):
        """Make a name."""
        self = super().__new__(cls, text)
        self.number = number
        return self

    def __hash__(self):
        """Return the number."""
        return self.number


def _parameters(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv": (4, 3, 2), "bias": (5,), "scale": ()}
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}


def _flat(parameters):
    return np.concatenate([t.double().numpy().ravel() for t in parameters.values()])


def test_arithmetic_is_that_of_the_long_vectors():
    """Inner product, length and difference equal those of all numbers in one vector."""
    a, b = _parameters(1), _parameters(2)
    assert dot(a, b) == pytest.approx(float(_flat(a) @ _flat(b)), rel=1e-12)
    assert norm(a) == pytest.approx(np.linalg.norm(_flat(a)), rel=1e-12)
    np.testing.assert_allclose(_flat(minus(a, b, 0.3)), _flat(a) - 0.3 * _flat(b), rtol=1e-12)
    assert minus(a, b)["conv"].dtype == torch.float64


def test_names_of_one_side_count_as_zero_on_the_other():
    """They add nothing to an inner product, and stay in a difference."""
    a = _parameters(1)
    b = {"bias": torch.ones(5)}
    assert dot(a, b) == dot(b, a) == float(a["bias"].double().sum())
    assert torch.equal(minus(a, b)["conv"], a["conv"].double())
    assert dot(a, {}) == 0.0


def test_sums_do_not_depend_on_how_python_hashes_names():
    """Python hashes names anew in every process, and the order of a set goes by the hashes."""
    sizes = (1e16, 1.0, -1e16, 3.0)  # of which every order has another sum
    cosines, slopes = set(), set()
    for hashes in ((0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)):
        names = [_Name(f"w{i}", number) for i, number in enumerate(hashes)]
        a = {n: torch.tensor([x], dtype=torch.float64) for n, x in zip(names, sizes, strict=True)}
        b = {n: torch.ones(1, dtype=torch.float64) for n in names}
        cosines.add(cosine(a, b))
        slopes.add(float(orthogonalized(b, a, "none")[names[1]]))
        slopes.add(dot(a, b))
    assert len(cosines) == 1
    assert len(slopes) == 2


@pytest.mark.parametrize("numbers", [[1.0, -3.0, 3.0], [1.0, 3.0, -3.0], [0.0, 0.0], [-2.0], [2.0]])
def test_the_sign_is_that_of_the_first_number_of_largest_modulus(numbers):
    """As by the definition, which needs a second vector for the moduli."""
    vector = torch.tensor(numbers)
    largest = float(vector[vector.abs().argmax()])
    assert sign(vector) == (-1.0 if largest < 0 else 1.0)


def test_what_does_not_fit_is_named():
    """Missing, unexpected and reshaped parameters, with both shapes, and no more than five each."""
    expected = {"a": torch.zeros(2, 3), "b": torch.zeros(()), "c": torch.zeros(4)}
    assert misfit(expected, expected) == ""
    found = {"a": torch.zeros(3, 2), "b": torch.zeros(1), "d": torch.zeros(1)}
    assert misfit(found, expected) == (
        "missing: c; unexpected: d; of another shape: "
        "a (3x2, in the model 2x3), b (1, in the model scalar)"
    )
    many = {str(i): torch.zeros(1) for i in range(8)}
    assert misfit({}, many) == "missing: 0, 1, 2, 3, 4 and 3 more"
    with pytest.raises(ValueError, match="an end does not fit the model: missing: c"):
        require_same({n: expected[n] for n in "ab"}, expected, "an end")


def test_foreign_checkpoints_are_named():
    """Missing parameters, other shapes and numbers that are not finite are told by index."""
    rows = walk(6)

    def changed(index, **tensors):
        def load(t):
            loaded = {**named(rows[t]), **(tensors if t == index else {})}
            return {n: v for n, v in loaded.items() if v is not None}

        return load

    with pytest.raises(ValueError, match="checkpoint 2 lacks scale"):
        gram(CheckpointVectors(changed(2, scale=None), 6, NAMES))
    with pytest.raises(ValueError, match=r"checkpoint 1: scale has shape \[2\], elsewhere \[\]"):
        gram(CheckpointVectors(changed(1, scale=torch.ones(2)), 6, NAMES))
    with pytest.raises(ValueError, match="checkpoint 3: scale holds numbers that are not finite"):
        gram(CheckpointVectors(changed(3, scale=torch.tensor(math.nan)), 6, NAMES))
    huge = torch.full((5,), 2e38, dtype=torch.float32)  # finite, though its sum is not
    large = CheckpointVectors(lambda _: {"fc.bias": huge}, 2, ["fc.bias"])
    assert np.isfinite(gram(large).norms).all()
    with pytest.raises(ValueError, match="no parameter"):
        gram(vectors(rows, []))
    with pytest.raises(ValueError, match="at least 1; got 0"):
        vectors(rows[:0])


def test_messages_call_checkpoints_as_the_caller_does():
    """What is wrong with a file is said with its name, not with a number."""
    found = CheckpointVectors(
        lambda _: {"scale": torch.ones(())}, 2, ["fc.bias"], "epoch_{}.pt".format
    )
    with pytest.raises(ValueError, match=r"^epoch_1\.pt lacks fc\.bias$"):
        found(1)


def test_a_vector_is_cut_into_parameters_again():
    """Names, shapes and numbers come back, in float32."""
    (row,) = walk(1)
    reader = vectors(row[None])
    pieces = reader.named(reader(0))
    for name, tensor in named(row).items():
        torch.testing.assert_close(pieces[name], tensor.float())
