"""The contended admission test of every emulator, as the table of docs/consensus/admission.md:
`python -m tests.torture.admission`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from skyhold.buckets.admission import AdmissionVerdict, admit
from skyhold.buckets.location import parse_location
from skyhold.buckets.open import create_bucket, open_bucket
from tests import servers
from tests.torture.clouds import CONTAINER, SERVER_KINDS, provide_credentials
from tests.torture.engines import Place


def places(folder: Path) -> Iterator[Place]:
    """Each emulator, started when it is asked for; a folder at last."""
    for name, kind in SERVER_KINDS.items():
        server = kind.start().with_bucket(CONTAINER)
        yield kind.place(name, server, server.url)
    seaweedfs = servers.seaweedfs().with_bucket(CONTAINER)
    yield Place("seaweedfs", f"s3://{CONTAINER}/voter", seaweedfs.url, "env:TORTURE_S3")
    place = Place("folder", folder.as_uri())
    create_bucket(parse_location(place.url, name=place.name))
    yield place


def to_row(name: str, verdict: AdmissionVerdict) -> str:
    """A row of the table; the first reason stands for all."""
    said = "admitted" if verdict.admitted else f"refused: {verdict.reasons[0]}"
    figures = (verdict.wins, verdict.losses, verdict.unknowns, verdict.unavailable, verdict.hangs)
    cells = [name, f"{verdict.rounds} × {verdict.clients}", *(f"{figure:,}" for figure in figures)]
    return "| " + " | ".join([*cells, f"{verdict.duration_s:.0f} s", said]) + " |"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m tests.torture.admission", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args(arguments)
    provide_credentials()
    print("| store | rounds × clients | won | lost | unknown | not taken | hung | took | verdict |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for place in places(Path(folder) / "voter"):
            location = parse_location(
                place.url, endpoint=place.endpoint, credentials=place.credentials, name=place.name
            )
            with open_bucket(location) as bucket:
                print(to_row(place.name, admit(bucket, options.rounds, options.clients)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
