"""`skyhold cat`"""

from __future__ import annotations

import click

from skyhold.cli.arguments import Reference, reference_argument
from skyhold.cli.command import Invocation, verb
from skyhold.cli.output import write_bytes
from skyhold.units import MIB


@verb(
    reference_argument(),
    click.Argument(["path"], metavar="PATH"),
    examples=(
        "skyhold cat fraud/scorer@champion README.md",
        "skyhold cat fraud/scorer@v1.2 model.safetensors > model.safetensors",
    ),
    exits=(2, 3, 6, 8, 10, 141),
    answers=False,
    reads=True,
)
def command(session: Invocation, *, reference: Reference, path: str) -> None:
    """Write a file of a version to stdout.

    It is fetched while it is written, in bounded memory. Each chunk is checked before it is written, and the whole at
    its end: after any status but 0, what was written is not the file. Without @REF it is the branch `main`.
    """
    with (
        session.store(offline=reference.is_digest) as store,
        store.repository(reference.repository).open(reference.ref, path) as file,
    ):
        write_bytes(iter(lambda: file.read(8 * MIB), b""))
