"""One cell: a store, a damage, and the commands that follow, judged by its rule and by what holds in every cell."""

from __future__ import annotations

import os
import random
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from skyhold.store.document import document_key
from tests.cli.models import contents
from tests.endtoend.machines import CLOUDS, Machine
from tests.hostile.damage import DAMAGES, OVERSIZE_BYTES, Damage
from tests.hostile.restoring import SecondReader
from tests.hostile.rules import ANY, CHECKPOINTS, KINDS, MAJORITY, OK, REGISTER, REGISTERS, Rule, rule_of
from tests.hostile.running import Answer, little_memory, run
from tests.hostile.world import CLUSTER_ID, MESSAGE, OTHER, TARGET, World

Order = Literal["look", "push"]
ORDERS: Final[tuple[Order, ...]] = ("look", "push")
"""Whether the commands that only look come first, and then a push of something new, or a push that repeats the
version of the branch."""
ENGINES: Final = ("buckets", "sqlite")
CLOUD_SETS: Final = ("a", "c", "ab", "bc", "abc")
UNKNOWN: Final = 9
"""The exit status of a change that may have taken effect."""
MET: Final = ("store.json", "config", "names", "repository")
"""Kinds by which a machine opens a store."""
NEEDED: Final = ("pack", "page", "layout", "version", "tensors", "node", "entering event")
"""Kinds of objects without which the newest version cannot be restored completely."""
HINTED: Final = "skyhold store voters replace "


@dataclass(frozen=True)
class Cell:
    engine: str
    sealed: bool
    damage: Damage
    order: Order

    @property
    def name(self) -> str:
        kind = self.damage.kind.replace(" ", "_")
        sealing = "sealed" if self.sealed else "open"
        return f"{self.engine}:{sealing}:{kind}:{self.damage.name}:{self.damage.clouds}:{self.order}"


def all_cells() -> list[Cell]:
    """Every cell that may exist, in a fixed order. Some do not apply: see `Damage.applies`."""
    return [
        Cell(engine, sealed, Damage(kind, name, clouds), order)
        for engine in ENGINES
        for sealed in (False, True)
        for kind in KINDS[engine]
        for name in DAMAGES
        for clouds in CLOUD_SETS
        for order in ORDERS
        if _exists(kind, name, clouds)
    ]


def _exists(kind: str, name: str, clouds: str) -> bool:
    replaced = {"store.json", *REGISTERS}
    return not (
        (name == "flip-apart" and len(clouds) == 1)
        or (name == "replay" and kind not in replaced)
        or (name == "swap-kind" and kind == "tombstones")
    )


def sample(count: int, seed: int) -> list[Cell]:
    """So many cells by a seed, each kind of object as often as the others as far as it has so many."""
    draw = random.Random(seed)
    by_kind: dict[str, list[Cell]] = {}
    for cell in all_cells():
        by_kind.setdefault(cell.damage.kind, []).append(cell)
    for cells in by_kind.values():
        draw.shuffle(cells)
    chosen: list[Cell] = []
    while len(chosen) < count and any(by_kind.values()):
        chosen += [cells.pop() for cells in by_kind.values() if cells]
    return chosen[:count]


@dataclass
class Verdict:
    """What was wrong in a cell, as sentences; `applies` is False where the damage would change nothing."""

    cell: Cell
    rule: Rule
    applies: bool = True
    complaints: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)


