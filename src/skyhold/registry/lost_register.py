"""What a recovery of one register needs from repositories."""

from __future__ import annotations

from typing import Final

from skyhold.errors import Corrupt
from skyhold.registry.repositories import Repositories
from skyhold.registry.repository_register import created
from skyhold.registry.root import register_key
from skyhold.storage.policy import Policy
from skyhold.store.connection import Connection
from skyhold.store.register_recovery import RegisterOwner

_PREFIX: Final = "repository/"


def _key_of(connection: Connection, name: str) -> str:
    try:
        with connection.session(Policy()) as session:
            return register_key(Repositories(session.registers, session.blobs).read().resolve(name))
    except Corrupt as error:
        raise Corrupt(
            f"Which register repository `{name}` has cannot be read: {error.message}",
            code=error.code,
            hint=error.hint,
            **error.fields,
        ) from error


def _first(connection: Connection, key: str) -> bytes:
    policy = connection.configuration.policy.to_json()
    origin = connection.origin(reason="recover --register --empty")
    blobs = connection.blobs_of(connection.configuration)
    return created(key.removeprefix(_PREFIX), blobs, policy=policy, gc_epoch=0, origin=origin).encode()


REGISTER_OWNER: Final = RegisterOwner(_PREFIX, _key_of, _first)
"""How the register of a repository is recovered, by its key or by the repository's name."""
