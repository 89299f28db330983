"""Networks and their checkpoints."""

from __future__ import annotations

from lsengine.models.layers import batch_norm_buffers as batch_norm_buffers
from lsengine.models.layers import changing_statistics as changing_statistics
from lsengine.models.layers import check_model_accepts as check_model_accepts
from lsengine.models.layers import initialise_lazy as initialise_lazy
from lsengine.models.layers import normalisation_parameters as normalisation_parameters
from lsengine.models.pretrained import folder_digests as folder_digests
from lsengine.models.pretrained import vocabulary as vocabulary
from lsengine.models.roles import parameter_roles as parameter_roles
from lsengine.models.zoo import build as build
from lsengine.models.zoo import zoo as zoo
