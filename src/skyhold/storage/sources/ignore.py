"""What a push leaves out unless the ignore file takes it back: `.skyholdignore`, in the syntax of `.gitignore`."""

from __future__ import annotations

from typing import Final

from pathspec import GitIgnoreSpec

from skyhold import error_codes
from skyhold.errors import InvalidInput

IGNORE_FILE: Final = ".skyholdignore"
IGNORE_FILE_BYTES_MAX: Final = 1 << 20
DEFAULT_IGNORED: Final = (
    ".git", "__pycache__/", ".DS_Store", f"/{IGNORE_FILE}", "*.part", "/.cache/huggingface/",
)  # fmt: skip
OPTIMIZER_IGNORED: Final = (
    "optimizer.pt", "optimizer.bin", "optimizer_[0-9]*/", "*.optim", "*.optim.*", "*_optim_states.pt",
    "rng_state*.pth", "random_states_*.pkl", "scheduler.pt", "scheduler.bin", "global_step*/",
)  # fmt: skip


def ignore_rules(own: bytes, where: str, *, without_optimizer: bool) -> GitIgnoreSpec:
    """The rules of a source whose ignore file, which is at `where`, contains `own`: they come after the defaults, so
    that `!pattern` takes one back. Raises `InvalidInput` code `invalid_ignore_file`."""
    lines = [*DEFAULT_IGNORED, *(OPTIMIZER_IGNORED if without_optimizer else ())]
    try:
        return GitIgnoreSpec.from_lines(lines + own.decode("utf-8-sig").splitlines())
    except ValueError as error:
        raise InvalidInput(f"{where} is not an ignore file: {error}", code=error_codes.INVALID_IGNORE_FILE) from error
