"""The document `store.json`: what one bucket contains about the store (format.md, 3). Pure.

It is not encrypted, so nothing in it is trusted until its MAC has been checked under the store's key.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NoReturn, cast

from blake3 import blake3

from skyhold import error_codes
from skyhold.buckets.location import BucketLocation, check_bucket_name
from skyhold.consensus.acceptor import VOTERS_MAX
from skyhold.consensus.checkpoint import EPOCH_MAX
from skyhold.errors import Corrupt, InvalidInput, PermissionDenied
from skyhold.security.key_bounds import check_keys
from skyhold.security.keys import KeyEncryptionKey, StoreKeys, open_keys
from skyhold.storage.canonical import decode_canonical, encode
from skyhold.storage.object_keys import STORE_DOCUMENT, STORE_DOCUMENT_BYTES_MAX
from skyhold.store.features import Features

FORMAT: Final = 1
BY_ANOTHER: Final = "Open the store by another bucket and repair this one, or restore its store.json from a backup"
"""What to do where one bucket's document is damaged or gone."""

SQLITE: Final = "sqlite"
BUCKETS: Final = "buckets"
ETCD: Final = "etcd"
_ENGINE_FIELDS: Final = {SQLITE: "machine", BUCKETS: "voters", ETCD: "cluster"}

"""Each bucket has a `store.json` of its own: where one is damaged or forged, those of the others open the store."""

_ID: Final = re.compile(r"[0-9a-f]{32}")
_MAC: Final = re.compile(r"[0-9a-f]{64}")
_HINT_FIELDS: Final = ("name", "url", "provider", "region", "endpoint", "path_style", "allow_http")
_FIELDS: Final = frozenset(
    {"skyhold", "format", "features", "store", "bucket", "incarnation", "sealed", "engine", "hints", "keys", "mac"}
)


@dataclass(frozen=True, slots=True)
class Engine:
    """Where the registers live: on one `machine` (`sqlite`), in the buckets of `voters` (`buckets`), each with the
    incarnation id that it had when it was admitted, or in the etcd `cluster` of this URL. `epoch` is the number of the
    epoch, and grows with every `recover`, too."""

    machine: str
    epoch: int
    kind: str = SQLITE
    voters: tuple[tuple[str, str], ...] = ()
    cluster: str = ""

    @property
    def shared(self) -> bool:
        """Whether the registers are where every machine reaches them."""
        return self.kind != SQLITE

    @property
    def votes(self) -> bool:
        """Whether buckets of the store vote on the registers."""
        return self.kind == BUCKETS


@dataclass(frozen=True, slots=True)
class StoreDocument:
    """The content of one bucket's `store.json`. `hints` are the other buckets, without credentials; `keys` is the
    field of format.md, section 4, as `skyhold.security.keys.new_keys` makes it."""

    store: str
    bucket: str
    incarnation: str
    sealed: bool
    engine: Engine
    hints: tuple[BucketLocation, ...]
    keys: tuple[dict[str, object], ...]
    features: Features = Features()  # noqa: RUF009 (it is immutable)

    def for_bucket(
        self, bucket: str, incarnation: str, hints: Sequence[BucketLocation], features: Features
    ) -> StoreDocument:
        """The document of another bucket of the same store."""
        return replace(self, bucket=bucket, incarnation=incarnation, hints=tuple(hints), features=features)


def encode_store_document(document: StoreDocument, keys: StoreKeys) -> bytes:
    """The bytes of `store.json`, with the MAC under data key 0.

    Raises `InvalidInput` for one that no reader would accept: over 1 MiB, or with more wraps than readers try.
    """
    try:
        check_keys(list(document.keys))
    except Corrupt as error:
        raise InvalidInput(
            error.message, code=error_codes.TOO_MANY_KEYS, hint="Remove a key or a passphrase before another is added"
        ) from error
    fields: dict[str, object] = {
        "skyhold": "store",
        "format": FORMAT,
        "features": document.features.to_json(),
        "store": document.store,
        "bucket": document.bucket,
        "incarnation": document.incarnation,
        "sealed": document.sealed,
        "engine": engine_to_json(document.engine),
        "hints": [_hint(location) for location in document.hints],
        "keys": list(document.keys),
    }
    _refuse_unreadable(lambda: _parse({**fields, "mac": ""}, STORE_DOCUMENT))
    body = encode({**fields, "mac": _mac(fields, keys)}, STORE_DOCUMENT)
    if len(body) > STORE_DOCUMENT_BYTES_MAX:
        raise InvalidInput(
            f"Expected {STORE_DOCUMENT} of at most 1 MiB but got {len(body)}", code=error_codes.DOCUMENT_TOO_LARGE
        )
    return body


