"""Completion for shells: commands, options, choices and file names, as the parser has them."""

from __future__ import annotations

import argparse
import re
import shlex
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    """An option of a command, and what may follow it."""

    names: tuple[str, ...]
    help: str
    values: bool  # whether anything follows
    words: tuple[str, ...]  # that may follow
    files: bool  # whether a file may follow
    repeats: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Command:
    """A command: its options, and what its other arguments are."""

    name: str
    help: str
    options: tuple[_Option, ...]
    words: tuple[str, ...]
    files: bool


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return the script that makes a shell complete a parser's commands: bash, zsh or fish."""
    subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    helps = {choice.dest: choice.help or "" for choice in subparsers._choices_actions}
    commands = [_command(name, helps[name], sub) for name, sub in subparsers.choices.items()]
    general = [_option("", action) for action in parser._actions if action.option_strings]
    return _SHELLS[shell](commands, general)


def _command(name: str, help: str, parser: argparse.ArgumentParser) -> _Command:
    places = [action for action in parser._actions if not action.option_strings]
    options = [_option(name, action) for action in parser._actions if action.option_strings]
    return _Command(
        name=name,
        help=_short(help),
        options=tuple(options),
        words=tuple(str(word) for action in places for word in action.choices or ()),
        files=any(action.choices is None for action in places),
    )


def _option(command: str, action: argparse.Action) -> _Option:
    named = WORDS.get(f"{command} {action.option_strings[-1]}".strip(), tuple)()
    return _Option(
        names=tuple(action.option_strings),
        help=_short(action.help or ""),
        values=action.nargs != 0,
        words=tuple(str(word) for word in action.choices or named),
        files=action.type is Path or action.dest == "style",
        repeats=isinstance(action, argparse._AppendAction),
    )


def _short(help: str) -> str:
    return textwrap.shorten(help, 72, placeholder=" ...")


def _kinds() -> Sequence[str]:
    from lsengine.render.request import KINDS

    return tuple(KINDS)


def _styles() -> Sequence[str]:
    from lsengine.render.style import STYLES

    return tuple(STYLES)


def _scales() -> Sequence[str]:
    from lsengine.render.style import SCALES

    return SCALES


def _formats() -> Sequence[str]:
    from lsengine.export.formats import FORMATS

    return tuple(FORMATS)


# Options whose words the parser leaves to those who obey them.
WORDS: dict[str, Callable[[], Sequence[str]]] = {
    "render --as": _kinds,
    "render --style": _styles,
    "render --scale": _scales,
    "export --to": _formats,
    "export --scale": _scales,
}


_BASH = """\
# Completion of lsengine for bash: eval "$(lsengine completion bash)"
_lsengine() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command= place
    if [[ $word = "=" ]]; then # bash parts --as=filled into three words
        word=
    elif [[ $before = "=" && $COMP_CWORD -gt 2 ]]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    for ((place = 1; place < COMP_CWORD; place++)); do
        if [[ ${COMP_WORDS[place]} != -* ]]; then command=${COMP_WORDS[place]} && break; fi
    done
    local words= files=
    case "$command $before" in
@VALUES@
        *) case $command in
@COMMANDS@
        esac ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    # With no word to offer, the shell itself offers files.
    if [[ -z $files ]]; then compopt +o default 2>/dev/null; fi
}
complete -o default -F _lsengine lsengine
"""


def _bash(commands: Sequence[_Command], general: Sequence[_Option]) -> str:
    values, cases = [], []
    for command in commands:
        for option in command.options:
            if option.values:
                at = " | ".join(f'"{command.name} {name}"' for name in option.names)
                values.append(f"        {at}) {_bash_answer(option.words, option.files)} ;;")
        names = [name for option in command.options for name in option.names]
        options, others = _bash_answer(names), _bash_answer(command.words, command.files)
        split = f"if [[ $word = -* ]]; then {options}; else {others}; fi"
        cases.append(f"            {command.name}) {split} ;;")
    first = [c.name for c in commands] + [name for option in general for name in option.names]
    cases.append(f'            "") {_bash_answer(first)} ;;')
    text = _BASH.replace("@VALUES@", "\n".join(values))
    return text.replace("@COMMANDS@", "\n".join(cases))


