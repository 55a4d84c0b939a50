"""The object `bell`: a reader receives what a writer rings, and refuses a forged one."""

from __future__ import annotations

import pytest

from skyhold.codec.frame import DataKey, FrameKeys, Kind, encode_frame
from skyhold.errors import Corrupt
from skyhold.storage.canonical import canonical
from skyhold.store.bell import RINGS_MAX, decode_bell, encode_bell

KEYS = FrameKeys({0: DataKey(b"m" * 32, b"s" * 32)}, 0, sealed=False)
STORE = "5" * 32


def key(number: int) -> str:
    return f"repository/{number:032x}"


def forged(body: object, store: str = STORE) -> bytes:
    return encode_frame(Kind.BELL, canonical(body), context=f"bell/{store}", keys=KEYS)


def test_rings_are_read_as_they_were_written_the_newest_last() -> None:
    rings = {key(2): 5, "names": 3, key(1): 1}
    assert list(decode_bell(encode_bell(rings, STORE, KEYS), STORE, KEYS).items()) == list(rings.items())


def test_only_the_newest_rings_are_kept() -> None:
    heard = decode_bell(encode_bell({key(n): n for n in range(RINGS_MAX + 9)}, STORE, KEYS), STORE, KEYS)
    assert list(heard) == [key(n) for n in range(9, RINGS_MAX + 9)]


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"bell": 2, "rings": []},
        {"bell": 1, "rings": {}},
        {"bell": 1, "rings": [[key(1)]]},
        {"bell": 1, "rings": [[key(1), "1"]]},
        {"bell": 1, "rings": [[key(1), -1]]},
        {"bell": 1, "rings": [[key(1), 1.5]]},
        {"bell": 1, "rings": [["../config", 1]]},
        {"bell": 1, "rings": [[key(n), n] for n in range(RINGS_MAX + 1)]},
    ],
)
def test_bell_that_is_malformed_is_refused(body: object) -> None:
    with pytest.raises(Corrupt):
        decode_bell(forged(body), STORE, KEYS)


def test_bell_of_another_store_is_refused() -> None:
    with pytest.raises(Corrupt):
        decode_bell(forged({"bell": 1, "rings": []}, "6" * 32), STORE, KEYS)
