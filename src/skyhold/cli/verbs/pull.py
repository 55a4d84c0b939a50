"""`skyhold pull`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from skyhold import error_codes
from skyhold.cli.arguments import Reference, reference_argument
from skyhold.cli.command import Invocation, verb
from skyhold.errors import InvalidInput, PermissionDenied

if TYPE_CHECKING:
    from skyhold.registry.views import PullPlan, PullResult
    from skyhold.storage.pull_plan import PullSources


@verb(
    reference_argument(),
    click.Argument(
        ["destination"],
        required=False,
        type=click.Path(path_type=Path, readable=False),
        metavar="[DEST]",
        default=Path(),
    ),
    click.Option(["--include"], multiple=True, metavar="GLOB", help="Only files that match; may be repeated."),
    click.Option(
        ["--tensor", "tensors"],
        multiple=True,
        metavar="NAME",
        help="Only tensors of this name or glob (with --include, of these files), into tensors.safetensors; may be "
        "repeated.",
    ),
    click.Option(["--force"], is_flag=True, help="Replace files even where no version has their content."),
    click.Option(["--allow-unsafe-names"], is_flag=True, help="Also write files whose names control other programs."),
    click.Option(["--dry-run"], is_flag=True, help="Show what would be fetched from where; fetch and write nothing."),
    examples=(
        "skyhold pull fraud/scorer@champion ./restored",
        "skyhold pull fraud/scorer@v1.2 . --include '*.json' --include 'tokenizer/*'",
        "skyhold pull meta/llama@main ./one --tensor model.embed_tokens.weight",
        "skyhold pull fraud/scorer@champion ./restored --dry-run",
    ),
    exits=(2, 3, 5, 6, 7, 8, 10),
    changes=True,
    reads=True,
)
def command(
    session: Invocation,
    *,
    reference: Reference,
    destination: Path,
    include: tuple[str, ...],
    tensors: tuple[str, ...],
    dry_run: bool,
    force: bool,
    allow_unsafe_names: bool,
) -> None:
    """Fetch a version into the folder DEST (the current one, where none is given).

    Every byte is checked against the version. What the folder has already is not fetched again; files appear whole,
    one by one; after an interruption the same command continues. Other files of the folder are left alone. Without
    @REF it is the branch `main`.

    A file that is there with other content is replaced only where some version of the repository has that content; else
    nothing is changed and the file is named, unless --force. Files that control other programs or hold their
    credentials (.git, .env, .ssh, skyhold.toml and the like) are not written, unless --allow-unsafe-names is given:
    they are listed, and the command ends with status 6 after it has written the others.

    A tensor is written as the library of its format returns it; the array of a .npy file has the name of the file. Of
    those that a glob matches, what safetensors cannot hold is named, and the command ends with status 2 after it has
    written the others.
    """
    with session.store(offline=reference.is_digest) as store, session.progress() as progress:
        result = store.repository(reference.repository).pull(
            reference.ref,
            destination,
            include=include,
            tensors=tensors,
            dry_run=dry_run,
            force=force,
            allow_unsafe_names=allow_unsafe_names,
            progress=progress,
        )
    session.output.show(result, quiet=[result.id], human=lambda: _show(reference, result))
    if result.dry_run and result.sources.absent_bytes:
        _refuse_absent(result.sources)
    if result.left_out and tensors:
        raise InvalidInput(
            f"Not all of the tensors {'would be' if result.dry_run else 'were'} written: "
            f"safetensors cannot hold {len(result.left_out)} of them",
            code=error_codes.TENSOR_TYPE,
            hint="Pull their whole files: with --include, and without --tensor",
            tensors=list(result.left_out),
        )
    if result.left_out:
        raise PermissionDenied(
            f"Not all of the version {'would be' if result.dry_run else 'was'} written: "
            f"{len(result.left_out)} of its files have names that control other programs",
            code=error_codes.UNSAFE_NAMES,
            hint="If you trust who pushed them, pull again with --allow-unsafe-names",
            paths=list(result.left_out),
        )


def _refuse_absent(sources: PullSources) -> None:
    """End as the pull that was planned would end."""
    from skyhold.errors import Corrupt, Unavailable
    from skyhold.units import format_bytes

    kind = Unavailable if sources.unreachable else Corrupt
    raise kind(
        f"The pull would fail: {format_bytes(sources.absent_bytes)} are in no bucket that answered",
        code=error_codes.NO_REPLICA,
        hint="Run `skyhold status` to see what each bucket holds, then `skyhold repair`",
        buckets=sorted(sources.unreachable),
    )


def _show(reference: Reference, result: PullResult | PullPlan) -> None:
    from skyhold.cli.findings import FOUND_BY
    from skyhold.cli.render import line, marked, properties, short
    from skyhold.units import format_bytes

    if result.dry_run:
        _show_plan(reference, result)
        return
    line("Pulled ", marked(str(reference), "name"), ": version ", marked(short(result.version), "id"))
    kept = f", {format_bytes(result.kept_bytes)} were there already" if result.kept_bytes else ""
    properties(
        [
            ("into", result.destination),
            ("files", f"{result.files}, {format_bytes(result.total_bytes)}, every byte checked"),
            ("fetched", format_bytes(result.fetched_bytes) + kept),
            ("tensors", ", ".join(result.tensors)),
            ("found by", FOUND_BY.get(result.found_by, "")),
        ]
    )
    _show_left_out(result)


def _show_left_out(result: PullResult | PullPlan) -> None:
    from skyhold.cli.render import line, marked

    for path, reason in result.left_out.items():
        line(marked("left out: ", "warn"), f"{path} ({reason})")


def _show_plan(reference: Reference, plan: PullPlan) -> None:
    from skyhold.cli.render import line, marked, properties, short
    from skyhold.units import format_bytes

    version = marked(short(plan.version), "id")
    line("Would pull ", marked(str(reference), "name"), ": version ", version, "; nothing was fetched")
    places = {f"bucket {name}": size for name, size in plan.sources.bucket_bytes.items()}
    if plan.sources.cached_bytes:
        places["the cache"] = plan.sources.cached_bytes
    properties(
        [
            ("into", plan.destination),
            ("files", f"{plan.files}, {format_bytes(plan.total_bytes)}"),
            ("there already", format_bytes(plan.kept_bytes) if plan.kept_bytes else ""),
            (
                "to fetch",
                ", ".join(f"{format_bytes(size)} from {place}" for place, size in places.items()) or "nothing",
            ),
            ("tensors", ", ".join(plan.tensors)),
        ]
    )
    _show_left_out(plan)
    for name, reason in plan.sources.unreachable.items():
        line(marked("not examined: ", "warn"), f"bucket {name} ({reason})")
