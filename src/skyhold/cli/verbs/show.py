"""`skyhold show`"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from skyhold.cli.arguments import Reference, reference_argument
from skyhold.cli.command import Invocation, verb
from skyhold.cli.output import counted

if TYPE_CHECKING:
    from skyhold.registry.tensors import TensorView
    from skyhold.registry.version import VersionFile
    from skyhold.registry.views import Version


@verb(
    reference_argument(),
    click.Option(["--files"], is_flag=True, help="Only its files, with their whole SHA-256."),
    click.Option(["--tensors"], is_flag=True, help="Only its tensors: name, type, shape, file, size."),
    examples=(
        "skyhold show fraud/scorer@champion",
        "skyhold show fraud/scorer@main~1 --json",
        "skyhold show meta/llama@main --tensors",
    ),
    exits=(2, 3, 6, 8, 10),
    reads=True,
)
def command(session: Invocation, *, reference: Reference, files: bool, tensors: bool) -> None:
    """Show one version: message, author, parents, files, parameters, lineage, metrics, notes, refs, model card.

    With --files or --tensors, or both, only these; no weights are fetched for them. Without @REF it is the branch
    `main`.
    """
    with session.store(offline=reference.is_digest) as store:
        repository = store.repository(reference.repository)
        if not (files or tensors):
            version = repository.show(reference.ref)
            session.output.show(version, quiet=[version.id], human=lambda: _show(version))
            return
        found = repository.files(reference.ref) if files else ()
        named = repository.tensors(reference.ref) if tensors else ()
    lists: dict[str, object] = {"repository": reference.repository, "ref": reference.ref}
    lists |= {"files": found} if files else {}
    lists |= {"tensors": named} if tensors else {}
    quiet = [*(file.path for file in found), *(tensor.name for tensor in named)]
    session.output.show(lists, quiet=quiet, human=lambda: _show_contents(found, named))


def _show_contents(files: Sequence[VersionFile], tensors: Sequence[TensorView]) -> None:
    from skyhold.cli.render import line, table
    from skyhold.units import format_bytes

    if files:
        rows = [
            (file.path, format_bytes(file.size_bytes), "x" if file.executable else "", file.sha256) for file in files
        ]
        table(["file", "size", "mode", "sha256"], rows, right=("size",))
    if files and tensors:
        line()
    if tensors:
        table(
            ["tensor", "type", "shape", "size", "file"],
            [(t.name, t.dtype, "×".join(map(str, t.shape)), format_bytes(t.size_bytes), t.file) for t in tensors],
            right=("size",),
        )


def _show(version: Version) -> None:
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
    tensors = f", {counted(version.tensor_count, 'tensor')}" if version.tensor_count else ""
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
