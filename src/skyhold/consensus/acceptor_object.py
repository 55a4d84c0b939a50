"""The object of an acceptor: what one bucket holds of one register (format.md, 12). Pure.

The ballots are inside the framed body, so the store's own tag of the object changes with them; a random nonce makes
every body, and so every tag, unique: no put can be taken for another, however late it arrives.
"""

from __future__ import annotations

import json
import re
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from skyhold import error_codes
from skyhold.codec.frame import FrameKeys, Kind, decode_frame, encode_frame
from skyhold.consensus.acceptor import COUNTER_MAX, NO_BALLOT, AcceptorState, Ballot
from skyhold.consensus.operation import Kept
from skyhold.consensus.register import (
    CHANGES_KEPT,
    RegisterChange,
    Versioned,
    check_changes,
    check_operation_id,
    check_register_key,
)
from skyhold.errors import Corrupt, InvalidInput
from skyhold.units import MIB, Buffer

FOLDER: Final = "registers"
ACCEPTOR_BYTES_MAX: Final = 2 * MIB
"""More than `CHANGES_KEPT` changes of `DATA_BYTES_MAX` take, with a configuration after a seal."""
_PROPOSER: Final = re.compile(r"[0-9a-f]{32}")
_OBJECT: Final = re.compile(r"registers/([0-9a-f]{8})/(config|names|(?:repository|document)-[0-9a-f]{32})")
_FIELDS: Final = frozenset({"key", "epoch", "promised", "accepted", "changes", "decided", "nonce", "writer", "time"})
_CHANGE_FIELDS: Final = frozenset({"version", "bytes", "next_bytes", "operation"})
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class AcceptorObject:
    """What an acceptor holds, and who wrote it.

    `decided` is the version up to which the writer knew the register's changes to be chosen (0: of none). `writer` and
    `time` (RFC 3339, the writer's clock) are for display only and decide nothing. A `retired` acceptor takes no part in
    its epoch any more (`retiring`); what it held is kept.
    """

    state: AcceptorState[Kept]
    decided: int
    writer: str
    time: str
    retired: bool = False


def object_key(epoch: int, key: str) -> str:
    """Where the acceptors of an epoch keep a register."""
    return f"{FOLDER}/{epoch:08x}/{key.replace('/', '-')}"


def parse_object_key(name: str) -> tuple[int, str] | None:
    """Epoch and register of an object's key, or None for another key."""
    match = _OBJECT.fullmatch(name)
    if match is None:
        return None
    return int(match[1], 16), match[2].replace("-", "/")


def encode_acceptor(held: AcceptorObject, epoch: int, key: str, voter: str, keys: FrameKeys) -> bytes:
    """The bytes of the object; `voter` is the incarnation id of the bucket, so that no bucket's copy passes for
    another's. Raises `Corrupt` for what `decode_acceptor` would refuse: nothing unreadable is written."""
    state = _checked(held, object_key(epoch, key), key).state
    header = _ENCODER.encode(
        {
            "key": key,
            "epoch": epoch,
            "promised": _ballot(state.promised),
            "accepted": _ballot(state.accepted),
            "changes": [_header(change) for change in state.value or ()],
            "decided": held.decided,
            "nonce": secrets.token_hex(16),
            "writer": held.writer,
            "time": held.time,
        }
    ).encode()
    # The changes of a register are much alike: as bare bytes, one after the other, they compress almost to one.
    body = b"".join(
        [_LENGTH.pack(len(header)), header, *(part for change in state.value or () for part in _parts(change))]
    )
    context = _context(epoch, key, voter, retired=held.retired)
    return encode_frame(Kind.ACCEPTOR, body, context=context, keys=keys)


