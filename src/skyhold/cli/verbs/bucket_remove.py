"""`skyhold bucket remove`"""

from __future__ import annotations

import click

from skyhold.cli import candidates
from skyhold.cli.arguments import author_option, confirm, reason_option, yes_option
from skyhold.cli.command import Invocation, verb
from skyhold.cli.output import counted


@verb(
    click.Argument(["names"], nargs=-1, required=True, metavar="NAME...", shell_complete=candidates.buckets),
    click.Option(["--force"], is_flag=True, help="Also where the others lack something, or one copy is left."),
    yes_option(),
    author_option(),
    reason_option(),
    examples=("skyhold bucket remove gcs-eu", "skyhold bucket remove lost-cloud lost-too --force --yes"),
    exits=(2, 3, 5, 6, 8, 9),
    changes=True,
)
def command(
    session: Invocation, *, names: tuple[str, ...], force: bool, yes: bool, author: str | None, reason: str
) -> None:
    """Remove buckets from the store. Their objects are left in place.

    Several are removed as one change. Where some are lost for good, name them all: every bucket that stays must
    accept the change, and a lost one cannot.
    """
    leaving = ", ".join(names)
    confirm(f"Take {leaving} out of the store?", yes=yes)
    with session.store() as store:
        store.remove_bucket(*names, force=force, author=author, reason=reason)
        left = store.bucket_names
    session.output.show(
        {"removed": list(names), "bucket_names": left},
        quiet=names,
        human=lambda: click.echo(
            f"Removed {leaving}; the store has {counted(len(left), 'bucket')} now: {', '.join(left)}"
        ),
    )
    session.output.next_step("skyhold status")