class Trial:
    """The run of one cell in its world."""

    def __init__(self, world: World, second: SecondReader, cell: Cell) -> None:
        self.world, self.second, self.cell = world, second, cell
        self.rule = rule_of(cell.damage, cell.engine)
        self.verdict = Verdict(cell, self.rule)
        self.owner = world.scene.machine
        self.heads = world.heads()
        self._pulls = 0
        self._unknown: set[str] = set()

    def run(self) -> Verdict:
        self.world.put_back()
        if not self.cell.damage.applies(self.world):
            self.verdict.applies = False
            return self.verdict
        self._whole = self._subject("a")
        self.cell.damage.apply(self.world)
        self._damaged = self._stored()
        self._restorable_before = before = {cloud: self._restorable(cloud) for cloud in CLOUDS}
        with self.world.at_work(self.owner), little_memory() if self.cell.damage.name == "oversize" else nullcontext():
            if self.cell.order == "look":
                self._look()
                self._push()
            else:
                self._push()
                self._look()
            self._other()
            self._mend()
            if self.rule.way_back:
                self._recover()
        for cloud in CLOUDS:
            lost = before[cloud] - self._restorable(cloud)
            if lost:
                self.complain(f"bucket {cloud} gave back {len(lost)} versions before the commands that it lacks now")
        return self.verdict

    def _restorable(self, cloud: str) -> frozenset[str]:
        return self.second.restorable(self.world.scene.cloud(cloud))

    def complain(self, sentence: str) -> None:
        self.verdict.complaints.append(sentence)

    # ---- the commands

    def _look(self) -> None:
        self.expect("list", "list")
        self.expect("log", "log", TARGET)
        self.expect("show", "show", f"{TARGET}@main")
        self.expect("events", "events")
        if self.cell.order == "look" or not self.rule.healed:
            intact = self.heads[TARGET] in frozenset().union(*self._restorable_before.values())
            sure = intact and 0 in self.rule.pull and self.cell.damage.name != "replay"
            self._pull("pull", OK if sure else "rule")
        self.expect("status", "status")
        shallow = self.expect("verify", "verify")
        still = {cloud for cloud, stored in self._stored().items() if stored == self._damaged[cloud]}
        if self.cell.order == "push" and self._replaced():
            still = set()
        deep = self.expect("deep", "verify", "--deep", allow="rule" if still else OK | self.rule.deep)
        if self.rule.named and (still or deep.status):
            self._check_named(deep, still or set(self.cell.damage.clouds))
        if self.cell.damage.kind in MET and self.cell.engine == "buckets":
            self._meet()
        if shallow.status not in {0, deep.status}:
            self.complain(f"verify ends with {shallow.status}, verify --deep with {deep.status}")

    def _meet(self) -> None:
        """A new machine joins the store by each bucket, and pulls. Through an intact bucket it gets the newest
        version if a majority of the buckets is intact; any version that it gets was once pushed."""
        damaged = self.cell.damage.clouds
        for cloud in CLOUDS:
            stranger = Machine(self.world.scene.place / f"stranger-{cloud}")
            with self.world.at_work(stranger, cloud):
                fine = len(damaged) < MAJORITY and cloud not in damaged
                joined = self.expect("connect", "connect", self.world.url(cloud), allow=OK if fine else None)
                if joined.status == 0:
                    self._pull("pull of a new machine", OK if fine else None, known=fine)

    def _push(self) -> None:
        model = self.world.models / "target"
        message = "Again" if self.cell.order == "look" else MESSAGE  # the message of the branch's version
        pushed = self.expect("push", "push", TARGET, model, "-m", message)
        if pushed.status == 0:
            self.heads[TARGET] = str(pushed.document["version"])
            self._check_acknowledged(pushed)
        elif pushed.status == UNKNOWN:
            self._unknown.add(TARGET)
        if self.rule.healed:
            self._pull("pull after push", OK)

    def _other(self) -> None:
        """The repository of which nothing is damaged."""
        allowed = OK if self.rule.others else None
        self._pull("pull of the other", allowed, OTHER)
        pushed = self.expect("push of the other", "push", OTHER, self.world.models / "late", "-m", "New", allow=allowed)
        if pushed.status == 0:
            self.heads[OTHER] = str(pushed.document["version"])
            self._check_acknowledged(pushed)
        elif pushed.status == UNKNOWN:
            self._unknown.add(OTHER)

    def _mend(self) -> None:
        repaired = self.expect("repair", "repair")
        if self.rule.mended:
            if repaired.status != 0:
                self._repair_by_hints()
            sound = self._deep("deep after repair")
            if sound.status == 0 and not sound.document.get("sound"):
                self.complain("verify --deep ends with 0 and does not call the store sound")
            self._pull("pull after repair", OK)
        else:
            self.expect("deep after repair", "verify", "--deep", allow=None)
            self._pull("pull after repair", OK if self.rule.healed else None)

    def _deep(self, step: str) -> Answer:
        """Nothing is damaged or missing, except in a bucket that answered too late: the registers of an epoch that a
        repair began are then at a majority, and the report hints at `sync`."""
        found = self.expect(step, "verify", "--deep", allow=ANY)
        if found.code == "store_lagging" and found.error.get("hint") == "skyhold sync":
            self.expect("sync", "sync", allow=OK)
        elif found.status == 0:
            return found
        return self.expect(step, "verify", "--deep", allow=OK)

    def _repair_by_hints(self) -> None:
        """Repair, follow the hints of the report, and repair again."""
        repaired = self.expect("repair again", "repair", allow=None)
        for bucket, reason in repaired.document.get("unreachable", {}).items():
            if str(reason).endswith(
                (
                    ". Run `skyhold repair`",
                    "Open the store by another bucket and repair this one, or restore its store.json from a backup",
                )
            ):
                self.complain(f"repair advises to run repair for bucket {bucket}: {reason}")
        for name in self._hinted(repaired):
            self.expect("hinted", *name, allow=OK)
        self.expect("repair after its hints", "repair", allow=OK)

    def _recover(self) -> None:
        """The documented way back; only where a bucket is intact it has to bring back everything."""
        intact = [cloud for cloud in CLOUDS if cloud not in self.cell.damage.clouds]
        named = {"repository": TARGET, "document": document_key(CLUSTER_ID)}
        register = named.get(self.cell.damage.kind, self.cell.damage.kind)
        options = [register if option == REGISTER else option for option in self.rule.way_back]
        url = self.world.url(intact[0] if intact else "a")
        self.expect("way back", "recover", url, *options, "--yes", allow=OK if intact else None)
        if not intact:
            return
        os.environ["SKYHOLD_STORE"] = url
        self._pull("pull after the way back", OK)
        self._pull("pull of the other after the way back", OK, OTHER)
        self._repair_by_hints()
        self._deep("deep after the way back")

    @staticmethod
    def _hinted(repaired: Answer) -> list[list[str]]:
        """The commands that a report names to admit buckets again."""
        reasons = [str(reason) for reason in repaired.document.get("unreachable", {}).values()]
        return [
            ["store", "voters", "replace", reason.partition(HINTED)[2][:1]] for reason in reasons if HINTED in reason
        ]

    # ---- what is expected of each

    def expect(self, step: str, *arguments: object, allow: frozenset[int] | Literal["rule"] | None = "rule") -> Answer:
        """Run a command; `allow` are the statuses that it may have, those of the rule by default, None for any that is
        documented."""
        answer = run(*arguments)
        self.verdict.answers.append(answer)
        if answer.failure is not None:
            self.complain(f"{step}: {answer.failure}")
            return answer
        allowed = self.rule.statuses(step) if allow == "rule" else allow
        if allowed is not None and answer.status not in allowed:
            self.complain(f"{step}: expected {sorted(allowed)}, but {answer}")
        return answer

    def _pull(
        self,
        step: str,
        allow: frozenset[int] | Literal["rule"] | None = "rule",
        repository: str = TARGET,
        *,
        known: bool = True,
    ) -> Answer:
        """Pull the branch `main` into a new folder: what arrives is what was pushed last (if that is `known` to the
        machine at work, else any version), or nothing that is wrong."""
        self._pulls += 1
        target = self.world.scene.place / f"pulled-{self._pulls}"
        self.world.forget_cache(self.owner)
        answer = self.expect(step, "pull", repository, target, allow=allow)
        found = contents(target) if target.is_dir() else {}
        if answer.status == 0:
            version = answer.document.get("version")
            if repository in self._unknown:  # the push may have taken effect, or not
                self.heads[repository] = str(version)
                self._unknown.remove(repository)
            if known and version != self.heads[repository]:
                self.complain(f"{step}: version {version} came back, not the newest, {self.heads[repository]}")
            if found != self.tree(str(version), repository):
                self.complain(f"{step}: other bytes came back than were pushed")
        else:
            wrong = [path for path, body in found.items() if body not in self._bodies_ever(path)]
            if [path for path in wrong if not path.startswith(".skyhold-part/")]:  # which is not under its name yet
                self.complain(f"{step}: the failed pull left wrong bytes in {wrong}")
        shutil.rmtree(target, ignore_errors=True)
        return answer

    def tree(self, version: str, repository: str) -> Any:
        if version in self.world.trees:
            return self.world.trees[version]
        return contents(self.world.models / ("target" if repository == TARGET else "late"))

    def _bodies_ever(self, path: str) -> list[bytes]:
        return [tree[path] for tree in self.world.trees.values() if path in tree]

    def _stored(self) -> dict[str, tuple[int, bytes] | None]:
        """What the damaged buckets contain under the key of the subject: its size and first bytes."""
        found: dict[str, tuple[int, bytes] | None] = {}
        for cloud in self.cell.damage.clouds:
            path = self.world.scene.cloud(cloud) / self.world.subjects[self.cell.damage.kind]
            if path.is_file():
                with path.open("rb") as file:
                    found[cloud] = path.stat().st_size, file.read(1 << 20)
            else:
                found[cloud] = None
        return found

    def _replaced(self) -> bool:
        """Whether the push may have left nothing that needs the damaged object: it wrote a later checkpoint, or another
        object in the place of one that was lost."""
        lost = len(self.cell.damage.clouds) == len(CLOUDS) and self.rule.healed
        return lost or (self.cell.damage.name == "delete" and self.cell.damage.kind in CHECKPOINTS)

    def _check_named(self, deep: Answer, damaged: set[str]) -> None:
        """`verify --deep` names the copies that are damaged still, and no others."""
        key = self.world.subjects[self.cell.damage.kind]
        # A copy of a register that is gone is damaged for a machine that has seen it there, as the one at work has.
        gone = self.cell.damage.name == "delete" and self.cell.damage.kind not in REGISTERS
        problem = "missing" if gone else "damaged"
        if self.cell.damage.kind == "store.json":
            named = set(deep.document.get("unreachable", {}))
            if named != damaged:
                self.complain(f"verify --deep names the buckets {sorted(named)}, damaged are {sorted(damaged)}")
            return
        findings = {(item["bucket"], item["key"], item["problem"]) for item in deep.document.get("findings", [])}
        if self.cell.damage.kind == "index" and len(damaged) == len(CLOUDS):  # no version needs it
            if problem == "missing":
                return
            left = [item for item in deep.document.get("unaccounted", []) if item["key"] == key]
            findings |= {(item["bucket"], key, problem) for item in left if item["kind"] == "useless"}
        expected = {(cloud, key, problem) for cloud in damaged}
        everywhere = self.cell.damage.name == "delete" and len(damaged) == len(CLOUDS)
        if not findings and everywhere and deep.document.get("damage"):
            return  # what is in no bucket is named for all of them together
        if findings != expected:
            self.complain(f"verify --deep names {sorted(findings)}, damaged are {sorted(expected)}")

    def _check_acknowledged(self, pushed: Answer) -> None:
        """Each bucket that was counted gives the version back on its own."""
        counted = [cloud for cloud in CLOUDS if cloud not in pushed.document.get("lagging", {})]
        if len(counted) < 2:
            self.complain(f"the push was acknowledged, and only {counted} count")
        for cloud in counted:
            if pushed.document["version"] not in self._restorable(cloud):
                self.complain(f"the push was acknowledged, and bucket {cloud}, which counts, does not give it back")
        if pushed.document["version"] == self.world.heads()[TARGET] and self.cell.damage.kind in NEEDED:
            wrong = [cloud for cloud in counted if self._subject(cloud) != self._whole]
            if wrong and len(self.cell.damage.clouds) < len(CLOUDS):
                self.complain(f"the push was acknowledged, and the object is not intact in {wrong}, which count")

    def _subject(self, cloud: str) -> bytes | None:
        """The object that is damaged somewhere, as this bucket has it."""
        path = self.world.scene.cloud(cloud) / self.world.subjects[self.cell.damage.kind]
        return path.read_bytes() if path.is_file() and path.stat().st_size < OVERSIZE_BYTES else None
