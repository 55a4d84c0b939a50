"""How the engine of a store and its voters are shown on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

    from skyhold.store.engine_status import EngineStatus, VoterStatus

WHERE = {
    "sqlite": "on this machine (sqlite)",
    "buckets": "in the buckets, by Paxos",
    "etcd": "in an etcd cluster, by Raft",
}


def summary(engine: EngineStatus) -> str:
    """One line: where the registers live, and whether enough voters answer."""
    text = f"{WHERE[engine.kind]}, epoch {engine.epoch}"
    if engine.quorum is None:
        return text
    answering = sum(voter.error is None for voter in engine.voters)
    if engine.kind == "etcd":
        return f"{text}; {answering} of {len(engine.voters)} nodes answer"
    return f"{text}; {answering} of {len(engine.voters)} voters answer, {engine.needed} are needed"


def last_decision(engine: EngineStatus) -> str | None:
    """The newest decision that a majority reports, and who wrote it, if that is known."""
    if not engine.decisions:
        return None
    newest = max(engine.decisions, key=lambda decision: decision.time or "")
    text = f"register {newest.register}, version {newest.version}"
    return text if newest.time is None else f"{text}, at {newest.time} by {newest.writer}"


def ballots(engine: EngineStatus) -> dict[str, str]:
    """By bucket that votes, the ballots that it has accepted of the registers that every store has. Nothing where
    buckets do not vote."""
    if engine.kind != "buckets":
        return {}
    found = {}
    for voter in engine.voters:
        accepted = ", ".join(f"{vote.register} {vote.accepted}" for vote in voter.votes if vote.accepted)
        found[voter.name] = "takes no part" if voter.error is not None else accepted or "none"
    return found


def show_voters(engine: EngineStatus) -> None:
    """A table of voters: what each promised and accepted of the registers that every store has."""
    from skyhold.cli.render import line, marked, table

    rows = []
    for voter in engine.voters:
        for number, vote in enumerate(voter.votes):
            rows.append(
                (
                    marked(voter.name, "name") if number == 0 else "",
                    _state(voter) if number == 0 else "",
                    vote.register,
                    *("-" if value is None else str(value) for value in (vote.promised, vote.accepted, vote.version)),
                    vote.time or "-",
                    vote.writer or "-",
                )
            )
        if voter.error is not None:
            rows.append((marked(voter.name, "name"), _state(voter), "", "", "", "", "", ""))
    numbers = ("promised", "accepted", "version")
    table(["voter", "state", "register", *numbers, "written", "by"], rows, right=numbers)
    for voter in engine.voters:
        if voter.error is not None:
            line(marked(f"{voter.name}: ", "bad"), voter.error)
            if voter.hint:
                line(marked("hint: ", "warn"), voter.hint)


def _state(voter: VoterStatus) -> Text:
    from skyhold.cli.render import marked

    return marked("answers", "good") if voter.error is None else marked("takes no part", "bad")
