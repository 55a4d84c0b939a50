"""The conformance suite of the `Registers` port: every engine passes it as it is."""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod

import pytest

from skyhold.consensus.register import CHANGES_KEPT, DATA_BYTES_MAX, Known, RegisterChange, Registers, Resync, Versioned
from skyhold.errors import Conflict, InvalidInput

KEY = "repository/" + "0a" * 16


class RegistersConformance(ABC):
    data_bytes_max = DATA_BYTES_MAX

    @pytest.fixture
    @abstractmethod
    def registers(self, *args: object) -> Registers:
        """An engine without any register."""

    def test_register_that_was_never_created_reads_as_none(self, registers: Registers) -> None:
        assert registers.read(KEY) is None
        assert registers.list() == []

    def test_change_is_read_back_with_its_version(self, registers: Registers) -> None:
        assert registers.compare_and_set(KEY, 0, b"one", "a") == Versioned(1, b"one")
        assert registers.compare_and_set(KEY, 1, b"two", "b") == Versioned(2, b"two")
        assert registers.read(KEY) == Versioned(2, b"two")

    def test_known_value_of_a_register_that_can_be_read_is_the_newest(self, registers: Registers) -> None:
        assert registers.read_known(KEY) == Known(None)
        registers.compare_and_set(KEY, 0, b"one", "a")
        assert registers.read_known(KEY) == Known(Versioned(1, b"one"))
        recent = registers.read_known(KEY, max_age_s=60)
        assert recent.value == Versioned(1, b"one")
        assert recent.age_s is not None
        assert recent.age_s < 60
        with pytest.raises(InvalidInput, match="register key"):
            registers.read_known("other")

    @pytest.mark.parametrize("expected_version", [0, 2, 99])
    def test_change_on_another_version_is_refused_and_names_the_current_one(
        self, registers: Registers, expected_version: int
    ) -> None:
        registers.compare_and_set(KEY, 0, b"one", "a")
        with pytest.raises(Conflict) as caught:
            registers.compare_and_set(KEY, expected_version, b"two", "b")
        assert caught.value.code == "register_changed"
        assert caught.value.fields["current_version"] == 1
        assert registers.read(KEY) == Versioned(1, b"one")

    def test_change_of_a_missing_register_is_refused(self, registers: Registers) -> None:
        with pytest.raises(Conflict) as caught:
            registers.compare_and_set(KEY, 3, b"x", "a")
        assert caught.value.fields["current_version"] == 0
        assert registers.read(KEY) is None

    def test_repeated_operation_returns_its_first_result(self, registers: Registers) -> None:
        first = registers.compare_and_set(KEY, 0, b"one", "a")
        registers.compare_and_set(KEY, 1, b"two", "b")
        assert registers.compare_and_set(KEY, 0, b"other bytes", "a") == first
        assert registers.read(KEY) == Versioned(2, b"two")

    def test_operation_that_lost_may_be_sent_again_on_the_new_version(self, registers: Registers) -> None:
        registers.compare_and_set(KEY, 0, b"one", "a")
        with pytest.raises(Conflict):
            registers.compare_and_set(KEY, 0, b"two", "b")
        assert registers.compare_and_set(KEY, 1, b"two", "b").version == 2

    def test_same_operation_id_on_two_registers_is_two_operations(self, registers: Registers) -> None:
        registers.compare_and_set(KEY, 0, b"one", "a")
        assert registers.compare_and_set("names", 0, b"two", "a") == Versioned(1, b"two")

    def test_outcome_reports_whether_an_operation_took_effect(self, registers: Registers) -> None:
        assert registers.outcome(KEY, "a") is None
        registers.compare_and_set(KEY, 0, b"one", "a")
        registers.compare_and_set(KEY, 1, b"two", "b")
        assert registers.outcome(KEY, "a") == Versioned(1, b"one")
        assert registers.outcome(KEY, "c") is None
        assert registers.outcome("names", "a") is None

    def test_operations_are_remembered_for_the_kept_changes(self, registers: Registers) -> None:
        for version in range(CHANGES_KEPT):
            registers.compare_and_set(KEY, version, b"%d" % version, f"operation-{version}")
        assert registers.outcome(KEY, "operation-0") == Versioned(1, b"0")

    def test_data_of_a_wrong_size_is_refused(self, registers: Registers) -> None:
        for size_bytes in (0, self.data_bytes_max + 1):
            with pytest.raises(InvalidInput) as caught:
                registers.compare_and_set(KEY, 0, bytes(size_bytes), "a")
            assert caught.value.code == "register_data_size"

    def test_data_of_the_greatest_size_is_kept(self, registers: Registers) -> None:
        incompressible = random.Random(7).randbytes(self.data_bytes_max)
        registers.compare_and_set(KEY, 0, incompressible, "a")
        assert registers.read(KEY) == Versioned(1, incompressible)

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "Config",
            "config/",
            "repository/",
            "repository/../x",
            "repository/" + "A" * 32,
            "document/x",
            "cluster/" + "a" * 32,
        ],
    )
    def test_key_outside_the_grammar_is_refused(self, registers: Registers, key: str) -> None:
        with pytest.raises(InvalidInput, match="register key"):
            registers.compare_and_set(key, 0, b"x", "a")
        with pytest.raises(InvalidInput, match="register key"):
            registers.read(key)

    @pytest.mark.parametrize("operation_id", ["", "a b", "x" * 65, "a/b"])
    def test_operation_id_outside_the_grammar_is_refused(self, registers: Registers, operation_id: str) -> None:
        with pytest.raises(InvalidInput, match="operation id"):
            registers.compare_and_set(KEY, 0, b"x", operation_id)

    def test_list_names_the_registers_of_a_prefix_in_order(self, registers: Registers) -> None:
        document = "document/" + "0a" * 16
        for key in ("names", document, "repository/" + "f" * 32, KEY, "config"):
            registers.compare_and_set(key, 0, b"x", "a")
        assert registers.list() == ["config", document, "names", KEY, "repository/" + "f" * 32]
        assert registers.list("document/") == [document]
        assert registers.list("repository/") == [KEY, "repository/" + "f" * 32]
        assert registers.list("repository/ff") == ["repository/" + "f" * 32]

    def test_watch_returns_the_changes_in_order_without_a_gap(self, registers: Registers) -> None:
        for version in range(5):
            registers.compare_and_set(KEY, version, b"%d" % version, f"o{version}")
        assert registers.watch(KEY, 2, timeout_s=0) == [Versioned(3, b"2"), Versioned(4, b"3"), Versioned(5, b"4")]
        assert registers.watch(KEY, 5, timeout_s=0) == []
        assert registers.watch("names", 0, timeout_s=0) == []

    def test_watch_waits_for_the_next_change(self, registers: Registers) -> None:
        registers.compare_and_set(KEY, 0, b"one", "a")
        timer = threading.Timer(0.05, registers.compare_and_set, (KEY, 1, b"two", "b"))
        timer.start()
        try:
            assert registers.watch(KEY, 1, timeout_s=20) == [Versioned(2, b"two")]
        finally:
            timer.join()

    def test_watch_asks_to_resync_where_changes_are_no_longer_kept(self, registers: Registers) -> None:
        versions = 3 * CHANGES_KEPT
        for version in range(versions):
            registers.compare_and_set(KEY, version, b"%d" % version, f"o{version}")
        assert registers.watch(KEY, 0, timeout_s=0) == Resync(Versioned(versions, b"%d" % (versions - 1)))
        kept = registers.watch(KEY, versions - CHANGES_KEPT, timeout_s=0)
        assert not isinstance(kept, Resync)
        assert [value.version for value in kept] == list(range(versions - CHANGES_KEPT + 1, versions + 1))

    def test_watch_asks_to_resync_where_the_register_is_older(self, registers: Registers) -> None:
        registers.compare_and_set(KEY, 0, b"one", "a")
        assert registers.watch(KEY, 7, timeout_s=0) == Resync(Versioned(1, b"one"))

    def test_sealed_register_stays_readable_and_never_changes(self, registers: Registers) -> None:
        registers.compare_and_set(KEY, 0, b"one", "a")
        sealed = registers.seal(KEY, 1, b"next")
        assert sealed == Versioned(2, b"one", b"next")
        assert sealed.sealed
        with pytest.raises(Conflict) as caught:
            registers.compare_and_set(KEY, 2, b"two", "b")
        assert caught.value.code == "register_sealed"
        assert registers.read(KEY) == sealed
        assert registers.compare_and_set(KEY, 0, b"one", "a") == Versioned(1, b"one")

    def test_seal_can_be_repeated_by_anyone_but_not_changed(self, registers: Registers) -> None:
        registers.compare_and_set(KEY, 0, b"one", "a")
        sealed = registers.seal(KEY, 1, b"next")
        assert registers.seal(KEY, 1, b"next") == sealed
        with pytest.raises(Conflict, match="sealed"):
            registers.seal(KEY, 2, b"another")

    def test_seal_on_another_version_is_refused(self, registers: Registers) -> None:
        registers.compare_and_set(KEY, 0, b"one", "a")
        with pytest.raises(Conflict) as caught:
            registers.seal(KEY, 0, b"next")
        assert caught.value.code == "register_changed"
        assert registers.read(KEY) == Versioned(1, b"one")

    def test_missing_register_can_be_sealed_and_is_then_never_created(self, registers: Registers) -> None:
        assert registers.seal(KEY, 0, b"next") == Versioned(1, b"", b"next")
        with pytest.raises(Conflict, match="sealed"):
            registers.compare_and_set(KEY, 0, b"x", "a")

    def test_restored_register_goes_on_from_its_version(self, registers: Registers) -> None:
        registers.restore(KEY, [RegisterChange(Versioned(41, b"old"), None)])
        registers.restore(KEY, [RegisterChange(Versioned(41, b"old"), None)])
        assert registers.read(KEY) == Versioned(41, b"old")
        assert registers.compare_and_set(KEY, 41, b"new", "a") == Versioned(42, b"new")
        assert isinstance(registers.watch(KEY, 3, timeout_s=0), Resync)
        with pytest.raises(Conflict):
            registers.restore(KEY, [RegisterChange(Versioned(41, b"old"), None)])

    def test_restored_register_knows_the_operations_and_changes_that_it_had_elsewhere(
        self, registers: Registers
    ) -> None:
        for version in range(CHANGES_KEPT + 5):
            registers.compare_and_set("names", version, b"%d" % version, f"o{version}")
        changes = list(registers.changes("names"))[-CHANGES_KEPT:]
        assert [change.value.version for change in changes] == list(range(6, CHANGES_KEPT + 6))
        registers.restore(KEY, changes)
        assert registers.changes(KEY) == changes
        assert registers.outcome(KEY, "o5") == Versioned(6, b"5")
        assert registers.watch(KEY, 67, timeout_s=0) == [Versioned(68, b"67"), Versioned(69, b"68")]
        assert registers.compare_and_set(KEY, 0, b"again", "o68") == Versioned(69, b"68")

    def test_restored_seal_is_a_seal(self, registers: Registers) -> None:
        registers.restore(KEY, [RegisterChange(Versioned(3, b"old", b"next"), None)])
        assert registers.read(KEY) == Versioned(3, b"old", b"next")
        assert registers.changes(KEY) == [RegisterChange(Versioned(3, b"old", b"next"), None)]
        with pytest.raises(Conflict, match="sealed"):
            registers.compare_and_set(KEY, 3, b"new", "a")

    @pytest.mark.parametrize("versions", [[], [0, 1], [4, 6], [2, 1]])
    def test_changes_with_a_gap_are_not_restored(self, registers: Registers, versions: list[int]) -> None:
        with pytest.raises(InvalidInput) as caught:
            registers.restore(KEY, [RegisterChange(Versioned(version, b"x"), None) for version in versions])
        assert caught.value.code == "changes_malformed"
        assert registers.read(KEY) is None
        assert registers.changes(KEY) == []

    def test_of_many_threads_that_race_exactly_one_wins_each_version(self, registers: Registers) -> None:
        threads_count, rounds = 6, 10
        won: list[int] = []
        start = threading.Barrier(threads_count)

        def race(racer: int) -> None:
            for version in range(rounds):
                start.wait(20)
                try:
                    registers.compare_and_set(KEY, version, b"%d" % racer, f"{racer}-{version}")
                except Conflict:
                    continue
                won.append(version)

        threads = [threading.Thread(target=race, args=(racer,)) for racer in range(threads_count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(won) == list(range(rounds))
