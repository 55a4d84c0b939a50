"""Registers in an etcd cluster: Raft, for a team that runs one.

What is kept of a register is what the bucket engine keeps, and the same pure operations change it. A change is one
transaction that etcd applies as a whole or not at all, on two conditions: that the register's head is still at the
revision of etcd at which it was read, and its fence too. Both only grow. So of all transactions that were computed on
one state of a register at most one takes effect, and none once the fence was moved, however late etcd applies it.

Where a reply is lost the register is read again. It shows the operation's id; or another change, after which the
transaction is void; or what it showed before, and then the transaction is sent again on the same conditions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from skyhold import error_codes
from skyhold.buckets.consent import not_allowed
from skyhold.consensus import etcd_gateway as gateway
from skyhold.consensus.etcd_client import ATTEMPT_S, DEADLINE_S, Call, EtcdClient, tls_context
from skyhold.consensus.etcd_credentials import EtcdCredentials, credentials_of
from skyhold.consensus.etcd_errors import AttemptFailed, outcome_unknown, unsettled
from skyhold.consensus.etcd_gateway import RANGE, TRANSACTION, Found
from skyhold.consensus.etcd_location import EtcdLocation
from skyhold.consensus.etcd_records import EtcdKeys, Record, decode_record, end_of, without_data
from skyhold.consensus.operation import CompareAndSet, Kept, Operation, Restore, Seal, after, find, newest
from skyhold.consensus.register import (
    EngineRegisters,
    RegisterChange,
    Resync,
    Versioned,
    check_change,
    check_changes,
    check_data,
    check_expected_version,
    check_next_version,
    check_operation_id,
    check_register_key,
)
from skyhold.errors import Conflict, Corrupt, OutcomeUnknown, SkyholdError, Unavailable

WATCH_STREAM_S_MAX: Final = 10.0
"""A watch is restarted after so long, since a node that hangs reports nothing."""
LIST_PAGE: Final = 5000
REMEMBERED_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class _Seen:
    """A register at one revision of etcd. `revisions`: of head and fence, 0 where there is none."""

    kept: Kept
    revisions: tuple[int, int]


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node that answers for a majority: its id, and the revision of etcd that it has."""

    member_id: str
    revision: int


