"""Sizes and durations as users write them, in one place for configuration, options and output; and what bytes are."""

from __future__ import annotations

import re

from skyhold import error_codes
from skyhold.errors import InvalidInput

Buffer = bytes | bytearray | memoryview
"""Bytes in memory, of any owner."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_BYTE_UNITS = {
    "": 1, "b": 1,
    "kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4,
    "k": KIB, "kib": KIB, "m": MIB, "mib": MIB, "g": GIB, "gib": GIB, "t": 1024 * GIB, "tib": 1024 * GIB,
}  # fmt: skip
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*$")


def parse_size_bytes(text: str) -> int:
    """Bytes of a size such as `512`, `64MiB`, `1.5g` (binary) or `10GB` (decimal).

    Raises `InvalidInput` for anything else.
    """
    match = _SIZE.match(text)
    if match is None or match[2].lower() not in _BYTE_UNITS:
        raise InvalidInput(
            f"Expected a size but got {text!r}",
            code=error_codes.INVALID_SIZE,
            hint="Write it as 512, 64MiB, 1.5GiB or 10GB",
        )
    return int(float(match[1]) * _BYTE_UNITS[match[2].lower()])


def format_bytes(size_bytes: float) -> str:
    """A size for display, in binary units with three digits: `0 B`, `1.50 KiB`, `378 MiB`."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(value) < 1024 or unit == "PiB":
            break
        value /= 1024
    if unit == "B":
        return f"{int(value)} B"
    decimals = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{decimals}f} {unit}"


def format_duration_s(duration_s: float) -> str:
    """A duration for display: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 04 min`."""
    if duration_s < 10:
        return f"{duration_s:.1f} s"
    seconds = int(duration_s + 0.5)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
