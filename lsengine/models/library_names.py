"""What transformers and peft make of names that their networks do not have.

Files of transformers may be older than their network, and have other names; peft writes those of
an adapter alone, without the adapter's own name.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lsengine.errors import UsageError
from lsengine.external.hugging_face import offline
from lsengine.geometry.parameters import real_dtype
from lsengine.models import state_dicts
from lsengine.models.misfits import explained
from lsengine.models.state_dicts import Entry, Expected, Match
from lsengine.wording import listed

log = logging.getLogger(__name__)
_BUFFERS = {"masked_bias"}  # of old files, and no longer in the network


def translated(
    model: nn.Module,
    entries: Sequence[Entry],
    found: Sequence[Match],
    where: str,
    needed: Collection[str] | None,
) -> dict[str, Tensor]:
    """Return a network's tensors from a checkpoint that has a library's names for them.

    Empty if it has none, or the network is of neither library.  A checkpoint of an adapter alone
    goes with the network's other numbers.  ``found`` are the ways in which the network's own names
    are in it; none is complete.  If some names are ``needed``, others may be missing.

    Raises:
        UsageError: Beginning with ``where``, if it is of another adapter than the network's.
    """
    names = _of_adapter(model)
    own = {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    expected = Expected({name: own[names[name]] for name in names}, [*names], {})
    adapters = state_dicts.matches(entries, expected) if names else []
    has_others = bool(found) and not found[0].used.keys() <= set(names.values())
    if adapters and adapters[0].used and not has_others:
        if not state_dicts.fits(adapters[0], expected):
            reason = explained(adapters[0], entries, expected)
            raise UsageError(f"{where} {reason}")
        return own | {names[n]: entry.tensor for n, entry in adapters[0].used.items()}
    return _converted(model, {entry.full: entry.tensor for entry in entries}, needed)


def _converted(
    model: nn.Module, state: Mapping[str, Tensor], needed: Collection[str] | None
) -> dict[str, Tensor]:
    """Return what transformers makes of a state dict; empty if it is not of such a network.

    Parameters of its own heads may be left out, which is logged.  All names of the network have to
    come from the state dict, or all that are ``needed``.  The network is not changed.
    """
    library = sys.modules.get("transformers")
    if library is None or not isinstance(model, library.PreTrainedModel):
        return {}
    network: Any = model
    with offline():
        try:
            loaded, said = type(network).from_pretrained(
                None,
                config=network.config,
                state_dict=dict(state),
                dtype=real_dtype(model.parameters()),
                output_loading_info=True,
            )
        except Exception:  # whatever its conversions make of other names
            return {}
    own = {n: t for n, t in loaded.state_dict().items() if isinstance(t, Tensor)}
    missing = {name for name in said["missing_keys"] if needed is None or name in needed}
    if missing or said["mismatched_keys"] or said["error_msgs"]:
        return {}
    surplus = sorted(said["unexpected_keys"])
    if any(_is_of_backbone(name, network) for name in surplus):
        return {}
    if surplus:
        log.warning("left out, because the network has no such part: %s", listed(surplus))
    return {n: t for n, t in own.items() if n not in said["missing_keys"]}


def _is_of_backbone(name: str, model: Any) -> bool:
    """Whether a name is of the part that networks of one family share, not of a head."""
    first = name.partition(".")[0]
    if name.rpartition(".")[2] in _BUFFERS:
        return False
    backbone = model.base_model
    if backbone is model:
        return True
    return first == model.base_model_prefix or first in dict(backbone.named_children())


def _of_adapter(model: nn.Module) -> dict[str, str]:
    """Return by the name in peft's files the network's name for each tensor of its adapter.

    Empty if the network has none, or several.
    """
    library = sys.modules.get("peft")
    if library is None or not isinstance(model, library.PeftModel) or len(model.peft_config) != 1:
        return {}
    names = {id(t): n for n, t in model.state_dict(keep_vars=True).items()}
    with offline():
        saved = library.get_peft_model_state_dict(
            model,
            state_dict=model.state_dict(keep_vars=True),
            adapter_name=next(iter(model.peft_config)),
            save_embedding_layers=False,
        )
    return {name: names[id(tensor)] for name, tensor in saved.items() if id(tensor) in names}
