"""`evaluate`: from a job to its surface, alone or as one of many ranks.

The file is the checkpoint: what is left to do are the cells it does not mark done.
"""

from __future__ import annotations

from lsengine.engine.evaluation import evaluate as evaluate
from lsengine.engine.evaluation import evaluate_found as evaluate_found
from lsengine.engine.options import Options as Options
