"""`skyhold diff`"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from skyhold.cli import candidates
from skyhold.cli.arguments import Reference, ReferenceType, read_other_reference
from skyhold.cli.command import Invocation, verb
from skyhold.cli.output import counted
from skyhold.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.text import Text

    from skyhold.registry.diff import FileDiff, TensorDiff, ValueDiff, VersionDiff
    from skyhold.registry.repository import Repository
    from skyhold.registry.store import Store


TENSORS_ON_A_TERMINAL: Final = 40


@verb(
    click.Argument(["before"], metavar="TEAM/NAME[@A]", type=ReferenceType(), shell_complete=candidates.references),
    click.Argument(["after"], metavar="B|TEAM/NAME[@B]", shell_complete=candidates.other_references),
    click.Option(["--no-tensors"], is_flag=True, help="Compare no tensors: quick, since no weights are read."),
    click.Option(
        ["--limit"],
        type=click.IntRange(1),
        metavar="N",
        help=f"Show at most so many tensors ({TENSORS_ON_A_TERMINAL} on a terminal, else all; --json has all).",
    ),
    examples=(
        "skyhold diff fraud/scorer@v1 champion",
        "skyhold diff fraud/scorer@main~1 main --json",
        "skyhold diff meta/llama@v3 fraud/scorer@champion --no-tensors",
    ),
    exits=(2, 3, 6, 8, 10),
    reads=True,
)
def command(session: Invocation, *, before: Reference, after: str, no_tensors: bool, limit: int | None) -> None:
    """Compare two versions, from A to B, of one repository or of two.

    It shows files, tensors (added, removed, other shape or type, the share of values that changed and the norm of the
    difference relative to A's), metrics with their difference, and parameters.

    B alone is a ref of the same repository (`@feature/x`, where it has a slash). A repository without @ means its
    branch `main`.
    """
    from skyhold.json_form import as_json

    other = read_other_reference(after, before.repository)
    with session.store() as store, session.progress() as progress:
        found = store.repository(before.repository).diff(
            before.ref,
            other.ref,
            other=_other(store, before, other),
            tensors=not no_tensors and (session.output.json or not session.output.quiet),  # --quiet names files only
            progress=progress,
        )
    if limit is None and sys.stdout.isatty():
        limit = TENSORS_ON_A_TERMINAL
    document = {"from": str(before), "to": str(other), **as_json(found)}
    session.output.show(document, quiet=_names(found), human=lambda: _show(before, other, found, limit))


def _other(store: Store, before: Reference, other: Reference) -> Repository:
    """The repository of the second reference, with a hint on what may have been meant where there is none."""
    try:
        return store.repository(other.repository)
    except NotFound as error:
        if not other.given:
            error.hint = f"See `skyhold list`; or, for a ref of {before.repository}, write @{other.repository}"
        raise


def _names(found: VersionDiff) -> list[str]:
    """What differs, bare: the paths."""
    return [file.path or file.old_path or "" for file in found.files]


def _show(before: Reference, after: Reference, found: VersionDiff, limit: int | None) -> None:
    from skyhold.cli.render import line, table

    if found.is_empty:
        line(f"{before} and {after} have the same files, metrics and parameters")
        return
    if found.files:
        table(["files", "", "before", "after"], _files(found.files), right=("before", "after"))
    if found.tensors:
        line()
        headers = ["tensors", "", "type and shape", "changed", "relative norm"]
        table(headers, _tensors(found.tensors[:limit]), right=("changed", "relative norm"))
        if limit is not None and len(found.tensors) > limit:
            line(f"and {len(found.tensors) - limit} more; a larger --limit shows them, --json has them all")
    if found.tensors_unchanged:
        line(f"{counted(found.tensors_unchanged, 'tensor')} equal")
    for title, values in (("metrics", found.metrics), ("parameters", found.parameters)):
        if values:
            line()
            table([title, "before", "after", "difference"], _values(values), right=("before", "after", "difference"))


def _files(files: tuple[FileDiff, ...]) -> Iterator[list[str | Text]]:
    from skyhold.units import format_bytes

    for file in files:
        sizes = (file.old_size_bytes, file.size_bytes)
        renamed = file.kind == "renamed"
        path = f"{file.old_path} -> {file.path}" if renamed else file.path or file.old_path or ""
        yield [path, _kind(file.kind), *("-" if size is None else format_bytes(size) for size in sizes)]


def _tensors(tensors: tuple[TensorDiff, ...]) -> Iterator[list[str | Text]]:
    for tensor in tensors:
        old = "" if tensor.old_dtype is None else _form(tensor.old_dtype, tensor.old_shape)
        new = "" if tensor.dtype is None else _form(tensor.dtype, tensor.shape)
        form = f"{old} -> {new}" if old and new and old != new else new or old
        share = "" if tensor.changed_share is None else _percent(tensor.changed_share)
        norm = "" if tensor.relative_norm is None else f"{tensor.relative_norm:.3g}"
        yield [tensor.name, _kind(tensor.kind), form, share, norm]


def _form(dtype: str, shape: tuple[int, ...] | None) -> str:
    return f"{dtype} [{', '.join(str(length) for length in shape or ())}]"


def _percent(share: float) -> str:
    """A share that is not whole never reads as 100 %, and one that is not nothing never as 0 %."""
    percent = 100 * share
    return f"{percent:.2g} %" if percent < 1 else f"{percent:.1f} %" if percent < 99.95 or share == 1 else "> 99.9 %"


def _values(values: tuple[ValueDiff, ...]) -> Iterator[list[str | Text]]:
    import json

    for value in values:
        old, new = value.old, value.new
        numbers = all(isinstance(side, int | float) and not isinstance(side, bool) for side in (old, new))
        difference = f"{new - old:+.6g}" if numbers else value.kind  # type: ignore[operator]
        shown = ("-" if value.kind == gone else side if isinstance(side, str) else json.dumps(side, ensure_ascii=False)
                 for side, gone in ((old, "added"), (new, "removed")))  # fmt: skip
        yield [value.name, *shown, difference]


def _kind(kind: str) -> Text:
    from skyhold.cli.render import marked

    return marked(kind, {"added": "good", "removed": "bad"}.get(kind, "warn"))
