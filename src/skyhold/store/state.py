"""The folder in which this machine keeps what is its own: its id, and per store the registers and the chunk index.

Its content is either restored from the buckets (`skyhold recover`, a chunk index rebuilt from the indexes) or belongs
to work in progress on this machine. It is `SKYHOLD_STATE`, or the platform's state folder of the user; folders that we
make are readable by their owner only.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

from skyhold import error_codes
from skyhold.buckets.consent import Destination
from skyhold.buckets.location import BucketLocation
from skyhold.buckets.user_path import absolute, expand_user, in_home
from skyhold.errors import Corrupt, InvalidInput, PermissionDenied, QuotaExceeded, SkyholdError, Unavailable
from skyhold.storage.own_files import read_own

_ID: Final = re.compile(r"[0-9a-f]{32}")
_NOTE_BYTES_MAX: Final = 16 << 20
_NO_SPACE: Final = {errno.ENOSPC, errno.EDQUOT}
_NO_ACCESS: Final = {errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True, slots=True)
class RememberedStore:
    """What this machine remembers of a store that it has opened: where its buckets are, so that the user need not type
    it again (whole, without secrets: a location has none); whether it is sealed and under which key
    (`StoreKeys.check`), so that no bucket can contradict it."""

    locations: tuple[BucketLocation, ...]
    sealed: bool
    key_check: str


@dataclass(frozen=True, slots=True)
class StoreState:
    """This machine's folder of one store."""

    store_id: str
    folder: Path

    def registers(self, epoch: int) -> Path:
        """The SQLite database of the registers of one epoch (engine `sqlite`)."""
        return self.folder / f"registers-{epoch}.db"

    @property
    def newest_epoch(self) -> int:
        """The greatest epoch whose registers this machine holds (engine `sqlite`), or 0."""
        return max((int(path.stem.partition("-")[2]) for path in self.folder.glob("registers-[0-9]*.db")), default=0)

    @property
    def reached(self) -> Path:
        """The SQLite database of what the repositories reach."""
        return self.folder / "reached.db"

    @property
    def chunk_index(self) -> Path:
        """The SQLite database of which chunk is in which pack; rebuilt from the indexes when lost."""
        return self.folder / "chunks.db"

    @property
    def sightings(self) -> Path:
        """The SQLite database of what was seen of the registers in the buckets; one that is lost is begun anew."""
        return self.folder / "sightings.db"

    def remember(self, met: RememberedStore) -> None:
        """Note what the store was found to be. Replaces what was noted."""
        locations = [location.to_json() for location in met.locations]
        note = {"locations": locations, "sealed": met.sealed, "key_check": met.key_check}
        with clear_errors(self.folder):
            _write_durably(self.folder / "store.json", json.dumps(note).encode())

    def recall(self) -> RememberedStore | None:
        """What was last remembered of the store, or None. Raises `Corrupt` where the note is damaged."""
        path = self.folder / "store.json"
        try:
            with clear_errors(self.folder):
                note = json.loads(read_own(path, _NOTE_BYTES_MAX))
            locations = tuple(BucketLocation.from_json(location) for location in note["locations"])
            sealed, key_check = note["sealed"], note["key_check"]
            if not (isinstance(sealed, bool) and isinstance(key_check, str)):
                raise TypeError("a field has another type")  # noqa: TRY301 - one damage, one message
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, InvalidInput) as error:
            raise Corrupt(
                f"File {path} is damaged",
                code=error_codes.STATE_DAMAGED,
                hint="Delete it and run `skyhold connect URL`, with a URL that you trust",
            ) from error
        return RememberedStore(locations, sealed, key_check)

    def keep_document(self, body: bytes) -> None:
        """Keep a bucket's `store.json`, which opens the store while no bucket answers."""
        if self.kept_document() != body:
            with clear_errors(self.folder):
                _write_durably(self.folder / "document.json", body)

    def kept_document(self) -> bytes | None:
        """What was kept last, or None. It is not trusted until its MAC has been checked."""
        try:
            return read_own(self.folder / "document.json", _NOTE_BYTES_MAX)
        except OSError:
            return None

    def consents(self) -> frozenset[Destination]:
        """Where the user has agreed to send credentials for this store. Raises `Corrupt` where the note is damaged."""
        path = self.folder / "consents.json"
        try:
            with clear_errors(self.folder):
                return frozenset(Destination.parse(text) for text in json.loads(read_own(path, _NOTE_BYTES_MAX)))
        except FileNotFoundError:
            return frozenset()
        except (ValueError, TypeError, AttributeError, InvalidInput) as error:
            raise Corrupt(
                f"File {path} is damaged",
                code=error_codes.STATE_DAMAGED,
                hint="Delete it and run `skyhold connect URL`, which asks again",
            ) from error

    def consent(self, destinations: Iterable[Destination]) -> None:
        """Note that the user agrees to these, too."""
        known = self.consents()
        if not known.issuperset(destinations := set(destinations)):
            body = json.dumps(sorted(str(destination) for destination in known | destinations))
            with clear_errors(self.folder):
                _write_durably(self.folder / "consents.json", body.encode())


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The state folder, opened. `machine_id` (32 hex) is drawn once per folder: processes that share the folder are one
    machine."""

    folder: Path
    machine_id: str

    def store(self, store_id: str) -> StoreState:
        """The folder of a store, made where it is missing. Raises `InvalidInput` for what is no store id."""
        if not _ID.fullmatch(store_id):
            raise InvalidInput(
                f"Expected a store id of 32 hex digits but got {store_id!r}", code=error_codes.INVALID_STORE_ID
            )
        state = StoreState(store_id, self.folder / "stores" / store_id)
        with clear_errors(state.folder):
            for folder in (state.folder.parent, state.folder):
                folder.mkdir(mode=0o700, exist_ok=True)
        return state

    def stores(self) -> tuple[StoreState, ...]:
        """The stores that this machine has met, in order of their ids."""
        with clear_errors(self.folder):
            try:
                names = sorted(entry.name for entry in os.scandir(self.folder / "stores") if entry.is_dir())
            except FileNotFoundError:
                return ()
        return tuple(StoreState(name, self.folder / "stores" / name) for name in names if _ID.fullmatch(name))


def open_state(environ: Mapping[str, str] = os.environ) -> StateFolder:
    """Open this machine's state folder; the first call makes it and draws the machine id.

    Raises `PermissionDenied` where it cannot be written, or where others could write what we would then trust;
    `QuotaExceeded` for a full disk; `Corrupt` code `machine_id_damaged`.
    """
    given = environ.get("SKYHOLD_STATE")
    folder = absolute(expand_user(given, "SKYHOLD_STATE")) if given else _own("state", platformdirs.user_state_path)
    with clear_errors(folder):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_foreign(folder)
            return StateFolder(folder, _machine_id(folder))
        except FileNotFoundError as error:  # a file system, such as /proc, without new files
            raise PermissionDenied(
                f"Folder {folder} cannot be used",
                code=error_codes.STATE_UNWRITABLE,
                hint="Name another folder in SKYHOLD_STATE",
            ) from error


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of the cache (`SKYHOLD_CACHE`, or the platform's); it is not made here, and may be deleted."""
    given = environ.get("SKYHOLD_CACHE")
    return absolute(expand_user(given, "SKYHOLD_CACHE")) if given else _own("cache", platformdirs.user_cache_path)


