"""A path as a user wrote it, which may begin with `~` or `~name`, and from where relative ones start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from skyhold import error_codes
from skyhold.errors import InvalidInput, NotFound


def expand_user(path: str | Path, setting: str) -> Path:
    """`path` with the home folder in the place of `~` or `~name`. Raises `InvalidInput` code `unknown_home`, which
    names `setting`, where there is no such user here; of the path it repeats the user only."""
    written = Path(path)
    try:
        return written.expanduser()
    except RuntimeError as error:
        home = written.parts[0]
        raise InvalidInput(
            f"{setting}: the path begins with `{home}`, and this machine has no such home folder",
            code=error_codes.UNKNOWN_HOME,
            hint=f"Write the whole path, or `./{home}` for a folder that is really named so",
            setting=setting,
        ) from error


def absolute(path: str | Path) -> Path:
    """`path`, a relative one taken from the working folder. Raises `NotFound` code `working_folder_missing`."""
    try:
        return Path(path).absolute()
    except FileNotFoundError as error:
        raise NotFound(
            "The working folder has been deleted, so that relative paths lead nowhere",
            code=error_codes.WORKING_FOLDER_MISSING,
            hint="Change to a folder that exists, then run the command again",
        ) from error


def in_home(find: Callable[[str], Path]) -> Path | None:
    """A folder of Skyhold's in the user's home, as `platformdirs` finds it; None for a user without a home, as in a
    container, whose `~` would become the name of a folder."""
    try:
        path = find("skyhold")
    except RuntimeError:
        return None
    return path if path.is_absolute() else None
