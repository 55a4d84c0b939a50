"""AES-256-GCM, the one cipher of the format (NIST SP 800-38D), as two functions."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from skyhold import error_codes
from skyhold.errors import Corrupt
from skyhold.units import Buffer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM


TAG_BYTES = 16


def seal(key: bytes, nonce: bytes, plain: Buffer, associated: bytes) -> bytes:
    """Ciphertext and 16-byte tag of `plain`. The pair of key (32 bytes) and nonce (12) must never be used twice."""
    return _cipher(key).encrypt(nonce, plain, associated)


def open_sealed(key: bytes, nonce: bytes, sealed: Buffer, associated: bytes, what: str) -> bytes:
    """The plaintext of `sealed`. Raises `Corrupt` naming `what` where a bit of anything differs."""
    from cryptography.exceptions import InvalidTag

    try:
        return _cipher(key).decrypt(nonce, sealed, associated)
    except InvalidTag:
        raise Corrupt(
            f"Object {what} is damaged: its seal does not open",
            code=error_codes.SEAL_BROKEN,
            hint="Run `skyhold verify --deep`, then `skyhold repair`",
            what=what,
        ) from None


@lru_cache(maxsize=64)
def _cipher(key: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 22 ms that an open store need not spend

    return AESGCM(key)
