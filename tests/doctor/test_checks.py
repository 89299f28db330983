"""How verdicts are told."""

from __future__ import annotations

import pytest

from lsengine.doctor.checks import as_json, from_json, ok, problem, text, warning


def test_verdicts_are_lines_or_json():
    """One line each, the remedy on it, and JSON that can be read back."""
    checks = [ok("a", "fine"), warning("bb", "slow", "wait"), problem("c", "bad", "mend it")]
    lines = text(checks).splitlines()
    assert lines[1] == "warning  bb  slow; wait"
    assert lines[2] == "problem  c   bad; mend it"
    assert lines[3] == "3 checks; problems: 1, warnings: 1"
    assert from_json(as_json(checks)) == checks
    with pytest.raises(ValueError, match="verdict"):
        from_json('[{"name": "a"}]')
