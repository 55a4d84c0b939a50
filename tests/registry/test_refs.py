from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from skyhold.consensus.memory import MemoryRegisters
from skyhold.consensus.register import Versioned
from skyhold.consensus.sqlite import SqliteRegisters
from skyhold.errors import AlreadyExists, Conflict, InvalidInput, NotFound, OutcomeUnknown, Unavailable
from skyhold.registry.change import Attachment
from skyhold.registry.history import moves_reverse, verify_history
from skyhold.registry.names import Ref, RefKind
from skyhold.registry.repositories import Repositories
from skyhold.registry.repository_register import RepositoryRegister
from skyhold.registry.root import ROOT_BYTES_MAX
from skyhold.registry.snapshot import Snapshot
from skyhold.storage.blobs import MemoryBlobs
from skyhold.store.transaction import ATTEMPTS_MAX
from tests.consensus.fixtures import checkpointed, new_buckets
from tests.registry.fixtures import (
    CHAMPION,
    MAIN,
    ORIGIN,
    REPOSITORY_ID,
    V1,
    change,
    digest,
    entry,
    move,
    new_repository,
)


@pytest.fixture
def repository() -> RepositoryRegister:
    """`main` points to v2, whose parent is v1; `other` is a separate version."""
    repository = new_repository()
    repository.apply(change(move(MAIN, "v1", None), versions=(entry("v1"), entry("other"))), "first")
    repository.apply(change(move(MAIN, "v2", "v1"), versions=(entry("v2", "v1"),)), "second")
    return repository


def version_at(snapshot: Snapshot, ref: Ref = MAIN) -> str | None:
    state = snapshot.ref_state(ref)
    return state.version if state else None


def test_missing_repository_is_not_found() -> None:
    with pytest.raises(NotFound, match=REPOSITORY_ID):
        RepositoryRegister(MemoryRegisters(), MemoryBlobs(), REPOSITORY_ID).read()


def test_repository_is_created_once(repository: RepositoryRegister) -> None:
    with pytest.raises(AlreadyExists):
        repository.create(policy={}, gc_epoch=0, origin=ORIGIN, operation_id="again")
    assert repository.create(policy={}, gc_epoch=0, origin=ORIGIN, operation_id="create").root.events == 1


def test_branch_moves_forward(repository: RepositoryRegister) -> None:
    assert version_at(repository.read()) == digest("v2")
    assert repository.read().root.events == 3


def test_stale_ref_update_is_rejected(repository: RepositoryRegister) -> None:
    with pytest.raises(Conflict, match="expected to point to") as caught:
        repository.apply(change(move(MAIN, "v3", "v1"), versions=(entry("v3", "v1"),)), "stale")
    assert caught.value.code == "ref_moved"
    assert caught.value.fields["current"] == digest("v2")
    assert caught.value.hint is not None
    assert not repository.read().has_version(digest("v3"))


def test_branch_refuses_a_version_that_does_not_descend_unless_forced(repository: RepositoryRegister) -> None:
    with pytest.raises(Conflict) as caught:
        repository.apply(change(move(MAIN, "other")), "sideways")
    assert caught.value.code == "not_fast_forward"
    with pytest.raises(Conflict):
        repository.apply(change(move(MAIN, "v1")), "backwards")
    assert version_at(repository.apply(change(move(MAIN, "v1", force=True)), "forced")) == digest("v1")


def test_branch_may_skip_versions_that_arrive_with_it(repository: RepositoryRegister) -> None:
    versions = (entry("v3", "v2"), entry("v4", "other", "v3"))
    assert version_at(repository.apply(change(move(MAIN, "v4"), versions=versions), "skip")) == digest("v4")


def test_tag_never_moves_even_by_force_or_deletion(repository: RepositoryRegister) -> None:
    repository.apply(change(move(V1, "v1")), "tag")
    with pytest.raises(AlreadyExists, match="never moves"):
        repository.apply(change(move(V1, "v2", force=True)), "move")
    repository.apply(change(move(V1, None)), "delete")
    with pytest.raises(AlreadyExists, match="never moves"):
        repository.apply(change(move(V1, "v2")), "again")
    assert version_at(repository.apply(change(move(V1, "v1")), "back"), V1) == digest("v1")


