from __future__ import annotations

import pytest

from skyhold.consensus.memory import MemoryRegisters
from skyhold.consensus.register import Versioned
from skyhold.errors import AlreadyExists, InvalidInput, NotFound, OutcomeUnknown
from skyhold.registry.catalogue import Catalogue
from skyhold.registry.name_table import Deleted
from skyhold.storage.blobs import MemoryBlobs
from tests.registry.fixtures import ORIGIN, TIME

ONE, TWO = "1" * 32, "2" * 32


@pytest.fixture
def registers() -> MemoryRegisters:
    return MemoryRegisters()


@pytest.fixture
def catalogue(registers: MemoryRegisters) -> Catalogue:
    """With one repository, `team/one`."""
    catalogue = Catalogue(registers, MemoryBlobs())
    catalogue.create("team/one", ONE, policy={"copies": 2}, origin=ORIGIN, operation_id="one")
    return catalogue


def names(catalogue: Catalogue) -> list[tuple[str, str]]:
    return list(catalogue.read().repositories())


def test_created_repository_is_listed_and_opened_by_name(catalogue: Catalogue) -> None:
    assert names(catalogue) == [("team/one", ONE)]
    assert catalogue.open("team/one").read().root.policy == {"copies": 2}
    assert list(catalogue.read().registers()) == [f"repository/{ONE}"]


def test_name_is_given_once(catalogue: Catalogue) -> None:
    with pytest.raises(AlreadyExists, match="team/one"):
        catalogue.create("team/one", TWO, policy={}, origin=ORIGIN, operation_id="two")
    assert list(catalogue.read().registers()) == [f"repository/{ONE}"]


def test_creation_can_be_asked_for_again(catalogue: Catalogue) -> None:
    catalogue.create("team/one", ONE, policy={"copies": 2}, origin=ORIGIN, operation_id="one")
    assert names(catalogue) == [("team/one", ONE)]


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
    catalogue = Catalogue(registers, MemoryBlobs())
    with pytest.raises(OutcomeUnknown):
        catalogue.create("team/one", ONE, policy={}, origin=ORIGIN, operation_id="one")
    assert registers.changed == ["names", f"repository/{ONE}", "names"][:dies_before]
    assert names(catalogue) == []
    assert set(registers.list("repository/")) <= set(catalogue.read().registers())
    catalogue.create("team/one", ONE, policy={}, origin=ORIGIN, operation_id="one")
    assert names(catalogue) == [("team/one", ONE)]


def test_renamed_repository_keeps_its_id(catalogue: Catalogue) -> None:
    catalogue.create("team/two", TWO, policy={}, origin=ORIGIN, operation_id="two")
    catalogue.rename("team/one", "other/uno", ORIGIN, "rename")
    assert names(catalogue) == [("other/uno", ONE), ("team/two", TWO)]
    with pytest.raises(AlreadyExists):
        catalogue.rename("other/uno", "team/two", ORIGIN, "rename-2")
    with pytest.raises(NotFound, match="team/one"):
        catalogue.rename("team/one", "team/three", ORIGIN, "rename-3")
    catalogue.rename("team/one", "other/uno", ORIGIN, "rename")
    with pytest.raises(InvalidInput):
        catalogue.rename("other/uno", "../x", ORIGIN, "rename-4")


def test_deleted_repository_can_come_back(catalogue: Catalogue) -> None:
    deleted = catalogue.delete("team/one", origin=ORIGIN, operation_id="delete")
    assert deleted == Deleted(ONE, "team/one", TIME)
    assert names(catalogue) == []
    assert list(catalogue.read().deleted()) == [deleted]
    with pytest.raises(NotFound):
        catalogue.open("team/one")
    assert catalogue.undelete(ONE, ORIGIN, "undelete").root.deleted is None
    assert names(catalogue) == [("team/one", ONE)]
    assert list(catalogue.read().deleted()) == []
    with pytest.raises(NotFound):
        catalogue.undelete(TWO, ORIGIN, "undelete-2")


def test_deleted_repository_comes_back_under_another_name_where_its_own_is_taken(catalogue: Catalogue) -> None:
    catalogue.delete("team/one", origin=ORIGIN, operation_id="delete")
    catalogue.create("team/one", TWO, policy={}, origin=ORIGIN, operation_id="two")
    with pytest.raises(AlreadyExists):
        catalogue.undelete(ONE, ORIGIN, "undelete")
    catalogue.undelete(ONE, ORIGIN, "undelete-2", name="team/old")
    assert names(catalogue) == [("team/old", ONE), ("team/one", TWO)]


def test_catalogue_of_many_repositories_fits_its_register(registers: MemoryRegisters, catalogue: Catalogue) -> None:
    for number in range(300):
        catalogue.create(
            f"team-{number}/model", f"{number:032x}", policy={}, origin=ORIGIN, operation_id=f"create-{number}"
        )
    assert len(names(catalogue)) == 301
    value = registers.read("names")
    assert value is not None
    assert len(value.data) < 16 * 1024
