"""The data keys of a store, their derivation, and the wraps that keep them (format.md, 4).

A data key is 32 random bytes that never leaves memory in clear where sealing is on: `store.json` holds it wrapped by
one or more key-encryption keys. Adding or removing a wrap, or a new data key, rewrites no data.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from blake3 import blake3

from skyhold import error_codes
from skyhold.errors import Corrupt, InvalidInput, NotFound, PermissionDenied
from skyhold.security.key_bounds import SCRYPT_BYTES_MAX, SCRYPT_N, SCRYPT_WORK_MAX, check_keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
KEY_FILE_BYTES_MAX: Final = 4096
_KEY_FILE_PREFIX: Final = "skyhold-key-1:"

Wrap = dict[str, object]


@dataclass(frozen=True, slots=True)
class StoreKeys:
    """All opened data keys of one store. `repr` shows numbers only."""

    store_id: str
    data_keys: dict[int, bytes] = field(repr=False)
    sealed: bool

    @property
    def newest(self) -> int:
        """Number of the data key that seals what is written now."""
        return max(self.data_keys)

    @property
    def check(self) -> str:
        """16 hex characters that a client remembers, to refuse another key in the same store's name."""
        return _derive("key check", self.data_keys[0])[:8].hex()

    def chunk_id_key(self) -> bytes:
        return _derive("chunk id", self.data_keys[0])

    def name_key(self) -> bytes:
        return _derive("object name", self.data_keys[0])

    def mac_key(self, number: int) -> bytes:
        return _derive("mac", self.data_keys[number])

    def seal_key(self, number: int) -> bytes:
        return _derive("seal", self.data_keys[number])


@runtime_checkable
class KeyEncryptionKey(Protocol):
    """The port for what wraps data keys: a key file, a passphrase, later the clouds' key management services.

    `associated` binds a wrap to its store and number. `unwrap` returns None for a wrap that is of another kind or
    key, and raises `PermissionDenied` for one of its own that does not open.
    """

    def wrap(self, data_key: bytes, associated: bytes) -> Wrap: ...

    def unwrap(self, wrap: Wrap, associated: bytes) -> bytes | None: ...


