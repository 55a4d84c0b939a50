"""Bring the machine to the same state before every timed command, whichever tool it runs.

Three things that earlier work leaves behind would else be measured instead of the tool: dirty pages that the disk still
owes; files that have left the page cache; and, in a virtual machine whose free memory the host takes back, memory that
costs several times as much to touch as memory that was in use a moment ago. A tool that ran after one that writes
little came out slower by a fifth.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

MEMORY_BYTES = 1 << 30
HUGE_BYTES = 1 << 28
FILE_BYTES = 5 << 28
"""More than a measured command writes: its files go to the page cache, which takes its memory from other lists."""

_PART = 1 << 23

_TOUCH = f"""
import mmap
def touch(size, huge):
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    for offset in range(0, size, mmap.PAGESIZE):
        memory[offset] = 1
    return memory
plain, huge = touch({MEMORY_BYTES}, False), touch({HUGE_BYTES}, True)
"""


def bring_to_rest(read: Iterable[Path], scratch: Path) -> None:
    """Write out dirty pages, read all files below folders, then touch memory (in a process of its own, see `measure`)
    and page cache (by a file in `scratch` that is deleted before the disk sees it)."""
    os.sync()
    for folder in read:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb", buffering=0) as file:
                    while file.read(_PART):
                        pass
    subprocess.run([sys.executable, "-c", _TOUCH], check=True)
    passing = scratch / "passing"
    with passing.open("wb", buffering=0) as file:
        for _ in range(FILE_BYTES // _PART):
            file.write(bytes(_PART))
    passing.unlink()
