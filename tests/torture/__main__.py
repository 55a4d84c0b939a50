"""Registers under torture: `python -m tests.torture --operations 100000 --stages mixed=1,versitygw=4`."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

from tests.servers import MissingServer
from tests.torture.report import to_text
from tests.torture.run import Stage, run_stage
from tests.torture.settings import SETTINGS


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    shares = {
        name: float(share or 1) for name, _, share in (stage.partition("=") for stage in options.stages.split(","))
    }
    unknown = sorted(shares.keys() - set(SETTINGS))
    if unknown:
        raise SystemExit(f"error: No setting is called {', '.join(unknown)}\nhint: Choose from {', '.join(SETTINGS)}")
    options.keep.mkdir(parents=True, exist_ok=True)
    print(f"seed {options.seed}", flush=True)
    reports = []
    for name, share in shares.items():
        part = share / sum(shares.values())
        stage = Stage(
            name,
            options.seed,
            operations=round(options.operations * part),
            seconds=options.minutes * 60 * part,
            workers=options.workers,
            threads=options.threads,
            registers=options.registers,
            fault_rate=options.fault_rate,
        )
        try:
            reports.append(run_stage(stage, options.keep))
        except MissingServer as missing:
            raise SystemExit(f"error: {missing}") from None
        print(f"\n{to_text(reports[-1])}", flush=True)
    print(
        f"\nIn all {sum(report.operations for report in reports):,} operations, "
        f"{sum(report.faults.total() for report in reports):,} faults, "
        f"{sum(len(report.findings.violations) for report in reports)} violations"
    )
    return int(not all(report.faultless for report in reports))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.torture", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(2**32), help="the plan's; drawn where none is given"
    )
    parser.add_argument("--minutes", type=float, default=240, help="end after so long")
    parser.add_argument("--operations", type=int, default=10**9, help="end after so many")
    parser.add_argument(
        "--stages",
        default="mixed=4,versitygw=4,etcd=2,folders=1,sqlite=1",
        help=f"settings ({', '.join(SETTINGS)}), one after the other, with their shares of the run",
    )
    parser.add_argument("--workers", type=int, default=3, help="processes")
    parser.add_argument("--threads", type=int, default=16, help="clients in each process")
    parser.add_argument("--registers", type=int, default=8, help="used at once")
    parser.add_argument("--fault-rate", type=float, default=0.02, help="share of the requests that meet a fault")
    parser.add_argument(
        "--keep", type=Path, default=Path("torture-output"), help="folder for histories with a violation"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
