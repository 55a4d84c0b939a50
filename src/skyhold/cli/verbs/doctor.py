"""`skyhold doctor`"""

from __future__ import annotations

from skyhold.cli.command import Session, verb


@verb(examples=("skyhold doctor", "skyhold doctor --json"), exits=(2, 3, 6, 8, 10))
def command(session: Session) -> None:
    """Examine this machine's set-up: settings and where each came from, keys, extras, state and cache folders, free
    space, and how each bucket answers. It changes nothing and prints no secret."""
