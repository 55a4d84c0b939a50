"""`skyhold completion`"""

from __future__ import annotations

import click

from skyhold.cli.command import Invocation, verb


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
def command(session: Invocation, *, shell: str) -> None:
    """Print the script that makes a shell complete commands, options, repositories, refs and buckets.

    Names come from the store that the settings or `--store` name; where it does not answer at once, none are offered.
    """
    from skyhold.cli.shells import script

    del session
    click.echo(script(click.get_current_context().find_root().command, shell))
