"""`skyhold store engine show`"""

from __future__ import annotations

import click

from skyhold.cli.command import Invocation, verb
from skyhold.cli.voting import summary


@verb(examples=("skyhold store engine show", "skyhold store engine show --json"), exits=(2, 3, 6, 8, 10), reads=True)
def command(session: Invocation) -> None:
    """Show where the refs live. `skyhold store voters show` shows the voters."""
    with session.store() as store:
        engine = store.engine_status()
    session.output.show(
        {"kind": engine.kind, "epoch": engine.epoch, "quorum": engine.quorum},
        quiet=[engine.kind],
        human=lambda: click.echo(f"Registers: {summary(engine)}"),
    )
