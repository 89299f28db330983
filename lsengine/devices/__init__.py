"""Which device, and what suits it."""

from __future__ import annotations

from lsengine.devices.device import automatic_batch_size as automatic_batch_size
from lsengine.devices.device import device_of as device_of
from lsengine.devices.device import fast_precisions as fast_precisions
from lsengine.devices.device import is_channels_last_safe as is_channels_last_safe
from lsengine.devices.device import is_out_of_memory as is_out_of_memory
from lsengine.devices.device import keep_freed_memory as keep_freed_memory
from lsengine.devices.device import memory_of as memory_of
from lsengine.devices.device import multiplies_bfloat16 as multiplies_bfloat16
from lsengine.devices.device import one_thread as one_thread
from lsengine.devices.device import row_major as row_major
from lsengine.devices.device import tf32 as tf32
from lsengine.devices.device import tune_malloc as tune_malloc
from lsengine.devices.device import use_deterministic_kernels as use_deterministic_kernels
from lsengine.devices.device import visible_count as visible_count
from lsengine.devices.instances import choose_instance as choose_instance
from lsengine.devices.instances import instances as instances
from lsengine.devices.memory import free_bytes as free_bytes
from lsengine.devices.memory import free_host_bytes as free_host_bytes
