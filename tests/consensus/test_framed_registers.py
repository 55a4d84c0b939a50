from __future__ import annotations

import dataclasses

import pytest

from skyhold.codec.frame import FrameKeys
from skyhold.consensus.framed_registers import FRAMED_DATA_BYTES_MAX, FramedRegisters
from skyhold.consensus.memory import MemoryRegisters
from skyhold.consensus.register import Registers
from skyhold.errors import Corrupt
from tests.consensus.conformance import KEY, RegistersConformance
from tests.consensus.fixtures import KEYS

SEALED = dataclasses.replace(KEYS, sealed=True)


class TestFramedRegisters(RegistersConformance):
    data_bytes_max = FRAMED_DATA_BYTES_MAX

    @pytest.fixture
    def registers(self) -> Registers:  # type: ignore[override]
        return FramedRegisters(MemoryRegisters(), SEALED)


@pytest.mark.parametrize("keys", [KEYS, SEALED])
def test_changed_data_is_corrupt(keys: FrameKeys) -> None:
    engine = MemoryRegisters()
    registers = FramedRegisters(engine, keys)
    registers.compare_and_set(KEY, 0, b"secret", "a")
    stored = engine.read(KEY)
    assert stored is not None
    assert (b"secret" in stored.data) is not keys.sealed
    engine.compare_and_set(KEY, 1, stored.data[:-40] + b"x" + stored.data[-39:], "b")
    with pytest.raises(Corrupt):
        registers.read(KEY)


def test_data_of_another_register_is_corrupt() -> None:
    engine = MemoryRegisters()
    registers = FramedRegisters(engine, KEYS)
    registers.compare_and_set(KEY, 0, b"theirs", "a")
    stored = engine.read(KEY)
    assert stored is not None
    engine.compare_and_set("names", 0, stored.data, "a")
    with pytest.raises(Corrupt):
        registers.read("names")
