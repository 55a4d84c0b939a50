"""What a run did, as text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.torture.judging import Findings
from tests.torture.plan import KINDS, NAMES_OF_REQUEST_FAULTS

UNKNOWN_SHARE_MAX = 0.1
"""More changes of unknown fate, and a check proves little."""


@dataclass
class Report:
    """One stage of a run: `faults` by name, `requests` that passed the networks, `broken` are the names of
    workers that ended with an error which no client should see (it is on stderr), or did not end."""

    setting: str
    seed: int
    findings: Findings
    faults: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    duration_s: float = 0.0
    broken: list[str] = field(default_factory=list)

    @property
    def operations(self) -> int:
        """All that had an answer, or may have taken effect."""
        return sum(count for (_, kind), count in self.findings.operations.items() if kind != "failed")

    @property
    def unknown_share(self) -> float:
        """Of the changes that were sent."""
        sent = {kind: n for (what, kind), n in self.findings.operations.items() if what == "compare_and_set"}
        return sent.get("unknown", 0) / max(sum(sent.values()), 1)

    @property
    def faultless(self) -> bool:
        return not self.findings.violations and not self.broken and self.unknown_share < UNKNOWN_SHARE_MAX


def to_text(report: Report) -> str:
    """Two tables, and what was wrong."""
    operations, results = report.findings.operations, ("value", "conflict", "absent", "changes", "resync", "unknown")
    lines = [
        f"{report.setting}, seed {report.seed}: {report.operations:,} operations on {report.findings.registers:,} "
        f"registers (at most {report.findings.longest} on one) in {report.duration_s:.0f} s, "
        f"{report.operations / max(report.duration_s, 1):.0f}/s; {report.requests:,} requests; "
        f"{report.faults.total():,} faults; {report.unknown_share:.1%} of the changes of unknown fate; "
        f"{len(report.findings.violations)} violations",
        "",
        "| operation | " + " | ".join((*results, "failed")) + " |",
        "|---" * (len(results) + 2) + "|",
    ]
    for what in sorted({what for what, _ in operations}):
        cells = [f"{operations[what, kind]:,}" if operations[what, kind] else "" for kind in (*results, "failed")]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    lines += ["", "| fault | times |", "|---|---|"]
    lines += [f"| {name} | {report.faults[name]:,} |" for name in (*KINDS, *NAMES_OF_REQUEST_FAULTS)]
    lines += ["", *report.findings.violations, *(f"worker {name} broke" for name in report.broken)]
    return "\n".join(lines)
