"""Check what docs/REPRODUCTION.md says of the paper's claims against the kept surfaces.

    python launch/claims.py             print every claim; exit code 1 if a document is wrong
    python launch/claims.py --write     write verdicts and numbers into both documents

`docs/reproduction/claims.toml` has the expected verdict and numbers of each claim.  What
`docs/REPRODUCTION.md` shows of a figure, pictures and claims, stands between marks, and so does
the table of all planes.  `launch/paper.py` has the claims.  Damaged files are refused, and
surfaces that are not around the network whose test error they are shown with.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from measures import NOISE, Kept, UndecidedError
from paper import CLAIMS
from trained import around, planes, title
from verdicts import Claim, Outcome, percent, shown

from lsengine.errors import SurfaceError
from lsengine.store import damage

ROOT = Path(__file__).resolve().parents[1]
EXPECTED = "claims.toml"
RELATIVE, ABSOLUTE = 0.02, 5e-4  # by how much numbers may differ from the expected ones
_MARKS = r"^(?P<begin><!-- {} -->\n).*?(?P<end>^<!-- {} -->)$"
_PART, _TABLE = (
    re.compile(_MARKS.format(begin, end), re.DOTALL | re.MULTILINE)
    for begin, end in (
        (r"claims of figure (?P<figure>\d)", "end of claims"),
        ("measures of planes", "end of measures"),
    )
)
PICTURES = {  # what launch/reproduction.sh draws: what stands below it
    "figure1": "Training loss on a logarithmic scale. Cells above 20 are cut off.",
    "figure1-rate": "Without skip connections at the paper's rate of 0.01. No loss is cut off.",
    "figure2-lines": "Lines from the small batch's minimum (0) to the large batch's (1).",
    "figure2-norms": "Length of all parameters together during the trainings.",
    "figure2-weights-wd0": "Weights after the trainings without weight decay.",
    "figure2-weights-wd5e-4": "Weights after the trainings with weight decay.",
    "figure3-curves": "Training loss along one random direction with normalised filters.",
    "figure3-raw": "The same direction without normalisation.",
    "figure3-planes": "Training loss, with the paper's levels: 0.1 to 9.6 in steps of 0.5.",
    "figure5": "Training loss, with the paper's levels: 0.1 to 9.6 in steps of 0.5.",
    "figure6": "Training loss, with the paper's levels: 0.1 to 9.6 in steps of 0.5.",
    "figure7": "The smallest eigenvalue of the Hessian by the largest one.",
    "figure8-random": "A training in a plane of two random directions.",
    "figure8-toward": "The same training: towards its start, and along a random direction.",
    "figure9": "Four trainings, each in the plane of its first two principal components.",
}
Outcomes = Mapping[Claim, Outcome]


def expected_text(outcomes: Outcomes) -> str:
    """Return verdicts and numbers as TOML."""
    lines = ["# What the kept surfaces show, claim by claim: `python launch/claims.py --write`."]
    for claim, outcome in outcomes.items():
        lines += ["", f"[{claim.key}]", f'verdict = "{outcome.verdict}"']
        lines += [f"{key} = {_number(value)}" for key, value in outcome.numbers.items()]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    """Return a number to six digits as TOML has it."""
    text = f"{value:.6g}"
    return text if re.search("[.en]", text) else f"{text}.0"


def part(outcomes: Outcomes, figure: str, folder: Path) -> str:
    """Return what the document shows of a figure: the pictures in the folder, and the claims."""
    lines = []
    for picture in sorted(folder.glob(f"figure{figure}*.png"), key=lambda path: path.stem):
        caption = PICTURES[picture.stem]
        lines += ["", f"![{caption}]({folder.name}/{picture.name})", "", f"*{caption}*"]
    lines += ["", "| the paper | here | it holds if | verdict |", "| --- | --- | --- | --- |"]
    for claim, outcome in outcomes.items():
        if claim.figure == figure:
            cells = (claim.paper, outcome.here, claim.rule, f"**{outcome.verdict}**")
            lines.append(f"| {' | '.join(cells)} |")
    return "".join(f"{line}\n" for line in [*lines, ""])


def table(kept: Kept) -> str:
    """Return what is measured on every plane that is kept, as Markdown."""
    heads = ["network", "cells", "standard error", "test error", "loss at the centre"]
    heads += ["falls on the way out", "up to 1", "with noise", "basin at +0.1", "at +0.5", "minima"]
    lines = [heads, ["---"] * len(heads)]
    for name, (training, _) in planes(kept).items():
        if name not in kept.names:
            continue
        shares = [kept.away(name), kept.away(name, reach=1.0), kept.away(name, noise=NOISE)]
        row = [title(name), "x".join(map(str, reversed(kept.surface(name).done.shape)))]
        row += [percent(kept.standard_error(name)), percent(kept.error(training))]
        row += [_figure(kept, name, "train_loss")]
        row += [*map(percent, shares), _figure(kept, name, "basin")]
        row += [_figure(kept, name, "basin", "+0.5"), _figure(kept, name, "minima")]
        lines.append(row)
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def _figure(kept: Kept, name: str, figure: str, level: str = "+0.1") -> str:
    try:
        return shown(kept.figure(name, figure, level))
    except UndecidedError:
        return "n/a"


def differences(outcomes: Outcomes, expected: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is not as expected, claim by claim."""
    found = {claim.key: outcome for claim, outcome in outcomes.items()}
    for key in [*found, *(expected.keys() - found.keys())]:
        if key not in found or key not in expected:
            yield f"{key}: is in one of claims.toml and launch/paper.py only"
            continue
        outcome, wanted = found[key], dict(expected[key])
        if outcome.verdict != (verdict := wanted.pop("verdict")):
            yield f"{key}: expected {verdict!r}, but it {outcome.verdict!r}: {outcome.here}"
        elif outcome.numbers.keys() != wanted.keys():
            yield f"{key}: expected the numbers {[*wanted]}, got {[*outcome.numbers]}"
        else:
            for name, value in outcome.numbers.items():
                if not _is_close(value, wanted[name]):
                    yield f"{key}: {name} is {value:.6g}, expected {wanted[name]:.6g}"


