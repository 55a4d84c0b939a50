"""Bring the machine to the same state before every timed command, whichever tool it runs.

Three things that earlier work leaves behind would else be measured instead of the tool: dirty pages that the disk still
owes; files that have left the page cache; and, in a virtual machine, free memory that the host has taken back, whose
first touch then costs ten times as much as that of memory which was in use a moment ago.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

TOUCHED_BYTES = 3 << 30
"""More than any measured command uses, its files and its server included."""

_TOUCH = f"""
import mmap
memory = mmap.mmap(-1, {TOUCHED_BYTES})
for offset in range(0, {TOUCHED_BYTES}, mmap.PAGESIZE):
    memory[offset] = 1
"""


def bring_to_rest(read: Iterable[Path]) -> None:
    """Write out dirty pages, touch memory (in a process of its own, see `measure`), read all files below folders."""
    os.sync()
    subprocess.run([sys.executable, "-c", _TOUCH], check=True)
    for folder in read:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    while file.read(1 << 22):
                        pass
