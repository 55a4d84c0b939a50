"""Registers that are damaged or lost, before something that needs all of them begins."""

from __future__ import annotations

from skyhold.consensus.migration import NAMES
from skyhold.consensus.no_majority import register_lost
from skyhold.consensus.parallel import at_once
from skyhold.errors import Corrupt
from skyhold.storage.policy import Policy
from skyhold.store.connection import Connection
from skyhold.store.directory import Directory, DirectoryRegister


def created_registers(connection: Connection) -> dict[str, bool]:
    """The keys of all registers but `config`, each with whether it is known to have been created."""
    with connection.session(Policy()) as session:
        names = DirectoryRegister(session.registers, session.blobs, Directory).read()
        return {NAMES: names.register_version > 0, **names.created()}


def first_unreadable(connection: Connection) -> Corrupt | None:
    """Why a register cannot be read that is damaged or lost, of those beside `config`."""

    def check(key: str) -> None:
        if connection.registers.read(key) is None and created[key]:
            raise register_lost(key)

    try:
        created = created_registers(connection)
        at_once(check, created, "check")
    except Corrupt as error:
        return error
    return None


def refuse_unreadable(connection: Connection) -> None:
    """Raise `Corrupt` where a register is damaged or lost, before a change of voters, buckets or engine, which needs
    all of them: half-way it would block every client. Nothing is changed then."""
    error = first_unreadable(connection) if connection.shared else None
    if error is not None:
        raise Corrupt(
            "The buckets, voters and engine of the store can change only while all registers are readable: "
            f"{error.message}",
            code=error.code,
            hint=error.hint,
            **error.fields,
        ) from error
