"""A file that another process writes while it is pushed: the push ends with an error and leaves no version behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from skyhold.errors import Conflict, SkyholdError
from skyhold.storage.sources.disk import OpenDiskFile
from tests.storage.fixtures import FlakyBucket, Setup
from tests.storage.test_push_pull import tree_of, write_tree

DATA = bytes(range(256)) * (96 << 10)  # 24 MiB: several windows of reading


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shorten(path: Path) -> None:
    os.truncate(path, 1)


def overwrite(path: Path) -> None:
    """Other bytes, the same size, and the time of the last change put back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"other bytes")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    draft = path.with_name("draft")
    draft.write_bytes(DATA)
    before = path.stat()
    os.utime(draft, ns=(before.st_atime_ns, before.st_mtime_ns))
    draft.replace(path)


@pytest.mark.parametrize(
    ("change", "error"), [(grow, Conflict), (shorten, Conflict), (overwrite, Conflict), (replace, Conflict)]
)
@pytest.mark.parametrize("at_read", [1, 2])
def test_a_file_that_changes_while_it_is_read_is_refused(
    change: Callable[[Path], None], error: type[SkyholdError], at_read: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """After the first of its bytes were read, and after more of them."""
    source, bucket = write_tree(tmp_path / "in", {"w.bin": DATA}), FlakyBucket("a")
    setup = Setup(tmp_path / "state", [bucket])
    read_into, reads = OpenDiskFile.read_into, 0

    def read_and_change(opened: OpenDiskFile, view: memoryview, start: int) -> None:
        nonlocal reads
        read_into(opened, view, start)
        reads += 1
        if reads == at_read:
            change(source / "w.bin")

    monkeypatch.setattr(OpenDiskFile, "read_into", read_and_change)
    with pytest.raises(error) as caught:
        setup.push(source)
    assert caught.value.code == "source_changed"
    assert "w.bin" in caught.value.message
    assert bucket.keys("layouts/") == []
    setup.close()
    monkeypatch.undo()
    setup = Setup(tmp_path / "state", [bucket])
    write_tree(tmp_path / "in", {"w.bin": DATA})
    version, _ = setup.push(source)
    setup.pull(version, tmp_path / "out")
    assert tree_of(tmp_path / "out") == {"w.bin": DATA}
    setup.close()
