"""Changing which buckets belong to a store and which of them vote, and where its registers live.

Whatever changes the voters or the engine begins a new epoch (`skyhold.consensus.epochs`): clients go on writing
meanwhile, and a change that died half-way is finished by the next client that finds it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from skyhold import error_codes
from skyhold.buckets.bucket import Bucket
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.open import create_bucket, open_bucket
from skyhold.consensus.acceptor import VOTERS_MAX
from skyhold.consensus.capabilities import voting
from skyhold.consensus.migration import CONFIG, compare
from skyhold.consensus.register import Versioned
from skyhold.errors import Corrupt, InvalidInput, OutcomeUnknown, SkyholdError
from skyhold.storage.policy import Policy
from skyhold.store.bootstrap import (
    create_store_document,
    inspect_store_document,
    overwrite_store_document,
    refuse_occupied,
    replace_store_document,
)
from skyhold.store.configuration import (
    Configuration,
    ConfiguredBucket,
    Role,
    add_bucket,
    decode_configuration,
    encode_configuration,
    remove_buckets,
    replace_bucket,
)
from skyhold.store.configuration_log import logged
from skyhold.store.connection import Connection, new_operation_id
from skyhold.store.epoch import Epoch, checked_voters, encode_epoch, new_engine, next_epoch
from skyhold.store.event import Origin
from skyhold.store.features import Features
from skyhold.store.inside_bucket import refuse_inside_bucket
from skyhold.store.membership import is_member, names_store
from skyhold.store.opening import document_for, remember
from skyhold.store.state import open_state
from skyhold.store.store_keys import key_encryption_keys
from skyhold.store.unreadable_registers import created_registers, refuse_unreadable
from skyhold.store.voters import refuse_needed_voter, refuse_unfit_voter


def admit_again(connection: Connection, name: str, origin: Origin) -> None:
    """Make a bucket a member again that was emptied, restored, or lost its `store.json`, under a fresh incarnation.

    What else it lacks is then brought by a repair. A voter begins anew in the next epoch: what it promised in this one
    it may have forgotten, so the others have to be a majority without it.

    Raises `InvalidInput` code `voter_needed` where they cannot be, `Unavailable` where too few of them answer, and code
    `voter_refused` where the bucket cannot vote. It is then what it was.
    """
    connection.check_writable()
    incarnation = secrets.token_hex(16)

    def change(known: Configuration) -> Configuration:
        return replace_bucket(known, replace(known.bucket(name), incarnation=incarnation))

    refuse_unreadable(connection)
    before = connection.configuration.bucket(name)
    bucket, location = connection.bucket(name), connection.reach(before.location)
    member = is_member(connection, before, bucket)
    if not member:
        refuse_inside_bucket(location)  # which may have become one while this was gone
        create_bucket(location)
        refuse_occupied(bucket)
    voters = voting(connection.registers.current)
    if voters is not None and before.role == "voter":
        refuse_needed_voter(voters, name, created_registers(connection))
        refuse_unfit_voter(bucket, location, f"Take its vote: skyhold store voters remove {name}")
    after = change(connection.configuration)
    # Its old incarnation ends before the epoch does: what it holds of it counts no more, here or elsewhere.
    overwrite_store_document(
        bucket, document_for(connection.document, after, after.bucket(name)), connection.store_keys
    )
    if connection.shared:
        connection.reopen()  # to ask each voter anew whether it is the one that was admitted
    _reconfigure(connection, change, origin)


def begin_anew(connection: Connection, origin: Origin) -> None:
    """Begin an epoch with the same voters, in which each has every register as the others carry it over: what is
    damaged in one is left in the old epoch. Raises `Corrupt` where a register is not intact in a majority of them: it
    would leave the move half done."""
    refuse_unreadable(connection)
    _reconfigure(connection, lambda known: known, origin)


def join_bucket(
    connection: Connection, location: BucketLocation, origin: Origin, role: Role | None = None
) -> ConfiguredBucket:
    """Add a bucket to the store, by default as a voter while there are fewer than `VOTERS_MAX`.

    Raises `AlreadyExists` where its name is taken or it is not empty, and `InvalidInput` code `voter_refused` where it
    cannot vote; nothing is in it then. One that a join that died, or an earlier membership, left with this store's
    `store.json` is taken as it is.
    """
    connection.check_writable()
    configured = ConfiguredBucket(location, secrets.token_hex(16), role or default_role(connection))
    after = add_bucket(connection.configuration, configured)  # refuses before anything is written
    if connection.shared:
        next_epoch(connection.document.engine, after)
        refuse_unreadable(connection)
    connection.consents.agree_to_typed([location])
    reached = connection.reach(location)
    create_bucket(reached)
    with open_bucket(reached) as bucket:
        ours = names_store(bucket) == connection.document.store
        if not ours:
            refuse_occupied(bucket)
        if connection.document.engine.votes and configured.role == "voter":
            url = location.url
            refuse_unfit_voter(
                bucket, reached, f"Use it for packs only: skyhold bucket add {bucket.name} {url} --role packs"
            )
        if ours:
            configured = _as_it_is(connection, bucket, configured)
        else:
            create_store_document(bucket, document_for(connection.document, after, configured), connection.store_keys)
    _reconfigure(connection, lambda known: add_bucket(known, configured), origin)
    return configured


def _as_it_is(connection: Connection, bucket: Bucket, configured: ConfiguredBucket) -> ConfiguredBucket:
    """A bucket that has this store's `store.json` keeps the incarnation that it shows, unless it is none or a member's:
    another client that adds it at the same time then adds the same."""
    members = {known.incarnation for known in connection.configuration.buckets}
    with suppress(SkyholdError):
        shown = inspect_store_document(bucket, connection.store_keys)
        if shown.incarnation not in members and shown.bucket == configured.location.name:
            return replace(configured, incarnation=shown.incarnation)
    after = add_bucket(connection.configuration, configured)
    overwrite_store_document(bucket, document_for(connection.document, after, configured), connection.store_keys)
    return configured


def default_role(connection: Connection) -> Role:
    """The role of a bucket that joins, where the caller gives none."""
    voters = sum(bucket.role == "voter" for bucket in connection.configuration.buckets)
    return "packs" if voters >= VOTERS_MAX else "voter"


def leave_buckets(
    connection: Connection, names: Collection[str], policies: Callable[[], Sequence[Policy]], origin: Origin
) -> None:
    """Take buckets out of the store, as one change; their objects stay in them. The buckets that stay have to be able
    to meet each of the `policies`.

    With registers on this machine the buckets that stay have to take the change: where too few of them answer it is
    `OutcomeUnknown` code `checkpoint_pending`. So lost buckets leave together, since none of them could take the change
    that another leaves. With registers in the buckets a majority of the voters that were has to answer.
    """
    refuse_unreadable(connection)
    wanted = policies()
    try:
        _reconfigure(connection, lambda known: remove_buckets(known, names, wanted), origin)
    except OutcomeUnknown as error:
        if error.code == error_codes.CHECKPOINT_PENDING:
            left = ", ".join(location.name for location in connection.configuration.locations)
            error.hint = (
                f"The store has {left} now, as far as this machine knows. If some of these are lost for good too, take "
                "them out together: skyhold bucket remove NAME… --force"
            )
        raise


def change_roles(connection: Connection, roles: Mapping[str, Role], origin: Origin) -> None:
    """Make members voters, or take their vote, as one change. Raises `InvalidInput` where no voter would be left, or
    more than `VOTERS_MAX`, and where a bucket cannot vote."""

    def change(known: Configuration) -> Configuration:
        for name, role in roles.items():
            known = replace_bucket(known, replace(known.bucket(name), role=role))
        return known

    before = connection.configuration
    after = change(before)
    checked_voters(after)
    if after == before:
        return
    refuse_unreadable(connection)
    for name, role in roles.items():
        if role == "voter" and before.bucket(name).role != "voter" and connection.document.engine.votes:
            location = connection.reach(before.bucket(name).location)
            refuse_unfit_voter(connection.bucket(name), location, "It goes on to keep packs")
    _reconfigure(connection, change, origin)


def replace_voter(connection: Connection, name: str, by: str, origin: Origin) -> None:
    """Let one member vote in the place of another. Raises `InvalidInput` code `no_replacement` unless the first votes
    and the second does not."""
    configuration = connection.configuration
    if configuration.bucket(name).role != "voter" or configuration.bucket(by).role == "voter":
        raise InvalidInput(
            f"Bucket `{by}` can vote in the place of `{name}` only if `{name}` votes now and `{by}` does not; "
            "nothing was changed",
            code=error_codes.NO_REPLACEMENT,
            hint="See who votes: skyhold bucket list",
        )
    change_roles(connection, {name: "packs", by: "voter"}, origin)


@dataclass(frozen=True, slots=True)
class EngineMove:
    """A move of all registers to another engine: how many, and how many of their changes went with them."""

    engine: str
    before: str
    epoch: int
    registers: int
    changes: int


def move_engine(connection: Connection, place: str, origin: Origin) -> EngineMove:
    """Move the registers to the engine at `place` (as `new_engine` takes it), with every change that they keep, and the
    ids of their operations. Then the two are compared, which shows that no write came between.

    Raises `InvalidInput` code `engine_unchanged`, and where the buckets cannot vote; `Corrupt` code `move_differs` if
    the comparison fails, which would be a defect.
    """
    configuration = connection.configuration  # first: it is that of the newest epoch, and so are the registers then
    before, engine = connection.registers.current, connection.document.engine
    machine = open_state().machine_id
    target = new_engine(place, engine.epoch + 1, machine, configuration)
    connection.consents.agree_to_typed((), target.cluster)
    if (target.kind, target.machine, target.cluster) == (engine.kind, engine.machine, engine.cluster):
        raise InvalidInput(
            f"The registers are kept there already ({place}); nothing was changed", code=error_codes.ENGINE_UNCHANGED
        )
    refuse_unreadable(connection)
    for name, _ in target.voters:
        location = connection.reach(configuration.bucket(name).location)
        refuse_unfit_voter(connection.bucket(name), location, f"Take its vote: skyhold store voters remove {name}")

    def following(known: Configuration) -> Epoch:
        return Epoch(new_engine(place, connection.document.engine.epoch + 1, machine, known), known)

    _advance(connection, following, origin)
    carried = compare(before, connection.registers.current)
    if carried.differing:
        raise Corrupt(
            f"After the move {', '.join(carried.differing)} differ from what they were",
            code=error_codes.MOVE_DIFFERS,
            hint="Keep everything as it is and ask for help: this is a defect",
        )
    remember(connection)
    spread(connection)
    return EngineMove(target.kind, engine.kind, connection.document.engine.epoch, carried.registers, carried.changes)


def spread(connection: Connection, others: Iterable[ConfiguredBucket] = ()) -> None:
    """Write to the buckets' `store.json` where the registers are, and where all buckets are; `others` have left. A
    bucket that does not answer is updated by a later repair."""
    keks = key_encryption_keys(connection.settings)
    configuration = connection.configuration
    for configured in (*configuration.buckets, *others):
        document = document_for(connection.document, configuration, configured)
        bucket = connection.bucket_at(configured.location)
        try:
            replace_store_document(bucket, document, connection.store_keys, keks)
        except SkyholdError:
            continue


def enable_features(connection: Connection, features: Features, origin: Origin) -> None:
    """Let only programs that know these features read the store, or write to it, from the next epoch on."""
    features.refuse_unwritten()
    refuse_unreadable(connection)
    _reconfigure(connection, lambda known: replace(known, features=known.features | features), origin)


def _advance(connection: Connection, decide: Callable[[Configuration], Epoch], origin: Origin) -> None:
    """Begin the epoch that `decide` makes of the configuration, with an event about it."""

    def following(value: Versioned) -> bytes:
        before = decode_configuration(value.data)
        epoch = decide(before)
        after = logged(before, epoch.configuration, epoch.engine, origin, write)
        return encode_epoch(replace(epoch, configuration=after))

    before = connection.buckets()
    with connection.session(Policy()) as session:
        write = partial(session.blobs.write, "records")
        connection.registers.advance(following)
    with suppress(SkyholdError):  # a process that listens at a bucket that has left must learn it there
        value = connection.registers.read(CONFIG)
        buckets = {**before, **connection.buckets()}
        connection.bell.ring_now({CONFIG: 0 if value is None else value.version}, buckets)


def _reconfigure(connection: Connection, change: Callable[[Configuration], Configuration], origin: Origin) -> None:
    """Change the configuration. Of registers that machines share a new epoch begins, whichever bucket comes or goes: a
    push that counts on the buckets of before meets its seals."""
    before = connection.configuration
    if connection.shared:
        _advance(connection, lambda known: next_epoch(connection.document.engine, change(known)), origin)
    else:
        _replace_configuration(connection, change, origin)
    remember(connection)
    if not connection.shared:
        # Where buckets leave that are lost for good, a majority of those that stay suffices.
        connection.checkpoints.flush()
    names = {bucket.location.name for bucket in connection.configuration.buckets}
    spread(connection, [bucket for bucket in before.buckets if bucket.location.name not in names])


def _replace_configuration(
    connection: Connection, change: Callable[[Configuration], Configuration], origin: Origin
) -> None:
    value = connection.registers.read(CONFIG)
    if value is None:
        raise Corrupt("The store has no configuration", code=error_codes.REGISTERS_MISSING)
    before = decode_configuration(value.data)
    with connection.session(Policy()) as session:
        write = partial(session.blobs.write, "records")
        after = logged(before, change(before), connection.document.engine, origin, write)
    try:
        connection.registers.compare_and_set(CONFIG, value.version, encode_configuration(after), new_operation_id())
    except OutcomeUnknown as error:
        if error.code != error_codes.CHECKPOINT_PENDING:
            raise
    connection.reconfigured()
