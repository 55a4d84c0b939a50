"""The program's name, and the variable by which a shell requests completion."""

from typing import Final

PROGRAM: Final = "skyhold"
COMPLETION_VARIABLE: Final = "_SKYHOLD_COMPLETE"
"""Set by a shell that asks for candidates."""
