"""Principal directions of checkpoints, and projections onto a plane."""

from __future__ import annotations

import math
import weakref

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from lsengine.geometry.principal import (
    axis_range,
    expected_cosine,
    gram,
    principal_directions,
    project,
)

SHAPES = {"conv.weight": (4, 3, 2, 2), "fc.bias": (5,), "fc.weight": (5, 7), "scale": ()}
SIZE = sum(math.prod(shape) for shape in SHAPES.values())
NAMES = list(SHAPES)


def _named(vector, shapes=SHAPES):
    """Cut a vector into parameters."""
    pieces = torch.as_tensor(vector).split([math.prod(s) for s in shapes.values()])
    return {n: p.reshape(s) for (n, s), p in zip(shapes.items(), pieces, strict=True)}


def _flat(parameters, names=NAMES):
    return np.concatenate([parameters[n].double().numpy().ravel() for n in names])


def _walk(count, *, size=SIZE, seed=0, dtype=np.float64):
    """A random walk with drift, far from zero: (count, size)."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((count, size)) * 0.1 + 0.02 * rng.standard_normal(size)
    return (3 * rng.standard_normal(size) + steps.cumsum(axis=0)).astype(dtype)


def _loader(rows):
    return lambda index: _named(rows[index])


def _reference(rows):
    """Scikit-learn's PCA of differences to the final checkpoint."""
    differences = rows.astype(np.float64) - rows[-1].astype(np.float64)
    return PCA(svd_solver="full").fit(differences)


class Store:
    """Makes checkpoints on demand; counts the loads and the tensors alive at once."""

    def __init__(self, rows):
        self.rows, self.loads, self.alive, self.most = rows, 0, 0, 0

    def __call__(self, index):
        """Make one checkpoint."""
        self.loads += 1
        tensors = _named(torch.from_numpy(self.rows[index].copy()))
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
    rows = _walk(count)
    found = principal_directions(_loader(rows), count, NAMES, components=3, block=block)
    pca = _reference(rows)
    kept = len(pca.explained_variance_)
    np.testing.assert_allclose(
        found.explained_variance[:kept],
        pca.explained_variance_,
        rtol=1e-6,
        atol=1e-13 * pca.explained_variance_[0],
    )
    np.testing.assert_allclose(
        found.explained_variance_ratio[:kept], pca.explained_variance_ratio_, atol=1e-12
    )
    np.testing.assert_allclose(found.singular_values[:3], pca.singular_values_[:3], rtol=1e-9)
    assert found.explained_variance.shape == found.explained_variance_ratio.shape == (count,)
    for k, direction in enumerate(found.directions):
        sign = np.sign(_flat(direction) @ pca.components_[k])
        np.testing.assert_allclose(_flat(direction), sign * pca.components_[k], atol=3e-7)


def test_the_sign_of_a_direction_is_fixed():
    """The number of largest modulus is positive, also for the mirrored run."""
    rows = _walk(20)
    found = principal_directions(_loader(rows), 20, NAMES).directions
    mirrored = principal_directions(_loader(-rows), 20, NAMES).directions
    for direction, other in zip(found, mirrored, strict=True):
        vector = _flat(direction)
        assert vector[np.abs(vector).argmax()] > 0
        np.testing.assert_allclose(_flat(other), vector, atol=1e-7)
    for ways in (np.arange(4.0), -np.arange(4.0)):  # two numbers of the same modulus
        load = {t: {"w": torch.tensor([w, -w])} for t, w in enumerate(ways)}.__getitem__
        (direction,) = principal_directions(load, 4, ["w"], components=1).directions
        assert direction["w"].tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)])


def test_float32_checkpoints_far_from_zero_lose_nothing():
    """Variances of large float32 weights that shrink at last equal those of PCA in float64."""
    rows = (1e3 + _walk(30)).astype(np.float32)
    rows[-1] /= 7
    found = principal_directions(_loader(rows), 30, NAMES)
    pca = _reference(rows)
    np.testing.assert_allclose(found.explained_variance[:2], pca.explained_variance_[:2], rtol=1e-9)
    assert found.directions[0]["fc.weight"].dtype == torch.float32


