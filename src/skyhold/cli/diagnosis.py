"""What `skyhold doctor` examines. It also reports where no store can be opened: that is what it is for."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

from skyhold.cli.voting import last_decision, summary
from skyhold.errors import SkyholdError
from skyhold.registry.store import Store
from skyhold.store.engine_status import EngineStatus
from skyhold.store.settings import Settings
from skyhold.store.state import StateFolder, cache_folder, open_state
from skyhold.units import GIB, format_bytes

State = Literal["good", "warning", "problem"]

EXTRAS: Final = {"s3": "botocore", "gcs": "google_crc32c", "azure": "azure.storage.blob", "etcd": "urllib3"}
FREE_BYTES_MIN: Final = 1 * GIB
_ADVICE_TO_EXAMINE: Final = re.compile(
    r"See why each of them takes no part: `skyhold doctor`\. |: (see )?`skyhold doctor`"
)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One thing that was examined. It never contains a secret."""

    topic: str
    state: State
    detail: str
    hint: str | None = None


def diagnose(
    load: Callable[[], Settings], open_store: Callable[[], Store], open_stale: Callable[[], Store]
) -> Iterator[CheckResult]:
    """Every possible obstacle, from the interpreter to the buckets. Changes nothing; raises no error of Skyhold.
    `open_stale` opens the store also where no majority of its voters answers."""
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield CheckResult("program", "good", f"skyhold {version('skyhold')}, {python}")
    yield CheckResult("extras", "good", ", ".join(_extra(name, module) for name, module in EXTRAS.items()))
    try:
        settings = load()
    except SkyholdError as error:
        yield _failed("settings", error)
        return
    yield from _settings(settings)
    yield from _folders(settings)
    yield from _store(open_store, open_stale)


def _extra(name: str, module: str) -> str:
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the packages around it
        found = False
    if not found:
        return f"{name} is not installed"
    try:
        return f"{name} {version(module.replace('.', '-'))}"
    except PackageNotFoundError:
        return name


def _settings(settings: Settings) -> Iterator[CheckResult]:
    yield CheckResult("settings", "good", f"file {settings.file}" if settings.file else "no skyhold.toml is found")
    for name, origin in sorted(settings.origins.items()):
        yield CheckResult("settings", "good", f"{name} from {origin}")
    key_file = settings.key_file
    if key_file is None:
        return
    if not key_file.is_file():
        yield CheckResult(
            "key file", "problem", f"{key_file} does not exist", "Bring it back from the copy that you keep"
        )
    elif key_file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        used = "is used" if settings.insecure_key_file else "is refused"
        yield CheckResult("key file", "warning", f"{key_file} {used}: others can read it", f"chmod 600 {key_file}")
    else:
        yield CheckResult("key file", "good", str(key_file))


def _folders(settings: Settings) -> Iterator[CheckResult]:
    try:
        state: StateFolder = open_state()
        met = [store.recall() for store in state.stores()]
        known = [known.locations[0].url for known in met if known is not None and known.locations]
    except SkyholdError as error:
        yield _failed("state", error)
    else:
        stores = ", ".join(known) or "no store yet"
        yield _space("state", state.folder, f"machine {state.machine_id}, knows {stores}")
    cache = settings.cache_folder or cache_folder()
    yield _space("cache", cache, f"at most {format_bytes(settings.cache_size_bytes)}")


def _space(topic: str, folder: Path, detail: str) -> CheckResult:
    there = next((path for path in (folder, *folder.parents) if path.is_dir()), Path("/"))
    free_bytes = shutil.disk_usage(there).free
    text = f"{folder}: {detail}; {format_bytes(free_bytes)} free"
    if not os.access(there, os.W_OK):
        return CheckResult(topic, "problem", f"{folder} cannot be written", "Correct its owner and mode")
    if free_bytes < FREE_BYTES_MIN:
        return CheckResult(topic, "warning", text, "Free some space")
    return CheckResult(topic, "good", text)


def _store(open_store: Callable[[], Store], open_stale: Callable[[], Store]) -> Iterator[CheckResult]:
    try:
        with open_store() as store:
            status = store.status()
    except SkyholdError as error:
        yield _failed("store", error)
        with suppress(SkyholdError), open_stale() as store:
            yield from _engine(store.engine_status())
        return
    yield CheckResult("store", "good", f"{status.store}, {'' if status.sealed else 'not '}sealed")
    yield from _engine(status.engine)
    for bucket in status.buckets:
        topic = f"bucket {bucket.name}"
        if bucket.error is not None:
            yield CheckResult(topic, "problem", bucket.error, bucket.hint or f"skyhold bucket check {bucket.name}")
        elif bucket.registers:
            text = f"damaged or missing: {', '.join(bucket.registers[:3])}"
            more = f" and {len(bucket.registers) - 3} more" if bucket.registers[3:] else ""
            yield CheckResult(topic, "problem", text + more, bucket.hint)
        elif bucket.missing:
            yield CheckResult(topic, "warning", f"lacks {bucket.missing} objects", "skyhold sync")
        else:
            text = f"{bucket.url}: {bucket.objects} objects, nothing is missing; `skyhold verify --deep` reads them"
            yield CheckResult(topic, "good", text)
    for repository in status.repositories:
        if not repository.durable:
            yield CheckResult(f"repository {repository.name}", "warning", repository.detail, "skyhold sync")
    for unread in status.unread:
        yield CheckResult(f"repository {unread.name}", "problem", unread.message, unread.hint)
    for sentence in status.damage:
        if sentence not in {unread.sentence for unread in status.unread}:
            yield CheckResult("store", "problem", sentence, "skyhold verify --deep")


def _engine(engine: EngineStatus) -> Iterator[CheckResult]:
    text = summary(engine)
    yield CheckResult(
        "registers", "good" if engine.quorum in {None, "whole"} else "warning", text, "skyhold store voters show"
    )
    decision = last_decision(engine)
    if decision is not None:
        yield CheckResult("registers", "good", f"last decision: {decision}")
    for voter in engine.voters:
        topic = f"voter {voter.name}"
        if voter.error is not None:
            yield CheckResult(topic, "problem", voter.error, voter.hint or f"skyhold bucket check {voter.name}")
            continue
        ballots = ", ".join(
            f"{vote.register}: promised {vote.promised}, accepted {vote.accepted} (version {vote.version})"
            for vote in voter.votes
            if vote.promised is not None
        )
        yield CheckResult(topic, "good", ballots or "has promised nothing yet")


def _failed(topic: str, error: SkyholdError) -> CheckResult:
    """Without the advice to run `skyhold doctor`: this is what it shows."""
    hint = _ADVICE_TO_EXAMINE.sub("", error.hint or "")
    return CheckResult(topic, "problem", error.message, hint or None)
