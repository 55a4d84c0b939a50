"""The results as Markdown, which is also what the terminal shows, and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from results import LIMITS, MIB, Results

TITLES = {
    "family": "Push of six versions in turn, one server on loopback",
    "pull": "Pull of one version, one server on loopback",
    "shaped": "Over a link shaped to 1 Gb/s",
    "three": "One version to three buckets (three servers on loopback)",
    "real": "Real weights: MiniLM (fp32) and fine-tunes of it",
}


def markdown(results: Results, environment: dict[str, str]) -> str:
    """All tables, with what they were measured on."""
    parts = ["\n".join(f"- {name}: {value}" for name, value in environment.items())]
    parts += [limits_table(results)]
    parts += [group_table(results, group) for group in TITLES if group in results.samples]
    parts += ["\n".join(f"- {note}" for note in results.notes)] if results.notes else []
    return "\n\n".join(part for part in parts if part) + "\n"


def limits_table(results: Results) -> str:
    """Ours against the peer's in the same run, for every limit that was measured."""
    rows = []
    for limit in LIMITS:
        ours, peers, ratio = limit.ours(results), limit.peers(results), limit.ratio(results)
        if ours is None or peers is None or ratio is None:
            continue
        met = "yes" if ratio <= limit.at_most else "**no**"
        if limit.peer is None:
            rows.append([limit.text, f"{ours:.0f} {limit.unit}", "", "", f"{limit.at_most:.0f} {limit.unit}", met])
        else:
            digits = 2 if limit.unit == "s" else 0
            rows.append([limit.text, f"{ours:.{digits}f} {limit.unit}", f"{limit.peer} {peers:.{digits}f} {limit.unit}",
                         f"{ratio:.2f}", f"{limit.at_most:.2f}", met])  # fmt: skip
    return table(["Limit", "skyhold", "peer", "ratio", "at most", "met"], rows) if rows else ""


def group_table(results: Results, group: str) -> str:
    """Every row of a group: wall seconds (CPU seconds) of each tool."""
    tools = results.tools(group)
    rows = []
    for row in results.samples[group]:
        cells = [results.typical(group, row, tool) for tool in tools]
        rows.append([row, *("" if cell is None else f"{cell.wall_s:.2f} ({cell.cpu_s:.2f})" for cell in cells)])
    peaks = [_peak(results, group, tool) for tool in tools]
    rows.append(["peak memory, MiB", *(f"{peak / MIB:.0f}" for peak in peaks)])
    if group in results.stored_bytes:
        stored = [results.typical_stored(group, tool) for tool in tools]
        rows.append(["stored, MiB", *("" if size is None else f"{size / MIB:.1f}" for size in stored)])
    if group in results.server_cpu_s:
        spent = [results.server_cpu_s[group].get(tool) for tool in tools]
        rows.append(["the server's own CPU, s", *(f"{statistics.median(run):.2f}" if run else "" for run in spent)])
    raw = f" ({results.raw_bytes[group] / MIB:.0f} MiB of files)" if group in results.raw_bytes else ""
    return f"**{TITLES[group]}**{raw}: wall s (CPU s), medians\n\n" + table(["", *tools], rows)


def _peak(results: Results, group: str, tool: str) -> int:
    runs = [sample for tools in results.samples[group].values() for sample in tools.get(tool, [])]
    return max(sample.peak_rss_bytes for sample in runs)


def missed(results: Results) -> list[str]:
    """The limits that were measured and not met."""
    ratios = [(limit, limit.ratio(results)) for limit in LIMITS]
    return [limit.text for limit, ratio in ratios if ratio is not None and ratio > limit.at_most]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up in a terminal; all but the first are set flush right."""
    lines = [header, *rows]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        return "| " + " | ".join([first, *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(header), rule, *(line(row) for row in rows)])
