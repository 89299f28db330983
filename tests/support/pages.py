"""Pages of the documentation: their blocks of code and links, and a reader who runs the blocks.

A block stands between fences.  A comment in the line before the fence says what is special:

    <!-- not run: REASON -->      it needs a cluster, a network, hours
    <!-- slow: REASON -->         it is run by `make test-slow` alone
    <!-- quick: OPTIONS -->       `make test` adds OPTIONS to `train` and `eval`
    <!-- output -->               what the block before prints; `...` stands for anything
    <!-- site file -->            YAML that is no job, but what all jobs of a cluster need

    <!-- setup                    Python that is run, and that readers do not see
    ... -->

The same comments before the first heading, with ``blocks`` in front, are for all blocks of a page.
A block that begins with ``# NAME.EXT`` is that file.  `make test` makes grids of jobs smaller.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

_FENCE = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->$|"
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n+)?^(?P<indent> *)(?P<fence>```+|:::+)(?P<kind>[^\n]*)\n"
    r"(?P<text>.*?)^(?P=indent)(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)
_MARK = re.compile(r"(not run|slow|quick): (\S.*)|(output|site file)()")
_FILE = re.compile(r"# ([\w-]+\.(?:py|yaml|toml))\b")
_LAUNCHER = re.compile(r"(?:mpirun|mpiexec|srun)(?: -n \d+)?(?: --?[\w-]+)* (?=lsengine|python)")
KINDS = {"sh", "python", "yaml", "toml", "text"}
MOST_POINTS = 5
PLAIN = {"cd", "cp", "ls", "mkdir", "rm", "cat"}


@dataclass(frozen=True)
class Block:
    """A block of code: where it begins, of which kind it is, and how it is marked."""

    page: Path
    line: int
    kind: str
    text: str
    mark: str = ""
    reason: str = ""

    @property
    def place(self) -> str:
        """Where the block is, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str:
        """The file that the block is, or nothing."""
        found = _FILE.match(self.text)
        return found[1] if found else ""

    def commands(self) -> Iterator[list[str]]:
        """Yield the commands of a block of shell, word by word; launchers are left out."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(_LAUNCHER.sub("", line), comments=True)
            if words:
                yield words


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in order; those of Sphinx (``{toctree}``) are none."""
    text = page.read_text()
    whole = re.match(r"(?:<!-- [^\n]* -->\n)*?<!-- blocks ([^\n]*) -->\n", text)
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.end()) + 1
        if match["setup"]:
            found.append(Block(page, line, "python", match["setup"]))
            continue
        if match["kind"].startswith("{"):
            continue
        line -= match["text"].count("\n") + 1
        mark = _MARK.fullmatch(match["mark"] or (whole[1] if whole else ""))
        kind, reason = (mark[1] or mark[3], mark[2] or mark[4]) if mark else ("", "")
        found.append(Block(page, line, match["kind"], match["text"], kind, reason))
    return found


class Reader:
    """Runs the blocks of a page one after the other, in the working folder and in this process."""

    def __init__(self, quick: bool = True) -> None:
        self.quick, self.names = quick, {"__name__": "__main__"}
        self.printed: str | None = None

    def read(self, block: Block) -> None:
        """Run a block, or compare it with what the one before has printed."""
        if block.mark == "not run" or (block.mark == "slow" and self.quick):
            self.printed = None
        elif block.mark == "output":
            self._compare(block)
        elif block.file:
            small = self.quick and block.kind == "yaml"
            Path(block.file).write_text(_smaller(block.text) if small else block.text)
        elif block.kind in ("python", "sh"):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                self._run(block)
            self.printed = printed.getvalue()

    def _compare(self, block: Block) -> None:
        if self.printed is None:
            return
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        same = doctest.OutputChecker().check_output(block.text, self.printed, flags)
        assert same, f"{block.place} prints\n{self.printed}"

    def _run(self, block: Block) -> None:
        if block.kind == "python":
            exec(compile("\n" * block.line + block.text, str(block.page), "exec"), self.names)
            return
        added = shlex.split(block.reason) if block.mark == "quick" and self.quick else []
        for words in block.commands():
            _command(block, words, added)


def _smaller(job: str) -> str:
    """Return a job whose surfaces have few cells and whose curve is hardly trained."""
    content = yaml.safe_load(job)
    content["threads"] = 1
    most = 3 if "curvature" in content.get("quantities", ()) else MOST_POINTS
    for axis, points in (content.get("grid") or {}).items():
        if points:
            content["grid"][axis] = [*points[:-1], min(points[-1], most)]
    if "repeats" in content:
        content["repeats"] = 2
    if "curve" in content:
        content["curve"] |= {"epochs": 2, "points": 5, "plane": [3, 3]}
    return yaml.safe_dump(content, sort_keys=False)


def _command(block: Block, words: list[str], added: list[str]) -> None:
    from lsengine.cli import main

    program, *rest = words
    if program == "lsengine":
        code = main([*rest, *(added if rest[0] in ("train", "eval") else [])])
        assert code == 0, f"{block.place}: {shlex.join(words)} ended with {code}"
    elif program == "python":
        _python(rest)
    else:
        assert program in PLAIN, f"{block.place}: {program} cannot be run here; say not run"
        subprocess.run(words, check=True, timeout=30)


def _python(words: list[str]) -> None:
    """Run a script of the working folder; modules beside it are forgotten again."""
    arguments, known = sys.argv, set(sys.modules)
    sys.argv, here = words, str(Path.cwd())
    sys.path.insert(0, here)
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        sys.argv = arguments
        sys.path.remove(here)
        for name in set(sys.modules) - known:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(here):
                del sys.modules[name]
