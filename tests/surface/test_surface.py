"""The surface as a value: what it says of its cells, its directions and its trajectory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lsengine.surface import DONE, FAILED, MISSING, Surface, Trajectory
from lsengine.surface.grid import make_grid
from tests.support.pictures import TOWARD, toward, with_path


@pytest.fixture
def partial(plane):
    """A plane of 12 cells: two missing, one failed, one of the others not a number."""
    status = np.full((3, 4), DONE, np.uint8)
    status[0, :2], status[2, 3] = MISSING, FAILED
    made = plane(alphas=4, betas=3, status=status)
    made.quantities["train_loss"][1, 1] = np.nan
    return made


def test_cells_are_counted_by_their_state(partial):
    """A result that is not a number is a result."""
    assert partial.counts() == {"done": 9, "missing": 2, "failed": 1}
    np.testing.assert_array_equal(partial.mask, ~partial.done)
    assert partial.done[1, 1]


def test_masked_quantities_hide_what_is_no_result(partial):
    """Whatever number stands there; an unknown quantity is an error."""
    loss = partial.masked("train_loss")
    np.testing.assert_array_equal(loss.mask, partial.mask)
    assert np.isnan(loss[1, 1])
    with pytest.raises(KeyError):
        partial.masked("train_los")


def test_axes_are_there_by_name(plane, curve):
    """A plane has alpha and beta, repeats have a number each, and what is not there is None."""
    flat, lines = plane(alphas=4, betas=3), curve(repeats=2)
    assert flat.is_plane
    assert not lines.is_plane
    assert (len(flat.alpha), len(flat.beta), flat.repeat) == (4, 3, None)
    assert (len(lines.alpha), lines.beta, lines.repeat.tolist()) == (51, None, [0, 1])


def test_another_name_changes_nothing_else(plane):
    """The values are the same arrays."""
    one = plane(name="one")
    two = one.renamed("two")
    assert (one.name, two.name) == ("one", "two")
    assert two.quantities is one.quantities


def test_unconverged_cells_are_counted_among_those_done(partial):
    """Surfaces without eigenvalues have no such number."""
    assert partial.unconverged is None
    converged = np.zeros((3, 4))
    converged[1] = 1.0
    quantities = {**partial.quantities, "converged": converged}
    assert replace(partial, quantities=quantities).unconverged == 5


def test_a_trained_curve_is_one_by_its_direction(plane, curve):
    """A plane of a curve is none, and neither is a line between two minima."""
    along = {"kind": "curve", "path": "curve.pt"}
    assert toward(curve(), alpha=along).is_trained_curve
    assert not toward(plane(), alpha=along, beta=along).is_trained_curve
    assert not toward(curve(), alpha=TOWARD).is_trained_curve
    assert not curve().is_trained_curve


def test_a_path_needs_a_place_in_the_plane(plane):
    """Checkpoints with an epoch, but without beta, are on no path."""
    walked = with_path(plane())
    assert walked.has_path
    assert not plane().has_path
    columns = {n: c for n, c in walked.trajectory.columns.items() if n != "beta"}
    assert not replace(walked, trajectory=Trajectory(columns)).has_path


def test_the_last_epoch_before_a_drop_of_the_rate_is_found():
    """What comes before training has no rate, and a run without rates has no drops."""
    epoch = np.arange(5)
    rate = np.array([np.nan, 0.1, 0.1, 0.01, 0.01])
    assert Trajectory({"epoch": epoch, "learning_rate": rate}).lr_drops.tolist() == [
        *(False, False, True, False, False)
    ]
    assert not Trajectory({"epoch": epoch}).lr_drops.any()


def test_a_rate_that_always_differs_drops_nowhere():
    """A cosine, also behind a warm-up; three checkpoints are too few to tell."""
    for rate in ([np.nan, 4.0, 3.0, 2.0, 1.0], [1.0, 4.0, 3.0, 2.0, 1.0]):
        columns = {"epoch": np.arange(5), "learning_rate": np.array(rate)}
        assert not Trajectory(columns).lr_drops.any()
    few = {"epoch": np.arange(3), "learning_rate": np.array([0.1, 0.01, 0.001])}
    assert Trajectory(few).lr_drops.tolist() == [True, True, False]


def test_checkpoints_are_done_by_their_status():
    """One that does not say so has no losses; counts are those of the status."""
    epoch = np.arange(3)
    status = np.array([DONE, MISSING, FAILED], np.uint8)
    some = Trajectory({"epoch": epoch, "status": status})
    assert some.done.tolist() == [True, False, False]
    assert some.counts() == {"done": 1, "missing": 1, "failed": 1}
    bare = Trajectory({"epoch": epoch})
    assert not bare.done.any()
    assert bare.counts() is None


def test_the_text_of_a_surface_has_its_size_its_axes_and_its_spans(partial):
    """Only finite results count for a span."""
    text = repr(partial)
    assert "surface 'plane': 9 of 12 cells done, 1 failed>" in text
    assert "beta                 3 from -1 to 1" in text
    shown = partial.quantities["train_loss"][partial.done]
    shown = shown[np.isfinite(shown)]
    assert f"train_loss           {shown.min():.4g} to {shown.max():.4g}" in text


def test_directions_toward_checkpoints_end_at_other_minima(plane):
    """At 1 on their axis, unless normalised or partly ignored; nonsense is no minimum."""
    plane = plane()
    assert toward(plane, alpha=TOWARD, beta=TOWARD).marked_minima == ((1.0, 0.0), (0.0, 1.0))
    assert toward(plane, alpha={"kind": "random"}, beta=TOWARD).marked_minima == ((0.0, 1.0),)
    assert toward(plane, alpha={**TOWARD, "normalize": "filter"}).marked_minima == ()
    assert toward(plane, alpha={**TOWARD, "ignore": ["bias"]}).marked_minima == ()
    assert replace(plane, attributes={"identity": "{"}).marked_minima == ()
    assert plane.marked_minima == ()


def test_a_surface_without_any_cell_has_a_text():
    """Nothing to take the least and largest of."""
    grid = make_grid((0.0, 1.0, 2))
    empty = Surface(
        name="e",
        source="e.h5",
        axes=grid.axes,
        quantities={"q": np.ones(2)},
        status=np.zeros(2, "u1"),
    )
    assert "none yet" in repr(empty)
