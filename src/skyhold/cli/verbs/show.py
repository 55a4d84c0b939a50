"""`skyhold show`"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from skyhold.cli.arguments import Reference, reference_argument
from skyhold.cli.command import Invocation, verb
from skyhold.cli.output import counted

if TYPE_CHECKING:
    from skyhold.registry.views import Version


@verb(
    reference_argument(),
    examples=("skyhold show fraud/scorer@champion", "skyhold show fraud/scorer@main~1 --json"),
    exits=(2, 3, 6, 8, 10),
    reads=True,
)
def command(session: Invocation, *, reference: Reference) -> None:
    """Show one version: message, author, parents, files, parameters, lineage, metrics, notes, refs, model card.

    Without @REF it is the branch `main`.
    """
    with session.store(offline=reference.is_digest) as store:
        version = store.repository(reference.repository).show(reference.ref)
    session.output.show(version, quiet=[version.id], human=lambda: _tell(version))


def _tell(version: Version) -> None:
    from skyhold.cli.findings import FOUND_BY
    from skyhold.cli.render import line, marked, properties, short, table
    from skyhold.units import format_bytes

    refs = f" ({', '.join(version.refs)})" if version.refs else ""
    line(marked(f"{version.repository}@{version.id}", "id"), marked(refs, "name"))
    lineage = version.lineage
    properties(
        [
            ("author", version.author),
            ("time", version.time),
            ("parents", ", ".join(short(parent) for parent in version.parents)),
            ("base", ", ".join(short(base) for base in lineage.base)),
            ("relation", lineage.relation),
            ("data", ", ".join(lineage.data)),
            ("code", ", ".join(lineage.code)),
            ("metrics", _values(version.metrics)),
            ("parameters", _given(version.parameters)),
            ("metadata", _given(version.metadata)),
            ("found by", FOUND_BY.get(version.found_by, "")),
        ]
    )
    if version.message:
        line()
        for text in version.message.rstrip().split("\n"):
            line(f"    {text}")
    line()
    rows = [(file.path, format_bytes(file.size_bytes), file.sha256[:16]) for file in version.files]
    table(["file", "size", "sha256"], rows, right=("size",))
    tensors = f", {counted(version.tensors, 'tensor')}" if version.tensors else ""
    line(marked(f"{counted(len(version.files), 'file')}, {format_bytes(version.size_bytes)}{tensors}", "dim"))
    for item in version.attached:
        if item.kind == "note":
            line()
            line(marked(f"note of {item.author}, {item.time}: ", "dim"), str(item.value))
    if version.model_card:
        line()
        line(marked("model card (README.md)", "dim"))
        for text in version.model_card.rstrip().split("\n"):
            line(f"    {text}")


def _values(values: Mapping[str, object]) -> str:
    """`accuracy=0.93, lr=0.0001`"""
    return ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in sorted(values.items()))


def _given(values: Mapping[str, object]) -> str:
    """`optimizer=adam, lr:=0.0001`: texts and JSON, as a push takes them."""
    return ", ".join(
        f"{name}={value}" if isinstance(value, str) else f"{name}:={json.dumps(value, ensure_ascii=False)}"
        for name, value in sorted(values.items())
    )
