"""How this lsengine is installed: from which commit, and what installs more of it."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

import lsengine

_PACKAGE = Path(lsengine.__file__).parent
RECORD = "commit.txt"  # beside the modules: what setup.py writes into a wheel and an sdist
_HASH = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_SHOWN = 12  # characters of a hash
_LAST_TORCHAUDIO = 11  # 2.11
_BUILDS = "https://download.pytorch.org/whl/"


@cache
def version() -> str:
    """Return the version, with the commit if there is one: ``0.1.0+g6fd3ab7c1e20``.

    The commit is what the build recorded, else what is checked out where this module lies.
    Changes that are not committed are not seen.
    """
    recorded = _text(_PACKAGE / RECORD)
    found = commit(_PACKAGE.parent) if not recorded and _is_checkout() else recorded
    return f"{lsengine.__version__}+g{found[:_SHOWN]}" if found else lsengine.__version__


def commit(folder: Path) -> str:
    """Return the hash of what is checked out in a folder, or "" if that cannot be told.

    Git's files are read; git itself is not started.
    """
    git = folder / ".git"
    link = re.fullmatch(r"gitdir: (.+)", _text(git))
    git = folder / link[1] if link else git  # of a worktree or a submodule
    head = _text(git / "HEAD")
    if reference := head.removeprefix("ref: ") if head.startswith("ref: ") else "":
        common = git / (_text(git / "commondir") or ".")
        packed = re.search(rf"^(\S+) {re.escape(reference)}$", _text(common / "packed-refs"), re.M)
        head = _text(common / reference) or (packed[1] if packed else "")
    return head if _HASH.fullmatch(head) else ""


def install(extra: str) -> str:
    """Return the command that adds an extra of lsengine's to this installation.

    It names the checkout or the folder that lsengine was installed from.  Where neither is there,
    as after an installation from a wheel or from git, it names the libraries themselves.
    """
    if _is_checkout():
        return f"pip install -e {shlex.quote(f'{_PACKAGE.parent}[{extra}]')}"
    try:
        here = metadata.distribution("lsengine")
    except metadata.PackageNotFoundError:
        return f"pip install {shlex.quote(f'lsengine[{extra}]')}"
    source = json.loads(here.read_text("direct_url.json") or "{}")
    folder = Path(unquote(urlsplit(source.get("url", "")).path))
    if not source:
        return f"pip install {shlex.quote(f'lsengine[{extra}]')}"
    if "dir_info" in source and (folder / "setup.cfg").is_file():
        return f"pip install {shlex.quote(f'{folder}[{extra}]')}"
    marked = [line.partition(";") for line in here.requires or []]
    needed = [n.strip() for n, _, mark in marked if re.search(rf"extra == .{extra}\W", mark)]
    return f"pip install {' '.join(map(shlex.quote, needed))}"


def fitting(library: str, torch_version: str) -> str:
    """Return the command that installs the build of torchvision or torchaudio for a torch.

    torchvision 0.N goes with torch 2.(N - 15).  torchaudio has torch's own version, up to 2.11,
    which asks for no version of torch.  Both come from the index that the build of torch is from.
    Source: what the releases of both require.
    """
    release, _, build = torch_version.partition("+")
    major, minor = release.split(".")[:2]
    if library == "torchvision":
        major, minor = "0", str(int(minor) + 15)
    elif int(minor) > _LAST_TORCHAUDIO:
        minor = str(_LAST_TORCHAUDIO)
    index = f" --index-url {_BUILDS}{build}" if re.fullmatch(r"cpu|cu\d+|rocm.+", build) else ""
    return f'pip install --force-reinstall --no-deps "{library}=={major}.{minor}.*"{index}'


def _is_checkout() -> bool:
    """Whether the package lies in its project's folder, and not among those of an environment."""
    return "\nname = lsengine\n" in _text(_PACKAGE.parent / "setup.cfg")


def _text(path: Path) -> str:
    """Return what a small file says, or "" if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
