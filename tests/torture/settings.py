"""Where the registers of a stage live, by the name of the setting: which servers are started, and which engine runs on
them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests import etcd
from tests.torture.clouds import Cloud, EtcdNode, make_folders, provide_credentials
from tests.torture.engines import Engine

CLOUDS: Final[dict[str, tuple[str, ...]]] = {
    "mixed": ("versitygw", "azurite", "fake-gcs-server"),
    "versitygw": ("versitygw",) * 3,
    "azurite": ("azurite",) * 3,
    "fake-gcs-server": ("fake-gcs-server",) * 3,
}
"""The servers of the voters of the engine `buckets`."""
SETTINGS: Final = (*CLOUDS, "folders", "etcd", "sqlite")
VOTERS: Final = 3


@dataclass(frozen=True)
class Setting:
    """`engine` as the workers reach it, `direct` without a fault between; `servers` can be paused and killed."""

    engine: Engine
    direct: Engine
    servers: Sequence[Cloud | EtcdNode] = ()

    def close(self) -> tuple[int, Counter[str]]:
        """End the servers; how many requests came to their networks, and the faults that they met."""
        requests, faults = 0, Counter[str]()
        for server in self.servers:
            seen, met = server.close()
            requests += seen
            faults += met
        return requests, faults


def prepare(name: str, folder: Path, seed: int, fault_rate: float, strip: str) -> Setting:
    """Start what a setting needs. Where a program is missing, the test that asked for it skips."""
    provide_credentials()
    if name == "folders":
        engine = Engine("buckets", make_folders(folder, VOTERS))
        return Setting(engine, engine)
    if name == "sqlite":
        engine = Engine("sqlite", path=str(folder / "registers.sqlite"))
        return Setting(engine, engine)
    if name == "etcd":
        cluster = etcd.plain_cluster()
        engine = Engine("etcd", path=f"{cluster.url}/torture/{seed}")
        return Setting(engine, engine, [EtcdNode(node) for node in cluster.nodes])
    clouds = [
        Cloud(f"cloud-{number}", kind, seed + number, fault_rate, strip=strip)
        for number, kind in enumerate(CLOUDS[name])
    ]
    return Setting(
        Engine("buckets", tuple(cloud.place for cloud in clouds)),
        Engine("buckets", tuple(cloud.direct for cloud in clouds)),
        clouds,
    )