def decode_store_document(
    body: bytes | bytearray | memoryview,
    keks: Sequence[KeyEncryptionKey],
    where: str,
    *,
    opened: StoreKeys | None = None,
) -> tuple[StoreDocument, StoreKeys]:
    """Check and open a `store.json` that was found at `where`; `opened` are the store's keys if they are already open.

    Raises `InvalidInput` code `format_newer` or `feature_unknown` (this program is too old), `Corrupt` (malformed, or
    its MAC does not match), `PermissionDenied` (no key that opens it).
    """
    what = f"{STORE_DOCUMENT} of {where}"
    if len(body) > STORE_DOCUMENT_BYTES_MAX:
        _malformed(what, "it is larger than 1 MiB")
    try:
        fields = decode_canonical(body, what)
    except Corrupt as error:
        raise Corrupt(error.message, code=error_codes.STORE_DOCUMENT_MALFORMED, hint=BY_ANOTHER) from error
    _refuse_newer(fields, what)
    document = _parse(fields, what)
    try:
        keys = opened or open_keys(document.store, document.sealed, list(document.keys), keks)
    except Corrupt as error:
        raise Corrupt(f"The {what} is malformed: {error.message}", code=error.code, hint=BY_ANOTHER) from error
    mac = fields.pop("mac")
    if not isinstance(mac, str) or not _MAC.fullmatch(mac) or not hmac.compare_digest(mac, _mac(fields, keys)):
        raise Corrupt(
            f"The {what} was changed by a party without the store's key, or is damaged",
            code=error_codes.STORE_DOCUMENT_FORGED,
            hint=BY_ANOTHER,
        )
    return document, keys


def check_machine(document: StoreDocument, machine_id: str) -> None:
    """Raises `PermissionDenied` code `other_machine` where the registers live on another machine than this."""
    if document.engine.kind == SQLITE and document.engine.machine != machine_id:
        raise PermissionDenied(
            f"The registers of this store live on machine {document.engine.machine} (engine {document.engine.kind}), "
            f"and this is machine {machine_id}; with this engine one machine changes and reads refs",
            code=error_codes.OTHER_MACHINE,
            hint="Run there; or let that machine move the refs to where all machines reach them: `skyhold store engine "
            "set buckets`. Only if it is lost for good is there `skyhold recover`, which shuts it out",
            machine=document.engine.machine,
            epoch=document.engine.epoch,
        )


def _refuse_newer(fields: dict[str, object], what: str) -> None:
    if fields.get("skyhold") != "store":
        _malformed(what, "it is no document of Skyhold")
    number, features = fields.get("format"), fields.get("features")
    if type(number) is not int or number < 1:
        _malformed(what, "its format is no number")
    if number > FORMAT:
        raise InvalidInput(
            f"The store is of format {number}, and this Skyhold reads formats up to {FORMAT}",
            code=error_codes.FORMAT_NEWER,
            hint="Upgrade: pip install --upgrade skyhold",
        )
    try:
        known = Features.from_json(features)
    except InvalidInput as error:
        _malformed(what, error.message)
    known.refuse_unread()


def _parse(fields: dict[str, object], what: str) -> StoreDocument:
    if fields.keys() != _FIELDS:
        _malformed(what, f"its fields differ by {', '.join(sorted(fields.keys() ^ _FIELDS))}")
    sealed, hints, keys = fields["sealed"], fields["hints"], fields["keys"]
    if not isinstance(sealed, bool):
        _malformed(what, "`sealed` is neither true nor false")
    if not isinstance(hints, list) or not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        _malformed(what, "`hints` or `keys` is no list")
    try:
        bucket = check_bucket_name(str(fields["bucket"]))
        locations = tuple(BucketLocation.from_json(_bare_hint(hint, what)) for hint in hints)
    except InvalidInput as error:
        raise Corrupt(
            f"The {what} is malformed: {error.message}", code=error_codes.STORE_DOCUMENT_MALFORMED, hint=BY_ANOTHER
        ) from error
    return StoreDocument(
        store=_id(fields["store"], "store", what),
        bucket=bucket,
        incarnation=_id(fields["incarnation"], "incarnation", what),
        sealed=sealed,
        engine=engine_from_json(fields["engine"], what),
        hints=locations,
        keys=tuple(cast(list[dict[str, object]], keys)),
        features=Features.from_json(fields["features"]),
    )


