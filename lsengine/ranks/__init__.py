"""The only door to MPI: ranks, how they meet and how they leave."""

from __future__ import annotations

from lsengine.ranks.launch import abort_all as abort_all
from lsengine.ranks.launch import abort_other_ranks as abort_other_ranks
from lsengine.ranks.launch import end_at_once as end_at_once
from lsengine.ranks.launch import exit_without_finalize as exit_without_finalize
from lsengine.ranks.launch import hint_for as hint_for
from lsengine.ranks.launch import join as join
from lsengine.ranks.launch import launched_rank as launched_rank
from lsengine.ranks.launch import launched_size as launched_size
from lsengine.ranks.launch import leave_last as leave_last
from lsengine.ranks.launch import let_rank_0_speak as let_rank_0_speak
from lsengine.ranks.launch import meet as meet
from lsengine.ranks.launch import own_exit_code as own_exit_code
from lsengine.ranks.launch import refused_once as refused_once
from lsengine.ranks.signals import Interrupted as Interrupted
from lsengine.ranks.signals import StopRequest as StopRequest
from lsengine.ranks.signals import ended_by_sigterm as ended_by_sigterm
from lsengine.ranks.world import Message as Message
from lsengine.ranks.world import Tag as Tag
from lsengine.ranks.world import World as World
