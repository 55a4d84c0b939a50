"""`skyhold store voters replace`"""

from __future__ import annotations

import click

from skyhold.cli import candidates
from skyhold.cli.arguments import author_option, reason_option
from skyhold.cli.command import Invocation, verb


@verb(
    click.Argument(["name"], shell_complete=candidates.buckets),
    click.Argument(["by"], required=False, metavar="[BY]", shell_complete=candidates.buckets),
    author_option(),
    reason_option(),
    examples=("skyhold store voters replace gcs-eu", "skyhold store voters replace gcs-eu azure-us"),
    exits=(2, 3, 5, 6, 8, 9, 10),
    changes=True,
)
def command(session: Invocation, *, name: str, by: str | None, author: str | None, reason: str) -> None:
    """Admit again a voter that was emptied, restored from a backup, or exchanged: it starts anew, since its
    promises are lost. With BY, that bucket of the store votes in its place from now on.

    A majority of the voters must answer. Work continues meanwhile, on every machine.
    """
    with session.store() as store:
        store.replace_voter(name, by, author=author, reason=reason)
        voters = [bucket.location.name for bucket in store.configuration.buckets if bucket.role == "voter"]
    done = f"{name} was admitted again" if by is None else f"{by} votes in the place of {name}"
    session.output.show(
        {"replaced": name, "by": by or name, "voters": voters},
        quiet=voters,
        human=lambda: click.echo(f"{done}; the voters are {', '.join(voters)} now"),
    )
    session.output.next_step("skyhold sync   # a voter should have every object")
