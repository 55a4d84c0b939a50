"""Making a folder a bucket."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Final

from skyhold import error_codes
from skyhold.buckets.folder_drafts import INCOMING, sync
from skyhold.buckets.folder_errors import folder_not_made, not_a_folder, translated
from skyhold.buckets.folder_tree import Tree, is_shared, share
from skyhold.errors import InvalidInput

OWN_FOLDER: Final = ".skyhold"
MARKER: Final = "bucket.json"
LOCKS: Final = "locks"
LOCK_FILES: Final = 64


def create_folder_bucket(path: Path) -> None:
    """Make `path` a bucket, with its parents; a folder that is one already is left as it is.

    Raises `InvalidInput` code `folder_not_empty` where other files are, which might be taken for objects, or
    `not_a_folder`; `PermissionDenied` code `folder_not_made`.
    """
    with translated(path.name, str(path)):
        _make_folder(path)
        own = path / OWN_FOLDER
        if (own / MARKER).exists():
            return
        _refuse_files(path)
        tree = Tree(path, path.name)
        for inner in (INCOMING, LOCKS):
            with tree.folder([OWN_FOLDER, inner], make=True):
                pass
        with tree.folder([]) as root, tree.folder([OWN_FOLDER]) as folder:
            _write_marker(tree, folder, shared=is_shared(root))
        sync(path.parent)


def _write_marker(tree: Tree, own: int, *, shared: bool) -> None:
    draft = f"{MARKER}.{secrets.token_hex(8)}"
    with os.fdopen(tree.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, own), "w") as file:
        file.write(json.dumps({"format": 1, "kind": "skyhold folder bucket"}) + "\n")
        file.flush()
        os.fsync(file.fileno())
        if shared:
            share(file.fileno())
    os.rename(draft, MARKER, src_dir_fd=own, dst_dir_fd=own)
    os.fsync(own)


def would_create_folder_bucket(path: Path) -> bool:
    """Whether `create_folder_bucket` would make `path` a bucket, or it is one. Changes nothing, and raises as that
    does, as far as can be foreseen."""
    with translated(path.name, str(path)):
        if (path / OWN_FOLDER / MARKER).exists():
            return False
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        if not there.is_dir():
            raise not_a_folder(there)
        if there == path:
            _refuse_files(path)
        if not os.access(there, os.W_OK | os.X_OK):
            raise folder_not_made(path, f"{there} denies access")
        return True


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise not_a_folder(next(folder for folder in (path, *path.parents) if folder.exists())) from error
    except FileNotFoundError as error:  # a file system such as /proc, where no folder can be made
        raise folder_not_made(path, "its file system takes no new folders") from error


def _refuse_files(path: Path) -> None:
    if any(entry.name != OWN_FOLDER for entry in os.scandir(path)):
        raise InvalidInput(
            f"Folder {path} holds files and is not a bucket",
            code=error_codes.FOLDER_NOT_EMPTY,
            hint="Name an empty or new folder",
        )