def test_alias_moves_freely(repository: RepositoryRegister) -> None:
    for name in ("v2", "other", "v1"):
        assert version_at(repository.apply(change(move(CHAMPION, name)), name), CHAMPION) == digest(name)


def test_several_refs_move_together_or_not_at_all(repository: RepositoryRegister) -> None:
    before = repository.read()
    with pytest.raises(Conflict):
        repository.apply(change(move(CHAMPION, "v2"), move(V1, "v1"), move(MAIN, "v2", "v1")), "half")
    assert repository.read().register_version == before.register_version
    after = repository.apply(change(move(CHAMPION, "v2"), move(V1, "v1"), move(MAIN, "v2", "v2")), "whole")
    assert [(str(state.ref), state.version) for state in after.refs()] == [
        ("alias/champion", digest("v2")),
        ("branch/main", digest("v2")),
        ("tag/v1", digest("v1")),
    ]
    assert after.register_version == before.register_version + 1


def test_deleted_ref_is_gone_and_its_moves_stay(repository: RepositoryRegister) -> None:
    after = repository.apply(change(move(MAIN, None, "v2")), "delete")
    assert list(after.refs()) == []
    assert after.root.events == 4
    with pytest.raises(NotFound):
        repository.apply(change(move(MAIN, None)), "delete-again")


def test_name_of_a_branch_is_refused_for_a_tag(repository: RepositoryRegister) -> None:
    with pytest.raises(AlreadyExists, match="name of a branch already"):
        repository.apply(change(move(Ref(RefKind.TAG, "main"), "v1")), "tag")
    both = change(move(Ref(RefKind.TAG, "x"), "v1"), move(Ref(RefKind.ALIAS, "x"), "v1"))
    with pytest.raises(AlreadyExists, match="already"):
        repository.apply(both, "both")
    swap = change(move(MAIN, None), move(Ref(RefKind.ALIAS, "main"), "v1"))
    assert [str(state.ref) for state in repository.apply(swap, "swap").refs()] == ["alias/main"]


def test_ref_to_an_unknown_version_is_refused(repository: RepositoryRegister) -> None:
    with pytest.raises(NotFound, match="not in the repository"):
        repository.apply(change(move(CHAMPION, "nowhere")), "x")
    with pytest.raises(NotFound, match="Parent"):
        repository.apply(change(versions=(entry("v9", "nowhere"),)), "y")


def test_change_of_nothing_changes_nothing(repository: RepositoryRegister) -> None:
    before = repository.read()
    after = repository.apply(change(move(MAIN, "v2"), versions=(entry("v2", "v1"),)), "again")
    assert after.register_version == before.register_version


def test_change_that_began_before_a_collection_is_refused(repository: RepositoryRegister) -> None:
    repository.raise_gc_epoch(3, ORIGIN, "gc")
    with pytest.raises(Conflict) as caught:
        repository.apply(change(move(MAIN, "v3"), versions=(entry("v3", "v2"),), gc_epoch=2), "old")
    assert caught.value.code == "gc_epoch_risen"
    assert caught.value.fields["gc_epoch"] == 3
    repository.apply(change(move(MAIN, "v3"), versions=(entry("v3", "v2"),), gc_epoch=3), "old")
    assert repository.raise_gc_epoch(1, ORIGIN, "lower").root.gc_epoch == 3


def test_versions_without_an_epoch_are_refused() -> None:
    with pytest.raises(InvalidInput, match="epoch"):
        change(versions=(entry("v"),), gc_epoch=None)  # type: ignore[arg-type]


def test_deleted_repository_refuses_changes_until_it_is_undeleted(repository: RepositoryRegister) -> None:
    repository.delete(ORIGIN, "delete")
    with pytest.raises(NotFound) as caught:
        repository.apply(change(move(MAIN, "v1", force=True)), "x")
    assert caught.value.code == "repository_deleted"
    repository.undelete(ORIGIN, "undelete")
    assert version_at(repository.apply(change(move(MAIN, "v1", force=True)), "y")) == digest("v1")