class KeyFile:
    """A key-encryption key of 32 random bytes in a file of one line, readable by its owner only."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise InvalidInput(
                f"Expected a key of {KEY_BYTES} bytes but got {len(key)}", code=error_codes.KEY_FILE_MALFORMED
            )
        self._key = key
        self.key_id = hashlib.sha256(key).hexdigest()[:16]

    @classmethod
    def generate(cls, path: Path) -> KeyFile:
        """Write a new key file (mode 0600). Raises `InvalidInput` where the path exists: a key is never overwritten."""
        key = os.urandom(KEY_BYTES)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise InvalidInput(
                f"Key file {path} exists already and is left as it is", code=error_codes.KEY_FILE_EXISTS
            ) from None
        except OSError as error:
            raise InvalidInput(
                f"Key file {path} cannot be written: {error.strerror}", code=error_codes.KEY_FILE_UNWRITABLE
            ) from error
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(_KEY_FILE_PREFIX + key.hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            _sync_folder(path.parent)  # what it wraps outlives a power cut, so the file's name has to, too
        except OSError as error:
            path.unlink(missing_ok=True)  # half a key opens nothing, and would block the next attempt
            raise InvalidInput(
                f"Key file {path} cannot be written: {error.strerror}", code=error_codes.KEY_FILE_UNWRITABLE
            ) from error
        return cls(key)

    @classmethod
    def load(cls, path: Path, *, insecure: bool = False) -> KeyFile:
        """Read a key file. As `ssh` does, one of ours that others may use is refused, unless that is known to be so
        (`insecure`). Raises `NotFound`, `InvalidInput`, and `PermissionDenied` code `key_file_insecure`."""
        try:
            text = _read_key_file(path, insecure=insecure).decode("ascii").strip()
        except FileNotFoundError:
            raise NotFound(f"Key file {path} does not exist", code=error_codes.KEY_FILE_MISSING) from None
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(
                f"Key file {path} cannot be read: {error}", code=error_codes.KEY_FILE_UNREADABLE
            ) from error
        digits = text.removeprefix(_KEY_FILE_PREFIX)
        if not text.startswith(_KEY_FILE_PREFIX) or len(digits) != 2 * KEY_BYTES:
            raise InvalidInput(f"File {path} is not a key file of Skyhold", code=error_codes.KEY_FILE_MALFORMED)
        try:
            return cls(bytes.fromhex(digits))
        except ValueError:
            raise InvalidInput(
                f"File {path} is not a key file of Skyhold", code=error_codes.KEY_FILE_MALFORMED
            ) from None

    def wrap(self, data_key: bytes, associated: bytes) -> Wrap:
        nonce = os.urandom(12)
        sealed = _cipher(self._key).encrypt(nonce, data_key, associated + b"file")
        return {"kind": "file", "kek": self.key_id, "nonce": nonce.hex(), "sealed": sealed.hex()}

    def unwrap(self, wrap: Wrap, associated: bytes) -> bytes | None:
        if wrap.get("kind") != "file" or wrap.get("kek") != self.key_id:
            return None
        return _open_wrap(self._key, wrap, associated + b"file", "the key file")


class Passphrase:
    """A passphrase, stretched by scrypt (RFC 7914): 128 MiB of memory and about 0.4 s a guess."""

    def __init__(self, passphrase: str) -> None:
        if not passphrase:
            raise InvalidInput("Expected a passphrase but got an empty one", code=error_codes.PASSPHRASE_EMPTY)
        try:
            self._passphrase = unicodedata.normalize("NFC", passphrase).encode()
        except UnicodeEncodeError:
            raise InvalidInput("The passphrase is not valid Unicode", code=error_codes.PASSPHRASE_MALFORMED) from None

    def wrap(self, data_key: bytes, associated: bytes) -> Wrap:
        salt, nonce = os.urandom(16), os.urandom(12)
        key = _stretch(self._passphrase, salt, SCRYPT_N, 8, 1)
        sealed = _cipher(key).encrypt(nonce, data_key, associated + b"passphrase")
        return {
            "kind": "passphrase", "kdf": "scrypt", "n": SCRYPT_N, "r": 8, "p": 1,
            "salt": salt.hex(), "nonce": nonce.hex(), "sealed": sealed.hex(),
        }  # fmt: skip

    def unwrap(self, wrap: Wrap, associated: bytes) -> bytes | None:
        if wrap.get("kind") != "passphrase":
            return None
        n, r, p = (wrap.get(name) for name in ("n", "r", "p"))
        if not (isinstance(n, int) and isinstance(r, int) and isinstance(p, int)) or wrap.get("kdf") != "scrypt":
            raise Corrupt("A passphrase wrap in store.json is malformed", code=error_codes.WRAP_MALFORMED)
        if not (
            n > 1 and n & (n - 1) == 0 and r > 0 and 0 < p <= 16
            and _stretch_bytes(n, r, p) <= SCRYPT_BYTES_MAX and n * r * p <= SCRYPT_WORK_MAX
        ):  # fmt: skip
            raise Corrupt(
                "A passphrase wrap in store.json asks for unreasonable work",
                code=error_codes.WRAP_MALFORMED,
                n=n,
                r=r,
                p=p,
            )
        salt = _hex(wrap, "salt", 16)
        key = _stretch(self._passphrase, salt, n, r, p)
        return _open_wrap(key, wrap, associated + b"passphrase", "the passphrase")


def is_key_text(text: bytes) -> bool:
    """Whether these bytes begin as a key file does."""
    return text.lstrip().startswith(_KEY_FILE_PREFIX.encode())


def new_keys(store_id: str, keks: Sequence[KeyEncryptionKey]) -> tuple[StoreKeys, list[dict[str, object]]]:
    """Keys of a new store, sealed where a key-encryption key is given, and the `keys` field of its `store.json`."""
    data_key = os.urandom(KEY_BYTES)
    associated = _associated(store_id, 0)
    wraps = [kek.wrap(data_key, associated) for kek in keks] or [{"kind": "clear", "key": data_key.hex()}]
    return StoreKeys(store_id, {0: data_key}, bool(keks)), [{"number": 0, "wraps": wraps}]


def open_keys(store_id: str, sealed: bool, keys: object, keks: Sequence[KeyEncryptionKey]) -> StoreKeys:
    """Open every data key of `store.json`.

    Raises `PermissionDenied` where none of `keks` opens one, or where a key was given for a store that claims to be
    open (any party that can write a bucket could have made that claim), and `Corrupt` where the field is malformed.
    """
    if keks and not sealed:
        raise PermissionDenied(
            "A key was given, but store.json declares the store as not sealed",
            code=error_codes.STORE_NOT_SEALED,
            hint="If so, unset SKYHOLD_KEY_FILE and SKYHOLD_PASSPHRASE; else store.json was replaced by another party",
        )
    check_keys(keys)
    assert isinstance(keys, list)  # noqa: S101 - checked above
    opened = {
        entry["number"]: _open_data_key(entry["wraps"], _associated(store_id, entry["number"]), sealed, keks)
        for entry in keys
    }
    return StoreKeys(store_id, opened, sealed)


def _open_data_key(wraps: list[Wrap], associated: bytes, sealed: bool, keks: Sequence[KeyEncryptionKey]) -> bytes:
    denied: PermissionDenied | None = None
    for wrap in wraps:
        if not sealed and wrap.get("kind") == "clear":
            return _hex(wrap, "key", KEY_BYTES)
        for kek in keks:
            try:
                data_key = kek.unwrap(wrap, associated)
            except PermissionDenied as error:
                denied = error
            else:
                if data_key is not None:
                    return data_key
    if denied is not None:
        raise denied
    kinds = sorted({str(wrap.get("kind")) for wrap in wraps})
    raise PermissionDenied(
        f"The store is sealed and none of the given keys opens it (it is wrapped by: {', '.join(kinds)})",
        code=error_codes.KEY_NEEDED,
        hint="Set SKYHOLD_KEY_FILE to the key file, or SKYHOLD_PASSPHRASE",
        wraps=kinds,
    )


def _read_key_file(path: Path, *, insecure: bool) -> bytes:
    """The bytes of a key file. It is opened without waiting: a pipe or a device is no key file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > KEY_FILE_BYTES_MAX:
            raise InvalidInput(f"File {path} is not a key file of Skyhold", code=error_codes.KEY_FILE_MALFORMED)
        if not insecure and status.st_uid == os.getuid() and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise PermissionDenied(
                f"Key file {path} can be used by others (mode {stat.S_IMODE(status.st_mode):04o})",
                code=error_codes.KEY_FILE_INSECURE,
                hint=f"Close it with `chmod 600 {shlex.quote(str(path))}`, or add `--insecure-key-file`",
                path=str(path),
            )
        return os.read(descriptor, KEY_FILE_BYTES_MAX)
    finally:
        os.close(descriptor)


