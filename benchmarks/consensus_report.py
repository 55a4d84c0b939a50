"""What `bench_consensus` measured, as Markdown and as drawings."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from report import table

Measured = Mapping[str, Any]
LIMITS = (
    ("read of a quiet register", "read", "GET", 1.2),
    ("warm write", "warm write", "PUT", 1.3),
    ("first write of a proposer (cold)", "first write of a proposer", "PUT", 3.3),
    ("first write of a register (cold)", "new register", "PUT", 3.3),
)
"""What is held against how many times the second-fastest bare request."""
OTHERS = (("write after a read, by another proposer", "write after a read"),
          ("first write of a process, its connections to be made", "first write of a process"))  # fmt: skip


HEAD = """\
# Speed of the registers on buckets

```sh
make servers && .venv/bin/python -m pip install --editable '.[bench]'
.venv/bin/python benchmarks/bench_consensus.py --markdown     # about eight minutes
```

Each voter is a separate S3 server behind our own proxy (`benchmarks/distance.py`), which delays every byte by
half a round trip in either direction, and a new connection by one more. A ratio is relative to the bare request to
the second-fastest voter, in the same run, through the same driver and the same proxy, with an object as large as
the register's: the minimum cost of a majority of three. Data is 512 random bytes, and the register contains its 64
changes."""
NOTES = {
    "latency": """\
A warm write is one conditional put at a majority. The first write of a proposer reads, prepares and proposes; one after
a read leaves out the first. The creation of a register leaves it out too, but checks that the bucket is the right one
(`store.json`). A new process has to open its connections.""",
    "lost": """\
The lost servers accept connections and do not reply. Reads and writes then cost as much as the farthest voter of the
remaining majority. The first operation after the loss costs no more: all voters are asked at once.""",
    "contention": """\
Each proposer increments one register as often as it can, for ten seconds: it reads nothing, sends a change, and sends
it again on the version that it got if it lost. `gave up` are operations that ended by their deadline (30 s,
`register_contended`) and were sent again. All are equally far from the voters.""",
    "regions": "Both increment one register without a pause, for fifteen seconds.",
    "throughput": """\
Threads of one process on one register share its rounds: each round answers all waiting ones, though only one increment
can win it. Across registers, rounds are independent. Client, proxy and three servers share two cores.""",
    "slow writes": """\
Changes without a pause, of which one voter (0, 1, 2: 10, 40, 90 ms away) accepts one a second. It does not delay the
others: a change takes as long as the remaining majority.""",
    "etcd": """\
The client is 10, 40 and 90 ms from the nodes, and node 0, which leads, is 40 and 90 ms from the others. So a write at
node 0 is 10 ms there and back and 40 from there to the nearer follower and back; a read, which is linearizable as ours,
takes the same path. Our proposer is the client itself: it contacts no leader, and no process runs between the
clouds. etcd orders its clients without contention, which our engine does not, and its nodes write a log to the
disk. 512 bytes, a transaction that compares the key's version, JSON gateway.""",
}
PICTURES = {"lost": "consensus-clouds-lost.png", "contention": "consensus-contention.png"}


def markdown(measured: Measured) -> str:
    """All tables, with what they were measured on."""
    sections = {
        "latency": ("Latency", _latency),
        "lost": ("Clouds lost", _lost),
        "contention": ("Contention: proposers that know nothing of each other, on one register", _contention),
        "regions": ("Two proposers in far regions", _regions),
        "throughput": ("Throughput of one process", _throughput),
        "slow writes": ("A voter that takes one write of an object a second", _slow),
        "etcd": ("etcd, three nodes", _etcd),
    }
    parts = [HEAD, "\n".join(f"- {name}: {value}" for name, value in measured["environment"].items())]
    for name, (title, text) in sections.items():
        if measured.get(name):
            parts.append(f"## {title}\n\n{NOTES[name]}\n\n{text(measured[name])}")
            parts += [f"![{title}](../images/{PICTURES[name]})"] if name in PICTURES else []
    return "\n\n".join(parts) + "\n"


def missed(measured: Measured) -> list[str]:
    """The limits that were measured and not met."""
    if not measured.get("latency"):
        return []
    return [
        f"{text}: {ratio:.2f} > {at_most}"
        for text, _, _, ratio, at_most in _ratios(measured["latency"])
        if ratio > at_most
    ]


