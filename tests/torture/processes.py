"""How the processes of a run are made: forked from a process that has imported what they need, and nothing else.

A worker that was killed is there again after some ten milliseconds.
"""

from __future__ import annotations

import multiprocessing

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.torture.worker", "tests.torture.network"])