def _bash_answer(words: Sequence[str], files: bool = False) -> str:
    said = [f"words={shlex.quote(' '.join(words))}"] if words else []
    return " ".join([*said, *(["files=1"] if files else [])]) or ":"


_ZSH = """\
#compdef lsengine
# Completion of lsengine for zsh: eval "$(lsengine completion zsh)" after compinit, or this file
# as _lsengine in a folder of $fpath.
_lsengine() {
    local curcontext="$curcontext" state line
    typeset -A opt_args
    local -a commands=(
@COMMANDS@
    )
    _arguments -C @GENERAL@ '1: :->command' '*:: :->rest'
    case $state in
        command) _describe command commands ;;
        rest) case $words[1] in
@CASES@
        esac ;;
    esac
}
if [[ $funcstack[1] = _lsengine ]]; then _lsengine "$@"; else compdef _lsengine lsengine; fi
"""


def _zsh(commands: Sequence[_Command], general: Sequence[_Option]) -> str:
    listed, cases = [], []
    for command in commands:
        listed.append("        " + shlex.quote(f"{command.name}:{command.help}"))
        specs = [_zsh_option(option) for option in command.options]
        if command.files or command.words:
            specs.append(shlex.quote(f"*:argument:{_zsh_values(command.words, command.files)}"))
        cases.append(f"            {command.name}) _arguments -s {' '.join(specs)} ;;")
    text = _ZSH.replace("@COMMANDS@", "\n".join(listed)).replace("@CASES@", "\n".join(cases))
    return text.replace("@GENERAL@", " ".join(map(_zsh_option, general)))


def _zsh_option(option: _Option) -> str:
    explained = re.sub(r"([\[\]:\\])", r"\\\1", option.help)
    after = f":value:{_zsh_values(option.words, option.files)}" if option.values else ""
    others = " ".join(option.names)
    before = "*" if option.repeats else f"({others})" if others else ""
    specs = [shlex.quote(f"{before}{name}[{explained}]{after}") for name in option.names]
    return " ".join(specs)


def _zsh_values(words: Sequence[str], files: bool) -> str:
    if words and files:
        return rf'{{_alternative "words\:word\:({" ".join(words)})" "files\:file\:_files"}}'
    return f"({' '.join(words)})" if words else "_files" if files else " "


_FISH = """\
# Completion of lsengine for fish: lsengine completion fish | source
complete -c lsengine -f
"""


def _fish(commands: Sequence[_Command], general: Sequence[_Option]) -> str:
    lines = [_fish_option("__fish_use_subcommand", option) for option in general]
    for command in commands:
        lines.append(
            "complete -c lsengine -n __fish_use_subcommand "
            f"-a {command.name} -d {_fish_quoted(command.help)}"
        )
        seen = f"'__fish_seen_subcommand_from {command.name}'"
        lines += [_fish_option(seen, option) for option in command.options]
        if command.words:
            words = _fish_quoted(" ".join(command.words))
            lines.append(f"complete -c lsengine -n {seen} -a {words}")
        if command.files:
            lines.append(f"complete -c lsengine -n {seen} -F")
    return _FISH + "\n".join(lines) + "\n"


def _fish_option(condition: str, option: _Option) -> str:
    names = [f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names]
    after = ["-r -F" if option.files else "-x"] if option.values else []
    after += [f"-a {_fish_quoted(' '.join(option.words))}"] if option.words else []
    words = [*names, *after, f"-d {_fish_quoted(option.help)}"]
    return f"complete -c lsengine -n {condition} {' '.join(words)}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
SHELLS = tuple(_SHELLS)
