"""Data sets as tensors."""

from __future__ import annotations

from lsengine.data.dataset import Dataset as Dataset
from lsengine.data.dataset import Split as Split
from lsengine.data.dataset import normalized as normalized
from lsengine.data.dataset import standardized as standardized
from lsengine.data.loaders import from_memory as from_memory
from lsengine.data.loading import load as load
from lsengine.data.nesting import Nested as Nested
from lsengine.data.nesting import lone as lone