def test_attachments_are_kept_in_order_with_author_and_time(repository: RepositoryRegister) -> None:
    text = "a long note " * 1000
    repository.apply(change(attachments=(Attachment(digest("v1"), "metric", "accuracy", 0.5),)), "one")
    snapshot = repository.apply(
        change(
            attachments=(
                Attachment(digest("v1"), "note", "card", text),
                Attachment(digest("v1"), "metric", "accuracy", 0.75),
                Attachment(digest("v2"), "metric", "accuracy", 1),
            ),
            author="bob",
        ),
        "two",
    )
    attached = list(snapshot.attached(digest("v1")))
    assert [(a.sequence, a.kind, a.value, a.author) for a in attached] == [
        (1, "metric", 0.5, "ann"),
        (2, "note", text, "bob"),
        (3, "metric", 0.75, "bob"),
    ]
    assert attached[1].blob is not None
    assert snapshot.metrics(digest("v1")) == {"accuracy": 0.75}
    with pytest.raises(NotFound):
        repository.apply(change(attachments=(Attachment(digest("nowhere"), "note", "x", "y"),)), "three")


@pytest.mark.parametrize(("kind", "value"), [("metric", float("nan")), ("metric", "1"), ("metric", True), ("note", 1)])
def test_attachment_of_a_wrong_type_is_refused(kind: str, value: object) -> None:
    with pytest.raises(InvalidInput):
        Attachment(digest("v1"), kind, "x", value)  # type: ignore[arg-type]


class Interrupted(MemoryRegisters):
    """Calls `meanwhile` before each compare-and-set, once it is set."""

    meanwhile: Callable[[], None] | None = None
    lose_reply = False

    def compare_and_set(self, key: str, expected_version: int, data: bytes, operation_id: str) -> Versioned:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
            self.meanwhile = meanwhile
        value = super().compare_and_set(key, expected_version, data, operation_id)
        if self.lose_reply:
            self.lose_reply = False
            raise OutcomeUnknown("the reply was lost")
        return value


def test_change_that_conflicts_with_a_change_of_other_refs_is_planned_again() -> None:
    registers, blobs = Interrupted(), MemoryBlobs()
    repository = new_repository(registers, blobs)
    repository.apply(change(move(MAIN, "v1"), versions=(entry("v1"),)), "first")
    other = RepositoryRegister(registers, blobs, REPOSITORY_ID)

    def meanwhile() -> None:
        registers.meanwhile = None
        other.apply(change(move(CHAMPION, "v1")), "theirs")

    registers.meanwhile = meanwhile
    pauses: list[int] = []

    def pause(attempt: int) -> None:
        pauses.append(attempt)
        registers.meanwhile = None

    snapshot = repository.apply(change(move(V1, "v1")), "ours", pause=pause)
    assert [str(state.ref) for state in snapshot.refs()] == ["alias/champion", "branch/main", "tag/v1"]
    assert pauses == [2]


def test_endless_contention_ends_as_unavailable() -> None:
    registers = Interrupted()
    repository = new_repository(registers)
    other = RepositoryRegister(registers, MemoryBlobs(), REPOSITORY_ID)
    repository.apply(change(versions=(entry("v1"),)), "first")
    count = iter(range(1000))
    registers.meanwhile = lambda: other.set_policy({"round": next(count)}, ORIGIN, f"theirs-{next(count)}") and None
    with pytest.raises(Unavailable, match=f"{ATTEMPTS_MAX} attempts"):
        repository.apply(change(move(V1, "v1")), "ours")


def test_change_whose_reply_was_lost_is_not_made_twice() -> None:
    registers = Interrupted()
    repository = new_repository(registers)
    wanted = change(move(MAIN, "v1", None), versions=(entry("v1"),))
    registers.lose_reply = True
    with pytest.raises(OutcomeUnknown):
        repository.apply(wanted, "once")
    assert version_at(repository.apply(wanted, "once")) == digest("v1")
    assert repository.read().root.events == 2


