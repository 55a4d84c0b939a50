"""A path as a person wrote it, which may begin with `~` or `~somebody`."""

from __future__ import annotations

from pathlib import Path

from skyhold.errors import InvalidInput


def expand_user(path: str | Path, setting: str) -> Path:
    """`path` with the home folder in the place of `~` or `~somebody`. Raises `InvalidInput` code `unknown_home`, which
    names `setting`, where there is no such user here; of the path it repeats the user only."""
    written = Path(path)
    try:
        return written.expanduser()
    except RuntimeError as error:
        home = written.parts[0]
        raise InvalidInput(
            f"{setting}: the path begins with `{home}`, and this machine knows no such home folder",
            code="unknown_home",
            hint=f"Write the whole path, or `./{home}` for a folder that is really named so",
            setting=setting,
        ) from error
