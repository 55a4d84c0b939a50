"""Command lines of hostile texts, to every command: an error with its status, and no defect."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

from skyhold.cli.group import skyhold as program
from skyhold.cli.main import main
from tests.cli.models import write_model
from tests.cli.running import Shell

SEED: Final = 20261130
LINES: Final = 12
"""Of each command."""
REPOSITORY: Final = "fraud/scorer"


def commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        elif command is not None:
            yield (*words, name), command


TEXTS: Final = [
    "", " ", "x", "-", "--", "a/b", "fraud/scorer", "fraud/scorer@", "fraud/scorer@~9", "@", "=", "a=", "a:=", "a:=[",
    "a=\udc80", "\udc80", "10" * 300, "-1", "9" * 30, "nan", "..", "/dev/null", "model", "s3://[", "s3://b?region=%ff",
    "file:///%00", "etcd://[", "http://\udc80", "\x1b[31m", "x" * 5000, "env:", "file:/dev/zero", "∞", "٣",
]  # fmt: skip
"""As the shell hands them over; bytes that are no UTF-8 arrive as lone surrogates."""


@pytest.mark.parametrize("words", [words for words, _ in commands(program)], ids=" ".join)
def test_command_line_of_hostile_texts_ends_without_a_defect(
    words: tuple[str, ...], skyhold: Shell, capfd: pytest.CaptureFixture[str]
) -> None:
    """A random command line each time, of the options that the command has; the seed is in the name of the module."""
    skyhold("init", "a", "b", "c")
    write_model(Path("model"), rows=16)
    skyhold("push", REPOSITORY, "model", "--alias", "champion")
    command = dict(commands(program))[words]
    choose = random.Random(f"{SEED} {words}")
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    for _ in range(LINES):
        line = [choose.choice(TEXTS) for _ in range(choose.randrange(3))]
        if choose.random() < 0.7:
            line = [choose.choice(["fraud/scorer", "fraud/scorer@main", "model", "a"]), *line]
        for option in choose.sample(options, min(len(options), choose.randrange(4))):
            line += [option.opts[0]] if option.is_flag else [option.opts[0], choose.choice(TEXTS)]
        choose.shuffle(line)
        capfd.readouterr()
        status = main([*words, *line])
        err = capfd.readouterr().err
        assert status in {0, 2, 3, 4, 5, 6, 7, 8, 9, 10}, f"{words} {line} (seed {SEED}): {status}\n{err}"
        assert "Traceback" not in err or "--verbose" in line
