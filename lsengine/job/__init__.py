"""What may be asked: job files, read and checked as a whole."""

from __future__ import annotations

from lsengine.job.checkpoint_search import Search as Search
from lsengine.job.documents import read_mapping as read_mapping
from lsengine.job.job import Job as Job
from lsengine.job.loading import from_values as from_values
from lsengine.job.loading import load as load
from lsengine.job.loading import load_all as load_all
