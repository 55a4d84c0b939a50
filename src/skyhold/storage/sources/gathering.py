"""What every source is judged by: names that are ignored, left out or refused, in one place for all drivers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from pathspec import GitIgnoreSpec

from skyhold import error_codes
from skyhold.errors import InvalidInput
from skyhold.storage.own_places import content_reason
from skyhold.storage.paths import colliding_paths, is_reserved, path_fault, printable
from skyhold.storage.sources.ignore import IGNORE_FILE
from skyhold.storage.sources.port import Source, SourceFile, read_bytes
from skyhold.storage.unsafe_names import unsafe_name

FILES_MAX: Final = 100_000
_SHOWN: Final = 10


class Gathering:
    """Gathers the files and the offenders of one source, which `name` describes in messages (`Folder model`)."""

    def __init__(self, name: str, rules: GitIgnoreSpec, *, allow_unsafe_names: bool) -> None:
        self._name, self._rules, self._allow_unsafe_names = name, rules, allow_unsafe_names
        self._files: list[SourceFile] = []
        self._ignored: list[str] = []
        self._left_out: dict[str, str] = {}
        self._offenders: list[tuple[str, str]] = []
        self._excluded_folders: dict[str, bool] = {}

    def excludes(self, path: str, own_reason: Callable[[], str | None] = lambda: None) -> bool:
        """Whether a file, or a folder whose path ends in `/`, is ignored or no part of a model, which is noted.
        `own_reason` is why it is Skyhold's own."""
        if self._rules.match_file(path):
            self._ignored.append(path)
            return True
        reserved = is_reserved(path.rstrip("/").rpartition("/")[2])
        reason = "what a pull has under way, or has left" if reserved else own_reason() or self.unsafe(path)
        if reason is not None:
            self._left_out[path] = reason
        return reason is not None

    def excludes_folder_of(self, path: str) -> bool:
        """Whether a folder above `path` is excluded. Each folder is noted once."""
        at = path.find("/")
        while at >= 0:
            folder = path[: at + 1]
            if folder not in self._excluded_folders:
                self._excluded_folders[folder] = self.excludes(folder)
            if self._excluded_folders[folder]:
                return True
            at = path.find("/", at + 1)
        return False

    def refuse(self, path: str, why: str) -> None:
        self._offenders.append((path, why))

    def leave_out(self, path: str, reason: str) -> None:
        self._left_out[path] = reason

    def add(self, file: SourceFile) -> None:
        """Take a file that is not excluded, or refuse it. Raises `InvalidInput` code `too_many_files`."""
        fault = path_fault(file.path)
        if fault is not None:
            self.refuse(file.path, fault)
            return
        if len(self._files) == FILES_MAX:
            raise too_many_files()
        self._files.append(file)

    def add_checked(self, file: SourceFile) -> None:
        """As `add`, of a file whose content is looked at first: what is Skyhold's own is left out."""
        if path_fault(file.path) is None:
            opened = file.open()
            try:
                reason = content_reason(
                    file.path, file.size_bytes, lambda limit: read_bytes(opened, 0, min(limit, file.size_bytes))
                )
            finally:
                opened.close()
            if reason is not None:
                self.leave_out(file.path, reason)
                return
        self.add(file)

    def finish(self, resources: ExitStack | None = None) -> Source:
        """The source. Raises `InvalidInput` `source_refused` and `source_empty`."""
        offenders = self._offenders + colliding_paths(file.path for file in self._files)
        if offenders:
            raise self._refused(sorted(offenders))
        if not self._files:
            left_out = f" (rules leave out {len(self._ignored)} entries)" if self._ignored else ""
            if self._left_out:
                shown = [f"{printable(path)}: {why}" for path, why in sorted(self._left_out.items())[:_SHOWN]]
                left_out += f" (left out, as no part of a model: {'; '.join(shown)})"
            raise InvalidInput(
                f"{self._name} contains no file to push{left_out}",
                code=error_codes.SOURCE_EMPTY,
                hint=f"Check the path and {IGNORE_FILE}",
            )
        files = tuple(sorted(self._files, key=lambda file: file.path.encode()))
        left_out_sorted = dict(sorted(self._left_out.items()))
        return Source(files, tuple(sorted(self._ignored)), left_out_sorted, resources or ExitStack())

    def unsafe(self, path: str) -> str | None:
        """Why the name of a file or folder steers other programs, unless that is allowed."""
        return None if self._allow_unsafe_names else unsafe_name(path)

    def _refused(self, offenders: list[tuple[str, str]]) -> InvalidInput:
        lines = [f"  {printable(path)}: {why}" for path, why in offenders[:_SHOWN]]
        if len(offenders) > _SHOWN:
            lines.append(f"  … and {len(offenders) - _SHOWN} more")
        count = "1 entry" if len(offenders) == 1 else f"{len(offenders)} entries"
        return InvalidInput(
            f"{self._name} cannot be pushed as it is; nothing was sent. {count} refused:\n" + "\n".join(lines),
            code=error_codes.SOURCE_REFUSED,
            hint=f"Remove or rename them, or leave them out with {IGNORE_FILE}",
            offenders=[{"path": printable(path), "reason": why} for path, why in offenders],
        )


def too_many_files() -> InvalidInput:
    return InvalidInput(
        f"There are more than {FILES_MAX} files, which is the most that a version contains",
        code=error_codes.TOO_MANY_FILES,
        hint=f"Leave some out with {IGNORE_FILE}, or push them as several repositories",
    )
