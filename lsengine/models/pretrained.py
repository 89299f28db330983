"""Networks of transformers from a folder, with an adapter of peft if there is one.

Nothing is downloaded, and no code of a folder is run.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lsengine import files
from lsengine.errors import UsageError
from lsengine.external.hugging_face import class_of, offline, peft, transformers
from lsengine.job.checkpoint_paths import absolute
from lsengine.job.schema import ModelSpec
from lsengine.models import checkpoint
from lsengine.wording import listed, short

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
_PRECISIONS = ("dtype", "torch_dtype")
log = logging.getLogger(__name__)


def build(spec: ModelSpec, job_folder: Path) -> nn.Module:
    """Return the network of a folder with the folder's numbers, and those of an adapter.

    It is in float32, or in float64 where a number of the folder is.  Of an adapter's network the
    adapter's parameters want gradients, and no others.

    Raises:
        UsageError: If the folder, its class or the arguments are wrong, or do not go together.
        EnvironmentUnfit: If transformers or peft is not installed.
    """
    assert spec.path is not None
    folder = absolute(job_folder / CONFIG, spec.path)
    _check(folder, "model.path")
    numbers = checkpoint.load(folder, key="model.path")
    is_wide = any(entry.tensor.dtype == torch.float64 for entry in numbers.entries)
    network = _from_config(spec, folder, torch.float64 if is_wide else torch.float32)
    checkpoint.fit(network, numbers, key="model.path")
    if spec.adapter is not None:
        network = _adapted(network, absolute(job_folder / CONFIG, spec.adapter))
    return network.eval()


def _check(folder: Path, key: str) -> None:
    if files.is_folder(folder):
        files.check_folder(folder, key)


def folder_digests(spec: ModelSpec, job_folder: Path) -> dict[str, str]:
    """Return the SHA-256 of what a network's folders hold: settings and numbers; by name."""
    found = {}
    for key, config in (("path", CONFIG), ("adapter", ADAPTER_CONFIG)):
        written = getattr(spec, key)
        if written is not None:
            folder = absolute(job_folder / CONFIG, written)
            found[f"model.{key}"] = checkpoint.digest(folder)
            found[f"model.{key} settings"] = files.sha256(folder / config)
    return found


def _from_config(spec: ModelSpec, folder: Path, dtype: torch.dtype) -> nn.Module:
    """Return a network with numbers of no meaning."""
    kind = class_of(spec.arch.partition(":")[2], key="model.arch")
    is_automatic = hasattr(kind, "from_config")
    if not is_automatic and not hasattr(kind, "_from_config"):
        raise UsageError(
            f"model.arch: {spec.arch} is no network; name a class such as "
            "transformers:AutoModelForCausalLM"
        )
    given = dict(spec.args)
    if named := [name for name in _PRECISIONS if name in given]:
        raise UsageError(f"model.args.{named[0]}: the job's precision says it; leave it out")
    attention = {k: given.pop(k) for k in ("attn_implementation",) if k in given}
    with offline():
        config = _config(folder, given)
        if not is_automatic and not isinstance(config, kind.config_class):
            raise UsageError(
                f"model.path: {folder} is of a {config.model_type}, which is no {spec.arch}; try "
                "an Auto class, such as transformers:AutoModelForCausalLM"
            )
        make = kind.from_config if is_automatic else kind._from_config
        trust = {"trust_remote_code": False} if is_automatic else {}
        try:
            network = make(config, dtype=dtype, **attention, **trust)
        except Exception as error:  # the library's own, of many kinds
            raise UsageError(
                f"model.arch: {spec.arch} cannot be made from {folder / CONFIG}"
                f"{f' and args {short(spec.args)}' if spec.args else ''}: "
                f"{type(error).__name__}: {_plain(error)}"
            ) from error
    assert isinstance(network, nn.Module)
    return network


def _config(folder: Path, given: Mapping[str, Any]) -> Any:
    """Return the settings of a folder with those of a job; keys and values stay out of outputs."""
    library = transformers(f"model.path: {folder}")
    where = f"model.path: {folder / CONFIG}"
    try:
        config, unknown = library.AutoConfig.from_pretrained(
            str(folder),
            return_unused_kwargs=True,
            local_files_only=True,
            trust_remote_code=False,
            **given,
        )
    except Exception as error:
        raise UsageError(
            f"{where} is not understood by transformers {library.__version__}: "
            f"{_plain(error)}; code that comes with a folder is not run: for such a network write "
            "module:factory"
        ) from error
    if unknown:
        raise UsageError(
            f"model.args: {listed(sorted(unknown))}: {config.model_type} has no such setting; "
            f"allowed are attn_implementation and the keys of {CONFIG}"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UsageError(
            f"{where} is of a quantised network, whose weights cannot move; save it with "
            "dequantised weights"
        )
    for part in (config, config.get_text_config()):
        if hasattr(part, "use_cache") and "use_cache" not in given:
            part.use_cache = False
    return config


def _adapted(network: nn.Module, folder: Path) -> nn.Module:
    """Return a network with an adapter, not merged, whose parameters alone want gradients."""
    _check(folder, "model.adapter")
    library = peft(f"model.adapter: {folder}")
    with offline(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            adapted = library.PeftModel.from_pretrained(network, str(folder), is_trainable=True)
        except Exception as error:
            raise UsageError(
                f"model.adapter: {folder} does not fit the network of model.path: "
                f"{type(error).__name__}: {_plain(error)}"
            ) from error
    # peft leaves out what does not fit, and only warns.
    checkpoint.fit(adapted, checkpoint.load(folder, key="model.adapter"), key="model.adapter")
    assert isinstance(adapted, nn.Module)
    return adapted


def vocabulary(model: nn.Module) -> int | None:
    """Return how many tokens the input embedding of a network of transformers has."""
    ask = getattr(model, "get_input_embeddings", None)
    try:
        table = getattr(ask(), "weight", None) if callable(ask) else None
    except (AttributeError, NotImplementedError, TypeError):
        return None
    return len(table) if isinstance(table, Tensor) and table.ndim == 2 else None


def _plain(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
