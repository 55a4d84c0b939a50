"""`skyhold bucket remove`"""

from __future__ import annotations

import click

from skyhold.cli.arguments import bucket_argument, confirm, yes_option
from skyhold.cli.command import Session, verb


@verb(
    bucket_argument(),
    click.Option(["--force"], is_flag=True, help="Also where versions are then less durable than their policy says."),
    yes_option(),
    examples=("skyhold bucket remove gcs-eu", "skyhold bucket remove lost-cloud --force --yes"),
    exits=(2, 3, 5, 6, 8, 9),
)
def command(session: Session, *, name: str, force: bool, yes: bool) -> None:
    """Take a bucket out of the store. What lies in it is left there."""
    confirm(f"Take bucket {name} out of the store?", yes=yes)
    with session.store() as store:
        store.remove_bucket(name, force=force)
        names = store.bucket_names
    session.output.show(
        {"bucket": name, "removed": True, "bucket_names": names},
        quiet=[name],
        human=lambda: click.echo(f"Removed bucket {name}; the store has {len(names)} now: {', '.join(names)}"),
    )
    session.output.next_step("skyhold status")
