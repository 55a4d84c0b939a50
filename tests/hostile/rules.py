"""What each command has to do beside each damage: a few rules, from which the verdict of every cell follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from tests.hostile.damage import Damage
from tests.hostile.world import READMITTED

OK: Final = frozenset({0})
DAMAGED: Final = frozenset({10})
ANY: Final = frozenset({0, 10})
REFUSED: Final = frozenset({8, 10})
"""Without a majority (8), or by what is damaged (10)."""
MAJORITY: Final = 2
REGISTER: Final = "REGISTER"
"""In the options of `recover`: what names the damaged register there."""

RECORDS: Final = ("event", "entering event", "record", "history")
"""Kinds of `records` blobs: a long event of a repository, one that enters the version that is pulled, the body of a
record (of a document), and the older part of the history of the register `config`."""
IMMUTABLE: Final = (
    "pack", "page", "layout", "version", "node", "tensors", "attachment", *RECORDS, "index", "tombstones",
)  # fmt: skip
REGISTERS: Final = ("config", "names", "repository", "document")
CHECKPOINTS: Final = tuple(f"checkpoint of {register}" for register in REGISTERS)
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "buckets": ("store.json", *REGISTERS, "ended register", *IMMUTABLE),
    "sqlite": ("store.json", *CHECKPOINTS, *IMMUTABLE),
}
"""The kinds of objects of a store, by its engine."""

COMMANDS: Final = ("list", "log", "show", "events", "pull", "push", "status", "verify", "deep", "repair")


@dataclass(frozen=True)
class Rule:
    """The exit statuses that each command may have, `deep` being `verify --deep`, and `events` those of the store.

    `named`: the first `verify --deep` names exactly the damaged objects, each with its bucket and problem. `healed`:
    after a push of the same files the new version can be pulled. `mended`: after `repair`, and the command that its
    hint names where it ends with another status than 0, `verify --deep` is sound and everything can be pulled.
    `others`: the other repository can be pulled and pushed. `way_back`: options of `recover`, run at the end on
    a bucket that is intact, after which everything can be pulled and `repair` makes the store sound.
    """

    name: str
    text: str
    list: frozenset[int] = OK
    log: frozenset[int] = OK
    show: frozenset[int] = OK
    events: frozenset[int] = OK
    pull: frozenset[int] = OK
    push: frozenset[int] = OK
    status: frozenset[int] = OK
    verify: frozenset[int] = ANY
    deep: frozenset[int] = DAMAGED
    repair: frozenset[int] = OK
    named: bool = True
    healed: bool = True
    mended: bool = True
    others: bool = True
    way_back: tuple[str, ...] = ()

    def statuses(self, command: str) -> frozenset[int]:
        found = getattr(self, command)
        assert isinstance(found, frozenset)
        return found


INTACT_ELSEWHERE: Final = Rule(
    "intact elsewhere",
    "A bucket still holds the object (of a register: a majority of the voters). Reads and pushes go on, "
    "`verify --deep` names exactly the damaged copies, `repair` replaces them, and the store is sound.",
)
LOST: Final = Rule(
    "lost",
    "No bucket holds the object, which a version needs. `pull` of that version ends with 10; a push of the same files "
    "stores them anew.",
    show=ANY,
    pull=DAMAGED,
    status=ANY,
    repair=ANY,
    mended=False,
)
LOST_PACK: Final = replace(
    LOST,
    name="pack damaged everywhere",
    text="A pull needs some records of a pack: where those are intact in one bucket it goes on, else it ends with 10. "
    "A push of the same files stores them anew.",
    pull=ANY,
)
LOST_DOCUMENT: Final = replace(
    LOST,
    name="lost document",
    text="As `lost`, of the document of a version: `log` cannot show it either.",
    log=ANY,
)
LOST_NODE: Final = Rule(
    "lost node",
    "No bucket holds a node of the map of a repository: that repository is refused with 10, the others go on.",
    list=ANY,
    log=ANY,
    show=ANY,
    events=ANY,
    pull=DAMAGED,
    push=DAMAGED,
    status=ANY,
    repair=DAMAGED,
    healed=False,
    mended=False,
)
LOST_ASIDE: Final = Rule(
    "lost, not needed to pull",
    "No bucket holds an object of which no file is made (names of tensors, an attachment, the body of a record): "
    "everything works except commands that show it; `verify --deep` names it.",
    show=ANY,
    status=ANY,
    repair=ANY,
    mended=False,
)
LOST_EVENT: Final = replace(
    LOST_ASIDE,
    name="lost event without a version",
    text="No bucket holds a long event, or the older part of the history of `config`: `events` ends with 10, and "
    "`verify --deep` names it; versions are pulled and pushed as before.",
    events=DAMAGED,
)
LOST_ENTERING: Final = replace(
    LOST_NODE,
    name="lost event with a version",
    text="No bucket holds a long event by which a version was entered: that version, and what comes after it, is "
    "refused with 10; other repositories go on.",
)
LOST_INDEX: Final = Rule(
    "lost index segment",
    "No bucket holds a segment of the index, which only saves a push from sending what is there: no version is lost. "
    "`verify --deep` names the segment as of no use, and packs that no other one lists, which `repair` does.",
    deep=ANY,
)
LOST_TOMBSTONES: Final = Rule(
    "lost tombstones",
    "No bucket holds the list of packs that will be deleted: reads go on, pushes may be refused with 10.",
    push=ANY,
    status=ANY,
    repair=ANY,
    mended=False,
    healed=False,
    others=False,
)
ENDED: Final = Rule(
    "ended register",
    "The register of an epoch that is over: no client of the next epoch needs it.",
    deep=ANY,
    named=False,
)
DOCUMENT: Final = Rule(
    "store.json of a minority",
    "The bucket takes no part: everything goes on by the others, the bucket is named with what to do, and `repair`, or "
    "the command that it names, admits it again.",
    verify=frozenset({8, 10}),
    deep=frozenset({8, 10}),
    repair=frozenset({0, 8, 10}),
)
DOCUMENTS: Final = Rule(
    "store.json of a majority",
    "The voters cannot be identified: the store is refused with 8 or 10 (3 where none is left). "
    "`recover --minority` goes on from a bucket that is intact.",
    **dict.fromkeys(COMMANDS, frozenset({3, 8, 10})),  # type: ignore[arg-type]
    named=False,
    healed=False,
    mended=False,
    others=False,
    way_back=("--minority",),
)
MACHINE_DOCUMENTS: Final = Rule(
    "store.json of a majority, engine sqlite",
    "The registers are on this machine, and a bucket with a document of this store is enough to read. A push that "
    "cannot store its checkpoint at a majority ends with 9, and completes it once `repair` has admitted the buckets "
    "again.",
    push=frozenset({0, 9}),
    verify=frozenset({8, 10}),
    deep=frozenset({8, 10}),
    repair=frozenset({0, 8, 10}),
    healed=False,
    others=False,
)
REPOSITORY_REGISTER: Final = Rule(
    "register of a repository, in a majority",
    "That repository is refused with 8 or 10, also where the objects were deleted; all other repositories go on, and "
    "`list`, `status`, `verify` and `repair` name it. `recover --register` goes on from the newest state that a voter "
    "holds intact.",
    **dict.fromkeys(COMMANDS, REFUSED),  # type: ignore[arg-type]
    healed=False,
    mended=False,
    way_back=("--register", REGISTER),
)
STORE_REGISTER: Final = Rule(
    "register of the store, in a majority",
    "`config` or `names`, which everything needs: the store is refused with 8 or 10. `recover --register` goes on from "
    "the newest state that a voter holds intact.",
    **dict.fromkeys(COMMANDS, REFUSED),  # type: ignore[arg-type]
    named=False,
    healed=False,
    mended=False,
    others=False,
    way_back=("--register", REGISTER),
)
DOCUMENT_REGISTER: Final = Rule(
    "register of a document, in a majority",
    "No version needs it: repositories are listed, pulled and pushed as before. `events` of the store, `status`, "
    "`verify` and `repair` end with 10, and the voters and buckets of the store cannot change until "
    "`recover --register` has gone on from the newest state that a voter holds intact.",
    events=DAMAGED,
    status=DAMAGED,
    verify=DAMAGED,
    repair=DAMAGED,
    mended=False,
    way_back=("--register", REGISTER),
)
CHECKPOINT: Final = Rule(
    "checkpoint, in all",
    "The registers of the machine go on; `repair` writes the checkpoint anew.",
    status=ANY,
    repair=ANY,
    mended=False,
)
REPLAYED_DOCUMENT: Final = Rule(
    "store.json of an earlier epoch",
    "It leads to the present epoch, and nothing is damaged.",
    verify=OK,
    deep=OK,
    named=False,
)
REPLAYED_INCARNATION: Final = replace(
    DOCUMENT,
    name="store.json of an earlier incarnation",
    text="The document of the bucket before it was readmitted: it takes no part, as with one that is damaged, and is "
    "admitted again by the command that `repair` names.",
    verify=frozenset({8}),
    deep=frozenset({8}),
    repair=frozenset({8}),
    named=False,
)
REPLAYED: Final = Rule(
    "register as it was before, in a minority",
    "A minority that went back is outvoted: the newest state is read. `verify` names the copies; `repair` replaces "
    "them.",
    verify=DAMAGED,
)
REPLAYED_MAJORITY: Final = Rule(
    "register as it was before, in a majority",
    "A machine that has seen the newer state refuses with 10 and never goes back. A machine that is new may see the "
    "older state, since it cannot detect a newer one. `recover --register` goes on from the newest state "
    "that a voter holds.",
    **dict.fromkeys(COMMANDS, DAMAGED),  # type: ignore[arg-type]
    healed=False,
    mended=False,
    way_back=("--register", REGISTER),
)
REPLAYED_STORE: Final = replace(
    REPLAYED_MAJORITY,
    name="register `config` or `names` as it was before, in a majority",
    text="As for a repository, but all repositories are refused together.",
    others=False,
)
REPLAYED_DOCUMENT_REGISTER: Final = replace(
    DOCUMENT_REGISTER,
    name="register of a document as it was before, in a majority",
    text="A machine that has seen the newer state never goes back; no version needs it. `recover --register` goes on "
    "from the newest state that a voter holds.",
)
RULES: Final = (
    INTACT_ELSEWHERE, LOST, LOST_PACK, LOST_DOCUMENT, LOST_NODE, LOST_ENTERING, LOST_EVENT, LOST_ASIDE, LOST_INDEX,
    LOST_TOMBSTONES, ENDED, DOCUMENT, DOCUMENTS, MACHINE_DOCUMENTS, REPOSITORY_REGISTER, DOCUMENT_REGISTER,
    STORE_REGISTER, CHECKPOINT, REPLAYED_DOCUMENT, REPLAYED_INCARNATION, REPLAYED, REPLAYED_MAJORITY,
    REPLAYED_DOCUMENT_REGISTER, REPLAYED_STORE,
)  # fmt: skip


def rule_of(damage: Damage, engine: str) -> Rule:  # noqa: PLR0911 - the table itself
    """The rule that a damage falls under, in a store of this engine."""
    damaged, everywhere = len(damage.clouds), len(damage.clouds) == 3
    if damage.kind == "ended register":
        return ENDED
    if damage.name == "replay":
        if damage.kind == "store.json":
            anew = engine == "buckets" and READMITTED in damage.clouds
            return REPLAYED_INCARNATION if anew else REPLAYED_DOCUMENT
        if damaged < MAJORITY:
            return REPLAYED
        replayed = {"repository": REPLAYED_MAJORITY, "document": REPLAYED_DOCUMENT_REGISTER}
        return replayed.get(damage.kind, REPLAYED_STORE)
    if damage.kind == "store.json":
        if damaged >= MAJORITY:
            of_this_store = not everywhere or damage.name == "swap-kind"
            return MACHINE_DOCUMENTS if engine == "sqlite" and of_this_store else DOCUMENTS
        return DOCUMENT
    if damage.kind in REGISTERS:
        if damaged < MAJORITY:
            return INTACT_ELSEWHERE
        registers = {"repository": REPOSITORY_REGISTER, "document": DOCUMENT_REGISTER}
        return registers.get(damage.kind, STORE_REGISTER)
    merged = damage.kind == "pack" and damage.name in {"flip-apart", "extend-byte", "extend-double"}
    if not everywhere or merged:  # the intact records of all copies make a whole pack
        return INTACT_ELSEWHERE
    if damage.kind in CHECKPOINTS:
        return CHECKPOINT
    return {
        "pack": LOST_PACK,
        "node": LOST_NODE,
        "version": LOST_DOCUMENT,
        "tombstones": LOST_TOMBSTONES,
        "tensors": LOST_ASIDE,
        "attachment": LOST_ASIDE,
        "record": LOST_ASIDE,
        "event": LOST_EVENT,
        "history": LOST_EVENT,
        "entering event": LOST_ENTERING,
        "index": LOST_INDEX,
    }.get(damage.kind, LOST)


def table_of_rules() -> str:
    """The rules as Markdown, as `docs/security.md` has them."""
    lines = [
        "| rule | " + " | ".join(f"`{command}`" for command in COMMANDS) + " |",
        "|---|" + "---|" * len(COMMANDS),
    ]
    for rule in RULES:
        statuses = (", ".join(map(str, sorted(rule.statuses(command)))) for command in COMMANDS)
        lines.append(f"| {rule.name} | " + " | ".join(statuses) + " |")
    return "\n".join([*lines, "", *(f"- *{rule.name}*: {rule.text}" for rule in RULES)])
