"""`skyhold store voters add`"""

from __future__ import annotations

import click

from skyhold.cli import candidates
from skyhold.cli.arguments import author_option, reason_option
from skyhold.cli.command import Invocation, verb


@verb(
    click.Argument(["names"], nargs=-1, required=True, metavar="NAME...", shell_complete=candidates.buckets),
    author_option(),
    reason_option(),
    examples=("skyhold store voters add gcs-eu",),
    exits=(2, 3, 5, 6, 8, 9, 10),
    changes=True,
)
def command(session: Invocation, *, names: tuple[str, ...], author: str | None, reason: str) -> None:
    """Give buckets of the store a vote, as one change. Each is tried first: its conditional puts have to be atomic.
    Work goes on meanwhile, on every machine.

    A bucket that is not of the store yet comes by `skyhold bucket add`.
    """
    with session.store() as store:
        store.set_roles(dict.fromkeys(names, "voter"), author=author, reason=reason)
        voters = [bucket.location.name for bucket in store.configuration.buckets if bucket.role == "voter"]
    session.output.show(
        {"added": list(names), "voters": voters},
        quiet=voters,
        human=lambda: click.echo(f"The voters are {', '.join(voters)} now"),
    )
    session.output.next_step("skyhold sync   # what a voter is asked for, it should have")
