"""`skyhold store voters remove`"""

from __future__ import annotations

import click

from skyhold.cli import candidates
from skyhold.cli.arguments import author_option, reason_option
from skyhold.cli.command import Invocation, verb


@verb(
    click.Argument(["names"], nargs=-1, required=True, metavar="NAME...", shell_complete=candidates.buckets),
    author_option(),
    reason_option(),
    examples=("skyhold store voters remove gcs-eu", "skyhold store voters remove lost-cloud lost-too"),
    exits=(2, 3, 5, 6, 8, 9, 10),
    changes=True,
)
def command(session: Invocation, *, names: tuple[str, ...], author: str | None, reason: str) -> None:
    """Take the vote of buckets, as one change; they stay in the store and keep packs. A majority of the present voters
    must answer. Work goes on meanwhile, on every machine."""
    with session.store() as store:
        store.set_roles(dict.fromkeys(names, "packs"), author=author, reason=reason)
        voters = [bucket.location.name for bucket in store.configuration.buckets if bucket.role == "voter"]
    session.output.show(
        {"removed": list(names), "voters": voters},
        quiet=voters,
        human=lambda: click.echo(f"The voters are {', '.join(voters)} now"),
    )
