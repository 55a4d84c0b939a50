"""All cells, or those that are named: `python -m tests.hostile [--cells N --seed S | NAME…]`; or, with `--faults`,
all faults of the faulty S3 server, or those that are named."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import cpu_count

from tests.docs.pages import ROOT
from tests.hostile.cells import Cell, all_cells, sample
from tests.hostile.faulty_server import FAULTS, try_faults
from tests.hostile.judging import Court, Outcome, judge, open_court
from tests.hostile.rules import RULES, rule_of, table_of_rules


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.hostile", description=__doc__)
    parser.add_argument("names", nargs="*", help="names of cells as they are printed, or the beginning of some")
    parser.add_argument("--cells", type=int, help="a random sample of so many, instead of all")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--jobs", type=int, default=cpu_count() or 1)
    parser.add_argument("--write-table", action="store_true", help="write the rules into docs/security.md, run nothing")
    parser.add_argument("--faults", action="store_true", help="the faults of the faulty S3 server, instead of cells")
    options = parser.parse_args(arguments)
    if options.write_table:
        _write_table()
        return 0
    if options.faults:
        return _faults(options.names or sorted(FAULTS))
    cells = all_cells() if options.cells is None else sample(options.cells, options.seed)
    if options.names:
        cells = [cell for cell in cells if any(cell.name.startswith(name) for name in options.names)]
    started_s = time.monotonic()
    outcomes: list[Outcome] = []
    for outcome in _run(cells, options.jobs):
        outcomes.append(outcome)
        if outcome.complaints:
            print(f"\n{outcome.cell.name} ({rule_of(outcome.cell.damage, outcome.cell.engine).name})")
            print(*(f"    {complaint[:600]}" for complaint in outcome.complaints), sep="\n", flush=True)
    print(_table(outcomes))
    wrong = [outcome for outcome in outcomes if outcome.complaints]
    applied = [outcome for outcome in outcomes if outcome.applies]
    slowest = max((outcome.seconds for outcome in applied), default=0.0)
    print(
        f"\n{len(applied):,} cells in {time.monotonic() - started_s:,.0f} s, the slowest {slowest:.1f} s; "
        f"{len(applied) - len(wrong):,} right, {len(wrong):,} wrong"
        + (f"\nOne alone: python -m tests.hostile {wrong[0].cell.name}" if wrong else "")
    )
    return 1 if wrong or not applied else 0


def _faults(names: Sequence[str]) -> int:
    wrong = 0
    for trial in try_faults(names):
        print(trial, flush=True)
        wrong += bool(trial.complaints)
    print(f"\n{wrong} of {len(names)} faults had a wrong result")
    return 1 if wrong else 0


def _write_table() -> None:
    page = ROOT / "docs" / "security.md"
    before, mark, rest = page.read_text().partition("<!-- rules -->\n")
    end = rest[rest.index("<!-- end of rules -->") :]
    page.write_text(f"{before}{mark}{table_of_rules()}\n{end}")


def _run(cells: Sequence[Cell], jobs: int) -> Iterable[Outcome]:
    """Cells of one store go to one process in a row: each process makes the stores that it meets."""
    ordered = sorted(cells, key=lambda cell: (cell.engine, cell.sealed))
    processes = get_context("spawn")
    with (
        tempfile.TemporaryDirectory(dir=Court.memory_folder(), prefix="skyhold-hostile-") as folder,
        ProcessPoolExecutor(jobs, processes, open_court, (folder, processes.Value("i", 0))) as pool,
    ):
        for number, outcome in enumerate(pool.map(judge, ordered, chunksize=8), 1):
            if number % 100 == 0:
                print(f"{number:,} of {len(cells):,}", file=sys.stderr, flush=True)
            yield outcome


def _table(outcomes: Sequence[Outcome]) -> str:
    """Kinds by the number of buckets that are damaged: how many cells were right, of how many."""
    right: Counter[tuple[str, str]] = Counter()
    run: Counter[tuple[str, str]] = Counter()
    for outcome in outcomes:
        if outcome.applies:
            place = outcome.cell.damage.kind, outcome.cell.damage.clouds
            run[place] += 1
            right[place] += not outcome.complaints
    columns = sorted({clouds for _, clouds in run}, key=lambda clouds: (len(clouds), clouds))
    lines = [f"{'':26}" + "".join(f"{'damaged in ' + clouds:>18}" for clouds in columns)]
    for kind in dict.fromkeys(kind for kind, _ in sorted(run)):
        counts = [f"{right[kind, clouds]}/{run[kind, clouds]}" for clouds in columns]
        lines.append(f"{kind:26}" + "".join(f"{count:>18}" for count in counts))
    by_rule = Counter(rule_of(outcome.cell.damage, outcome.cell.engine).name for outcome in outcomes if outcome.applies)
    lines += ["", "cells by rule: " + ", ".join(f"{rule.name} {by_rule[rule.name]}" for rule in RULES)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
