"""Principal components of checkpoints, against scikit-learn's."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

from lsengine.geometry.parameters import CheckpointVectors
from lsengine.geometry.principal import gram, principal_components
from lsengine.geometry.projection import project
from tests.support.walks import NAMES, SIZE, flat, named, pca_of, vectors, walk


def _variances(rows, found):
    """Return the variances that components explain, as scikit-learn counts them."""
    return found.explained_variance_ratio * rows.astype(np.float64).var(axis=0, ddof=1).sum()


class Store:
    """Makes checkpoints on demand; counts the loads and the tensors alive at once."""

    def __init__(self, rows):
        self.rows, self.loads, self.alive, self.most = rows, 0, 0, 0

    def __call__(self, index):
        """Make one checkpoint."""
        self.loads += 1
        tensors = named(torch.from_numpy(self.rows[index].copy()))
        self.alive += 1
        self.most = max(self.most, self.alive)
        # All tensors of a checkpoint share one storage, so one of them tells.
        weakref.finalize(tensors["scale"], self._gone)
        return tensors

    def _gone(self):
        self.alive -= 1


@pytest.mark.parametrize("count", [5, 40, 150])
@pytest.mark.parametrize("block", [3, 32])
def test_equals_scikit_learns_pca(count, block):
    """Components and variances are PCA's, for fewer and for more rows than columns."""
    rows = walk(count)
    found = principal_components(vectors(rows), components=3, block=block)
    pca = pca_of(rows)
    kept = len(pca.explained_variance_)
    np.testing.assert_allclose(
        _variances(rows, found)[:kept],
        pca.explained_variance_,
        rtol=1e-6,
        atol=1e-13 * pca.explained_variance_[0],
    )
    np.testing.assert_allclose(
        found.explained_variance_ratio[:kept], pca.explained_variance_ratio_, atol=1e-12
    )
    np.testing.assert_allclose(
        np.sqrt(_variances(rows, found) * (count - 1))[:3], pca.singular_values_[:3], rtol=1e-9
    )
    assert found.explained_variance_ratio.shape == (count,)
    for k, direction in enumerate(found.directions):
        sign = np.sign(flat(direction) @ pca.components_[k])
        np.testing.assert_allclose(flat(direction), sign * pca.components_[k], atol=3e-7)


def test_the_sign_of_a_direction_is_fixed():
    """The number of largest modulus is positive, also for the mirrored run."""
    rows = walk(20)
    found = principal_components(vectors(rows)).directions
    mirrored = principal_components(vectors(-rows)).directions
    for direction, other in zip(found, mirrored, strict=True):
        vector = flat(direction)
        assert vector[np.abs(vector).argmax()] > 0
        np.testing.assert_allclose(flat(other), vector, atol=1e-7)
    for ways in (np.arange(4.0), -np.arange(4.0)):  # two numbers of the same modulus
        load = {t: {"w": torch.tensor([w, -w])} for t, w in enumerate(ways)}.__getitem__
        line = CheckpointVectors(load, 4, ["w"])
        (direction,) = principal_components(line, components=1).directions
        assert direction["w"].tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)])


def test_float32_checkpoints_far_from_zero_lose_nothing():
    """Variances of large float32 weights that shrink at last equal those of PCA in float64."""
    rows = (1e3 + walk(30)).astype(np.float32)
    rows[-1] /= 7
    found = principal_components(vectors(rows))
    pca = pca_of(rows)
    variances = _variances(rows, found)[:2]
    np.testing.assert_allclose(variances, pca.explained_variance_[:2], rtol=1e-9)
    assert found.directions[0]["fc.weight"].dtype == torch.float32


def test_nearly_equal_singular_values_span_the_same_plane():
    """Where single components are ill-defined, the plane they span still is PCA's."""
    rng = np.random.default_rng(5)
    left, _ = np.linalg.qr(np.c_[np.ones(20), rng.standard_normal((20, 4))])
    right, _ = np.linalg.qr(rng.standard_normal((SIZE, 4)))
    rows = left[:, 1:] * [1.0, 1.0 - 1e-9, 0.3, 0.1] @ right.T
    found = principal_components(vectors(rows))
    plane = np.stack([flat(d) for d in found.directions])
    np.testing.assert_allclose(plane.T @ plane, right[:, :2] @ right[:, :2].T, atol=1e-6)
    singular_values = np.sqrt(_variances(rows, found) * 19)[:4]
    np.testing.assert_allclose(singular_values, [1, 1, 0.3, 0.1], rtol=1e-8)


def test_directions_are_orthonormal_when_variances_differ_by_many_orders():
    """Unit vectors at right angles, although the second variance is 1e-12 of the first."""
    rng = np.random.default_rng(6)
    along, aside = rng.standard_normal((2, SIZE))
    rows = np.outer(rng.standard_normal(25), along)
    rows += 1e-6 * np.outer(rng.standard_normal(25), aside)
    found = principal_components(vectors(rows))
    plane = np.stack([flat(d) for d in found.directions])
    np.testing.assert_allclose(plane @ plane.T, np.eye(2), atol=1e-7)


