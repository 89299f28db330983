"""The only door to HDF5: surface files, histories, histograms, spectra and locks."""

from __future__ import annotations

from lsengine.store.creating import CurveLayout as CurveLayout
from lsengine.store.creating import Layout as Layout
from lsengine.store.creating import TrajectoryLayout as TrajectoryLayout
from lsengine.store.creating import amend as amend
from lsengine.store.creating import create as create
from lsengine.store.file import HISTORY_FORMAT as HISTORY_FORMAT
from lsengine.store.file import PROVENANCE as PROVENANCE
from lsengine.store.file import SPECTRUM_FORMAT as SPECTRUM_FORMAT
from lsengine.store.file import WEIGHTS_FORMAT as WEIGHTS_FORMAT
from lsengine.store.file import has_mpi as has_mpi
from lsengine.store.file import refuses_parallel as refuses_parallel
from lsengine.store.file import trust as trust
from lsengine.store.reader import read as read
from lsengine.store.reader import read_attributes as read_attributes
from lsengine.store.reader import read_directions as read_directions
from lsengine.store.reader import read_drawn as read_drawn
from lsengine.store.reader import read_grid as read_grid
from lsengine.store.reader import read_parts as read_parts
from lsengine.store.reader import read_state as read_state
from lsengine.store.reader import read_status as read_status
from lsengine.store.reader import read_trajectory as read_trajectory
from lsengine.store.records import format_of as format_of
from lsengine.store.records import read_histograms as read_histograms
from lsengine.store.records import read_history as read_history
from lsengine.store.records import read_spectrum as read_spectrum
from lsengine.store.records import write_histograms as write_histograms
from lsengine.store.records import write_history as write_history
from lsengine.store.records import write_spectrum as write_spectrum
from lsengine.store.writer import CellResults as CellResults
from lsengine.store.writer import Writer as Writer
from lsengine.store.writer import adopt as adopt
