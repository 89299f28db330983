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


@pytest.mark.parametrize("command", COMMANDS)
def test_a_slip_in_an_option_is_told_with_the_usage_of_its_command(capsys, command):
    """Whatever the command; the option that was meant is named."""
    parser = _parsers()[1].choices[command]
    wanted = [a.metavar and "3" for a in parser._actions if a.required and not a.option_strings]
    option = max(parser._option_string_actions, key=len)
    slip = f"{option[:3]}{option[4:]}x"
    needed = [
        w
        for a in parser._actions
        if a.required and a.option_strings
        for w in (a.option_strings[0], "csv")
    ]
    shell = ["bash"] if command == "completion" else wanted
    with pytest.raises(SystemExit) as ended:
        main([command, *shell, *needed, f"{slip}=1"])
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith(f"usage: lsengine {command} ")
    assert text.endswith(f'unrecognized arguments: {slip}=1; did you mean "{option}"?\n')


@pytest.mark.parametrize(
    ("arguments", "meant"), [(["evla"], "eval"), (["eval", "j", "--progress", "lnes"], "lines")]
)
def test_a_slip_in_a_word_names_what_was_meant(capsys, arguments, meant):
    """Of commands, and of what an option may be."""
    with pytest.raises(SystemExit):
        main(arguments)
    assert capsys.readouterr().err.endswith(f'did you mean "{meant}"?\n')


def test_an_option_before_the_command_is_none_of_the_command(capsys):
    """An argument too many has no hint, an unknown option of no command the usage of all."""
    with pytest.raises(SystemExit):
        main(["--vresion", "models"])
    text = capsys.readouterr().err
    assert text.startswith("usage: lsengine [-h]")
    assert text.endswith('--vresion; did you mean "--version"?\n')
    with pytest.raises(SystemExit):
        main(["status", "a.h5", "b.h5"])
    assert capsys.readouterr().err.endswith("unrecognized arguments: b.h5\n")
