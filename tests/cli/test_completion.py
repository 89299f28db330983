"""Completion, in real shells that think that somebody types."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess

import pytest

from lsengine import cli
from lsengine.cli import completion, main

pexpect = pytest.importorskip("pexpect")

# How a shell starts without the user's settings, and what `lsengine` is there: it says what it got.
SHELLS = {
    "bash": (
        "bash --norc --noprofile -i",
        "bind 'set enable-bracketed-paste off'; lsengine() { printf '<%s>' got \"$@\"; echo; }",
    ),
    "zsh": (
        "zsh -f -i",
        "autoload -U compinit; compinit -D -u; unset zle_bracketed_paste; "
        "lsengine() { printf '<%s>' got \"$@\"; echo; }",
    ),
    "fish": ("fish --no-config -i", "function lsengine; printf '<%s>' got $argv; echo; end"),
}

TYPED = {  # what is typed before the tabulator, and what the command gets
    "rend": ["render"],
    "--ver": ["--version"],
    "render --wat": ["render", "--watch"],
    "render --as fil": ["render", "--as", "filled"],
    "render a.h5 --style pap": ["render", "a.h5", "--style", "paper"],
    "render my": ["render", "my surface.h5"],
    "eval job": ["eval", "job.yaml"],
    "eval job.yaml --prog": ["eval", "job.yaml", "--progress"],
    "eval --only x --retr": ["eval", "--only", "x", "--retry-failed"],
    "eval --extend job": ["eval", "--extend", "job.yaml"],
    "status --count missing-": ["status", "--count", "missing-cells"],
    "export --to net": ["export", "--to", "netcdf"],
    "merge -o job": ["merge", "-o", "job.yaml"],
    "doctor --output fold": ["doctor", "--output", "folder"],
    "completion z": ["completion", "zsh"],
    "eval --chunk jo": ["eval", "--chunk", "jo"],  # a number: no file is offered
    "models jo": ["models", "jo"],  # takes no argument
}


@pytest.fixture(scope="module", params=SHELLS)
def shell(request, tmp_path_factory):
    """A shell at work in a folder with a job, a surface and a folder."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    folder = tmp_path_factory.mktemp("typed")
    for name in ("job.yaml", "my surface.h5"):
        (folder / name).touch()
    (folder / "folder").mkdir()
    script = completion.script(request.param, cli.build_parser())
    (folder.parent / f"script.{request.param}").write_text(script)
    start, prepare = SHELLS[request.param]
    environment = {"PATH": "/usr/bin:/bin", "TERM": "dumb", "HOME": str(folder)}
    child = pexpect.spawn(
        start, cwd=folder, env=environment, encoding="utf-8", timeout=60, dimensions=(40, 200)
    )
    child.sendline(f"{prepare}; source {folder.parent}/script.{request.param}; lsengine ready")
    child.expect_exact("<got><ready>")
    yield child
    child.close(force=True)


@pytest.mark.parametrize("typed", TYPED)
def test_what_is_typed_is_completed(shell, typed):
    """One tabulator completes commands, options, choices and names of files, one with a space."""
    shell.send(f"lsengine {typed}\t")
    shell.send("\r")
    shell.expect("<got>([^\r\n]*)[\r\n]")
    said = shell.match[1].replace("/>", ">")  # of a folder, which zsh takes away itself
    assert said == "".join(f"<{word}>" for word in TYPED[typed])


def test_bash_offers_every_option_of_every_command():
    """All that the parser has, and no more: one bash is asked for everything."""
    parser = cli.build_parser()
    action = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    expected = {"": [*action.choices, *(n for a in parser._actions for n in a.option_strings)]}
    for name, command in action.choices.items():
        expected[f"{name} -"] = [n for a in command._actions for n in a.option_strings]
        for option in command._actions:
            for text in option.option_strings:
                if option.choices:
                    expected[f"{name} {text} "] = [*option.choices]
                    expected[f"{name} {text} = "] = [*option.choices]
    asked = [completion.script("bash", parser), "compopt() { :; }"]
    for line in expected:
        words = shlex.join(["lsengine", *line.split(" ")])
        at = len(line.split(" "))
        asked.append(f"COMP_WORDS=({words}) COMP_CWORD={at}; _lsengine; echo ${{COMPREPLY[*]}}")
    done = subprocess.run(["bash", "-c", "\n".join(asked)], check=True, capture_output=True)
    answers = dict(zip(expected, done.stdout.decode().splitlines(), strict=True))
    assert answers == {line: " ".join(words) for line, words in expected.items()}


def test_the_words_that_the_parser_does_not_know_belong_to_options_that_it_has():
    """An option that is renamed is renamed here, too; the words are those that are obeyed."""
    parser = cli.build_parser()
    action = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for at, words in completion.WORDS.items():
        name, option = at.split()
        assert option in action.choices[name]._option_string_actions
        assert len(words()) > 2


@pytest.mark.parametrize("name", completion.SHELLS)
def test_the_command_prints_the_script(name, capsys):
    """Ready for `eval`; the parser has the shells that there are scripts for."""
    assert main(["completion", name]) == 0
    assert capsys.readouterr().out == completion.script(name, cli.build_parser())