def _own(kind: str, find: Callable[[str], Path]) -> Path:
    """The folder of this user for `kind` (state, cache), as the platform has it."""
    path = in_home(find)
    if path is None:
        raise InvalidInput(
            f"This user has no home folder in which Skyhold could keep its {kind}",
            code=error_codes.NO_HOME,
            hint=f"Name a folder in SKYHOLD_{kind.upper()}",
        )
    return path


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Translate the file system's errors at `path` into ours; `FileNotFoundError` passes, for callers to judge."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _translated(error, path) from error


def _translated(error: OSError, path: Path) -> SkyholdError:
    place = error.filename if isinstance(error.filename, str) else str(path)
    if error.errno in _NO_SPACE:
        return QuotaExceeded(
            f"No space is left for {place}",
            code=error_codes.DISK_FULL,
            hint="Free some space, or set SKYHOLD_STATE elsewhere",
        )
    if error.errno in _NO_ACCESS:
        return PermissionDenied(
            f"{place} cannot be read or written: {error.strerror}",
            code=error_codes.STATE_NOT_WRITABLE,
            hint="Set SKYHOLD_STATE to a folder of your own, or correct its owner and mode",
        )
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return InvalidInput(
            f"{place} is in the way: expected a folder",
            code=error_codes.STATE_NOT_A_FOLDER,
            hint="Set SKYHOLD_STATE elsewhere",
        )
    return Unavailable(f"{place} cannot be used: {error.strerror}", code=error_codes.STATE_UNAVAILABLE)


def _refuse_foreign(folder: Path) -> None:
    """Refs in this folder are trusted, so no other user may write to it."""
    status, user = folder.stat(), os.geteuid()
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or (user not in {0, status.st_uid}):
        raise PermissionDenied(
            f"State folder {folder} can be written by others than you",
            code=error_codes.STATE_NOT_PRIVATE,
            hint=f"Run `chmod 700 {folder}` as its owner, or set SKYHOLD_STATE to a folder of your own",
        )


def _machine_id(folder: Path) -> str:
    path = folder / "machine"
    if not path.exists():
        draft = folder / f"machine.{secrets.token_hex(8)}.part"
        _create_durably(draft, secrets.token_hex(16).encode() + b"\n")
        try:
            path.hardlink_to(
                draft
            )  # Unlike a rename, a link never replaces the id that another process has just drawn.
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        _sync_folder(folder)
    machine_id = read_own(path, 64).decode("ascii", "replace").strip()
    if not _ID.fullmatch(machine_id):
        raise Corrupt(
            f"Machine id in {path} is damaged",
            code=error_codes.MACHINE_ID_DAMAGED,
            hint=f"Delete {path}, then run `skyhold recover URL` for each store whose registers lived here",
        )
    return machine_id


def _write_durably(path: Path, body: bytes) -> None:
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        _create_durably(draft, body)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _create_durably(path: Path, body: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
