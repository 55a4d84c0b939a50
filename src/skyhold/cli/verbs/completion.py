"""`skyhold completion`"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from skyhold.cli.command import Session, verb

if TYPE_CHECKING:
    from click.shell_completion import ShellComplete


@verb(
    click.Argument(["shell"], type=click.Choice(["bash", "zsh", "fish"])),
    examples=(
        "skyhold completion bash > ~/.local/share/bash-completion/completions/skyhold",
        "skyhold completion zsh > ~/.zfunc/_skyhold",
        "skyhold completion fish > ~/.config/fish/completions/skyhold.fish",
    ),
    exits=(2,),
    answers=False,
)
def command(session: Session, *, shell: str) -> None:
    """Print the script that makes a shell complete commands and options of skyhold."""
    from click.shell_completion import get_completion_class

    from skyhold.cli.group import skyhold
    from skyhold.cli.main import COMPLETION_VARIABLE, PROGRAM

    completion = cast("type[ShellComplete]", get_completion_class(shell))
    del session
    click.echo(completion(skyhold, {}, PROGRAM, COMPLETION_VARIABLE).source())
