"""`skyhold bucket list`"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skyhold.cli.command import Invocation, verb

if TYPE_CHECKING:
    from skyhold.store.configuration import ConfiguredBucket


@verb(examples=("skyhold bucket list", "skyhold bucket list --json"), exits=(2, 3, 6, 8, 10), reads=True)
def command(session: Invocation) -> None:
    """List the store's buckets as its configuration has them. `skyhold status` reports their state."""
    with session.store() as store:
        buckets = store.configuration.buckets
    session.output.show(
        {"buckets": [{**bucket.location.to_json(), "role": bucket.role} for bucket in buckets]},
        quiet=[bucket.location.name for bucket in buckets],
        human=lambda: _show(buckets),
    )


def _show(buckets: Sequence[ConfiguredBucket]) -> None:
    from skyhold.cli.render import marked, table

    endpoints = any(bucket.location.endpoint for bucket in buckets)
    rows = []
    for place, role in ((bucket.location, bucket.role) for bucket in buckets):
        endpoint = [place.endpoint or "-"] if endpoints else []
        where = (place.url, *endpoint, place.credentials)
        rows.append((marked(place.name, "name"), role, place.provider, place.region or "-", *where))
    headers = ["bucket", "role", "provider", "region", "url", *(["endpoint"] if endpoints else []), "credentials"]
    table(headers, rows)
