"""The arguments that several verbs take: references, `name=value` pairs, policies."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click

from skyhold import error_codes
from skyhold.cli import candidates
from skyhold.errors import InvalidInput

if TYPE_CHECKING:
    from skyhold.storage.policy import Policy


def refuse_memory(*urls: str) -> None:
    """Raise `InvalidInput` code `memory_bucket` for a bucket in the memory of this process, which ends with the
    command."""
    if any(url.strip().lower().startswith("memory:") for url in urls):
        raise InvalidInput(
            "A bucket memory:// is in the memory of one process, and what a command writes there is gone when it ends",
            code=error_codes.MEMORY_BUCKET,
            hint="Use a folder, or a bucket of a cloud; memory:// is for the Python API",
        )


class Reference(NamedTuple):
    """`team/name@REF` taken apart; `ref` may end in `~N`, and is `main` where none was `given`."""

    repository: str
    ref: str
    given: bool = True

    def __str__(self) -> str:
        return f"{self.repository}@{self.ref}"

    @property
    def is_digest(self) -> bool:
        """Whether it is a version's full digest, or its id of 40 characters."""
        from skyhold.registry.names import is_full_id

        return is_full_id(self.ref)


class ReferenceType(click.ParamType):  # type: ignore[type-arg]  # generic in the newest Click only
    """`team/name@REF`; without `@REF` it means the branch `main`, unless `ref_needed`."""

    name = "reference"

    def __init__(self, *, ref_needed: bool = False) -> None:
        self.ref_needed = ref_needed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Reference:
        from skyhold.registry.names import parse_reference

        parsed = parse_reference(str(value))
        if parsed.ref is None and self.ref_needed:
            self.fail(f"expected {parsed.repository}@REF, with the ref that is meant", param, ctx)
        return Reference(parsed.repository, str(value).partition("@")[2] or "main", parsed.ref is not None)


def read_other_reference(text: str, repository: str) -> Reference:
    """The second of two references: `REF` or `@REF` means one of `repository`, which the first has named. A name with
    a slash and no `@` is a repository's, as everywhere. Raises `InvalidInput`."""
    if text.startswith("@") or ("/" not in text and "@" not in text):
        text = f"{repository}@{text.removeprefix('@')}"
    return ReferenceType().convert(text, None, None)


class PairType(click.ParamType):  # type: ignore[type-arg]  # generic in the newest Click only
    """`NAME=VALUE`, the value read by `read`, which raises `ValueError`; with `typed` also `NAME:=JSON`."""

    name = "pair"

    def __init__(self, read: Callable[[str], object], *, typed: bool = False) -> None:
        self.read = read
        self.typed = typed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, object]:
        name, equals, text = str(value).partition("=")
        read = self.read
        if self.typed and name.endswith(":"):
            name, read = name[:-1], read_json
        if not equals or not name:
            self.fail(f"expected NAME=VALUE{' or NAME:=JSON' if self.typed else ''} but got {value!r}", param, ctx)
        try:
            return name, read(text)
        except ValueError as error:
            self.fail(f"{name}: {error}", param, ctx)


def read_json(text: str) -> object:
    """A JSON value. NaN and Infinity are no JSON. Raises `ValueError`."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ValueError(f"expected JSON after := but got {text!r}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def read_metric(text: str) -> float:
    """A finite number. Raises `ValueError`."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number but got {text!r}")
    return number


def _distinct(ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, object], ...]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise click.BadParameter(f"{name!r} is given more than once", ctx, param)
    return dict(pairs)


def pairs_option(
    flags: list[str], metavar: str, help_text: str, read: Callable[[str], object] = str, *, typed: bool = False
) -> click.Option:
    """A repeatable option whose value is a dictionary of all its pairs."""
    pair = PairType(read, typed=typed)
    return click.Option(flags, metavar=metavar, multiple=True, type=pair, callback=_distinct, help=help_text)


def values_option(flags: list[str], help_text: str) -> click.Option:
    """A repeatable option of values by name: texts as they are given, or JSON where the user writes `:=`, as in
    HTTPie."""
    return pairs_option(
        flags, "NAME=TEXT", f"{help_text} NAME:=JSON for numbers, lists and objects; may be repeated.", typed=True
    )


def metrics_option() -> click.Option:
    return pairs_option(["--metric", "metrics"], "NAME=NUMBER", "Attach a metric; may be repeated.", read_metric)


def repository_argument() -> click.Argument:
    return click.Argument(["repository"], metavar="TEAM/NAME", shell_complete=candidates.repositories)


def reference_argument(*, ref_needed: bool = False) -> click.Argument:
    return click.Argument(
        ["reference"],
        metavar="TEAM/NAME@REF" if ref_needed else "TEAM/NAME[@REF]",
        type=ReferenceType(ref_needed=ref_needed),
        shell_complete=candidates.references,
    )


def author_option() -> click.Option:
    return click.Option(
        ["--author"], metavar="NAME", help="Author of the change (or SKYHOLD_AUTHOR, or the user name)."
    )


def reason_option() -> click.Option:
    return click.Option(["--reason"], metavar="TEXT", default="", help="Why; stored with the event.")


def yes_option() -> click.Option:
    return click.Option(["--yes", "-y"], is_flag=True, help="Do not ask.")


def policy_options() -> list[click.Parameter]:
    """Options from which `policy_of` makes a policy."""
    return [
        click.Option(
            ["--copies"],
            metavar="N|majority",
            help="Verified copies that make a version durable (default: a majority of the buckets).",
        ),
        click.Option(["--providers"], type=click.IntRange(1), metavar="N", help="At how many providers, at least."),
        click.Option(
            ["--region", "regions"],
            multiple=True,
            metavar="GLOB",
            help="Region that may hold data, such as `eu-*`; may be repeated; `*` allows all that are known.",
        ),
        click.Option(
            ["--delta"],
            type=click.Choice(["storage", "egress", "off"]),
            help="Save bytes at rest, bytes of a cold pull, or store every chunk whole.",
        ),
    ]


def policy_of(
    before: Policy, *, copies: str | None, providers: int | None, regions: tuple[str, ...], delta: str | None
) -> Policy:
    """`before` with what was given. Raises `InvalidInput` for what makes no policy."""
    from dataclasses import replace

    changes: dict[str, Any] = {}
    if copies is not None:
        if copies != "majority" and not (copies.isascii() and copies.isdecimal()):
            raise click.BadParameter(f"expected a whole number or `majority` but got {copies!r}", param_hint="--copies")
        changes["copies"] = None if copies == "majority" else int(copies)
    if providers is not None:
        changes["providers"] = providers
    if regions:
        changes["regions"] = regions
    if delta is not None:
        changes["delta"] = delta
    return replace(before, **changes)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that is hard to undo; where there is no terminal, refuse.

    Raises `InvalidInput` code `not_confirmed`.
    """
    import sys

    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInput(
            f"{question} Not confirmed; nothing was changed",
            code=error_codes.NOT_CONFIRMED,
            hint="Add `--yes`",
        )
    if not click.confirm(question, err=True):
        raise InvalidInput("Not confirmed; nothing was changed", code=error_codes.NOT_CONFIRMED)