def engine_to_json(engine: Engine) -> dict[str, object]:
    """The field `engine` of format.md, 3. Raises `InvalidInput` for one that a reader would refuse."""
    voters = [list(voter) for voter in engine.voters]
    field = _ENGINE_FIELDS[engine.kind]
    value = {"machine": engine.machine, "voters": voters, "cluster": engine.cluster}[field]
    written: dict[str, object] = {"kind": engine.kind, "term": engine.epoch, field: value}
    _refuse_unreadable(lambda: engine_from_json(written, "engine of the store"))
    return written


def engine_from_json(value: object, what: str) -> Engine:
    """The inverse. Raises `Corrupt` naming `what`, and `InvalidInput` for an engine that is not known here."""
    if not isinstance(value, dict) or "kind" not in value:
        _malformed(what, "`engine` is malformed")
    kind = value["kind"]
    if kind not in _ENGINE_FIELDS:
        raise InvalidInput(
            f"The registers of the store are kept by engine {kind!r}, which this Skyhold does not know",
            code=error_codes.FEATURE_UNKNOWN,
            hint="Upgrade: pip install --upgrade skyhold",
        )
    field = _ENGINE_FIELDS[kind]
    if value.keys() != {"kind", "term", field}:
        _malformed(what, "`engine` is malformed")
    epoch = value["term"]
    if type(epoch) is not int or not 0 <= epoch <= EPOCH_MAX:
        _malformed(what, "its epoch is no number of 32 bits")
    if kind == SQLITE:
        return Engine(_id(value["machine"], "machine", what), epoch)
    if kind == BUCKETS:
        return Engine("", epoch, BUCKETS, _voters(value["voters"], what))
    if not isinstance(value["cluster"], str):
        _malformed(what, "its cluster is no URL")
    return Engine("", epoch, ETCD, cluster=value["cluster"])


def _voters(value: object, what: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= VOTERS_MAX:
        _malformed(what, f"`voters` is no list of 1 to {VOTERS_MAX}")
    voters: list[tuple[str, str]] = []
    for voter in value:
        if not isinstance(voter, list) or len(voter) != 2 or not isinstance(voter[0], str):
            _malformed(what, "a voter is no pair of a bucket's name and its incarnation")
        try:
            voters.append((check_bucket_name(voter[0]), _id(voter[1], "voters", what)))
        except InvalidInput as error:
            _malformed(what, error.message)
    if len({name for name, _ in voters}) != len(voters):
        _malformed(what, "a voter is named twice")
    return tuple(voters)


def _hint(location: BucketLocation) -> dict[str, object]:
    return {name: value for name, value in location.to_json().items() if name in _HINT_FIELDS}


def _bare_hint(value: object, what: str) -> object:
    # A hint that could name credentials would have this machine send its secrets to a place of an attacker's choice.
    if isinstance(value, dict) and not value.keys() <= set(_HINT_FIELDS):
        _malformed(what, "a hint has fields beyond place and name")
    return value


def _id(value: object, name: str, what: str) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        _malformed(what, f"`{name}` is not 32 hex digits")
    return value


def _mac(fields: dict[str, object], keys: StoreKeys) -> str:
    return blake3(b"store.json\0" + encode(fields, STORE_DOCUMENT), key=keys.mac_key(0)).hexdigest()


def _refuse_unreadable(read: Callable[[], object]) -> None:
    """Refuse to write what `read`, which every reader runs, refuses."""
    try:
        read()
    except Corrupt as error:
        raise InvalidInput(
            f"This cannot be written, since no reader accepts it: {error.message}", code=error_codes.DOCUMENT_UNREADABLE
        ) from error


def _malformed(what: str, why: str) -> NoReturn:
    raise Corrupt(
        f"The {what} is malformed: {why}",
        code=error_codes.STORE_DOCUMENT_MALFORMED,
        hint=BY_ANOTHER,
    )
