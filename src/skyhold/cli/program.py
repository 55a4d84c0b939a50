"""The program's name, and the variable by which a shell asks it."""

from typing import Final

PROGRAM: Final = "skyhold"
COMPLETION_VARIABLE: Final = "_SKYHOLD_COMPLETE"
"""Set by a shell that asks for candidates."""