def test_only_the_named_parameters_count():
    """Other parameters change neither directions nor norms, and do not move."""
    rows, names = walk(12), ["fc.weight", "conv.weight"]
    found = principal_components(vectors(rows, names))
    kept = np.stack([flat(named(row), names) for row in rows])
    assert list(found.directions[0]) == names
    np.testing.assert_allclose(
        found.explained_variance_ratio, pca_of(kept).explained_variance_ratio_, atol=1e-12
    )
    norms = gram(vectors(rows, names)).norms
    np.testing.assert_allclose(norms, np.linalg.norm(kept, axis=1), rtol=1e-12)


def test_what_moves_and_does_not_count_is_combined_alike():
    """Large numbers beside change no component, and get its combination of checkpoints."""
    rows = walk(14)
    rows[:, :12] = 1e3 * walk(14, size=12, seed=7)  # conv.weight
    names = ["fc.bias", "fc.weight", "scale"]
    counted = np.stack([flat(named(row), names) for row in rows])
    alone = principal_components(vectors(rows, names))
    found = principal_components(
        vectors(rows, names), moving=vectors(rows, [*names, "conv.weight"]), block=5
    )
    assert found.explained_variance_ratio == pytest.approx(alone.explained_variance_ratio)
    left, singular, right = np.linalg.svd(counted - counted.mean(axis=0), full_matrices=False)
    for k, (ours, theirs) in enumerate(zip(found.directions, alone.directions, strict=True)):
        np.testing.assert_allclose(flat(ours, names), flat(theirs, names), atol=1e-6)
        sign = np.sign(right[k] @ flat(theirs, names))
        expected = sign * left[:, k] / singular[k] @ rows[:, :48]
        np.testing.assert_allclose(flat(ours, ["conv.weight"]), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("block", [1, 4, 7, 100])
def test_gram_matrix_equals_the_product_of_all_rows(block):
    """Whatever the block, inner products equal those of the whole matrix."""
    rows = walk(23)
    found = gram(vectors(rows), block=block)
    np.testing.assert_allclose(found.matrix, (rows - rows[-1]) @ (rows - rows[-1]).T, rtol=1e-10)
    assert (found.matrix == found.matrix.T).all()
    assert found.size == SIZE


def test_checkpoints_are_streamed():
    """No more checkpoints live at once than stated, and none is read more often."""
    count, block = 61, 10
    store = Store(walk(count))
    gram(CheckpointVectors(store, count, NAMES), block=block)
    assert store.most == 1  # only the one being read; kept are copies of what is asked for
    assert store.loads == 1 + sum(count - 1 - start for start in range(0, count - 1, block))
    store = Store(walk(count))
    principal_components(CheckpointVectors(store, count, NAMES), block=count)
    assert store.loads == 2 * count
    store = Store(walk(count))
    project(CheckpointVectors(store, count, NAMES), named(walk(1)[0]), [named(np.ones(SIZE))])
    assert (store.loads, store.most) == (count, 1)


def test_kept_copies_stay_within_the_bound(monkeypatch):
    """At most block + 9 copies of checkpoints are in memory."""
    alive, most = 0, 0
    flat = CheckpointVectors.flat

    def gone():
        nonlocal alive
        alive -= 1

    def counted(self, *arguments):
        nonlocal alive, most
        vector = flat(self, *arguments)
        alive += 1
        most = max(most, alive)
        weakref.finalize(vector, gone)
        return vector

    monkeypatch.setattr(CheckpointVectors, "flat", counted)
    gram(vectors(walk(70)), block=20)
    assert most == 29
    assert alive == 0


def test_degenerate_runs_say_what_is_degenerate():
    """Checkpoints that are all the same, or on a line, make no plane; equal ones are named."""
    same = np.repeat(walk(1, dtype=np.float32), 4, axis=0)
    pairs = ", ".join(f"checkpoint 0 = checkpoint {i}" for i in (1, 2, 3))
    with pytest.raises(ValueError, match=f"4 checkpoints differ in 0 dim.*{pairs}"):
        principal_components(vectors(same))
    start, step = walk(2)
    for dtype in (np.float32, np.float64):
        line = (start + np.linspace(0, 1, 9)[:, None] * step).astype(dtype)
        with pytest.raises(ValueError, match=r"9 checkpoints differ in 1 dimension.*weights, and"):
            principal_components(vectors(line))
    for pair in ([0, 1, 1], [0, 0, 1]):
        same = " = ".join(f"checkpoint {i}" for i in range(3) if pair.count(pair[i]) == 2)
        with pytest.raises(ValueError, match=rf"these are the same: {same}$"):
            principal_components(vectors(walk(3)[pair]))
    with pytest.raises(ValueError, match="at least 3 checkpoints; got 2"):
        principal_components(vectors(walk(2)))


def test_a_small_move_of_large_float32_weights_is_no_rounding():
    """Two dimensions of 1e-5 of the weights are told from their rounding."""
    rng = np.random.default_rng(2)
    rows = rng.standard_normal(SIZE) + 1e-5 * walk(12)
    found = principal_components(vectors(rows.astype(np.float32)))
    assert found.explained_variance_ratio[0] > 0.3


def test_duplicates_do_no_harm_where_the_plane_exists():
    """A checkpoint that is there twice is no error among others."""
    rows = walk(6)[[0, 1, 1, 2, 3, 4, 5, 5]]
    pca = pca_of(rows)
    found = principal_components(vectors(rows))
    np.testing.assert_allclose(_variances(rows, found)[:5], pca.explained_variance_[:5])
