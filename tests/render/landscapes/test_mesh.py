"""The shape of landscapes: smooth meshes, the sky their points see, and what they hide."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine.render.landscapes.mesh import AROUND, LIFT, Ground, monotone, smooth_mesh

FINE = np.linspace(0, 1, 41)
UNIT = np.linspace(0, 1, 21)
EYE = np.array([0.5, -3.0, 1.6])


def ground(z: np.ndarray) -> Ground:
    """Return heights over the unit square."""
    return Ground(x=FINE, y=FINE, z=z)


def hills(seed: int) -> np.ndarray:
    """Return a smooth random landscape; (Y, X)."""
    waves = np.random.default_rng(seed).normal(size=(3, 3, 2))
    turns = 2 * np.pi * np.arange(3)[:, None] * FINE
    parts = np.stack([np.cos(turns), np.sin(turns)])
    z = np.einsum("jis,sjy,six->yx", waves, parts, parts)
    return 0.5 * (z - z.min()) / np.ptp(z)


def crosses_triangle(start: np.ndarray, z: np.ndarray) -> bool:
    """Whether the way to `EYE` meets one of the mesh's triangles (Moeller and Trumbore 1997)."""
    x, y = np.meshgrid(FINE, FINE)
    mesh = np.stack([x, y, z], axis=-1)
    a, b, c, d = mesh[:-1, :-1], mesh[:-1, 1:], mesh[1:, 1:], mesh[1:, :-1]
    corners = np.concatenate(
        [np.stack(t, axis=2).reshape(-1, 3, 3) for t in ((a, b, c), (a, c, d))]
    )
    one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    way = EYE - start
    across = np.cross(way, two)
    size = (one * across).sum(axis=1)
    rest = start - corners[:, 0]
    u = (rest * across).sum(axis=1) / size
    beyond = np.cross(rest, one)
    v, t = beyond @ way / size, (two * beyond).sum(axis=1) / size
    return bool(((u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (t < 1)).any())


def test_what_is_hidden_is_what_triangles_hide():
    """On random hills it is as for a ray through every triangle, but for hair's breadths."""
    random = np.random.default_rng(1)
    agree, behind = [], []
    for seed in range(4):
        z = hills(seed)
        at = random.uniform(0.02, 0.98, (80, 2))
        points = np.column_stack([at, ground(z).above(at)])
        found = ground(z).hides(points, EYE)
        expected = [crosses_triangle(point, z) for point in points + np.array([0, 0, LIFT])]
        agree += list(found == expected)
        behind += expected
    assert 0.1 < np.mean(behind) < 0.9
    assert np.mean(agree) > 0.99


def test_a_hole_hides_nothing():
    """Behind a wall a point is hidden; through a hole in the wall it is seen."""
    z = 0.4 * np.exp(-(((FINE[:, None] - 0.4) / 0.08) ** 2)) + 0 * FINE
    point = np.array([[0.5, 0.6, 0.0]])
    assert ground(z).hides(point, EYE).all()
    z[8:24, 15:26] = np.nan
    assert not ground(z).hides(point, EYE).any()


def test_a_wall_hides_its_own_other_side():
    """What is marked on top of a slope that falls away from the eye is not to be seen."""
    steep = np.array([0.5, 0.5, 0.25])
    for sign, seen in ((1, True), (-1, False)):
        z = 0.25 + sign * 0.9 * (FINE[:, None] - 0.5) + 0 * FINE
        assert ground(z).hides(steep[None], EYE).all() != seen


def test_clearance_is_where_the_rim_comes_into_sight():
    """Behind a sharp wall it follows from similar triangles."""
    z = np.zeros((41, 41))
    z[16] = 0.3  # at 0.4
    point = np.array([0.5, 0.7, 0.0])
    expected = 0.3 + (0.3 - EYE[2]) / (0.4 - EYE[1]) * (0.7 - 0.4)
    assert ground(z).clearance(point, EYE) == pytest.approx(expected, abs=0.01)


def test_the_mesh_goes_through_the_cells_and_adds_no_extremum():
    """At the cells it has their heights; between two it stays between them."""
    z = np.random.default_rng(0).random((21, 21))
    mesh = smooth_mesh(UNIT, UNIT, z)
    parts = (mesh.x.size - 1) // 20
    np.testing.assert_allclose(mesh.z[::parts, ::parts], z, atol=1e-12)
    along = mesh.z[::parts]
    for column in range(20):
        piece = along[:, column * parts : (column + 1) * parts + 1]
        ends = np.sort(z[:, column : column + 2], axis=1)
        assert (piece >= ends[:, :1] - 1e-12).all()
        assert (piece <= ends[:, 1:] + 1e-12).all()


def test_the_mesh_is_cut_where_it_meets_an_end():
    """A slope that rises by 1 meets the height 0.33 at 0.33, between two cells, not at one."""
    mesh = smooth_mesh(UNIT, UNIT, np.tile(UNIT, (21, 1)), ends=(0.12, 0.33))
    np.testing.assert_allclose(mesh.z, np.tile(np.clip(mesh.x, 0.12, 0.33), (mesh.y.size, 1)))


@pytest.mark.parametrize("cells", [2, 3, 9])
def test_monotone_cubics_are_those_of_scipy(cells):
    """Equal to its PCHIP, in rows with plateaus and turns, on uneven axes."""
    from scipy.interpolate import PchipInterpolator

    random = np.random.default_rng(cells)
    at, rows = np.sort(random.random(cells)), random.normal(size=(5, cells))
    rows[0, 1:3] = rows[0, 0]
    fine = np.linspace(at[0], at[-1], 101)
    expected = PchipInterpolator(at, rows, axis=1)(fine)
    np.testing.assert_allclose(monotone(at, rows, fine), expected, atol=1e-12)


def test_a_pit_sees_less_sky_than_a_plain():
    """A plain sees all of it; the bottom of a pit what its walls leave."""
    plain = smooth_mesh(UNIT, UNIT, np.zeros((21, 21)))
    np.testing.assert_allclose(plain.sky, 1)
    pit = np.full((21, 21), 0.4)
    pit[8:13, 8:13] = 0.0
    sky = smooth_mesh(UNIT, UNIT, pit).sky
    middle = sky[sky.shape[0] // 2, sky.shape[1] // 2]
    assert 0.05 < middle < 0.5
    assert sky[0, 0] == pytest.approx(1)


def test_spots_are_a_point_and_its_neighbours_on_the_ground():
    """Five for each; beyond the ground they keep their height."""
    x, y = np.meshgrid(UNIT, UNIT)
    ground = Ground(x=UNIT, y=UNIT, z=x + 2 * y)
    spots = ground.spots(np.array([[0.5, 0.25, 9.0]]))
    assert spots.shape == (5, 3)
    np.testing.assert_allclose(spots[:, 2], spots[:, 0] + 2 * spots[:, 1])
    np.testing.assert_allclose(np.ptp(spots[:, :2], axis=0), 2 * AROUND)
    holed = Ground(x=UNIT, y=UNIT, z=np.where(x > 0.5, np.nan, x))
    np.testing.assert_allclose(holed.on_top(np.array([[0.9, 0.5, 7.0]])), [[0.9, 0.5, 7.0]])
