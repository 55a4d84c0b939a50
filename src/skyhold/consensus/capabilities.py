"""What some engines can do beside the port `EngineRegisters`: each as a port of its own, and how callers ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from skyhold.consensus.acceptor_object import AcceptorObject
from skyhold.consensus.etcd_records import Record
from skyhold.consensus.framed_registers import FramedRegisters
from skyhold.consensus.register import EngineRegisters, Versioned
from skyhold.consensus.retiring import Acceptors
from skyhold.errors import SkyholdError


@runtime_checkable
class Voting(Protocol):
    """Registers of which each of several voters holds its own copy."""

    @property
    def acceptors(self) -> Acceptors:
        """The voters' objects."""

    def inspect(self, key: str) -> dict[str, AcceptorObject | SkyholdError | None]:
        """What each voter shows of a register right now, by name: its object, None where it has none, or why it takes
        no part. Decides nothing."""

    def outcome(self, key: str, operation_id: str) -> Versioned | None: ...
    def read(self, key: str) -> Versioned | None: ...
    def list(self, prefix: str = "") -> list[str]: ...


@runtime_checkable
class Checkpointing(Protocol):
    """Registers of one machine, whose values are written to the buckets too."""

    def flush(self) -> tuple[str, ...]:
        """Write the checkpoints that are due; returns the keys of their registers."""

    def checkpointed_version(self, key: str) -> int | None: ...
    def checkpoint_again(self, key: str, *, over: str | None = None) -> None: ...


class Node(Protocol):
    """A node that answers for a majority of its cluster."""

    @property
    def member_id(self) -> str: ...


@runtime_checkable
class Clustered(Protocol):
    """Registers in a cluster of its own, of which this machine knows nodes."""

    def nodes(self) -> Mapping[str, Node | SkyholdError]: ...
    def inspect(self, key: str) -> Record | None: ...


def voting(registers: EngineRegisters) -> Voting | None:
    """The registers, where voters hold them."""
    return registers if isinstance(registers, Voting) else None


def checkpointing(registers: EngineRegisters) -> Checkpointing | None:
    """The registers, where they are written to buckets as checkpoints."""
    return registers if isinstance(registers, Checkpointing) else None


def clustered(registers: EngineRegisters) -> Clustered | None:
    """The registers, where a cluster of its own holds them."""
    engine = registers.engine if isinstance(registers, FramedRegisters) else registers
    return engine if isinstance(engine, Clustered) else None
