"""The group `skyhold` and its sub-groups, which list their commands from the table and import one when it is called."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

import click

from skyhold.cli.exits import MEANINGS
from skyhold.cli.program import PROGRAM
from skyhold.cli.verbs import GROUPS, VERBS, Verb

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class LazyGroup(click.Group):
    """A group whose commands are the verbs that begin with `prefix` (empty for `skyhold` itself)."""

    def __init__(self, prefix: str = "", **attributes: Any) -> None:
        super().__init__(subcommand_metavar="COMMAND …", **attributes)
        self.prefix = prefix
        self.entries = _entries(prefix)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - Click calls it so
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - Click calls it so
        verb = self.entries.get(cmd_name)
        if verb is None:
            return None
        if verb.words in GROUPS:
            return LazyGroup(f"{verb.words} ", name=cmd_name, help=verb.summary, no_args_is_help=True)
        command: click.Command = importlib.import_module(verb.module).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.entries and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.entries, 3)
            advice = f"; did you mean {' or '.join(f'`{match}`' for match in near)}?" if near else ""
            raise click.UsageError(f"`{ctx.command_path}` has no command {name!r}{advice}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - Click calls it so
        for section in dict.fromkeys(verb.section for verb in self.entries.values()):
            with formatter.section("Commands" if self.prefix else section):
                rows = [(name, verb.summary) for name, verb in self.entries.items() if verb.section == section]
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - Click calls it so
        if self.prefix:
            return
        with formatter.section("Exit statuses"):
            formatter.write_dl([(str(status), meaning) for status, meaning in MEANINGS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=verb.summary)
            for name, verb in self.entries.items()
            if name.startswith(incomplete)
        ]
        return found + (click.Command.shell_complete(self, ctx, incomplete) if incomplete.startswith("-") else [])


def _entries(prefix: str) -> dict[str, Verb]:
    """Next word → verb. At the top, a group has the place of its first verb."""
    entries: dict[str, Verb] = {}
    for verb in VERBS:
        if verb.words.startswith(prefix):
            name = verb.words[len(prefix) :]
            word, _, rest = name.partition(" ")
            group = prefix + word
            entries.setdefault(word, verb if not rest else Verb(group, GROUPS[group], verb.section))
    return entries


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"skyhold {version('skyhold')}")
    ctx.exit()


HELP = """Every version of every model, in every cloud, provably the same.

A store is a set of buckets (folders, s3://, gs://, az://) that hold the same repositories; it needs no server.
A repository `team/name` is one model's history; `team/name@REF` is a version, REF being a branch, a tag, an
alias, or a version's id or its beginning.

\b
Begin:
  skyhold init ./cloud-a ./cloud-b ./cloud-c
  skyhold push fraud/scorer ./model -m "First version" --alias champion
  skyhold pull fraud/scorer@champion ./restored
"""

skyhold = LazyGroup(
    name=PROGRAM,
    help=HELP,
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
    params=[
        click.Option(["--store"], metavar="URL", help="The store, by the URL of any of its buckets."),
        click.Option(["--config"], metavar="FILE", help="Read this instead of the skyhold.toml that is found."),
        click.Option(
            ["--insecure-key-file"], is_flag=True, help="Use a key file that other users of this machine can read."
        ),
        click.Option(["--verbose"], is_flag=True, help="Show each request to a bucket, and the chain of errors."),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Show the version and exit.",
        ),
    ],
)