def _ms(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1000


def _high(seconds: Sequence[float]) -> float:
    """What 95 of 100 stay below, in ms."""
    ordered = sorted(seconds)
    return ordered[min(int(len(ordered) * 0.95), len(ordered) - 1)] * 1000


def _second(rows: Mapping[str, Sequence[float]], kind: str) -> float:
    return sorted(_ms(seconds) for row, seconds in rows.items() if row.startswith(f"{kind} "))[1]


def _ratios(latency: Measured) -> list[tuple[str, float, float, float, float]]:
    """Of each limit: its text, ours and the second-fastest bare request in ms, their ratio, and what it may be."""
    rows = latency["rows"]
    return [
        (text, _ms(rows[row]), _second(rows, kind), _ms(rows[row]) / _second(rows, kind), at_most)
        for text, row, kind, at_most in LIMITS
    ]


def _latency(latency: Measured) -> str:
    rows = latency["rows"]
    bare = [
        [kind, *(f"{_ms(rows[f'{kind} {number}']):.1f}" for number in range(3))] for kind in ("GET", "PUT")
    ]  # fmt: skip
    limits = [
        [text, f"{ours:.1f}", f"{second:.1f}", f"{ratio:.2f}", f"{at_most}", "yes" if ratio <= at_most else "**no**"]
        for text, ours, second, ratio, at_most in _ratios(latency)
    ]
    limits += [
        [
            text,
            f"{_ms(rows[row]):.1f}",
            f"{_second(rows, 'PUT'):.1f}",
            f"{_ms(rows[row]) / _second(rows, 'PUT'):.2f}",
            "",
            "",
        ]
        for text, row in OTHERS
    ]
    return (
        "Bare requests through the same driver and proxy, ms (median):\n\n"
        + table(["", "10 ms away", "40 ms away", "90 ms away"], bare)
        + "\n\nOurs, ms (median), compared with the second-fastest GET or conditional PUT:\n\n"
        + table(["", "ours", "second-fastest", "ratio", "at most", "met"], limits)
    )


def _lost(lost: Measured) -> str:
    columns = ("read", "warm write", "first write of a proposer", "write that meets it")
    return "Voters 10, 40, 90 ms away, or 10, 40, 90, 120, 160; ms, median:\n\n" + table(
        ["voters, lost", "read", "warm write", "first write of a proposer", "the write that meets it"],
        [[name, *(f"{_ms(rows[column]):.1f}" for column in columns)] for name, rows in lost.items()],
    )


def _contention(contention: Measured) -> str:
    return table(
        ["proposers", "changes/s", "median ms", "95 % below ms", "least, of an even share", "most", "gave up"],
        [_throughput_row(number, fields) for number, fields in contention["clients"].items()],
    )


def _throughput_row(number: str, fields: Mapping[str, float]) -> list[str]:
    return [
        number,
        f"{fields['changes']:.1f}",
        f"{fields['median_s'] * 1000:.0f}",
        f"{fields['p95_s'] * 1000:.0f}",
        f"{fields['least']:.2f}",
        f"{fields['most']:.2f}",
        str(fields["gave_up"]),
    ]


def _regions(regions: Measured) -> str:
    places = ("10, 40, 90 ms from the voters", "90, 40, 10 ms from them")
    return table(
        ["", "increments", "median ms", "95 % below ms", "longest ms"],
        [
            [place, str(len(took)), f"{_ms(took):.0f}", f"{_high(took):.0f}", f"{max(took) * 1000:.0f}"]
            for place, took in zip(places, regions["rows"].values(), strict=True)
        ],
    )


def _throughput(throughput: Measured) -> str:
    one = [
        [number, f"{fields['changes']:.1f}", f"{fields['answered']:.1f}"]
        for number, fields in throughput["one register"].items()
    ]
    many = [
        [number, f"{fields['changes']:.1f}", f"{fields['median_s'] * 1000:.0f}", f"{fields['p95_s'] * 1000:.0f}"]
        for number, fields in throughput["many registers"].items()
    ]
    return (
        "One register, threads that each increment it:\n\n"
        + table(["threads", "changes/s", "operations answered/s"], one)
        + "\n\nAs many registers as threads:\n\n"
        + table(["registers", "changes/s", "median ms", "95 % below ms"], many)
    )


def _slow(slow: Measured) -> str:
    return table(
        ["slow voter", "warm write, median ms", "95 % below ms"],
        [[name, f"{_ms(seconds):.1f}", f"{_high(seconds):.1f}"] for name, seconds in slow.items()],
    )


def _etcd(etcd: Measured) -> str:
    return f"{etcd['version']}; ms, median:\n\n" + table(
        ["", "ms", "95 % below"],
        [[name, f"{_ms(seconds):.1f}", f"{_high(seconds):.1f}"] for name, seconds in etcd["rows"].items()],
    )


# ---- drawings


def drawings(measured: Measured, folder: Path) -> None:
    """Write the drawings whose figures were measured."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 150})
    folder.mkdir(exist_ok=True)
    if measured.get("lost"):
        _draw_lost(measured["lost"], folder / "consensus-clouds-lost.png")
    if measured.get("contention"):
        _draw_contention(measured["contention"]["clients"], folder / "consensus-contention.png")


def _draw_lost(lost: Measured, path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.5, 3.8), layout="constrained")
    names = list(lost)
    columns = (("read", "#4c78a8"), ("warm write", "#f58518"), ("first write of a proposer", "#b8b8b8"))
    for number, (column, colour) in enumerate(columns):
        heights = [_ms(lost[name][column]) for name in names]
        places = [place + (number - 1) * 0.27 for place in range(len(names))]
        bars = axes.bar(places, heights, 0.25, label=column, color=colour)
        axes.bar_label(bars, fmt="%.0f", fontsize=7, padding=1)
    labels = [name.replace(": ", " voters,\n").replace("two nearest", "two\nnearest") + " lost" for name in names]
    axes.set_xticks(range(len(names)), labels, fontsize=8)
    axes.set_ylabel("median, ms")
    axes.set_title("Latency by clouds lost (3 voters 10, 40, 90 ms away; 5 also 120 and 160)", fontsize=9)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path)
    pyplot.close(figure)


def _draw_contention(clients: Mapping[str, Mapping[str, float]], path: Path) -> None:
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(7.5, 3.2), layout="constrained")
    numbers = [int(number) for number in clients]
    places = range(len(numbers))
    left.plot(places, [f["median_s"] * 1000 for f in clients.values()], "o-", label="median", color="#4c78a8")
    left.plot(places, [f["p95_s"] * 1000 for f in clients.values()], "s--", label="95 % below", color="#f58518")
    left.set_yscale("log")
    left.set_ylabel("one increment, ms")
    left.legend(frameon=False)
    right.bar(places, [f["changes"] for f in clients.values()], 0.6, color="#4c78a8")
    right.set_ylabel("increments a second, all together")
    for axes in (left, right):
        axes.set_xticks(list(places), [str(number) for number in numbers])
        axes.set_xlabel("proposers on one register")
    figure.suptitle("Contention (voters 10, 40, 90 ms away)", fontsize=9)
    figure.savefig(path)
    pyplot.close(figure)