class EtcdRegisters(EngineRegisters):
    """The registers under `prefix` of a cluster: those of one epoch of one store. `writer` is displayed as who wrote
    last.

    Raises, beside the errors of the port, `Unavailable` code `etcd_unavailable` and `OutcomeUnknown` code
    `etcd_outcome_unknown`, both with the last error of each node, and the codes of `etcd_errors`.
    """

    def __init__(self, client: EtcdClient, prefix: str, *, writer: str) -> None:
        self._client = client
        self._names = EtcdKeys(prefix)
        self._writer = writer
        self._remembered: dict[str, _Seen] = {}

    def read(self, key: str) -> Versioned | None:
        check_register_key(key)
        return newest(self._look(self._client.call(key), key).kept)

    def compare_and_set(self, key: str, expected_version: int, data: bytes, operation_id: str) -> Versioned:
        check_change(key, expected_version, data, operation_id)
        operation = CompareAndSet(key, expected_version, bytes(data), operation_id)
        # What was read last spares a round trip where it is still true, which the transaction finds out.
        seen = self._remembered.get(key)
        fits = seen is not None and _fits(seen.kept, operation)
        return self._changed(operation, seen if fits else None)

    def outcome(self, key: str, operation_id: str) -> Versioned | None:
        check_register_key(key)
        check_operation_id(operation_id)
        call = self._client.call(key)
        try:
            seen = self._look(call, key)
            if find(seen.kept, operation_id) is None:
                seen = self._settle(call, key, operation_id)
            earlier = find(seen.kept, operation_id)
            return None if earlier is None else self._whole(call, key, seen.kept, earlier)
        except Unavailable as error:
            raise unsettled(key, error) from error

    def watch(self, key: str, after_version: int, *, timeout_s: float) -> Sequence[Versioned] | Resync:
        check_register_key(key)
        check_expected_version(after_version)
        end_s = time.monotonic() + timeout_s
        while True:
            kept, revision = self._read_with_changes(key, after_version)
            changes = after(kept, after_version)
            remaining_s = end_s - time.monotonic()
            if changes or isinstance(changes, Resync) or remaining_s <= 0:
                return changes
            self._client.wait_for_change(key, self._names.head(key), revision + 1, min(remaining_s, WATCH_STREAM_S_MAX))

    def changes(self, key: str) -> Sequence[RegisterChange]:
        check_register_key(key)
        return list(self._read_with_changes(key, 0)[0])

    def list(self, prefix: str = "") -> list[str]:
        call = self._client.call(f"{prefix}*")
        start, end = f"{self._names.registers}{prefix}", end_of(self._names.registers)
        keys: list[str] = []
        while True:
            # A register is never deleted, so pages of different revisions miss none that was there before.
            answer = call.ask(RANGE, gateway.names_page(start, end, LIST_PAGE))
            names = [found.name for found in gateway.found_in(answer)]
            keys += [key for key in self._names.created(names) if key.startswith(prefix)]
            if not answer.get("more"):
                return sorted(keys)
            start = names[-1] + "\0"

    def seal(self, key: str, expected_version: int, next_configuration: bytes) -> Versioned:
        check_register_key(key)
        check_next_version(expected_version)
        check_data(key, next_configuration)
        return self._changed(Seal(key, expected_version, bytes(next_configuration)))

    def restore(self, key: str, changes: Sequence[RegisterChange]) -> None:
        check_changes(key, changes)
        self._changed(Restore(key, tuple(changes)))

    def close(self) -> None:
        self._client.close()

    def inspect(self, key: str) -> Record | None:
        """The newest decision on a register, with its writer and time; None where it was never created. For display
        only."""
        check_register_key(key)
        found = gateway.found_in(self._client.call(key).ask(RANGE, gateway.register_range(self._names, key)))
        return next((decode_record(item.body, item.name) for item in found if item.name == self._names.head(key)), None)

    def nodes(self) -> dict[str, NodeStatus | SkyholdError]:
        """Each node of the location by name: its status, or why it does not answer for a majority of the cluster.

        Each is asked for a linearizable read of the register `config`, which any user of the store may do.
        """
        nodes: dict[str, NodeStatus | SkyholdError] = {}
        for endpoint in self._client.endpoints:
            try:
                request = gateway.register_range(self._names, "config")
                answer = self._client.post(endpoint, RANGE, request, self._client.attempt_s, "config")
            except AttemptFailed as failed:
                nodes[endpoint] = failed.error
            else:
                nodes[endpoint] = NodeStatus(*gateway.header_of(answer))
        return nodes

    # ---- changing

    def _signed(self) -> tuple[str, str]:
        return self._writer, datetime.now(UTC).isoformat(timespec="milliseconds")

    def _changed(self, operation: Operation, seen: _Seen | None = None) -> Versioned:
        """Apply an operation to what its register holds, until etcd takes the outcome or there is nothing to do."""
        key, sent = operation.key, False
        call = self._client.call(key)
        try:
            seen = seen or self._look(call, key)
            while True:
                kept, result = operation.apply(seen.kept, repeated=sent)
                if result is None:
                    raise AssertionError(f"{operation} set no value")
                if kept == seen.kept:
                    return self._whole(call, key, kept, result)
                request = gateway.change(self._names, key, seen.revisions, seen.kept, kept, self._signed())
                try:
                    answer = call.attempt(TRANSACTION, request)
                except AttemptFailed as failed:
                    if failed.maybe_applied:
                        sent = True
                        seen = self._look(call, key)
                    continue
                if answer.get("succeeded"):
                    self._remember(key, _Seen(kept, (gateway.header_of(answer)[1], seen.revisions[1])))
                    return result
                seen = self._seen(key, gateway.ranges_in(answer)[0])
        except (Conflict, OutcomeUnknown):
            raise
        except SkyholdError as error:
            if sent:
                raise outcome_unknown(key, error) from error
            raise

    def _settle(self, call: Call, key: str, operation_id: str) -> _Seen:
        """The register after its fence was moved: whatever was sent before has taken effect in it, or never will."""
        while True:
            try:
                answer = call.attempt(TRANSACTION, gateway.settle(self._names, key, operation_id))
            except AttemptFailed:
                continue  # moving it twice does no harm
            return self._seen(key, gateway.ranges_in(answer)[0])

    # ---- reading

    def _look(self, call: Call, key: str) -> _Seen:
        return self._seen(key, gateway.found_in(call.ask(RANGE, gateway.register_range(self._names, key))))

    def _seen(self, key: str, found: Sequence[Found]) -> _Seen:
        by_name = {item.name: item for item in found}
        head, fence = by_name.get(self._names.head(key)), by_name.get(self._names.fence(key))
        kept = decode_record(head.body, head.name).kept if head else ()
        seen = _Seen(kept, (head.revision if head else 0, fence.revision if fence else 0))
        self._remember(key, seen)
        return seen

    def _remember(self, key: str, seen: _Seen) -> None:
        """Of older changes their ids alone, so that a register takes some 20 KiB here."""
        if len(self._remembered) >= REMEMBERED_MAX:
            self._remembered.clear()
        self._remembered[key] = _Seen(without_data(seen.kept), seen.revisions)

    def _read_with_changes(self, key: str, after_version: int) -> tuple[Kept, int]:
        """The kept changes after a version, all with their data (of a register without any of these, the newest);
        and the revision of etcd at which they were read."""
        request = gateway.read_with_changes(self._names, key, after_version)
        answer = self._client.call(key).ask(TRANSACTION, request)
        register, found = gateway.ranges_in(answer)
        seen = self._seen(key, register)
        changes = tuple(self._change(item) for item in found)
        versions = [change.value.version for change in changes]
        if changes and (changes[-1:] != seen.kept[-1:] or versions != list(range(versions[0], versions[-1] + 1))):
            raise self._damaged(key)
        return changes or seen.kept[-1:], gateway.header_of(answer)[1]

    def _whole(self, call: Call, key: str, kept: Kept, value: Versioned) -> Versioned:
        """A value among the kept changes, with its data."""
        if value.version == kept[-1].value.version:
            return kept[-1].value
        name = self._names.change(key, value.version)
        found = gateway.found_in(call.ask(RANGE, gateway.range_between(name, name + "\0")))
        if found:
            return self._change(found[0]).value
        raise OutcomeUnknown(
            f"An operation changed register {key} to version {value.version}, which has fallen out of the kept "
            "changes while it was looked up",
            code=error_codes.OUTCOME_FORGOTTEN,
            hint="Read it, and look into its history",
            key=key,
        )

    def _change(self, found: Found) -> RegisterChange:
        record: Record = decode_record(found.body, found.name)
        if not found.name.endswith(f"/{record.value.version:016x}"):
            raise self._damaged(found.name)
        return RegisterChange(record.value, record.operations[-1])

    @staticmethod
    def _damaged(name: str) -> Corrupt:
        return Corrupt(
            f"What etcd holds under {name} does not fit together",
            code=error_codes.REGISTERS_DAMAGED,
            hint="Restore etcd from its snapshot; nothing else may write under this prefix",
            key=name,
        )


