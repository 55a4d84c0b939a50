"""What the benchmarks measured, and the limits that it is held against."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from measure import Sample, median

MIB = 1 << 20
OURS = "skyhold"


@dataclass(slots=True)
class Results:
    """Samples by group (a table), row and tool, in the order in which they were first added."""

    samples: dict[str, dict[str, dict[str, list[Sample]]]] = field(default_factory=dict)
    stored_bytes: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    raw_bytes: dict[str, int] = field(default_factory=dict)
    server_cpu_s: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, group: str, row: str, tool: str, sample: Sample) -> None:
        """Keep one run."""
        self.samples.setdefault(group, {}).setdefault(row, {}).setdefault(tool, []).append(sample)

    def add_stored(self, group: str, tool: str, stored_bytes: int) -> None:
        """Keep what the server held for a tool after one round."""
        self.stored_bytes.setdefault(group, {}).setdefault(tool, []).append(stored_bytes)

    def add_server_cpu(self, group: str, tool: str, cpu_s: float) -> None:
        """Keep what the server itself spent on a tool in one round."""
        self.server_cpu_s.setdefault(group, {}).setdefault(tool, []).append(cpu_s)

    def typical(self, group: str, row: str, tool: str) -> Sample | None:
        """The median of a row's runs, or None where it was not measured."""
        runs = self.samples.get(group, {}).get(row, {}).get(tool)
        return median(runs) if runs else None

    def typical_stored(self, group: str, tool: str) -> float | None:
        """The median of the bytes stored, or None where they were not measured."""
        sizes = self.stored_bytes.get(group, {}).get(tool)
        return statistics.median(sizes) if sizes else None

    def peak_rss_bytes(self, tool: str) -> int | None:
        """The highest peak of any process of a tool."""
        peaks = [
            sample.peak_rss_bytes
            for rows in self.samples.values()
            for tools in rows.values()
            for sample in tools.get(tool, [])
        ]
        return max(peaks, default=None)

    def tools(self, group: str) -> list[str]:
        """The tools of a group, in the order in which they were first measured."""
        return list(dict.fromkeys(tool for tools in self.samples.get(group, {}).values() for tool in tools))

    def to_json(self) -> dict[str, object]:
        """Everything measured, run by run."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Limit:
    """`measure` of ours over that of the peer (over 1 where there is no peer) may be `at_most`."""

    text: str
    unit: str
    ours: Callable[[Results], float | None]
    peer: str | None
    peers: Callable[[Results], float | None]
    at_most: float

    def ratio(self, results: Results) -> float | None:
        """Ours over the peer's, or None where one of the two was not measured."""
        ours, peers = self.ours(results), self.peers(results)
        return None if ours is None or peers is None else ours / peers


def wall_limit(text: str, group: str, row: str, at_most: float, *, peer: str = "rclone", peer_row: str = "") -> Limit:
    """A limit on wall time against a peer in the same group, in another row where the peer knows no such thing."""

    def wall_s(results: Results, row: str, tool: str) -> float | None:
        sample = results.typical(group, row, tool)
        return None if sample is None else sample.wall_s

    return Limit(text, "s", lambda r: wall_s(r, row, OURS), peer, lambda r: wall_s(r, peer_row or row, peer), at_most)


def _stored_mib(results: Results, group: str, tool: str) -> float | None:
    stored_bytes = results.typical_stored(group, tool)
    return None if stored_bytes is None else stored_bytes / MIB


def _peak_mib(results: Results) -> float | None:
    peak_bytes = results.peak_rss_bytes(OURS)
    return None if peak_bytes is None else peak_bytes / MIB


LIMITS = (
    Limit(
        "Bytes stored, the whole family",
        "MiB",
        lambda results: _stored_mib(results, "family", OURS),
        "restic",
        lambda results: _stored_mib(results, "family", "restic"),
        0.50,
    ),
    wall_limit("Push of the whole family", "family", "push, whole family", 0.40, peer="restic"),
    wall_limit("Verified pull, version stored whole", "pull", "pull base", 1.10),
    wall_limit("Verified pull, fine-tune, cold", "pull", "pull finetune", 1.40),
    wall_limit(
        "Verified pull, fine-tune, its base in the cache",
        "pull",
        "pull finetune, base cached",
        1.10,
        peer_row="pull finetune",
    ),
    wall_limit("1 Gb/s: push of the base", "shaped", "push base", 0.65),
    wall_limit("1 Gb/s: push of the fine-tune", "shaped", "push finetune", 0.65),
    wall_limit("1 Gb/s: pull, version stored whole", "shaped", "pull base", 0.70),
    wall_limit("1 Gb/s: pull, fine-tune, cold", "shaped", "pull finetune", 0.85),
    wall_limit(
        "1 Gb/s: pull, fine-tune, its base in the cache",
        "shaped",
        "pull finetune, base cached",
        0.40,
        peer_row="pull finetune",
    ),
    Limit("Peak memory of the largest process", "MiB", _peak_mib, None, lambda _: 1.0, 200.0),
)
