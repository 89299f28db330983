"""The import of transformers and peft, which then reach for nothing but local files."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.external.optional import library
from lsengine.external.torchvision import torchvision
from lsengine.wording import did_you_mean

_EXTRA = "transformers"


def transformers(purpose: str) -> Any:
    """Import transformers.

    It imports torchvision where that is installed, and needs the operators that
    `lsengine.external.torchvision` declares.

    Raises:
        EnvironmentUnfit: If it is not installed.
    """
    with contextlib.suppress(EnvironmentUnfit):
        torchvision()
    return library("transformers", _EXTRA, purpose)


def peft(purpose: str) -> Any:
    """Import peft.

    Raises:
        EnvironmentUnfit: If it is not installed.
    """
    transformers(purpose)
    return library("peft", "peft", purpose)


def class_of(name: str, *, key: str) -> Any:
    """Return the class of transformers that has a name.

    Raises:
        UsageError: If there is none.
        EnvironmentUnfit: If transformers is not installed, or cannot import the class.
    """
    whole = transformers(f"{key}: transformers:{name}")
    try:
        found = getattr(whole, name)
    except AttributeError:
        near = did_you_mean(name, dir(whole))
        raise UsageError(f'{key}: transformers has no class "{name}"{near}') from None
    except ImportError as error:
        raise EnvironmentUnfit(f"{key}: transformers cannot import {name}: {error}") from error
    if not isinstance(found, type):
        raise UsageError(
            f"{key}: transformers:{name} is no class; name that of a network, such as "
            "transformers:AutoModelForCausalLM"
        )
    return found


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Keep the libraries from the network, and from bars and advice of their own, for a while."""
    hub = library("huggingface_hub", _EXTRA, "reading a folder of Hugging Face")
    said = library("transformers.utils.logging", _EXTRA, "reading a folder of Hugging Face")
    before = hub.constants.HF_HUB_OFFLINE
    had_bars, level = said.is_progress_bar_enabled(), said.get_verbosity()
    hub.constants.HF_HUB_OFFLINE = True
    said.disable_progress_bar()
    said.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        hub.constants.HF_HUB_OFFLINE = before
        said.set_verbosity(level)
        if had_bars:
            said.enable_progress_bar()
