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
    """Give buckets of the store a vote, as one change. Each is tested first: its conditional puts must be atomic.
    Work continues meanwhile, on every machine.

    `skyhold bucket add` adds a bucket that is not in the store yet.
    """
    with session.store() as store:
        store.set_roles(dict.fromkeys(names, "voter"), author=author, reason=reason)
        voters = [bucket.location.name for bucket in store.configuration.buckets if bucket.role == "voter"]
    session.output.show(
        {"added": list(names), "voters": voters},
        quiet=voters,
        human=lambda: click.echo(f"The voters are {', '.join(voters)} now"),
    )
    session.output.next_step("skyhold sync   # a voter should have every object")
