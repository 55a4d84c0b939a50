"""Ctrl-C: a command gets a grace period, then its process ends, even if its threads still wait.

Python raises `KeyboardInterrupt` in the main thread, but only once that thread is back from a driver's native code; and
at its end it joins the threads that write to and read from buckets, each for as long as a stalled server may take. So a
separate thread receives the signal as it arrives, and ends the process after the grace period. That is safe at any
moment: what a command keeps is written so that kill −9 leaves nothing broken, and locks end with the process.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final

from skyhold.cli.exits import INTERRUPTED

GRACE_S: Final = 3.0
_SHOW_CURSOR: Final = "\x1b[?25h"


class Interruption:
    """Handles Ctrl-C in one command. `print_message` prints the last message; it is called once at most."""

    def __init__(self, print_message: Callable[[], None]) -> None:
        self._print = print_message
        self._printed = threading.Lock()

    def print_message(self) -> None:
        if self._printed.acquire(blocking=False):
            self._print()

    def watch(self) -> None:
        """End this process `GRACE_S` after the first Ctrl-C, or at the second. From the main thread, and for good."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._end_after, args=(reading,), name="interruption", daemon=True).start()

    def _end_after(self, reading: int) -> None:
        while os.read(reading, 1) != bytes([signal.SIGINT]):
            pass
        select.select([reading], [], [], GRACE_S)
        if sys.stderr.isatty():
            sys.stderr.write(_SHOW_CURSOR)  # a progress bar may have hidden it
        self.print_message()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)
