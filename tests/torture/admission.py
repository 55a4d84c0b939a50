"""The contended admission test of every emulator, as the table of docs/consensus/admission.md:
`python -m tests.torture.admission`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from skyhold.buckets.admission import AdmissionVerdict, admit
from skyhold.buckets.location import parse_location
from skyhold.buckets.open import create_bucket, open_bucket
from tests import servers
from tests.torture.clouds import CONTAINER, SERVER_KINDS, provide_credentials
from tests.torture.engines import Place

STORES: Final = (*SERVER_KINDS, "seaweedfs", "folder")


def place_of(store: str, folder: Path) -> Place:
    """Where a store is, which is started for it."""
    if store == "folder":
        place = Place(store, folder.as_uri())
        create_bucket(parse_location(place.url, name=store))
        return place
    if store == "seaweedfs":
        return Place(store, f"s3://{CONTAINER}/voter", servers.seaweedfs().with_bucket(CONTAINER).url, "env:TORTURE_S3")
    server = SERVER_KINDS[store].start().with_bucket(CONTAINER)
    return SERVER_KINDS[store].place(store, server, server.url)


def to_row(name: str, verdict: AdmissionVerdict) -> str:
    """A row of the table; only with the first reason."""
    outcome = "admitted" if verdict.admitted else f"refused: {verdict.reasons[0]}"
    figures = (verdict.wins, verdict.losses, verdict.unknowns, verdict.unavailable, verdict.hangs)
    cells = [name, f"{verdict.rounds} × {verdict.clients}", *(f"{figure:,}" for figure in figures)]
    return "| " + " | ".join([*cells, f"{verdict.duration_s:.0f} s", outcome]) + " |"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m tests.torture.admission", description=__doc__)
    parser.add_argument("stores", nargs="*", default=STORES, metavar="STORE", help="all of them by default")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.stores) - set(STORES)):
        parser.error(f"No store is called {', '.join(unknown)}: choose from {', '.join(STORES)}")
    provide_credentials()
    print("| store | rounds × clients | won | lost | unknown | not taken | hung | took | verdict |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for store in options.stores:
            place = place_of(store, Path(folder) / "voter")
            location = parse_location(place.url, endpoint=place.endpoint, credentials=place.credentials, name=store)
            with open_bucket(location) as bucket:
                print(to_row(store, admit(bucket, options.rounds, options.clients)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
