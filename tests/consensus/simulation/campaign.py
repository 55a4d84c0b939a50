"""Many seeds: what they met, and whether it was enough to trust them."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.consensus.simulation.clouds import GET_FAULTS, PUT_FAULTS, PUT_PHASES
from tests.consensus.simulation.misfortunes import MISFORTUNES, MISTAKES
from tests.consensus.simulation.run import simulate

CELLS = (
    *((fault, phase) for fault in PUT_FAULTS for phase in PUT_PHASES),
    *((fault, "read") for fault in GET_FAULTS),
    *((fault, when) for fault in MISFORTUNES for when in ("rest", "move")),
    *((mistake, "any") for mistake in MISTAKES),
)
"""Each fault in each phase that it can happen in: of a put, or a get; what befalls a process or a cloud while the store
moves, or does not; and what operators do wrong."""
UNKNOWN_SHARE_MAX = 0.1
"""An operation whose outcome is never known is allowed everything: with more of them the check would be weak."""


@dataclass
class Tally:
    """Sums over seeds. `epochs` counts them by the last that each has begun; `violations` name theirs."""

    seeds: int = 0
    injected: Counter[tuple[str, str]] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    epochs: Counter[int] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.seeds += other.seeds
        self.injected.update(other.injected)
        self.operations.update(other.operations)
        self.errors.update(other.errors)
        self.epochs.update(other.epochs)
        self.violations += other.violations

    @property
    def unknown_share(self) -> float:
        """Of what clients asked, but for watches."""
        unknown = sum(
            count for error, count in self.errors.items() if "OutcomeUnknown" in error and not error.startswith("move")
        )
        return unknown / max(sum(self.operations.values()) - self.operations["watch"] - self.operations["move"], 1)

    def complaints(self) -> list[str]:
        """Why these seeds do not show the registers to be linearizable; empty where they do."""
        empty = [f"nothing met: {fault} in {phase}" for fault, phase in CELLS if not self.injected[fault, phase]]
        weak = [f"{self.unknown_share:.1%} unknown outcomes"] if self.unknown_share >= UNKNOWN_SHARE_MAX else []
        return [*self.violations, *empty, *weak]

    def table(self) -> str:
        """The faults by phase, with counts."""
        operations = sum(self.operations.values())
        moved = sum(count for epoch, count in self.epochs.items() if epoch > 1)
        lines = [
            f"{self.seeds} seeds, {operations} operations, {self.unknown_share:.1%} of unknown outcome, "
            f"{len(self.violations)} violations; {moved} seeds with moves, up to epoch {max(self.epochs, default=1)}"
        ]
        phases = list(dict.fromkeys(phase for _, phase in CELLS))
        lines.append(f"{'':26}" + "".join(f"{phase:>9}" for phase in phases))
        for fault in dict.fromkeys(fault for fault, _ in CELLS):
            counts = (str(self.injected[fault, phase]) if (fault, phase) in CELLS else "" for phase in phases)
            lines.append((f"  {fault:24}" + "".join(f"{count:>9}" for count in counts)).rstrip())
        return "\n".join(lines)


def tally(seeds: Iterable[int]) -> Tally:
    """Run the seeds one after the other. No garbage is looked for meanwhile, which takes a seventh of the time: a seed
    leaves some 400 KB, so let the process end after some hundreds."""
    total, collecting = Tally(), gc.isenabled()
    gc.disable()
    try:
        for seed in seeds:
            report = simulate(seed)
            wrong = (report.violation, report.watch_violation, report.fork, report.unreadable)
            violations = [found for found in wrong if found]
            epochs = Counter([report.epoch])
            total.add(Tally(1, report.injected, report.operations, report.errors, epochs, violations))
    finally:
        if collecting:
            gc.enable()
    return total
