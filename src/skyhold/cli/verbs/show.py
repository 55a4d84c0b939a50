"""`skyhold show`"""

from __future__ import annotations

from skyhold.cli.arguments import Reference, reference_argument
from skyhold.cli.command import Session, verb


@verb(
    reference_argument(),
    examples=("skyhold show fraud/scorer@champion", "skyhold show fraud/scorer@main~1 --json"),
    exits=(2, 3, 6, 8, 10),
)
def command(session: Session, reference: Reference) -> None:
    """Show one version: message, author, parents, files, parameters, lineage, metrics, notes, refs, model card.

    Without @REF it is the branch `main`.
    """
    with session.store() as store:
        version = store.repository(reference.repository).show(reference.ref)
    session.output.show(version.to_json(), quiet=[version.id], human=lambda: _tell(reference, version))
