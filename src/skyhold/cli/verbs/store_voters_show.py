"""`skyhold store voters show`"""

from __future__ import annotations

from skyhold.cli.command import Invocation, verb
from skyhold.cli.voting import last_decision, show_voters, summary


@verb(examples=("skyhold store voters show", "skyhold store voters show --json"), exits=(2, 3, 6, 8, 10), reads=True)
def command(session: Invocation) -> None:
    """Show the voters of the store: how each answers, the ballots that it has promised and accepted of the two
    registers that every store has, and what was decided last, when and by whom."""
    with session.store() as store:
        engine = store.engine_status()

    def show() -> None:
        from skyhold.cli.render import line

        line("Registers: ", summary(engine))
        if engine.voters:
            line("Last decision: ", last_decision(engine) or "none that a majority reports now")
            line()
            show_voters(engine)

    session.output.show(engine, quiet=[voter.name for voter in engine.voters], human=show)
