"""Candidates for an argument, for completion: names of repositories, refs and buckets of the current store.

Each function is a Click `shell_complete`. It reads only what names need, asks no question, and returns nothing on any
error: Tab must not print errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from skyhold.cli.command import Invocation
from skyhold.cli.output import Output

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from skyhold.registry.store import Store

Candidates = list[tuple[str, str]]
"""Values, each with the word for its kind."""
Completing = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def offering(find: Callable[[Store, click.Context, str], Candidates]) -> Completing:
    """Complete an argument with what `find` gives of the store that the command line or the settings name."""

    def complete(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        try:
            with _store(ctx) as store:
                found = find(store, ctx, incomplete)
        except Exception:  # noqa: BLE001 - see the module
            return []
        return [CompletionItem(value, help=what) for value, what in found if value.startswith(incomplete)]

    return complete


@contextmanager
def _store(ctx: click.Context) -> Iterator[Store]:
    from skyhold.registry import lifecycle

    given, outer = ctx.params, ctx.find_root().params
    url, config = given.get("store_url") or outer.get("store"), given.get("config_file") or outer.get("config")
    session = Invocation(Output(quiet=True), url, config)
    settings = session.settings()
    with lifecycle.open(session.url(settings), settings=settings) as opened:
        yield opened


def _repositories(store: Store, _ctx: click.Context, _incomplete: str) -> Candidates:
    return [(name, "repository") for name in store.repository_names()]


def _references(store: Store, _ctx: click.Context, incomplete: str) -> Candidates:
    """`team/name`, and its refs once no other repository can be meant."""
    name, at, beginning = incomplete.partition("@")
    names = [name] if at else [known for known in store.repository_names() if known.startswith(incomplete)]
    found = [] if at else [(known, "repository") for known in names]
    if len(names) == 1:
        found += [(f"{names[0]}@{ref}", kind) for ref, kind in _refs_of(store, names[0], beginning)]
    return found


def _other_references(store: Store, ctx: click.Context, incomplete: str) -> Candidates:
    """The second of two references: also the bare refs of the first one's repository."""
    first = ctx.params["before"].repository
    return [*_refs_of(store, first, incomplete), *_references(store, ctx, incomplete)]


def _refs(store: Store, ctx: click.Context, _incomplete: str) -> Candidates:
    """Refs in full, of the repository in the argument before."""
    return [(ref, ref.partition("/")[0]) for ref in store.repository(ctx.params["repository"]).ref_names()]


def _branches(store: Store, ctx: click.Context, _incomplete: str) -> Candidates:
    refs = store.repository(ctx.params["repository"]).ref_names()
    return [(ref.removeprefix("branch/"), "branch") for ref in refs if ref.startswith("branch/")]


def _buckets(store: Store, _ctx: click.Context, _incomplete: str) -> Candidates:
    return [(name, "bucket") for name in store.bucket_names]


def _refs_of(store: Store, repository: str, beginning: str) -> Candidates:
    """Refs as they are written after `@`: by name, and in full once the input begins with a kind."""
    found: dict[str, str] = {}
    for ref in store.repository(repository).ref_names():
        kind, _, name = ref.partition("/")
        found.setdefault(name, kind)
        if beginning.startswith(f"{kind}/"):
            found[ref] = kind
    return list(found.items())


repositories = offering(_repositories)
references = offering(_references)
other_references = offering(_other_references)
refs = offering(_refs)
branches = offering(_branches)
buckets = offering(_buckets)
