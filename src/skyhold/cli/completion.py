"""Answers a shell that completes a command line: quickly, and with candidates only.

The shell always gets its prompt back: after `DEADLINE_S` this process ends, at any point. That is safe, because
completion changes nothing.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import Final, NoReturn

from click.shell_completion import shell_complete

from skyhold.cli.group import skyhold
from skyhold.cli.program import COMPLETION_VARIABLE, PROGRAM
from skyhold.cli.shells import add_shells

DEADLINE_S: Final = 1.5


def answer_shell() -> NoReturn:
    """Answer what the environment asks, and end this process. The terminal is neither read nor written."""
    deadline = threading.Timer(DEADLINE_S, os._exit, (0,))
    deadline.daemon = True
    deadline.start()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 2):
        os.dup2(nothing, stream)
    add_shells()
    with suppress(BaseException):  # Ctrl-C, a command that does not exist, a shell that is gone
        shell_complete(skyhold, {}, PROGRAM, COMPLETION_VARIABLE, os.environ[COMPLETION_VARIABLE])
        sys.stdout.flush()
    os._exit(0)  # threads that still wait for a bucket are not waited for
