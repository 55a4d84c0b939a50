"""`skyhold status`"""

from __future__ import annotations

from skyhold.cli.command import Session, verb


@verb(examples=("skyhold status", "skyhold status --json"), exits=(2, 3, 6, 8, 10))
def command(session: Session) -> None:
    """Show how the store is: of each bucket whether it can be reached and what it lacks, of each repository whether its
    versions are durable to its policy."""
    with session.store() as store:
        status = store.status()
    session.output.show(status.to_json(), quiet=[], human=lambda: _tell(status))
