"""The shells that complete command lines of this program."""

from __future__ import annotations

import os
from typing import Any, Final, cast

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from skyhold.cli.program import COMPLETION_VARIABLE, PROGRAM

_BASH: Final = """\
%(complete_func)s() {
    local IFS=$'\\n' answer kind value
    answer=$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1")
    COMPREPLY=()
    while IFS=',' read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done <<< "$answer"
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _OptionWithValue(ShellComplete):
    """`--option=beginning` is one word to a shell, and what takes its place must be the whole of it."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[Any]]:
        option, equals, value = incomplete.partition("=")
        if not equals or not option.startswith("--"):
            return super().get_completions(args, incomplete)
        found = super().get_completions([*args, option], value)
        return [CompletionItem(f"{option}={item.value}", item.type, item.help) for item in found]


class BashWords(_OptionWithValue, BashComplete):
    """Bash, whose readline breaks words at `@` and `=` and puts a candidate in the place of the last piece. So the line
    is split into words here, and of a candidate only that piece is given."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line, breaks = os.environ["COMP_LINE"], os.environ.get("COMP_WORDBREAKS", "")
        words = split_arg_string(line)[1:]
        incomplete = words.pop() if words and not line[-1].isspace() else ""
        at = max((incomplete.rfind(mark) for mark in breaks), default=-1)
        self._kept = at if incomplete[at : at + 1] == "@" else at + 1  # readline counts `@` to the piece it begins
        return words, incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        return f"{item.type},{item.value[self._kept :]}"


class ZshWords(_OptionWithValue, ZshComplete):
    """Zsh."""


class FishWords(_OptionWithValue, FishComplete):
    """Fish."""


def add_shells() -> None:
    """Let Click know these shells, in the place of its own."""
    for shell in (BashWords, ZshWords, FishWords):
        add_completion_class(shell)


def script(program: click.Command, shell: str) -> str:
    """What a shell (bash, zsh or fish) must read to complete command lines of the program."""
    add_shells()
    completion = cast("type[ShellComplete]", get_completion_class(shell))
    return completion(program, {}, PROGRAM, COMPLETION_VARIABLE).source()
