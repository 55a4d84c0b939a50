"""Which misfortune happens to which target and when, drawn from a seed. Pure: the same seed gives the same plan."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from tests.faults.proxy import READS, WRITES, Fault

MISFORTUNE_GAP_S: Final = 2.0
"""On average a misfortune begins this long after the last."""

Victim = Literal["worker", "server", "network"]


@dataclass(frozen=True)
class Kind:
    """A misfortune: to whom, how often beside the others, and for how long (seconds, at least and at most)."""

    victim: Victim
    weight: int
    lasts_s: tuple[float, float]


KINDS: Final = {
    "worker paused (SIGSTOP)": Kind("worker", 3, (0.05, 6.0)),
    "worker killed (SIGKILL)": Kind("worker", 4, (0.0, 0.5)),
    "server paused (SIGSTOP)": Kind("server", 3, (0.05, 4.0)),
    "server killed (SIGKILL)": Kind("server", 2, (0.05, 2.0)),
    "network refuses connections": Kind("network", 2, (0.1, 3.0)),
    "network swallows requests": Kind("network", 2, (0.1, 3.0)),
    "network slow": Kind("network", 2, (0.5, 4.0)),
}
"""By the name in the report."""


@dataclass(frozen=True)
class Misfortune:
    """`victim` picks one of those that there are, modulo their number. A worker or server that was killed begins anew
    after `lasts_s`; the others go on as before."""

    at_s: float
    kind: str
    victim: int
    lasts_s: float


def misfortunes(seed: int) -> Iterator[Misfortune]:
    """Without end, in the order of time."""
    dice = random.Random(seed)
    names = list(KINDS)
    weights = [KINDS[name].weight for name in names]
    at_s = 0.0
    while True:
        at_s += dice.expovariate(1 / MISFORTUNE_GAP_S)
        kind = dice.choices(names, weights)[0]
        yield Misfortune(at_s, kind, dice.randrange(2**16), dice.uniform(*KINDS[kind].lasts_s))


_ON_BOTH: Final = (
    ("request lost", Fault("drop")),
    ("reply lost", Fault("lose_reply")),
    ("reply truncated", Fault("truncate")),
    ("429 without asking", Fault("answer", status=429)),
    ("503 without asking", Fault("answer", status=503)),
    ("late", Fault("delay", delay_s=0.5)),
)
_ON_WRITES: Final = (
    ("409 without asking", Fault("answer", status=409)),
    ("412 without asking", Fault("answer", status=412)),
    ("503 after it was applied", Fault("answer_after", status=503)),
    ("500 after it was applied", Fault("answer_after", status=500)),
    ("arrives after its client gave up", Fault("arrive_late", delay_s=3.0)),
    ("late duplicate", Fault("repeat_late", delay_s=3.0)),
    ("late duplicate", Fault("repeat_late", delay_s=0.05)),
)
NAMES_OF_REQUEST_FAULTS: Final = tuple(dict.fromkeys(name for name, _ in (*_ON_BOTH, *_ON_WRITES)))


class RequestFaults:
    """What the requests that pass one proxy meet, one after the other: most of them nothing."""

    def __init__(self, seed: int, rate: float) -> None:
        self._dice = random.Random(seed)
        self._rate = rate

    def next(self, method: str) -> tuple[str, Fault] | None:
        """The name and the fault of the next request. The number of draws is constant."""
        meets, which, length = self._dice.random() < self._rate, self._dice.random(), self._dice.random()
        if not meets:
            return None
        kinds = _ON_BOTH if method in READS else (*_ON_BOTH, *_ON_WRITES)
        name, fault = kinds[int(which * len(kinds))]
        return name, Fault(
            fault.kind,
            times=1,
            methods=READS | WRITES,
            status=fault.status,
            delay_s=fault.delay_s * length,
        )
