"""The documents of a store: created, changed, renamed and deleted. The layers above define their kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from skyhold import error_codes
from skyhold.consensus.no_majority import register_lost
from skyhold.consensus.register import Registers
from skyhold.errors import AlreadyExists, InvalidInput, NotFound
from skyhold.storage.blobs import Blobs
from skyhold.storage.canonical import Json
from skyhold.store.directory import Directory, DirectoryRegister, deletion, named
from skyhold.store.document import (
    Document,
    DocumentChange,
    DocumentRoot,
    check_document_name,
    document_key,
    plan_document,
    read_document,
)
from skyhold.store.event import Origin
from skyhold.store.logged_state import refuse_wanted
from skyhold.store.record import RecordKind
from skyhold.store.transaction import Pause, Transactions, no_pause


def _nothing_wants(_document: Document) -> list[str]:
    return []


@dataclass(frozen=True, slots=True)
class DocumentKind:
    """A kind of document: its name, the kinds of its records, and what still wants a document, in words: it is then not
    deleted."""

    name: str
    records: tuple[RecordKind, ...]
    wanted: Callable[[Document], list[str]] = _nothing_wants


class Documents:
    """All documents of one kind. Every change takes an `operation_id` of at most 56 characters, and may be repeated
    under the same id."""

    def __init__(self, registers: Registers, blobs: Blobs, kind: DocumentKind) -> None:
        self._registers = registers
        self._blobs = blobs
        self._names = DirectoryRegister(registers, blobs, Directory)
        self.kind = kind

    def list(self) -> Iterator[tuple[str, str]]:
        """Names and ids, sorted by name."""
        return ((name, document_id) for _, name, document_id in self._names.read().documents(self.kind.name))

    def find(self, name: str) -> str:
        """The id of the document of this name. Raises `NotFound` code `document_not_found`."""
        return self._resolve(self._names.read(), name)

    def read(self, document_id: str) -> Document:
        """The newest state. Raises `NotFound` code `document_not_found`, and `Corrupt` code `register_lost` where it
        was created."""
        document = read_document(self._registers, self._blobs, document_id)
        if document is None:
            key = document_key(document_id)
            raise register_lost(key) if self._names.read().created().get(key) else self._not_found(document_id)
        return self._checked(document)

    def create(
        self, name: str, document_id: str, origin: Origin, operation_id: str, *, pause: Pause = no_pause
    ) -> Document:
        """Create a document: its register's key is listed, then the register created, then the name given. A crash in
        between leaves a register without a name. Raises `AlreadyExists` code `document_exists`."""
        check_document_name(self.kind.name, name)
        key = document_key(document_id)

        def listed(names: Directory) -> Directory | None:
            self._refuse_taken(names, name, document_id)
            return names.entered(key, origin)

        def with_name(names: Directory) -> Directory | None:
            self._refuse_taken(names, name, document_id)
            if names.find_document(self.kind.name, name) is not None:
                return None
            return self._named(names, origin, document_id, name)

        gc_epoch = self._names.change(listed, f"{operation_id}-enter", pause).gc_epoch
        first = Document.first(document_id, self.kind.name, name, gc_epoch=gc_epoch, blobs=self._blobs, origin=origin)
        exists = AlreadyExists(f"Document {document_id} exists already", code=error_codes.DOCUMENT_EXISTS)
        document = self._transactions(document_id).create(first, operation_id, exists)
        self._names.change(with_name, f"{operation_id}-name", pause)
        return document

    def apply(
        self, document_id: str, change: DocumentChange, operation_id: str, *, pause: Pause = no_pause
    ) -> Document:
        """Make the change, all of it or nothing; returns the state after it. Raises as `plan_document`, and
        `InvalidInput` for a record of a kind that this kind of document does not have."""
        for update in change.records:
            if update.kind not in self.kind.records:
                raise InvalidInput(
                    f"A {self.kind.name} has no records of kind {update.kind.name}", code=error_codes.INVALID_RECORD,
                    record=update.key,
                )  # fmt: skip
        return self._transactions(document_id).change(
            lambda document: plan_document(document, change), operation_id, pause
        )

    def rename(
        self, name: str, new_name: str, origin: Origin, operation_id: str, *, pause: Pause = no_pause
    ) -> Document:
        """Give a document another name; the old one is free from then on."""
        check_document_name(self.kind.name, new_name)
        if new_name == name:
            raise InvalidInput(f"`{name}` is the name already", code=error_codes.NAME_UNCHANGED)
        document_id = self._id_of(name, operation_id)

        def renamed(names: Directory) -> Directory | None:
            self._refuse_taken(names, new_name, document_id)
            if names.find_document(self.kind.name, name) != document_id:
                raise self._not_found(name)
            return self._named(names, origin, document_id, new_name, without=name)

        self._names.change(renamed, f"{operation_id}-name", pause)

        def moved(document: Document) -> Document | None:
            if document.root.name == new_name:
                return None
            what: Json = {"kind": "renamed", "old": document.root.name, "new": new_name}
            return document.after(origin, [what], {}, name=new_name)

        return self._transactions(document_id).change(moved, operation_id, pause)

    def delete(
        self, name: str, origin: Origin, operation_id: str, *, force: bool = False, pause: Pause = no_pause
    ) -> Document:
        """Free a document's name and refuse further changes; nothing of the document is erased.

        Raises `Conflict` code `document_wanted` where something still wants it, unless `force`.
        """
        document_id = self._id_of(name, operation_id)

        def deleted(document: Document) -> Document | None:
            if document.root.deleted is not None:
                return None
            if not force:
                refuse_wanted(f"{self.kind.name} `{name}`", self.kind.wanted(document), error_codes.DOCUMENT_WANTED)
            return document.after(origin, [{"kind": "deleted"}], {}, deleted=origin.time)

        def without_name(names: Directory) -> Directory | None:
            if names.find_document(self.kind.name, name) != document_id:
                raise self._not_found(name)
            key = f"document/{self.kind.name}/{name}"
            gone = {"name": name, "time": document.root.deleted or origin.time, "kind": self.kind.name}
            what = [named(name, document=None, of=self.kind.name), deletion(document_id)]
            return names.after(origin, what, {key: None, f"deleted/{document_id}": gone})

        document = self._transactions(document_id).change(deleted, operation_id, pause)
        self._names.change(without_name, f"{operation_id}-name", pause)
        return document

    def _resolve(self, names: Directory, name: str) -> str:
        document_id = names.find_document(self.kind.name, name)
        if document_id is None:
            raise self._not_found(name)
        return document_id

    def _id_of(self, name: str, operation_id: str) -> str:
        return self._names.id_of(lambda names: self._resolve(names, name), f"{operation_id}-name")

    def _transactions(self, document_id: str) -> Transactions[Document]:
        return Transactions(
            self._registers,
            document_key(document_id),
            f"Document {document_id}",
            lambda: self.read(document_id),
            lambda version, data: self._decode(document_id, version, data),
        )

    def _decode(self, document_id: str, version: int, data: bytes) -> Document:
        return self._checked(Document(DocumentRoot.decode(data, document_id), version, self._blobs))

    def _checked(self, document: Document) -> Document:
        if document.root.kind != self.kind.name:
            raise NotFound(
                f"Document {document.root.document_id} is no {self.kind.name}, but a {document.root.kind}",
                code=error_codes.DOCUMENT_NOT_FOUND,
            )
        return document

    def _named(
        self, names: Directory, origin: Origin, document_id: str, name: str, without: str | None = None
    ) -> Directory:
        folder, ids = f"document/{self.kind.name}", {"document": document_id}
        return names.with_name(origin, folder, name, ids, without=without, of=self.kind.name)

    def _refuse_taken(self, names: Directory, name: str, document_id: str) -> None:
        if names.find_document(self.kind.name, name) not in {None, document_id}:
            raise AlreadyExists(
                f"There is a {self.kind.name} `{name}` already",
                code=error_codes.DOCUMENT_EXISTS,
                hint="Choose another name",
            )

    def _not_found(self, name: str) -> NotFound:
        return NotFound(f"There is no {self.kind.name} `{name}`", code=error_codes.DOCUMENT_NOT_FOUND, name=name)
