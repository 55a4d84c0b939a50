"""`skyhold status`"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skyhold.cli.command import Invocation, verb
from skyhold.cli.output import counted

if TYPE_CHECKING:
    from rich.text import Text

    from skyhold.registry.status import BucketStatus, StoreStatus


@verb(examples=("skyhold status", "skyhold status --json"), exits=(2, 3, 6, 8, 10))
def command(session: Invocation) -> None:
    """Show the state of the store: for each bucket whether it is reachable, what it lacks, and whether its copies of
    the registers are intact; for each repository whether its versions are durable to its policy; where the refs live,
    how many voters answer, what each has accepted (`skyhold store voters show` shows more), and the last decision, with
    its time and author.

    Where something is damaged or lost in every bucket it names that, and ends with status 10. It uses listings and
    reads no packs: `skyhold verify --deep` does."""
    from skyhold.cli.findings import refuse_unsound, way_out

    with session.store() as store:
        status = store.status()
    session.output.show(status, quiet=[], human=lambda: _show(status))
    refuse_unsound(0, {}, status.damage, hint=way_out(status.unread) or "skyhold verify")


def _state(bucket: BucketStatus) -> Text:
    from skyhold.cli.render import marked

    if bucket.error is not None:
        return marked(bucket.error, "bad")
    if bucket.registers:
        copies = counted(len(bucket.registers), "copy of a register", "copies of registers")
        return marked(f"{copies} damaged or missing", "bad")
    return marked("lagging", "warn") if bucket.missing else marked("current", "good")


def _show(status: StoreStatus) -> None:
    from skyhold.cli.findings import show_damage
    from skyhold.cli.render import line, marked, table
    from skyhold.cli.voting import ballots, last_decision, summary
    from skyhold.units import format_bytes

    line("Store ", marked(status.store, "id"), ", ", "sealed" if status.sealed else "not sealed")
    mark = "good" if status.engine.quorum in {None, "whole"} else "warn"
    line("Registers ", marked(summary(status.engine), mark))
    decision = last_decision(status.engine)
    if decision is not None:
        line("Last decision: ", decision)
    line()
    votes = ballots(status.engine)
    buckets: list[tuple[str | Text, ...]] = [
        (
            marked(bucket.name, "name"),
            bucket.provider,
            bucket.region or "-",
            str(bucket.objects),
            format_bytes(bucket.held_bytes),
            str(bucket.missing) if bucket.error is None else "?",
            *([votes.get(bucket.name, "-")] if votes else []),
            _state(bucket),
        )
        for bucket in status.buckets
    ]
    numbers = ("objects", "bytes", "missing")
    voting = ["accepted ballots"] if votes else []
    table(["bucket", "provider", "region", *numbers, *voting, "state"], buckets, right=numbers)
    for bucket in status.buckets:
        if bucket.hint is not None:
            line(marked("hint: ", "warn"), f"bucket {bucket.name}: {bucket.hint}")
    if status.repositories:
        line()
        rows = [
            (
                marked(item.name, "name"),
                str(item.versions),
                ", ".join(item.complete_in) or "none",
                marked("durable", "good") if item.durable else marked("not durable", "bad"),
                item.detail,
            )
            for item in status.repositories
        ]
        table(["repository", "versions", "complete in", "policy", "detail"], rows, right=("versions",))
    show_damage(status.damage)
