"""How large a repository's register grows with its refs and events (limit 16 KiB), and what a voter's object takes.

    python benchmarks/bench_root.py [--refs N] [--moves N]

Moves go through the rules of the registry (`plan`) with blobs in memory, a thousand in a change. After each tenth the
root is measured, and at the end what a voter holds: the last 64 changes, each of one ref. Ends with status 1 when the
limit is missed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from report import table

from skyhold.codec.frame import DataKey, FrameKeys
from skyhold.consensus.acceptor import AcceptorState, Ballot
from skyhold.consensus.acceptor_object import AcceptorObject, encode_acceptor
from skyhold.consensus.memory import MemoryRegisters
from skyhold.registry.change import RefUpdate, RepositoryChange
from skyhold.registry.names import Ref, RefKind
from skyhold.registry.repository_register import RepositoryRegister
from skyhold.registry.root import ROOT_BYTES_MAX, register_key
from skyhold.registry.snapshot import NewVersion
from skyhold.storage.blobs import MemoryBlobs
from skyhold.store.event import Origin

REPOSITORY = "5c" * 16
TIME = "2026-11-25T12:00:00Z"
BATCH = 1_000
VERSIONS = 64
KEYS = FrameKeys({0: DataKey(b"m" * 32, b"s" * 32)}, 0, sealed=False)


def change(refs: list[RefUpdate], versions: tuple[NewVersion, ...] = ()) -> RepositoryChange:
    return RepositoryChange(Origin("Ada <ada@example.org>", TIME, "a move"), tuple(refs), versions, gc_epoch=0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refs", type=int, default=100_000, help="refs of the repository (default 100,000)")
    parser.add_argument("--moves", type=int, default=1_000_000, help="moves in all (default 1,000,000)")
    chosen = parser.parse_args()
    dice = random.Random(7)
    digests = [dice.randbytes(32).hex() for _ in range(VERSIONS)]
    entries = tuple(
        NewVersion(digest, dice.randbytes(32).hex(), dice.randbytes(32).hex(), (), TIME) for digest in digests
    )
    registers = MemoryRegisters()
    repository = RepositoryRegister(registers, MemoryBlobs(), REPOSITORY)
    repository.create(policy={}, gc_epoch=0, origin=Origin("Ada <ada@example.org>", TIME), operation_id="create")
    repository.apply(change([RefUpdate(Ref(RefKind.ALIAS, "first"), digests[0])], entries), "versions")
    rows, largest, started_s = [], 0, time.monotonic()
    for done in range(0, chosen.moves, BATCH):
        first = done % chosen.refs
        updates = [
            RefUpdate(Ref(RefKind.ALIAS, f"ref-{number:06}"), dice.choice(digests))
            for number in range(first, min(first + BATCH, chosen.refs))
        ]
        snapshot = repository.apply(change(updates), f"batch-{done}")
        root_bytes = len(snapshot.root.encode())
        largest = max(largest, root_bytes)
        if (done + BATCH) % (chosen.moves // 10) < BATCH:
            rows.append(
                [
                    f"{min(done + BATCH, chosen.refs):,}",
                    f"{done + BATCH:,}",
                    f"{snapshot.root.events:,}",
                    f"{root_bytes:,}",
                ]
            )
    for number in range(64):
        update = RefUpdate(Ref(RefKind.ALIAS, f"ref-{number * 1543 % chosen.refs:06}"), dice.choice(digests))
        repository.apply(change([update]), f"one-{number}")
    kept = tuple(registers.changes(register_key(REPOSITORY)))
    held = AcceptorObject(
        AcceptorState(Ballot(9, "a" * 32), Ballot(8, "a" * 32), kept), kept[-1].value.version, "ada", TIME
    )
    object_bytes = len(encode_acceptor(held, 1, register_key(REPOSITORY), "b" * 32, KEYS))
    print(table(["refs", "moves", "events", "root, bytes"], rows))
    print(f"largest root {largest:,} bytes of {ROOT_BYTES_MAX:,}; a voter's object {object_bytes:,} bytes, in clear")
    print(f"{time.monotonic() - started_s:.0f} s")
    return 0 if largest <= ROOT_BYTES_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
