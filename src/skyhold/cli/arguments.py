"""The arguments that several verbs take: references, `name=value` pairs, policies."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from skyhold.storage.policy import Policy


class Reference(NamedTuple):
    """`team/name@REF` taken apart; `ref` may end in `~N`."""

    repository: str
    ref: str

    def __str__(self) -> str:
        return f"{self.repository}@{self.ref}"


class ReferenceType(click.ParamType):
    """`team/name@REF`; without `@REF` it means the branch `main`, unless `ref_needed`."""

    name = "reference"

    def __init__(self, *, ref_needed: bool = False) -> None:
        self.ref_needed = ref_needed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Reference:
        from skyhold.registry.names import parse_reference

        parsed = parse_reference(str(value))
        if parsed.ref is None and self.ref_needed:
            self.fail(f"expected {parsed.repository}@REF, with the ref that is meant", param, ctx)
        return Reference(parsed.repository, str(value).partition("@")[2] or "main")


class PairType(click.ParamType):
    """`NAME=VALUE`; the value is read as JSON where it is JSON, else it is text."""

    name = "pair"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, object]:
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not equals or not name:
            self.fail(f"expected NAME=VALUE but got {value!r}", param, ctx)
        return name, self.read(text, param, ctx)

    def read(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> object:
        try:
            return json.loads(text, parse_constant=str)  # NaN and Infinity are no JSON: they stay text
        except (ValueError, RecursionError):
            return text


class MetricType(PairType):
    """`NAME=NUMBER`, the number finite."""

    def read(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"expected a finite number but got {text!r}", param, ctx)
        return number


def _distinct(ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, object], ...]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise click.BadParameter(f"{name!r} is given more than once", ctx, param)
    return dict(pairs)


def pairs_option(flags: list[str], metavar: str, help_text: str, *, metrics: bool = False) -> click.Option:
    """A repeatable option whose value is a dictionary of all its pairs."""
    return click.Option(
        flags,
        metavar=metavar,
        multiple=True,
        type=MetricType() if metrics else PairType(),
        callback=_distinct,
        help=help_text,
    )


def repository_argument() -> click.Argument:
    return click.Argument(["repository"], metavar="TEAM/NAME")


def reference_argument(*, ref_needed: bool = False) -> click.Argument:
    return click.Argument(
        ["reference"],
        metavar="TEAM/NAME@REF" if ref_needed else "TEAM/NAME[@REF]",
        type=ReferenceType(ref_needed=ref_needed),
    )


def author_option() -> click.Option:
    return click.Option(["--author"], metavar="NAME", help="Who does this (SKYHOLD_AUTHOR, else the user's name).")


def reason_option() -> click.Option:
    return click.Option(["--reason"], metavar="TEXT", default="", help="Why; kept with the move.")


def yes_option() -> click.Option:
    return click.Option(["--yes", "-y"], is_flag=True, help="Do not ask.")


def policy_options() -> list[click.Parameter]:
    """Options from which `policy_of` makes a policy."""
    return [
        click.Option(
            ["--copies"],
            metavar="N|majority",
            help="Verified copies that make a version durable (a majority of the buckets, where nothing is said).",
        ),
        click.Option(["--providers"], type=click.IntRange(1), metavar="N", help="At how many providers, at least."),
        click.Option(
            ["--region", "regions"],
            multiple=True,
            metavar="GLOB",
            help="Region where bytes may lie, such as `eu-*`; may be repeated; `*` allows all that are known.",
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
    """Ask before something that is hard to undo; where nobody can be asked, refuse.

    Raises `InvalidInput` code `not_confirmed`.
    """
    import sys

    from skyhold.errors import InvalidInput

    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInput(
            f"{question} This needs a yes; nothing was changed", code="not_confirmed", hint="Add `--yes`"
        )
    if not click.confirm(question, err=True):
        raise InvalidInput("Not confirmed; nothing was changed", code="not_confirmed")