def _open_wrap(key: bytes, wrap: Wrap, associated: bytes, what: str) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        return _cipher(key).decrypt(_hex(wrap, "nonce", 12), _hex(wrap, "sealed", KEY_BYTES + 16), associated)
    except InvalidTag:
        raise PermissionDenied(
            f"The store does not open with {what}", code=error_codes.KEY_WRONG, hint="Check which key this store uses"
        ) from None


def _hex(wrap: Wrap, name: str, length: int) -> bytes:
    try:
        value = bytes.fromhex(str(wrap[name]))
    except (KeyError, ValueError):
        value = b""
    if len(value) != length:
        raise Corrupt(f"Field `{name}` of a key in store.json is malformed", code=error_codes.WRAP_MALFORMED)
    return value


def _cipher(key: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 22 ms that an open store need not spend

    return AESGCM(key)


def _stretch(passphrase: bytes, salt: bytes, n: int, r: int, p: int) -> bytes:
    try:
        return hashlib.scrypt(passphrase, salt=salt, n=n, r=r, p=p, maxmem=_stretch_bytes(n, r, p), dklen=KEY_BYTES)
    except ValueError as error:  # RFC 7914 ties n to r
        raise Corrupt(
            f"A passphrase wrap in store.json is malformed: {error}", code=error_codes.WRAP_MALFORMED
        ) from error


def _stretch_bytes(n: int, r: int, p: int) -> int:
    """The memory that scrypt takes: its table, its blocks, and two more of OpenSSL's."""
    return 128 * r * (n + p + 2)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _associated(store_id: str, number: int) -> bytes:
    return b"skyhold wrap\0" + bytes.fromhex(store_id) + number.to_bytes(2, "little")


def _derive(purpose: str, data_key: bytes) -> bytes:
    return blake3(data_key, derive_key_context=f"skyhold 2026-11-23 {purpose}").digest()