def test_nearly_equal_singular_values_span_the_same_plane():
    """Where single components are ill-defined, the plane they span still is PCA's."""
    rng = np.random.default_rng(5)
    left, _ = np.linalg.qr(np.c_[np.ones(20), rng.standard_normal((20, 4))])
    right, _ = np.linalg.qr(rng.standard_normal((SIZE, 4)))
    rows = left[:, 1:] * [1.0, 1.0 - 1e-9, 0.3, 0.1] @ right.T
    found = principal_directions(_loader(rows), 20, NAMES)
    plane = np.stack([_flat(d) for d in found.directions])
    np.testing.assert_allclose(plane.T @ plane, right[:, :2] @ right[:, :2].T, atol=1e-6)
    np.testing.assert_allclose(found.singular_values[:4], [1, 1, 0.3, 0.1], rtol=1e-8)


def test_directions_are_orthonormal_when_variances_differ_by_many_orders():
    """Unit vectors at right angles, although the second variance is 1e-12 of the first."""
    rng = np.random.default_rng(6)
    along, aside = rng.standard_normal((2, SIZE))
    rows = np.outer(rng.standard_normal(25), along)
    rows += 1e-6 * np.outer(rng.standard_normal(25), aside)
    found = principal_directions(_loader(rows), 25, NAMES)
    plane = np.stack([_flat(d) for d in found.directions])
    np.testing.assert_allclose(plane @ plane.T, np.eye(2), atol=1e-7)


def test_only_the_named_parameters_count():
    """Other parameters change neither directions nor norms, and do not move."""
    rows, names = _walk(12), ["fc.weight", "conv.weight"]
    found = principal_directions(_loader(rows), 12, names)
    kept = np.stack([_flat(_named(row), names) for row in rows])
    assert list(found.directions[0]) == names
    np.testing.assert_allclose(
        found.explained_variance_ratio, _reference(kept).explained_variance_ratio_, atol=1e-12
    )
    np.testing.assert_allclose(found.norms, np.linalg.norm(kept, axis=1), rtol=1e-12)


@pytest.mark.parametrize("block", [1, 4, 7, 100])
def test_gram_matrix_equals_the_product_of_all_rows(block):
    """Whatever the block, inner products equal those of the whole matrix."""
    rows = _walk(23)
    found = gram(_loader(rows), 23, NAMES, block=block)
    np.testing.assert_allclose(found.matrix, (rows - rows[-1]) @ (rows - rows[-1]).T, rtol=1e-10)
    assert (found.matrix == found.matrix.T).all()
    assert found.size == SIZE


def test_checkpoints_are_streamed():
    """No more checkpoints live at once than stated, and none is read more often."""
    count, block = 61, 10
    store = Store(_walk(count))
    gram(store, count, NAMES, block=block)
    assert store.most == 1  # only the one being read; kept are copies of what is asked for
    assert store.loads == 1 + sum(count - 1 - start for start in range(0, count - 1, block))
    store = Store(_walk(count))
    principal_directions(store, count, NAMES, block=count)
    assert store.loads == 2 * count
    store = Store(_walk(count))
    project(store, count, NAMES, _named(_walk(1)[0]), [_named(np.ones(SIZE))])
    assert (store.loads, store.most) == (count, 1)


def test_kept_copies_stay_within_the_bound(monkeypatch):
    """At most block + 9 copies of checkpoints are in memory."""
    from lsengine.geometry import principal

    alive, most = 0, 0
    flat = principal._Reader.flat

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

    monkeypatch.setattr(principal._Reader, "flat", counted)
    gram(_loader(_walk(70)), 70, NAMES, block=20)
    assert most == 29
    assert alive == 0


def test_a_point_of_the_plane_projects_to_its_own_coordinates():
    """Centre plus a combination of directions comes back with distance zero."""
    rows = _walk(15)
    directions = principal_directions(_loader(rows), 15, NAMES).directions
    centre = _named(rows[-1])
    wanted = np.array([[0.0, 0.0], [1.5, -0.25], [-3.0, 1e-3]])
    plane = np.stack([_flat(d) for d in directions])
    points = rows[-1] + wanted @ plane
    found = project(_loader(points), 3, NAMES, centre, directions)
    np.testing.assert_allclose(found.coordinates, wanted, atol=1e-13)
    np.testing.assert_allclose(found.distance, 0, atol=1e-13)
    single = project(_loader(points.astype(np.float32)), 3, NAMES, centre, directions)
    np.testing.assert_allclose(single.coordinates, wanted, atol=1e-6)


