"""`skyhold health`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from skyhold.cli.command import Invocation, verb

if TYPE_CHECKING:
    from rich.text import Text

    from skyhold.store.health import BucketHealth, StoreHealth


@verb(examples=("skyhold health", "skyhold health --json"), exits=(1, 2, 3, 6, 8, 10))
def command(session: Invocation) -> None:
    """Ask whether every bucket and every voter answers, and whether changes can be decided.

    It costs a few requests for each bucket, regardless of the size of the store, so a monitor can run it often. It
    does not examine what the buckets contain: `skyhold status` and `skyhold verify` do.

    Where something does not answer, or is no longer a member, it ends with status 1.
    """
    with session.store() as store:
        health = store.health()
    session.output.show(health, quiet=[], human=lambda: _show(health))
    if not health.healthy:
        click.get_current_context().exit(1)


def _show(health: StoreHealth) -> None:
    from skyhold.cli.render import line, marked, table
    from skyhold.cli.voting import summary

    state = ("healthy", "good") if health.healthy else ("works, with faults", "warn")
    line("Store ", marked(health.store, "id"), ": ", marked(*(state if health.works else ("no majority", "bad"))))
    line("Registers ", summary(health.engine))
    line()
    rows = [
        (marked(bucket.name, "name"), f"{1000 * bucket.took_s:.0f} ms", _state(bucket)) for bucket in health.buckets
    ]
    table(["bucket", "answer", "state"], rows, right=("answer",))
    for bucket in health.buckets:
        if bucket.hint is not None:
            line(marked("hint: ", "warn"), f"bucket {bucket.name}: {bucket.hint}")


def _state(bucket: BucketHealth) -> Text:
    from skyhold.cli.render import marked

    return marked("member", "good") if bucket.error is None else marked(bucket.error, "bad")
