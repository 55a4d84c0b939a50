"""`skyhold connect`"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from skyhold import error_codes
from skyhold.cli.arguments import confirm, refuse_memory, yes_option
from skyhold.cli.command import Invocation, verb
from skyhold.cli.output import counted
from skyhold.errors import PermissionDenied

if TYPE_CHECKING:
    from skyhold.registry.store import Store
    from skyhold.store.settings import Settings

ROLLBACK: Final = "Give up the changes that this machine has seen and the buckets no longer contain?"


@verb(
    click.Argument(["url"]),
    click.Option(
        ["--trust"],
        multiple=True,
        metavar="DESTINATION",
        help="Agree to send this machine's credentials there, as in s3://?endpoint=https://minio.lab.",
    ),
    click.Option(
        ["--accept-rollback"],
        is_flag=True,
        help="Accept the refs as the buckets contain them now, although this machine has seen newer ones.",
    ),
    yes_option(),
    examples=("skyhold connect s3://models-eu/skyhold", "SKYHOLD_KEY_FILE=~/team.key skyhold connect ./cloud-a"),
    exits=(2, 3, 6, 8, 10),
    changes=True,
)
def command(session: Invocation, *, url: str, trust: tuple[str, ...], accept_rollback: bool, yes: bool) -> None:
    """Join an existing store by the URL of any of its buckets.

    The first bucket lists the others. The store is remembered on this machine: later commands need no --store while
    it is the only one.

    Credentials go to the vendors' own hosts and to URL. Where the store has buckets at other endpoints, or names
    credentials other than each vendor's default, this asks once, and names all of them; where it cannot ask, it needs
    --trust.

    A machine remembers the newest refs that it has seen, and refuses older ones. After a deliberate recovery, or where
    the newer refs are lost for good, --accept-rollback makes it forget that, once.
    """
    refuse_memory(url)
    from skyhold.cli.render import line, marked

    if accept_rollback:
        confirm(ROLLBACK, yes=yes)
    with session.unseal(
        session.settings(), lambda settings: _connect(session, url, settings, trust, accept_rollback)
    ) as joined:
        names = joined.bucket_names
        session.output.show(
            {"store": joined.id, "sealed": joined.sealed, "engine": joined.engine, "bucket_names": names},
            quiet=[joined.id],
            human=lambda: line(
                "Joined store ", marked(joined.id, "id"), f" of {counted(len(names), 'bucket')}: {', '.join(names)}"
            ),
        )
        session.output.next_step("skyhold list")


def _connect(session: Invocation, url: str, settings: Settings, trust: tuple[str, ...], accept_rollback: bool) -> Store:
    """Connect, and ask for missing consent on a terminal. The hints of one bucket about the others leave out their
    credentials, so the store's configuration may require a second question."""
    from skyhold.registry import lifecycle

    while True:
        try:
            return lifecycle.connect(url, settings=settings, trust=trust, accept_rollback=accept_rollback)
        except PermissionDenied as error:
            found = error.fields.get("destinations")
            wanted = [str(place) for place in found] if isinstance(found, list) else []
            plain = any("allow_http=true" in place for place in wanted)  # only who writes it out may have it
            askable = sys.stdin.isatty() and sys.stderr.isatty() and not session.output.json
            if error.code != error_codes.ENDPOINT_NOT_TRUSTED or plain or not askable or set(wanted) <= set(trust):
                raise
            click.echo("The store names these places for this machine's credentials:", err=True)
            for place in wanted:
                click.echo(f"  {place}", err=True)
            if not click.confirm("Send credentials there, now and later?", err=True):
                raise
            trust = (*trust, *wanted)