def decode_acceptor(stored: Buffer, epoch: int, key: str, voter: str, keys: FrameKeys) -> AcceptorObject:
    """Raises `Corrupt` for anything but an intact object of this register, epoch and voter."""
    what, retired = object_key(epoch, key), False
    try:
        body = decode_frame(stored, kind=Kind.ACCEPTOR, context=_context(epoch, key, voter), keys=keys)
    except Corrupt as damaged:
        try:
            retired_context = _context(epoch, key, voter, retired=True)
            body, retired = decode_frame(stored, kind=Kind.ACCEPTOR, context=retired_context, keys=keys), True
        except Corrupt:
            raise damaged from None
    try:
        start = _LENGTH.size + _LENGTH.unpack_from(body)[0]
        fields = json.loads(body[_LENGTH.size : start])
        if fields.keys() != _FIELDS or (fields["key"], fields["epoch"]) != (key, epoch):
            _malformed(what, "its fields are not those of this register")
        promised, accepted = _parse_ballot(fields["promised"]), _parse_ballot(fields["accepted"])
        value = _parse_changes(fields["changes"], body[start:])
        if accepted == NO_BALLOT and value:
            _malformed(what, "it holds a value that was never accepted")
        return _checked(
            AcceptorObject(
                AcceptorState(promised, accepted, value if accepted != NO_BALLOT else None),
                fields["decided"],
                str(fields["writer"]),
                str(fields["time"]),
                retired,
            ),
            what,
            key,
        )
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, InvalidInput) as error:
        raise _error(what, repr(error)) from error


def _checked(held: AcceptorObject, what: str, key: str) -> AcceptorObject:
    """Raise `Corrupt` unless an object may hold this: the bounds of writers and readers alike."""
    state, value = held.state, held.state.value or ()
    for ballot in (state.promised, state.accepted):
        if ballot != NO_BALLOT and not (
            type(ballot.counter) is int and 0 < ballot.counter <= COUNTER_MAX and _PROPOSER.fullmatch(ballot.proposer)
        ):
            _malformed(what, f"a ballot is {ballot}")
    if state.accepted > state.promised or len(value) > CHANGES_KEPT:
        _malformed(what, "its ballots do not fit")
    try:
        if value:
            check_changes(check_register_key(key), value)
        for change in value:
            if change.operation_id is not None:
                check_operation_id(change.operation_id)
    except InvalidInput as error:
        raise _error(what, error.message) from error
    if type(held.decided) is not int or not 0 <= held.decided <= (value[-1].value.version if value else 0):
        _malformed(what, "the version that it declares as decided is not one that it holds")
    return held


def _context(epoch: int, key: str, voter: str, *, retired: bool = False) -> str:
    return f"{'retired' if retired else 'acceptor'}/{voter}/{epoch}/{key}"


def _ballot(ballot: Ballot) -> list[int | str]:
    return [ballot.counter, ballot.proposer]


def _parse_ballot(value: object) -> Ballot:
    if value == _ballot(NO_BALLOT):
        return NO_BALLOT
    if not isinstance(value, list) or len(value) != 2:
        raise TypeError(f"a ballot is {value!r}")
    return Ballot(*value)


def _header(change: RegisterChange) -> dict[str, object]:
    following = change.value.next_configuration
    return {
        "version": change.value.version,
        "bytes": len(change.value.data),
        "next_bytes": None if following is None else len(following),
        "operation": change.operation_id,
    }


def _parts(change: RegisterChange) -> tuple[bytes, bytes]:
    return change.value.data, change.value.next_configuration or b""


def _parse_changes(headers: Sequence[dict[str, object]], stored: bytes) -> Kept:
    """The changes that these fields describe, from their bytes, which must be just as many."""
    changes, offset = [], 0
    for fields in headers:
        if fields.keys() != _CHANGE_FIELDS:
            raise ValueError(f"a change has the fields {sorted(fields)}")
        version, operation_id = fields["version"], fields["operation"]
        if type(version) is not int or version < 1:
            raise ValueError(f"a version is {version!r}")
        data_bytes, next_bytes = _count(fields["bytes"]), fields["next_bytes"]
        end = offset + data_bytes
        following = None if next_bytes is None else stored[end : end + _count(next_bytes)]
        changes.append(RegisterChange(Versioned(version, stored[offset:end], following), operation_id))  # type: ignore[arg-type]
        offset = end + len(following or b"")
        if offset > len(stored) or (following is not None and len(following) != next_bytes):
            raise ValueError("a change lacks bytes")
    if offset != len(stored):
        raise ValueError("there are bytes of no change")
    return tuple(changes)


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= ACCEPTOR_BYTES_MAX:
        raise ValueError(f"a number of bytes is {value!r}")
    return value


def _error(what: str, why: str) -> Corrupt:
    return Corrupt(f"The object {what} is malformed: {why}", code=error_codes.ACCEPTOR_MALFORMED, key=what)


def _malformed(what: str, why: str) -> NoReturn:
    raise _error(what, why)
