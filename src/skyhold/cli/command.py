"""How a verb becomes a Click command: common options, examples and exit statuses in its help, and a `Invocation`."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Concatenate, Final, TypeVar

import click

from skyhold import error_codes
from skyhold.cli.exits import MEANINGS
from skyhold.cli.output import Output
from skyhold.errors import InvalidInput, PermissionDenied

if TYPE_CHECKING:
    from skyhold.registry.store import Store
    from skyhold.storage.progress import Progress
    from skyhold.store.settings import Settings

Opened = TypeVar("Opened")

COMMON: Final = ("store_url", "config_file", "insecure_key_file", "verbose", "as_json", "quiet")


@dataclass(frozen=True, slots=True)
class Invocation:
    """What every command is given first: how to answer, and the way to the store."""

    output: Output
    store_url: str | None
    config_file: str | None
    stale: bool = False
    insecure_key_file: bool = False

    def settings(self) -> Settings:
        """This machine's settings. Raises as `load_settings` does."""
        from skyhold.store.settings import load_settings

        given = {"SKYHOLD_CONFIG": self.config_file} if self.config_file else {}
        if self.insecure_key_file:
            given["SKYHOLD_INSECURE_KEY_FILE"] = "true"
        return load_settings({**os.environ, **given})

    def store(self, *, offline: bool = False) -> Store:
        """The store of `--store`, else of the settings, else the only one that this machine knows. Close it. `offline`
        is as in `skyhold.open`."""
        from skyhold.registry import lifecycle

        settings = self.settings()
        url = self.url(settings)
        max_age_s = math.inf if self.stale else None
        opened = self.unseal(
            settings, lambda settings: lifecycle.open(url, settings=settings, max_age_s=max_age_s, offline=offline)
        )
        if self.stale:
            self.output.watch(opened)
        return opened

    def url(self, settings: Settings) -> str | None:
        """Where that store is, or None where none is configured."""
        return self.store_url or settings.store or _only_known_url()

    def unseal(self, settings: Settings, opening: Callable[[Settings], Opened]) -> Opened:
        """Open a store, and where its passphrase is missing and there is a terminal, ask for it once."""
        try:
            return opening(settings)
        except PermissionDenied as error:
            wraps = error.fields.get("wraps")
            askable = sys.stdin.isatty() and sys.stderr.isatty() and not self.output.json
            if not (
                error.code == error_codes.KEY_NEEDED and isinstance(wraps, list) and "passphrase" in wraps and askable
            ):
                raise
        passphrase = click.prompt("Passphrase of the store", hide_input=True, err=True)
        return opening(replace(settings, passphrase=passphrase))

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Where long work reports its progress; erased or ended with the block."""
        from skyhold.cli.progress import open_progress

        with open_progress(self.output) as progress:
            yield progress


class VerbCommand(click.Command):
    """A command whose help ends with examples to paste and its possible exit statuses."""

    examples: Sequence[str] = ()
    exits: Sequence[int] = ()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own: list[tuple[str, str]] = []
        common: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = None if isinstance(parameter, click.Argument) else parameter.get_help_record(ctx)
            if record is not None:
                shared = parameter.name in COMMON or parameter not in self.params  # the latter is --help
                (common if shared else own).append(record)
        if own:
            with formatter.section("Options"):
                formatter.write_dl(own)
        with formatter.section("Common options"):
            formatter.write_dl(common)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - Click calls it so
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
        with formatter.section("Exit statuses"):
            formatter.write_dl([(str(status), MEANINGS[status]) for status in (0, *sorted(self.exits))])


def _only_known_url() -> str | None:
    """A URL of the store that this machine made or joined, where it is one. Raises `InvalidInput` for several."""
    from skyhold.store.state import open_state

    recalled = [state.recall() for state in open_state().stores()]
    met = [known.locations[0] for known in recalled if known is not None and known.locations]
    if len(met) > 1:
        raise InvalidInput(
            f"No store is named, and this machine knows {len(met)}",
            code=error_codes.NO_STORE,
            hint="Add --store with one of " + ", ".join(location.url for location in met),
        )
    return met[0].url if met else None


def verb(
    *parameters: click.Parameter,
    examples: Sequence[str],
    exits: Sequence[int],
    answers: bool = True,
    reads: bool = False,
    changes: bool = False,
) -> Callable[[Callable[Concatenate[Invocation, ...], None]], VerbCommand]:
    """Make a command of `run(session, **parameters)`; its docstring is the help. `answers=False` is for a command
    without a result, which takes neither `--json` nor `--quiet`; one that only `reads` refs takes `--stale`. One
    that `changes` something ends with that status even where its answer cannot be written."""

    def decorate(run: Callable[Concatenate[Invocation, ...], None]) -> VerbCommand:
        def callback(store_url: str | None, config_file: str | None, verbose: bool, **values: Any) -> None:
            del verbose  # read by `main`, which must also know it when parsing fails
            outer = click.get_current_context().find_root().params
            output = Output(json=values.pop("as_json", False), quiet=values.pop("quiet", False), changes=changes)
            session = Invocation(
                output,
                store_url or outer.get("store"),
                config_file or outer.get("config"),
                stale=values.pop("stale", False),
                insecure_key_file=values.pop("insecure_key_file") or outer.get("insecure_key_file", False),
            )
            run(session, **values)
            output.show_stale()

        words = run.__module__.rpartition(".")[2]
        made = VerbCommand(
            name=words.rpartition("_")[2],
            callback=callback,
            params=[*parameters, *([_stale_option()] if reads else []), *_common(answers)],
            help=run.__doc__,
        )
        made.examples, made.exits = examples, exits
        return made

    return decorate


def _stale_option() -> click.Parameter:
    return click.Option(
        ["--stale"],
        is_flag=True,
        help="Where no majority of the voters answers, read the newest known refs, and report their age.",
    )


def _common(answers: bool) -> list[click.Parameter]:
    shared: list[click.Parameter] = [
        click.Option(["--store", "store_url"], metavar="URL", help="The store, by the URL of any of its buckets."),
        click.Option(
            ["--config", "config_file"], metavar="FILE", help="Read this instead of the skyhold.toml that is found."
        ),
        click.Option(
            ["--insecure-key-file"],
            is_flag=True,
            hidden=True,  # the help of `skyhold` itself shows it
            help="Use a key file that other users of this machine can read.",
        ),
        click.Option(["--verbose"], is_flag=True, help="Show each request to a bucket, and the chain of errors."),
    ]
    if not answers:
        return shared
    return [
        click.Option(["--json", "as_json"], is_flag=True, help="Answer with one JSON document; errors too, on stderr."),
        click.Option(["--quiet", "-q"], is_flag=True, help="Answer with bare names or ids; no progress."),
        *shared,
    ]
