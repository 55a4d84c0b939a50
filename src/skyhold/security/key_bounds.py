"""How many wraps a `store.json` may have, and what it may cost to try them: any party may have written it."""

from __future__ import annotations

from typing import Final

from skyhold import error_codes
from skyhold.errors import Corrupt

SCRYPT_N: Final = 1 << 17
SCRYPT_BYTES_MAX: Final = 512 << 20
SCRYPT_WORK: Final = SCRYPT_N * 8
"""What one of our own wraps costs, as `n * r * p`: about 0.4 s."""
SCRYPT_WORK_MAX: Final = 32 * SCRYPT_WORK
"""What all the passphrase wraps of one document may cost together; readers compare it before they try any."""
DATA_KEYS_MAX: Final = 256
WRAPS_MAX: Final = 64
"""The most wraps of one data key."""


def check_keys(keys: object) -> None:
    """Raise `Corrupt` code `keys_malformed` unless this is the `keys` field of a `store.json` in form, number and cost:
    for readers before they try a wrap, since any party may have written it, and for writers."""
    if not isinstance(keys, list) or not 1 <= len(keys) <= DATA_KEYS_MAX:
        raise Corrupt("The keys in store.json are malformed", code=error_codes.KEYS_MALFORMED)
    numbers: set[int] = set()
    work = 0
    for entry in keys:
        number, wraps = (entry.get("number"), entry.get("wraps")) if isinstance(entry, dict) else (None, None)
        if type(number) is not int or not 0 <= number < 1 << 16 or number in numbers:
            raise Corrupt("The keys in store.json are malformed", code=error_codes.KEYS_MALFORMED)
        numbers.add(number)
        if not isinstance(wraps, list) or not all(isinstance(wrap, dict) for wrap in wraps):
            raise Corrupt("The keys in store.json are malformed", code=error_codes.KEYS_MALFORMED)
        if len(wraps) > WRAPS_MAX:
            raise Corrupt(
                f"A key in store.json is wrapped more than {WRAPS_MAX} times", code=error_codes.KEYS_MALFORMED
            )
        work += sum(_work(wrap) for wrap in wraps)
    if 0 not in numbers:
        raise Corrupt("The keys in store.json lack data key 0", code=error_codes.KEYS_MALFORMED)
    if work > SCRYPT_WORK_MAX:
        raise Corrupt("The passphrase wraps in store.json ask for unreasonable work", code=error_codes.KEYS_MALFORMED)


def _work(wrap: dict[str, object]) -> int:
    """What it costs to try a wrap. One that is malformed is refused when it is tried."""
    if wrap.get("kind") != "passphrase":
        return 0
    n, r, p = (wrap.get(name) for name in ("n", "r", "p"))
    if not (isinstance(n, int) and isinstance(r, int) and isinstance(p, int)):
        return 0
    return max(0, n) * max(0, r) * max(0, p)
