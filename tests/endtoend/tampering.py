"""What only somebody with the store's keys can do: write a register whose parts do not belong together."""

from __future__ import annotations

from dataclasses import replace

from skyhold.registry.catalogue import Catalogue
from skyhold.registry.connection import new_operation_id
from skyhold.registry.root import register_key
from skyhold.registry.store import Store
from skyhold.storage.policy import Policy


def change_move(store: Store, repository: str, sequence: int, **fields: object) -> None:
    """Change fields of a move of a ref in the map, and leave the chain of moves as it is."""
    connection = store._connection
    with connection.session(Policy()) as session:
        snapshot = Catalogue(connection.registers, session.blobs).open(repository).read()
        key = f"move/{sequence:016x}"
        move = snapshot.map.get(key)
        assert isinstance(move, dict)
        root = replace(snapshot.root, map=snapshot.map.update({key: move | fields}).to_json())
        register = register_key(root.repository_id)
        connection.registers.compare_and_set(register, snapshot.register_version, root.encode(), new_operation_id())