def test_projection_onto_principal_directions_gives_pcas_scores():
    """Coordinates differ from PCA's scores by those of the final checkpoint."""
    rows = _walk(18)
    directions = principal_directions(_loader(rows), 18, NAMES).directions
    found = project(_loader(rows), 18, NAMES, _named(rows[-1]), directions)
    scores = _reference(rows).transform(rows - rows[-1])[:, :2]
    np.testing.assert_allclose(found.coordinates, scores - scores[-1], atol=1e-6)
    assert (found.coordinates[-1] == 0).all()
    assert (found.cosine[-1] == 0).all()


@pytest.mark.parametrize("lean", [0.0, 0.7, 3e-5])
def test_skew_directions_are_solved_by_least_squares(lean):
    """Coordinates and distances equal numpy's least squares, however skew the plane."""
    rng = np.random.default_rng(8)
    first, other = rng.standard_normal((2, SIZE))
    basis = np.stack([5 * first, first + lean * other]) if lean else np.stack([first, other])
    basis = basis.astype(np.float32).astype(np.float64)
    rows, centre = _walk(9), _walk(1, seed=9)[0]
    found = project(_loader(rows), 9, NAMES, _named(centre), [_named(b) for b in basis])
    expected, *_ = np.linalg.lstsq(basis.T, (rows - centre).T, rcond=None)
    np.testing.assert_allclose(found.coordinates, expected.T, rtol=1e-9, atol=1e-9)
    residual = rows - centre - expected.T @ basis
    np.testing.assert_allclose(found.distance, np.linalg.norm(residual, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.length, np.linalg.norm(rows - centre, axis=1), rtol=1e-12)
    cosine = (rows - centre) @ basis.T / np.outer(found.length, np.linalg.norm(basis, axis=1))
    np.testing.assert_allclose(found.cosine, cosine, rtol=1e-9)


def test_a_tiny_distance_is_not_lost_in_a_long_way():
    """A distance of 1e-9 of the way along the plane is right to six digits."""
    first = np.eye(SIZE)[0]
    row = 1e3 * first + 1e-6 * np.eye(SIZE)[3]
    found = project(_loader(row[None]), 1, NAMES, _named(np.zeros(SIZE)), [_named(first)])
    assert found.distance[0] == pytest.approx(1e-6, rel=1e-6)


def test_parameters_absent_from_a_direction_do_not_move_but_count_for_the_distance():
    """A direction without biases leaves the biases' difference as distance."""
    rows = np.zeros((2, SIZE))
    rows[0] = _flat({n: torch.full(s, 2.0) for n, s in SHAPES.items()})
    direction = {"fc.weight": torch.ones(5, 7)}
    found = project(_loader(rows), 2, NAMES, _named(rows[1]), [direction])
    assert found.coordinates[0, 0] == pytest.approx(2)
    assert found.distance[0] == pytest.approx(2 * math.sqrt(SIZE - 35))


def test_degenerate_runs_say_what_is_degenerate():
    """Checkpoints that are all the same, or on a line, make no plane; equal ones are named."""
    same = np.repeat(_walk(1, dtype=np.float32), 4, axis=0)
    with pytest.raises(ValueError, match=r"4 checkpoints differ in 0 dim.*0 = 1, 0 = 2, 0 = 3"):
        principal_directions(_loader(same), 4, NAMES)
    start, step = _walk(2)
    for dtype in (np.float32, np.float64):
        line = (start + np.linspace(0, 1, 9)[:, None] * step).astype(dtype)
        with pytest.raises(ValueError, match=r"9 checkpoints differ in 1 dimension.*weights, and"):
            principal_directions(_loader(line), 9, NAMES)
    for pair in ([0, 1, 1], [0, 0, 1]):
        same = " = ".join(str(i) for i in range(3) if pair.count(pair[i]) == 2)
        with pytest.raises(ValueError, match=rf"the same \(counted from 0\): {same}$"):
            principal_directions(_loader(_walk(3)[pair]), 3, NAMES)
    with pytest.raises(ValueError, match="at least 3 checkpoints; got 2"):
        principal_directions(_loader(_walk(2)), 2, NAMES)


def test_a_small_move_of_large_float32_weights_is_no_rounding():
    """Two dimensions of 1e-5 of the weights are told from their rounding."""
    rng = np.random.default_rng(2)
    rows = rng.standard_normal(SIZE) + 1e-5 * _walk(12)
    found = principal_directions(_loader(rows.astype(np.float32)), 12, NAMES)
    assert found.explained_variance_ratio[0] > 0.3


def test_duplicates_do_no_harm_where_the_plane_exists():
    """A checkpoint that is there twice is no error among others."""
    rows = _walk(6)[[0, 1, 1, 2, 3, 4, 5, 5]]
    pca = _reference(rows)
    found = principal_directions(_loader(rows), 8, NAMES)
    np.testing.assert_allclose(found.explained_variance[:5], pca.explained_variance_[:5])


def test_foreign_checkpoints_are_named():
    """Missing parameters, other shapes and numbers that are not finite are told by index."""
    rows = _walk(6)

    def changed(index, **tensors):
        def load(t):
            loaded = {**_named(rows[t]), **(tensors if t == index else {})}
            return {n: v for n, v in loaded.items() if v is not None}

        return load

    with pytest.raises(ValueError, match="checkpoint 2 lacks scale"):
        gram(changed(2, scale=None), 6, NAMES)
    with pytest.raises(ValueError, match=r"checkpoint 1: scale has shape \[2\], elsewhere \[\]"):
        gram(changed(1, scale=torch.ones(2)), 6, NAMES)
    with pytest.raises(ValueError, match="checkpoint 3: scale holds numbers that are not finite"):
        gram(changed(3, scale=torch.tensor(math.nan)), 6, NAMES)
    huge = torch.full((5,), 2e38, dtype=torch.float32)  # finite, though its sum is not
    assert np.isfinite(gram(lambda _: {"fc.bias": huge}, 2, ["fc.bias"]).norms).all()
    with pytest.raises(ValueError, match="no parameter"):
        gram(_loader(rows), 6, [])


def test_directions_that_span_no_plane_are_refused():
    """Zero, parallel and foreign directions are told apart."""
    rows = _walk(3)
    centre, one = _named(rows[0]), _named(rows[1].astype(np.float32))
    zero = {n: torch.zeros(s) for n, s in SHAPES.items()}
    opposite = {n: -3 * t for n, t in one.items()}
    with pytest.raises(ValueError, match="direction 1 is zero"):
        project(_loader(rows), 3, NAMES, centre, [one, zero])
    with pytest.raises(ValueError, match="linearly dependent"):
        project(_loader(rows), 3, NAMES, centre, [one, opposite])
    with pytest.raises(ValueError, match="direction 0 moves scale"):
        project(_loader(rows), 3, ["fc.bias"], centre, [{"scale": one["scale"]}])


@pytest.mark.parametrize("size", [50, 1000])
def test_expected_cosine_is_that_of_random_directions(size):
    """The mean modulus over many random pairs agrees to the accuracy of the sample."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 4000, size))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    error = cosines.std() / math.sqrt(4000)
    assert np.abs(cosines).mean() == pytest.approx(expected_cosine(size), abs=4 * error)


def test_an_axis_covers_trajectory_and_centre():
    """The range holds every checkpoint and zero with a margin, and is never empty."""
    assert axis_range(np.array([2.0, 10.0]), 0.1) == pytest.approx((-1.0, 11.0))
    assert axis_range(np.array([-4.0, 1.0]), 0.2) == pytest.approx((-5.0, 2.0))
    assert axis_range(np.array([3.0]), 0.0) == (0.0, 3.0)
    assert axis_range(np.zeros(3)) == (-1.0, 1.0)
    with pytest.raises(ValueError, match="finite"):
        axis_range(np.array([0.0, math.nan]))