def _is_close(value: float, wanted: float) -> bool:
    both_unknown = math.isnan(value) and math.isnan(wanted)
    return both_unknown or math.isclose(value, wanted, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def with_parts(text: str, outcomes: Outcomes, kept: Kept) -> str:
    """Return the document with the parts that it should have."""

    def filled(match: re.Match[str]) -> str:
        return match["begin"] + part(outcomes, match["figure"], kept.folder) + match["end"]

    def measured(match: re.Match[str]) -> str:
        return match["begin"] + table(kept) + match["end"]

    return _TABLE.sub(measured, _PART.sub(filled, text))


def unfit(kept: Kept) -> list[str]:
    """Return which kept surfaces are damaged, or not those of their trainings."""
    found = []
    for name in sorted(kept.names):
        if not name.startswith(("history-", "weights-")):
            try:
                damage.refuse(kept.path(name))
            except SurfaceError as error:
                found.append(str(error))
    if not found:
        pairs = around(kept).items()
        found = [why for name, training in pairs if (why := kept.mismatch(name, training))]
    return found


def problems(outcomes: Outcomes, kept: Kept, page: Path) -> list[str]:
    """Return what the two documents say and the surfaces do not."""
    expected = kept.folder / EXPECTED
    if not expected.is_file():
        return [f"{expected} is not there"]
    found = [*differences(outcomes, tomllib.loads(expected.read_text()))]
    text = page.read_text()
    shown_figures = {match["figure"] for match in _PART.finditer(text)}
    for figure in dict.fromkeys(claim.figure for claim in outcomes):
        if figure not in shown_figures:
            found.append(f"{page.name} has no marks of figure {figure}")
    if not _TABLE.search(text):
        found.append(f"{page.name} has no marks of the table of planes")
    if with_parts(text, outcomes, kept) != text:
        found.append(f"the tables of {page.name} are not what the surfaces say")
    return found


def printed(outcomes: Outcomes) -> str:
    """Return all claims for people."""
    lines = []
    for claim, outcome in outcomes.items():
        lines += [f"figure {claim.figure}, {claim.key}: {outcome.verdict.upper()}"]
        lines += [f"    paper: {claim.paper}", f"    here:  {outcome.here}"]
        lines += [f"    holds if {claim.rule}"]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print all claims; compare them with the documents, or write these.

    Returns:
        The exit code: 1 if a document says something else than the surfaces.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "docs" / "reproduction")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "REPRODUCTION.md")
    parser.add_argument("--write", action="store_true", help="write both documents")
    options = parser.parse_args(arguments)
    kept, page = Kept(options.folder), options.page
    if found := unfit(kept):
        print("\n".join(found), file=sys.stderr)
        return 1
    outcomes = {claim: claim.outcome(kept) for claim in CLAIMS}
    print(printed(outcomes))
    if options.write:
        (kept.folder / EXPECTED).write_text(expected_text(outcomes))
        page.write_text(with_parts(page.read_text(), outcomes, kept))
        return 0
    found = problems(outcomes, kept, page)
    for problem in found:
        print(problem, file=sys.stderr)
    if found:
        print("if the surfaces are right: python launch/claims.py --write", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
