"""A document: a register for one thing that is not a repository, with records and a history (format.md, 10)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from skyhold import error_codes
from skyhold.consensus.register import Registers
from skyhold.errors import InvalidInput, NotFound, QuotaExceeded
from skyhold.storage.blobs import Blobs
from skyhold.storage.canonical import Json, canonical, decode, is_counter, malformed
from skyhold.store.event import Origin, first_chain, is_chain
from skyhold.store.ids import check_id, is_word
from skyhold.store.logged_state import LoggedState
from skyhold.store.record import RecordUpdate, plan_records
from skyhold.store.register_root import ROOT_BYTES_MAX, check_counters, check_gc_epoch

_FORMAT: Final = 1
_KIND: Final = re.compile(r"[a-z](?:[a-z-]{0,30}[a-z])?")


@dataclass(frozen=True, slots=True)
class DocumentRoot:
    """Everything of one document, small enough for a register. `kind` is the kind of that thing, such as `cluster`."""

    document_id: str
    kind: str
    name: str
    gc_epoch: int
    chain: str
    deleted: str | None = None
    events: int = 0
    map: Json = field(default_factory=lambda: {"level": 0, "entries": []})

    @property
    def key(self) -> str:
        """That of its register."""
        return document_key(self.document_id)

    def encode(self) -> bytes:
        """Canonical JSON. Raises `InvalidInput` for a counter that readers would refuse, and `QuotaExceeded` code
        `root_too_large` for more than 16 KiB."""
        check_counters(self.gc_epoch, self.events)
        body = canonical(
            {
                "document": _FORMAT,
                "id": self.document_id,
                "kind": self.kind,
                "name": self.name,
                "gc_epoch": self.gc_epoch,
                "deleted": self.deleted,
                "events": self.events,
                "chain": self.chain,
                "map": self.map,
            }
        )
        if len(body) > ROOT_BYTES_MAX:
            raise QuotaExceeded(
                f"Document {self.document_id} has {len(body)} bytes of at most {ROOT_BYTES_MAX}",
                code=error_codes.ROOT_TOO_LARGE,
            )
        return body

    @classmethod
    def decode(cls, data: bytes, document_id: str) -> DocumentRoot:
        """The root in a register's data. Raises `Corrupt` unless it is one, and that of this document."""
        what = f"document {document_id}"
        value = decode(data, what)
        if value.get("document") != _FORMAT or value.get("id") != document_id:
            malformed(what, f"it is {value.get('id')!r} of format {value.get('document')!r}")
        kind, name, deleted, map_ = (value.get(key) for key in ("kind", "name", "deleted", "map"))
        gc_epoch, events, chain = value.get("gc_epoch"), value.get("events"), value.get("chain")
        if not is_counter(gc_epoch) or not is_counter(events) or not is_chain(chain):
            malformed(what, "a counter or its chain is missing or invalid")
        if len(data) > ROOT_BYTES_MAX:
            malformed(what, f"it has {len(data)} bytes")
        if not isinstance(kind, str) or not isinstance(name, str) or not _KIND.fullmatch(kind):
            malformed(what, "its kind or name is missing or invalid")
        if not isinstance(map_, dict) or not isinstance(deleted, str | None):
            malformed(what, "a field has another type")
        return cls(document_id, kind, name, gc_epoch, chain, deleted, events, map_)


class Document(LoggedState[DocumentRoot]):
    """An immutable view of a document. Reads fetch map nodes from the blobs as they need them."""

    @classmethod
    def first(cls, document_id: str, kind: str, name: str, *, gc_epoch: int, blobs: Blobs, origin: Origin) -> Document:
        """The first state of a document, which is in no register yet."""
        root = DocumentRoot(document_id, kind, name, gc_epoch, first_chain(document_key(document_id)))
        return cls(root, 0, blobs).after(origin, [{"kind": "created", "document": kind, "name": name}], {})


@dataclass(frozen=True, slots=True)
class DocumentChange:
    """Records of a document that change together, as one event of this origin. `gc_epoch` is the epoch that was noted
    before the first blob that they name was written."""

    origin: Origin
    records: tuple[RecordUpdate, ...]
    gc_epoch: int | None = None

    def __post_init__(self) -> None:
        if len({update.key for update in self.records}) != len(self.records):
            raise InvalidInput("A change names one record twice", code=error_codes.RECORD_NAMED_TWICE)
        if self.gc_epoch is None and any(update.value and update.value.get("blobs") for update in self.records):
            raise InvalidInput(
                "A change that adds blobs must carry the gc epoch it began in", code=error_codes.GC_EPOCH_NEEDED
            )


def plan_document(document: Document, change: DocumentChange) -> Document | None:
    """The state after the change, or None where nothing would change.

    Raises `NotFound` code `document_deleted`, `Conflict` code `gc_epoch_risen`, and as `plan_records`.
    """
    root = document.root
    if root.deleted is not None:
        raise NotFound(f"{root.kind} `{root.name}` was deleted at {root.deleted}", code=error_codes.DOCUMENT_DELETED)
    check_gc_epoch(change.gc_epoch, root.gc_epoch, "Run the command again")
    entries: dict[str, object | None] = {}
    what = plan_records(document.map, change.records, entries)
    return document.after(change.origin, what, entries) if what else None


def read_document(registers: Registers, blobs: Blobs, document_id: str) -> Document | None:
    """The newest state of a document of any kind; None where there is no such register."""
    value = registers.read(document_key(document_id))
    return None if value is None else Document(DocumentRoot.decode(value.data, document_id), value.version, blobs)


def document_key(document_id: str) -> str:
    """Key of the register of a document."""
    return f"document/{check_id(document_id)}"


def check_document_name(kind: str, name: str) -> str:
    """Return `name`, or raise `InvalidInput` unless it is one word, and `kind` a kind of document."""
    if _KIND.fullmatch(kind) is None:
        raise InvalidInput(f"Expected a kind of document but got {kind!r}", code=error_codes.INVALID_NAME)
    if not is_word(name):
        raise InvalidInput(
            f"Expected the name of a {kind} (one word of letters, digits, `_`, `.` and `-`) but got {name!r}",
            code=error_codes.INVALID_NAME,
        )
    return name
