from __future__ import annotations

import pytest

from skyhold.consensus.memory import MemoryRegisters
from skyhold.consensus.register import Registers
from tests.consensus.conformance import RegistersConformance


class TestMemoryRegisters(RegistersConformance):
    @pytest.fixture
    def registers(self) -> Registers:  # type: ignore[override]
        return MemoryRegisters()