def open_etcd(
    location: EtcdLocation,
    *,
    store_id: str,
    epoch: int,
    writer: str,
    attempt_s: float = ATTEMPT_S,
    deadline_s: float = DEADLINE_S,
) -> EtcdRegisters:
    """The registers of an epoch of a store in the cluster at `location`. Does not connect to it yet.

    Raises `PermissionDenied` code `credentials_missing` where the credentials or certificates that it refers to are
    not on this machine, code `endpoint_not_trusted` where there are some and its user did not name the cluster.
    """
    credentials = credentials_of(location.credentials)
    if not location.named and credentials != EtcdCredentials():
        raise not_allowed("etcd", location.destination)
    tls = tls_context(location.ca_file, credentials) if location.tls else None
    client = EtcdClient(location.endpoints, credentials, tls=tls, attempt_s=attempt_s, deadline_s=deadline_s)
    return EtcdRegisters(client, f"{location.prefix}/{store_id}/{epoch:08x}", writer=writer)


def _fits(kept: Kept, operation: CompareAndSet) -> bool:
    """Whether the operation would change a register that keeps these."""
    current = newest(kept)
    if current is None:
        return operation.expected_version == 0
    return (
        current.version == operation.expected_version
        and not current.sealed
        and find(kept, operation.operation_id) is None
    )
