"""`Repository`: one model's history in a store, as programs use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar, Unpack, overload

from skyhold import error_codes
from skyhold.errors import AlreadyExists, InvalidInput, NotFound
from skyhold.registry import validate
from skyhold.registry.change import RefUpdate, RepositoryChange, attachments
from skyhold.registry.history import moves_in, ref_history
from skyhold.registry.names import Ref
from skyhold.registry.push_request import PushFields, PushRequest
from skyhold.registry.reader import RepositoryReader
from skyhold.registry.reading import (
    find_ref,
    repositories_of,
    resolve_base,
)
from skyhold.registry.repository_register import RepositoryRegister
from skyhold.registry.snapshot import Snapshot
from skyhold.registry.views import MoveView, PushPlan, PushResult, move_view
from skyhold.storage.cancel import Cancel, cancelled_by
from skyhold.storage.policy import Policy, check_possible
from skyhold.storage.progress import Progress
from skyhold.store.connection import new_operation_id, pause
from skyhold.store.event import Origin
from skyhold.store.record import ANY
from skyhold.store.session import retry_on_reconfiguration

if TYPE_CHECKING:
    from skyhold.storage.sources.open import SourceInput

T = TypeVar("T")


class Repository(RepositoryReader):
    """One repository. Get it from `Store.repository`; every method opens what it needs and closes it again.

    A `reference` is the name of a branch, tag or alias, or the beginning of a version's id (4 characters or more), with
    `~N` for its Nth ancestor. Methods that change something are atomic: all of it takes effect, or nothing.
    """

    def set_policy(self, policy: Policy, *, author: str | None = None, reason: str = "") -> None:
        """Change how many copies there are and where. `Store.sync` applies it to existing versions."""
        origin, operation_id = self._origin(author, reason), new_operation_id()

        def set_policy(register: RepositoryRegister, _: Snapshot) -> None:
            check_possible(policy, self._connection.configuration.locations)
            register.set_policy(policy.to_json(), origin, operation_id, pause=pause)

        self._change(set_policy)

    @overload
    def push(
        self, source: SourceInput, *, author: str | None = ..., dry_run: Literal[False] = ...,
        progress: Progress | None = ..., cancel: Cancel | None = ..., **described: Unpack[PushFields],
    ) -> PushResult: ...  # fmt: skip
    @overload
    def push(
        self, source: SourceInput, *, author: str | None = ..., dry_run: Literal[True],
        progress: Progress | None = ..., cancel: Cancel | None = ..., **described: Unpack[PushFields],
    ) -> PushPlan: ...  # fmt: skip
    @overload
    def push(
        self, source: SourceInput, *, author: str | None = ..., dry_run: bool,
        progress: Progress | None = ..., cancel: Cancel | None = ..., **described: Unpack[PushFields],
    ) -> PushResult | PushPlan: ...  # fmt: skip
    def push(
        self,
        source: SourceInput,
        *,
        author: str | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        **described: Unpack[PushFields],
    ) -> PushResult | PushPlan:
        """Commit `source` as a new version of a branch; it is durable to the policy when this returns.

        `source` is the path of a folder, a file, or an archive (`.tar`, `.tar.gz`, `.tar.zst`, `.zip`), whose members
        become the files; an open binary file that contains an archive; or a mapping of the names of files to their
        contents: bytes, paths, open binary files (read from where they are to their end), or arrays by name, which
        become a safetensors file: `{"model.safetensors": {"layer.weight": array}, "config.json": b"{}"}`.

        Keywords, all optional: `message`, `branch` (`main`), `tags`, `aliases`, `metrics`, `notes`, `parameters`,
        `metadata`, `data`, `code`, `expected_parent`, `dry_run`, `without_optimizer`, `allow_unsafe_names`. `base`
        names a version of any repository (`team/name@ref`) from which this one was derived: it becomes part of the
        lineage, and the new weights are stored as differences to it where that helps; `relation` is how this version
        relates to it (`fine-tune`, `adapter`, `quantized`, `merged`). Run again after any failure: what is stored
        already is not sent again. Raises `Conflict` where another push moved the branch first.

        Files whose names control other programs (`.git`, `.env`, `skyhold.toml` and the like) are left out, unless
        `allow_unsafe_names`; buckets of stores, key files and other files of Skyhold itself always. The result names
        them in `left_out`.
        """
        from skyhold.registry.pushing import push_version, source_of  # loads what cuts and encodes

        if self._unresolved is not None:
            raise self._unresolved
        request = PushRequest(
            self._author(author),
            actor=self._connection.origin().actor,
            create=self._create,
            dry_run=dry_run,
            **described,
        )
        if request.base is not None:
            request = replace(request, bases=(resolve_base(self._connection, request.base),))
        with (
            cancelled_by(validate.cancel(cancel), progress) as watching,
            source_of(self._connection, validate.source(source, "the files to push"), request) as files,
        ):
            try:
                return push_version(self._connection, self.id, self.name, request, files, watching)
            except AlreadyExists as error:
                if error.code != error_codes.REPOSITORY_EXISTS or not self._create:
                    raise
            with repositories_of(self._connection) as (repositories, _):  # another push has created it meanwhile
                self.id = repositories.read().find(self.name) or self.id
            return push_version(self._connection, self.id, self.name, request, files, watching)

    def set_refs(
        self,
        changes: Mapping[str, str | None],
        *,
        expected: Mapping[str, str | None] | None = None,
        author: str | None = None,
        reason: str = "",
        force: bool = False,
    ) -> list[MoveView]:
        """Move several refs as one. `changes` maps names such as `alias/champion` to references, or None to delete.

        `expected` is what a ref must point to now (a reference, or None: it must not exist), else `Conflict`. Branches
        move forward only, unless `force`; tags never move; a followed ref is deleted only with `force`. Returns the
        moves that were made.
        """

        wanted = _targets(changes, "changes")
        musts = _targets(expected, "expected")
        for name in wanted.keys() | musts.keys():
            Ref.parse(name)
        origin, operation_id = self._origin(author, reason), new_operation_id()

        def move(register: RepositoryRegister, snapshot: Snapshot) -> list[MoveView]:
            updates = []
            for name, target in wanted.items():
                version = None if target is None else self._resolve(snapshot, target)
                must: str | None = ANY
                if name in musts:
                    must = None if (there := musts[name]) is None else self._resolve(snapshot, there)
                updates.append(RefUpdate(Ref.parse(name), version, expected=must, force=force))
            after = register.apply(
                RepositoryChange(origin, refs=tuple(updates)), operation_id, pause=pause, before=snapshot
            )
            if after.register_version == snapshot.register_version:
                return []
            event = after.log.read(after.root.events)
            return [move_view(move) for move in moves_in(event)] if event.origin == origin else []

        return self._change(move)

    def rollback(self, ref: str, *, to: str | None = None, author: str | None = None, reason: str = "") -> MoveView:
        """Move a branch or alias back: to the version that it pointed to before its last move, or to `to`."""
        with self._reading() as (_, snapshot):
            found = find_ref(snapshot, validate.text(ref, "a ref"), self.name)
            last = next(ref_history(snapshot, found), None)
            if last is None or last.new is None:
                raise NotFound(f"There is no ref `{ref}` in {self.name}", code=error_codes.REF_NOT_FOUND)
            if to is None and last.old is None:
                raise InvalidInput(
                    f"`{ref}` of {self.name} has never pointed to another version; nothing was changed",
                    code=error_codes.NOTHING_TO_ROLL_BACK,
                    hint=f"Name a version: skyhold rollback {self.name}@{ref} --to REF",
                )
            target = str(last.old) if to is None else self._resolve(snapshot, to)
        moves = self.set_refs(
            {str(found): target},
            expected={str(found): last.new},
            author=author,
            reason=reason or "rollback",
            force=True,
        )
        if not moves:
            raise InvalidInput(f"`{ref}` of {self.name} points there already", code=error_codes.NOTHING_TO_ROLL_BACK)
        return moves[0]

    def attach(
        self,
        reference: str,
        *,
        metrics: Mapping[str, float] | None = None,
        notes: Sequence[str] = (),
        author: str | None = None,
        reason: str = "",
    ) -> None:
        """Attach metrics and notes to a version that exists; its id does not change."""

        measured, texts = validate.numbers(metrics, "metrics"), validate.texts(notes, "notes", long=True)
        origin, operation_id = self._origin(author, reason), new_operation_id()

        def attach(register: RepositoryRegister, snapshot: Snapshot) -> None:
            found = tuple(attachments(self._resolve(snapshot, reference), measured, texts))
            register.apply(RepositoryChange(origin, attachments=found), operation_id, pause=pause, before=snapshot)

        self._change(attach)

    def _change(self, change: Callable[[RepositoryRegister, Snapshot], T]) -> T:
        def once() -> T:
            with self._reading() as (session, snapshot):
                return change(self._register(session), snapshot)

        return retry_on_reconfiguration(once)

    def _author(self, author: str | None) -> str:
        return validate.text(author, "the author") if author is not None else self._connection.author

    def _origin(self, author: str | None, reason: str) -> Origin:
        return self._connection.origin(self._author(author), validate.text(reason, "the reason", long=True))


def _targets(changes: object, what: str) -> dict[str, str | None]:
    """References by the names of refs, and None."""
    return {
        name: None if target is None else validate.text(target, f"{what} of `{name}`")
        for name, target in validate.pairs(changes, what)
    }