def test_of_many_pushers_exactly_one_wins_the_branch(tmp_path: Path) -> None:
    registers, blobs = SqliteRegisters(tmp_path / "registers.sqlite"), MemoryBlobs()
    repository = new_repository(registers, blobs)
    repository.apply(change(move(MAIN, "v0"), versions=(entry("v0"),)), "first")
    results: list[str] = []
    start = threading.Barrier(6)

    def push(name: str) -> None:
        start.wait(20)
        own = Ref(RefKind.ALIAS, name)
        try:
            pushed = change(move(MAIN, name, "v0"), move(own, name), versions=(entry(name, "v0"),))
            RepositoryRegister(registers, blobs, REPOSITORY_ID).apply(pushed, name)
        except Conflict as conflict:
            results.append(conflict.code)
        else:
            results.append(name)

    threads = [threading.Thread(target=push, args=(f"pusher-{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    winners = [result for result in results if result != "ref_moved"]
    assert len(results) == 6
    assert len(winners) == 1
    snapshot = repository.read()
    assert version_at(snapshot) == digest(winners[0])
    assert [state.ref.name for state in snapshot.refs(RefKind.ALIAS)] == winners


def test_root_stays_small_with_many_refs_and_moves() -> None:
    repository = new_repository()
    versions = tuple(entry(f"v{number}") for number in range(300))
    repository.apply(change(versions=versions), "versions")
    for round_ in range(8):
        aliases = (move(Ref(RefKind.ALIAS, f"alias-{n}"), f"v{(n + round_) % 300}") for n in range(300))
        snapshot = repository.apply(change(*aliases), f"round-{round_}")
    assert snapshot.root.events == 10
    assert verify_history(snapshot) == 10
    assert len(list(moves_reverse(snapshot))) == 2400
    assert len(snapshot.root.encode()) <= ROOT_BYTES_MAX


def test_name_resolves_as_ref_or_as_beginning_of_an_id(repository: RepositoryRegister) -> None:
    snapshot = repository.apply(change(move(CHAMPION, "other")), "alias")
    assert snapshot.resolve("main") == digest("v2")
    assert snapshot.resolve("main", 1) == digest("v1")
    assert snapshot.resolve("champion") == digest("other")
    for length in (4, 12, 40, 64):
        assert snapshot.resolve(digest("v1")[:length]) == digest("v1")
    with pytest.raises(NotFound, match="beyond the first"):
        snapshot.resolve("main", 2)
    with pytest.raises(NotFound, match="no branch, tag, alias or version"):
        snapshot.resolve("absent")


def test_ambiguous_beginning_of_an_id_is_refused(repository: RepositoryRegister) -> None:
    versions = tuple(entry(f"v{number}") for number in range(3000))
    snapshot = repository.apply(change(versions=versions), "many")
    beginnings = [version.digest[:4] for version in versions]
    twice = next(beginning for beginning in beginnings if beginnings.count(beginning) > 1)
    with pytest.raises(InvalidInput, match="Several versions"):
        snapshot.resolve(twice)


def test_change_that_has_taken_effect_is_not_confirmed_while_its_checkpoint_is_pending(tmp_path: Path) -> None:
    buckets = new_buckets()
    registers, blobs = checkpointed(tmp_path / "registers.sqlite", buckets), MemoryBlobs()
    repository = Repositories(registers, blobs)
    repository.create("team/one", REPOSITORY_ID, policy={}, origin=ORIGIN, operation_id="create")
    pushed = change(move(MAIN, "v1"), versions=(entry("v1"),))
    for bucket in buckets:
        bucket.away = True
    for operation_id in ("once", "once", "another"):
        with pytest.raises(OutcomeUnknown) as caught:
            repository.open("team/one").apply(pushed, operation_id)
        assert caught.value.code == "checkpoint_pending"
    for bucket in buckets:
        bucket.away = False
    assert repository.open("team/one").apply(pushed, "another").root.events == 2
    assert registers.flush() == ()
