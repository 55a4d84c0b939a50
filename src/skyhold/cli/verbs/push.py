"""`skyhold push`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from skyhold import error_codes
from skyhold.cli import candidates
from skyhold.cli.arguments import author_option, metrics_option, repository_argument, values_option
from skyhold.cli.command import Invocation, verb
from skyhold.errors import InvalidInput

if TYPE_CHECKING:
    from skyhold.registry.push_request import PushFields
    from skyhold.registry.views import PushPlan, PushResult
    from skyhold.storage.sources.stream import Stream


@verb(
    repository_argument(),
    click.Argument(["path"], type=click.Path(path_type=Path, readable=False, allow_dash=True)),
    click.Option(["-m", "--message"], default="", metavar="TEXT", help="What this version is."),
    click.Option(["--branch"], default="main", show_default=True, metavar="NAME", help="Branch that moves to it."),
    click.Option(["--tag", "tags"], multiple=True, metavar="NAME", help="A permanent name for it; may be repeated."),
    click.Option(["--alias", "aliases"], multiple=True, metavar="NAME", help="Move this alias to it; may be repeated."),
    metrics_option(),
    values_option(["--param", "parameters"], "A parameter of the training;"),
    values_option(["--meta", "metadata"], "Anything else to know;"),
    click.Option(["--note", "notes"], multiple=True, metavar="TEXT", help="Attach a note; may be repeated."),
    click.Option(["--data"], multiple=True, metavar="URI", help="Data it was made from; may be repeated."),
    click.Option(["--code"], multiple=True, metavar="URI", help="Code it was made by; may be repeated."),
    click.Option(
        ["--base"],
        metavar="TEAM/NAME@REF",
        shell_complete=candidates.references,
        help="Model it was derived from: lineage, and the base for deltas.",
    ),
    click.Option(
        ["--relation"],
        type=click.Choice(["fine-tune", "adapter", "quantized", "merged"]),
        help="How it relates to its base.",
    ),
    click.Option(["--expected-parent"], metavar="ID", help="Refuse unless the branch points to this version."),
    click.Option(["--without-optimizer"], is_flag=True, help="Leave out the states of optimizers."),
    click.Option(["--allow-unsafe-names"], is_flag=True, help="Also store files whose names control other programs."),
    author_option(),
    click.Option(["--dry-run"], is_flag=True, help="Show what would be stored in each bucket; change nothing."),
    examples=(
        'skyhold push fraud/scorer ./model -m "Trained on November" --metric accuracy=0.93 --alias champion',
        "skyhold push fraud/scorer ./tuned --base meta/llama@v3 --param lr:=0.0001 --branch experiment",
        "skyhold push fraud/scorer ./model --dry-run --json",
        "skyhold push fraud/scorer - < model.tar.gz",
    ),
    exits=(2, 3, 4, 5, 6, 7, 8, 9, 10),
    changes=True,
)
def command(
    session: Invocation,
    *,
    repository: str,
    path: Path,
    author: str | None,
    dry_run: bool,
    **described: Unpack[PushFields],
) -> None:
    """Store a folder, file or archive as a new version and move a branch to it.

    The members of an archive (.tar, .tar.gz, .tar.zst, .zip) become the files of the version; PATH `-` is an archive
    on stdin. To store an archive as a file, put it into a folder.

    Bytes that the store has already are not sent again, and a fine-tune is stored as its difference to the base. The
    version counts once the repository's policy is met; remaining buckets follow. After an interruption the same
    command continues. The repository is made where it is missing, and a new branch begins at `main`.

    Files that match .skyholdignore (patterns as in .gitignore) are left out. Files that control other programs or hold
    their credentials (.git, .env, .ssh, skyhold.toml and the like) are left out too, and listed, unless
    --allow-unsafe-names is given. Buckets, key files and other files of Skyhold itself are always left out.
    """
    with session.store() as store, session.progress() as progress:
        opened = store.repository(repository, create=True)
        result = opened.push(_source(path), author=author, dry_run=dry_run, progress=progress, **described)
    session.output.show(result, quiet=[] if result.dry_run else [result.id], human=lambda: _show(result))
    if not result.dry_run:
        session.output.next_step(f"skyhold show {repository}@{result.id[:10]}")


def _source(path: Path) -> Path | Stream:
    if str(path) != "-":
        return path
    if sys.stdin.isatty():
        raise InvalidInput(
            "An archive was to come on stdin, which is a terminal; nothing was changed",
            code=error_codes.SOURCE_MISSING,
            hint="Pipe it in: tar -C model -c . | skyhold push TEAM/NAME -",
        )
    return sys.stdin.buffer


def _show(result: PushResult | PushPlan) -> None:
    from skyhold.cli.render import line, marked

    _show_stored(result)
    for path, reason in result.left_out.items():
        line(marked("left out: ", "warn"), f"{path} ({reason})")


def _show_stored(result: PushResult | PushPlan) -> None:
    from skyhold.cli.render import line, marked, properties, short
    from skyhold.units import format_bytes

    place = marked(f"{result.repository}@{result.branch}", "name")
    if result.dry_run:
        line("Would push to ", place, "; nothing was changed")
    elif result.unchanged:
        line(place, " has this content already: version ", marked(short(result.version), "id"))
        return
    else:
        line("Pushed ", place, ": version ", marked(short(result.version), "id"))
    properties(
        [
            ("files", f"{result.files}, {format_bytes(result.total_bytes)}"),
            ("stored", f"{format_bytes(result.stored_bytes)} new{_saved(result)}"),
            ("deduplicated", format_bytes(result.reused_bytes) if result.reused_bytes else ""),
            ("as deltas", f"{format_bytes(result.delta_bytes)}, to a base" if result.delta_bytes else ""),
            (
                "buckets",
                ", ".join(f"{n} +{format_bytes(sent)}" if sent else n for n, sent in result.sent_bytes.items()),
            ),
            ("left out", _some(result.ignored)),
        ]
    )
    for name, reason in result.lagging.items():
        line(marked("lagging: ", "warn"), f"{name} ({reason}); `skyhold sync` brings it up to date")


def _saved(result: PushResult | PushPlan) -> str:
    """`, 46 % saved`, by deduplication, deltas and compression together."""
    saved_bytes = result.total_bytes - result.stored_bytes
    return f", {100 * saved_bytes // result.total_bytes} % saved" if saved_bytes > 0 else ""


def _some(names: tuple[str, ...], most: int = 5) -> str:
    """The first few of many names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
