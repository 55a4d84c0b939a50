from __future__ import annotations

import pytest

from skyhold.consensus.memory import MemoryRegisters
from skyhold.consensus.register import Versioned
from skyhold.errors import AlreadyExists, InvalidInput, NotFound, OutcomeUnknown
from skyhold.registry.repositories import Repositories
from skyhold.registry.repository_names import Deleted
from skyhold.storage.blobs import MemoryBlobs
from tests.registry.fixtures import ORIGIN, TIME

ONE, TWO = "1" * 32, "2" * 32


@pytest.fixture
def registers() -> MemoryRegisters:
    return MemoryRegisters()


@pytest.fixture
def repositories(registers: MemoryRegisters) -> Repositories:
    """With one repository, `team/one`."""
    repositories = Repositories(registers, MemoryBlobs())
    repositories.create("team/one", ONE, policy={"copies": 2}, origin=ORIGIN, operation_id="one")
    return repositories


def names(repositories: Repositories) -> list[tuple[str, str]]:
    return list(repositories.read().repositories())


def test_created_repository_is_listed_and_opened_by_name(repositories: Repositories) -> None:
    assert names(repositories) == [("team/one", ONE)]
    assert repositories.open("team/one").read().root.policy == {"copies": 2}
    assert list(repositories.read().registers()) == [f"repository/{ONE}"]


def test_name_is_given_once(repositories: Repositories) -> None:
    with pytest.raises(AlreadyExists, match="team/one"):
        repositories.create("team/one", TWO, policy={}, origin=ORIGIN, operation_id="two")
    assert list(repositories.read().registers()) == [f"repository/{ONE}"]


def test_creation_can_be_asked_for_again(repositories: Repositories) -> None:
    repositories.create("team/one", ONE, policy={"copies": 2}, origin=ORIGIN, operation_id="one")
    assert names(repositories) == [("team/one", ONE)]


class Crashing(MemoryRegisters):
    """Dies before its n-th change, once."""

    def __init__(self, dies_before: int) -> None:
        super().__init__()
        self.dies_before = dies_before
        self.changed: list[str] = []

    def compare_and_set(self, key: str, expected_version: int, data: bytes, operation_id: str) -> Versioned:
        self.changed.append(key)
        if len(self.changed) == self.dies_before:
            raise OutcomeUnknown("crash")
        return super().compare_and_set(key, expected_version, data, operation_id)


@pytest.mark.parametrize("dies_before", [1, 2, 3])
def test_key_is_listed_before_its_register_exists_and_the_name_comes_last(dies_before: int) -> None:
    registers = Crashing(dies_before)
    repositories = Repositories(registers, MemoryBlobs())
    with pytest.raises(OutcomeUnknown):
        repositories.create("team/one", ONE, policy={}, origin=ORIGIN, operation_id="one")
    assert registers.changed == ["names", f"repository/{ONE}", "names"][:dies_before]
    assert names(repositories) == []
    assert set(registers.list("repository/")) <= set(repositories.read().registers())
    repositories.create("team/one", ONE, policy={}, origin=ORIGIN, operation_id="one")
    assert names(repositories) == [("team/one", ONE)]


def test_renamed_repository_keeps_its_id(repositories: Repositories) -> None:
    repositories.create("team/two", TWO, policy={}, origin=ORIGIN, operation_id="two")
    repositories.rename("team/one", "other/uno", ORIGIN, "rename")
    assert names(repositories) == [("other/uno", ONE), ("team/two", TWO)]
    with pytest.raises(AlreadyExists):
        repositories.rename("other/uno", "team/two", ORIGIN, "rename-2")
    with pytest.raises(NotFound, match="team/one"):
        repositories.rename("team/one", "team/three", ORIGIN, "rename-3")
    repositories.rename("team/one", "other/uno", ORIGIN, "rename")
    with pytest.raises(InvalidInput):
        repositories.rename("other/uno", "../x", ORIGIN, "rename-4")


def test_deleted_repository_can_be_brought_back(repositories: Repositories) -> None:
    deleted = repositories.delete("team/one", origin=ORIGIN, operation_id="delete")
    assert deleted == Deleted(ONE, "team/one", TIME)
    assert names(repositories) == []
    assert list(repositories.read().deleted()) == [deleted]
    with pytest.raises(NotFound):
        repositories.open("team/one")
    assert repositories.undelete(ONE, ORIGIN, "undelete").root.deleted is None
    assert names(repositories) == [("team/one", ONE)]
    assert list(repositories.read().deleted()) == []
    with pytest.raises(NotFound):
        repositories.undelete(TWO, ORIGIN, "undelete-2")


def test_deleted_repository_comes_back_under_another_name_where_its_own_is_taken(repositories: Repositories) -> None:
    repositories.delete("team/one", origin=ORIGIN, operation_id="delete")
    repositories.create("team/one", TWO, policy={}, origin=ORIGIN, operation_id="two")
    with pytest.raises(AlreadyExists):
        repositories.undelete(ONE, ORIGIN, "undelete")
    repositories.undelete(ONE, ORIGIN, "undelete-2", name="team/old")
    assert names(repositories) == [("team/old", ONE), ("team/one", TWO)]


@pytest.mark.slow
def test_repositories_of_many_repositories_fits_its_register(
    registers: MemoryRegisters, repositories: Repositories
) -> None:
    for number in range(300):
        repositories.create(
            f"team-{number}/model", f"{number:032x}", policy={}, origin=ORIGIN, operation_id=f"create-{number}"
        )
    assert len(names(repositories)) == 301
    value = registers.read("names")
    assert value is not None
    assert len(value.data) < 16 * 1024
