"""Help for every command, at once."""

from __future__ import annotations

import argparse

import pytest

from lsengine import cli
from lsengine.cli import main
from lsengine.external import installation


def _parsers():
    parser = cli.build_parser()
    action = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return parser, action


COMMANDS = sorted(_parsers()[1].choices)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    """One line in the list of commands, and a word on each argument of its own."""
    parser, action = _parsers()
    assert next(c.help for c in action._choices_actions if c.dest == command)
    assert command in parser.format_help()
    for argument in action.choices[command]._actions:
        assert argument.help or argument.metavar, f"{command}: {argument.dest}"
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: lsengine {command}" in capsys.readouterr().out


def test_help_lists_the_exit_codes(capsys):
    """Scripts resubmit by them."""
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"{code} " in text.partition("exit codes")[2] for code in (0, 1, 2, 3, 4, 5, 75))


def test_the_version_and_the_citation_are_said(capsys):
    """With code 0; the citation has the version, and the paper by its number."""
    for option in ("--version", "--cite"):
        with pytest.raises(SystemExit) as ended:
            main([option])
        assert ended.value.code == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"lsengine {installation.version()}"
    assert any("1712.09913" in line for line in rest)
    assert f"  version = {{{installation.version()}}}," in rest
