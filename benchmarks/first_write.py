"""One change of a register by a process that has just begun: prints the seconds that it took, and the new version.

python benchmarks/first_write.py '{"locations": [{"endpoint": …, "credentials": …}], "key": …, "version": …}'
"""

from __future__ import annotations

import json
import sys
import time

from far_voters import BUCKET, Region

import skyhold.buckets.s3  # noqa: F401 - imported before the clock starts, as everything else
from skyhold.buckets.location import parse_location

if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    here = Region(
        tuple(
            parse_location(
                f"s3://{BUCKET}/store",
                endpoint=at["endpoint"],
                credentials=at["credentials"],
                name=f"cloud-{number}",
                allow_http=True,
            )
            for number, at in enumerate(order["locations"])
        )
    )
    from consensus_scenarios import Writer

    writer = Writer(here.engine(here.buckets()), order["key"], order["version"])
    begin_s = time.perf_counter()
    writer.write()
    print(json.dumps([time.perf_counter() - begin_s, writer.version]))
