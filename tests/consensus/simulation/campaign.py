"""Many seeds: what they met, and whether it was enough to believe them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.consensus.simulation.clouds import GET_FAULTS, PUT_FAULTS
from tests.consensus.simulation.run import simulate

MISFORTUNES = ("kill", "pause", "clock jump", "cut", "cloud away", "cloud emptied")
CELLS = (
    *((fault, phase) for fault in PUT_FAULTS for phase in ("prepare", "propose")),
    *((fault, "read") for fault in GET_FAULTS),
    *((fault, "any") for fault in MISFORTUNES),
)
"""Each fault in each phase that it can happen in."""
UNKNOWN_SHARE_MAX = 0.1
"""An operation whose outcome is never known is allowed everything: with more of them the check would be weak."""


@dataclass
class Tally:
    """Sums over seeds. `violations` name theirs."""

    seeds: int = 0
    injected: Counter[tuple[str, str]] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.seeds += other.seeds
        self.injected.update(other.injected)
        self.operations.update(other.operations)
        self.errors.update(other.errors)
        self.violations += other.violations

    @property
    def unknown_share(self) -> float:
        unknown = sum(count for error, count in self.errors.items() if "OutcomeUnknown" in error)
        return unknown / max(sum(self.operations.values()) - self.operations["watch"], 1)

    def complaints(self) -> list[str]:
        """Why these seeds do not show the registers to be linearizable; empty where they do."""
        empty = [f"nothing met: {fault} in {phase}" for fault, phase in CELLS if not self.injected[fault, phase]]
        weak = [f"{self.unknown_share:.1%} unknown outcomes"] if self.unknown_share >= UNKNOWN_SHARE_MAX else []
        return [*self.violations, *empty, *weak]

    def table(self) -> str:
        """The faults by phase, with counts."""
        operations = sum(self.operations.values())
        lines = [
            f"{self.seeds} seeds, {operations} operations, {self.unknown_share:.1%} of unknown outcome, "
            f"{len(self.violations)} violations"
        ]
        lines += [f"  {fault:16} {phase:8} {self.injected[fault, phase]:9}" for fault, phase in CELLS]
        return "\n".join(lines)


def tally(seeds: Iterable[int]) -> Tally:
    """Run the seeds one after the other."""
    total = Tally()
    for seed in seeds:
        report = simulate(seed)
        violations = [found for found in (report.violation, report.watch_violation) if found]
        total.add(Tally(1, report.injected, report.operations, report.errors, violations))
    return total
