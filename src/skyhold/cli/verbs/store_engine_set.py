"""`skyhold store engine set`"""

from __future__ import annotations

import click

from skyhold.cli.arguments import author_option, confirm, reason_option, yes_option
from skyhold.cli.command import Invocation, verb
from skyhold.cli.output import counted


@verb(
    click.Argument(["engine"], metavar="sqlite|buckets|etcds://…"),
    yes_option(),
    author_option(),
    reason_option(),
    examples=(
        "skyhold store engine set buckets",
        "skyhold store engine set etcds://etcd-1:2379,etcd-2:2379,etcd-3:2379/models",
        "skyhold store engine set sqlite --yes",
    ),
    exits=(2, 3, 5, 6, 8, 9, 10),
    changes=True,
)
def command(session: Invocation, *, engine: str, yes: bool, author: str | None, reason: str) -> None:
    """Move the refs, their history and the configuration to another engine: into the buckets, for every machine that
    connects; into an etcd cluster, for every machine that reaches it, as configured by [etcd] in its skyhold.toml; or
    onto this machine (sqlite), which is then the only one that reads and changes them.

    The former engine is sealed first, and compared afterwards: nothing is written in between. A move that was
    interrupted is finished by the next command, on any machine with access.
    """
    if engine == "sqlite":
        confirm("From then on this machine alone reads and changes refs. Go on?", yes=yes)
    with session.store() as store:
        moved = store.move_engine(engine, author=author, reason=reason)
    session.output.show(
        moved,
        quiet=[moved.engine],
        human=lambda: click.echo(
            f"Moved {counted(moved.registers, 'register')} with {counted(moved.changes, 'change')} from {moved.before} "
            f"to {moved.engine}; compared, and the same"
        ),
    )
    session.output.next_step("skyhold status")
