"""What a pull has under way: nothing but what was hashed becomes a file, whatever else is in the folder."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from skyhold.errors import Conflict, Corrupt, InvalidInput, PermissionDenied, Unavailable
from skyhold.storage.file_entry import FileEntry
from skyhold.storage.parts import PARTS, Parts, part_name, part_path
from skyhold.storage.sources.folder import find_source
from skyhold.storage.target_folder import TargetFolder
from skyhold.storage.target_state import examine
from skyhold.storage.targets import Target
from skyhold.storage.version_files import VersionFiles
from tests.endtoend.killing import in_child
from tests.storage.fixtures import FlakyBucket, Setup
from tests.storage.test_push_pull import tree_of, write_tree

WEIGHTS = os.urandom(300_000)


@pytest.fixture
def bucket() -> FlakyBucket:
    return FlakyBucket("a")


@pytest.fixture
def setup(tmp_path: Path, bucket: FlakyBucket) -> Setup:
    return Setup(tmp_path / "state", [bucket])


def pushed(setup: Setup, folder: Path, files: dict[str, bytes]) -> VersionFiles:
    return setup.push(write_tree(folder, files))[0]


def before_move(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Do something right before a part is made the file, when its hash was taken."""
    publish = TargetFolder.publish

    def acting(self: TargetFolder, *given: object) -> None:
        monkeypatch.setattr(TargetFolder, "publish", publish)
        act()
        publish(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(TargetFolder, "publish", acting)


def test_a_part_that_was_replaced_after_it_was_hashed_does_not_become_the_file(
    tmp_path: Path, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, out = pushed(setup, tmp_path / "in", {"w.bin": WEIGHTS}), tmp_path / "out"

    def replace() -> None:
        other = tmp_path / "other"
        other.write_bytes(b"evil")
        other.rename(part_path(out, version.files[0]))

    before_move(monkeypatch, replace)
    with pytest.raises(Corrupt) as refused:
        setup.pull(version, out)
    assert refused.value.code == "part_replaced"
    assert not (out / "w.bin").exists()
    setup.pull(version, out)
    assert tree_of(out) == {"w.bin": WEIGHTS}


def test_a_version_whose_file_has_the_name_of_a_part_gives_no_wrong_bytes(
    tmp_path: Path, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No reader accepts such a version; if one did, the pull would still notice."""
    version = pushed(setup, tmp_path / "in", {"a": b"evil", "w.bin": WEIGHTS})
    weights = version.files[1]
    evil = FileEntry(f"{PARTS}/{part_name(weights)}", 4, version.files[0].sha256)
    version.files = (evil, weights)
    with pytest.raises((Corrupt, Conflict, Unavailable)):
        setup.pull(version, tmp_path / "out")
    assert not (tmp_path / "out" / "w.bin").exists()


def test_a_folder_that_is_replaced_by_a_link_does_not_redirect_the_write(
    tmp_path: Path, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, out = pushed(setup, tmp_path / "in", {"sub/w.bin": WEIGHTS}), tmp_path / "out"
    (tmp_path / "elsewhere").mkdir()

    def replace() -> None:
        (out / "sub").rename(out / "moved")
        (out / "sub").symlink_to(tmp_path / "elsewhere")

    before_move(monkeypatch, replace)
    with pytest.raises(InvalidInput) as refused:
        setup.pull(version, out)
    assert refused.value.code == "target_is_link"
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_file_that_appears_or_is_edited_during_the_pull_is_left_as_it_is(
    tmp_path: Path, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, out = pushed(setup, tmp_path / "in", {"w.bin": WEIGHTS}), tmp_path / "out"
    before_move(monkeypatch, lambda: (out / "w.bin").write_text("mine") and None)
    with pytest.raises(Conflict) as refused:
        setup.pull(version, out)
    assert refused.value.code == "target_changed"
    assert (out / "w.bin").read_text() == "mine"


def test_a_part_with_a_second_name_is_not_written_into(tmp_path: Path, setup: Setup) -> None:
    version, out = pushed(setup, tmp_path / "in", {"w.bin": WEIGHTS}), tmp_path / "out"
    mine = tmp_path / "mine"
    mine.write_text("mine")
    part = part_path(out, version.files[0])
    part.parent.mkdir(parents=True, mode=0o700)
    part.hardlink_to(mine)
    setup.pull(version, out)
    assert tree_of(out) == {"w.bin": WEIGHTS}
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_part_that_is_a_link_or_a_pipe_is_not_followed(tmp_path: Path, setup: Setup, kind: str) -> None:
    version, out = pushed(setup, tmp_path / "in", {"w.bin": WEIGHTS}), tmp_path / "out"
    mine = tmp_path / "mine"
    mine.write_text("mine")
    part = part_path(out, version.files[0])
    part.parent.mkdir(parents=True, mode=0o700)
    part.symlink_to(mine) if kind == "link" else os.mkfifo(part)
    with pytest.raises((InvalidInput, Unavailable)):
        setup.pull(version, out)
    assert mine.read_text() == "mine"


def fork_child(work: Callable[[], None]) -> int:
    """A process that does this; it ends with status 0 where all of it worked."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def killed_pull(bucket: FlakyBucket, version: VersionFiles, out: Path) -> Path:
    """A pull that dies when its file is whole and before it has its name; its part."""

    def die(self: TargetFolder, *_given: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def pull() -> None:
        TargetFolder.publish = die  # type: ignore[method-assign, assignment]
        Setup(out.parent / "child", [bucket]).pull(version, out)

    assert in_child(pull).signal == signal.SIGKILL
    return part_path(out, version.files[0])


def test_what_a_killed_pull_has_left_is_left_out_of_a_push_and_named(
    tmp_path: Path, bucket: FlakyBucket, setup: Setup
) -> None:
    version, out = pushed(setup, tmp_path / "in", {"w.bin": WEIGHTS}), tmp_path / "out"
    assert killed_pull(bucket, version, out).stat().st_size == len(WEIGHTS)
    (out / "w.bin").write_bytes(WEIGHTS)
    (out / ".0123456789abcdef-0123456789abcdef.SKYHOLD-part").write_bytes(b"of an older version")
    (out / ".skyholdignore").write_text("!*.skyhold-part\n")
    source = find_source(out, allow_unsafe_names=True)
    assert [file.path for file in source.files] == ["w.bin"]
    assert list(source.left_out) == [".0123456789abcdef-0123456789abcdef.SKYHOLD-part", f"{PARTS}/"]


def test_the_next_pull_cleans_what_a_killed_one_has_left(tmp_path: Path, bucket: FlakyBucket, setup: Setup) -> None:
    version, out = pushed(setup, tmp_path / "in", {"w.bin": WEIGHTS}), tmp_path / "out"
    killed_pull(bucket, version, out)
    other = pushed(setup, tmp_path / "other", {"x": b"x"})
    setup.pull(other, out)
    assert tree_of(out) == {"x": b"x"}
    assert not (out / PARTS).exists()
    killed_pull(bucket, version, out)
    setup.pull(other, out)  # which has nothing to write
    assert not (out / PARTS).exists()


def test_the_parts_of_a_pull_that_is_alive_are_left_alone(tmp_path: Path, setup: Setup) -> None:
    version, out = pushed(setup, tmp_path / "in", {"w.bin": WEIGHTS}), tmp_path / "out"
    other = pushed(setup, tmp_path / "other", {"x": b"x"})
    (found,) = examine(out, version.files, None)
    with TargetFolder(out) as folder:
        target = Target(folder, version.files[0], found.before)
        setup.pull(other, out)
        assert part_path(out, version.files[0]).exists()
        with pytest.raises(Unavailable, match="Another pull"):
            setup.pull(version, out)
        target.close()
    assert not (out / PARTS).exists()


def test_a_folder_of_parts_that_others_could_write_becomes_private(tmp_path: Path, setup: Setup) -> None:
    above = os.open(tmp_path, os.O_RDONLY)
    (tmp_path / PARTS).mkdir()
    (tmp_path / PARTS).chmod(0o777)
    parts = Parts(above, tmp_path)
    assert (tmp_path / PARTS).stat().st_mode & 0o777 == 0o700
    parts.sweep()
    parts.close()
    os.close(above)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user")
def test_a_folder_of_parts_of_another_user_is_not_used(tmp_path: Path, setup: Setup) -> None:
    version, out = pushed(setup, tmp_path / "in", {"w.bin": WEIGHTS}), tmp_path / "out"
    (out / PARTS).mkdir(parents=True)
    os.chown(out / PARTS, 12345, 12345)
    with pytest.raises(PermissionDenied, match="belongs to another user"):
        setup.pull(version, out)


def test_a_pull_that_fails_leaves_no_empty_folder(tmp_path: Path, setup: Setup) -> None:
    out = tmp_path / "out"
    with pytest.raises(Conflict), TargetFolder(out) as folder:
        folder.open_part("w.bin").discard()
        raise Conflict("as it goes")
    assert not any(out.iterdir())


def test_two_processes_that_enter_and_sweep_again_and_again_never_lose_a_part(tmp_path: Path) -> None:
    def work() -> None:
        above = os.open(tmp_path, os.O_RDONLY)
        for _ in range(300):
            parts = Parts(above, tmp_path)
            part = parts.create()
            assert part.is_at(part.folder, part.name)
            part.discard()
            part.close()
            parts.sweep()
            parts.close()

    children = [fork_child(work) for _ in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a folder")
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_a_mount_below_the_target_gets_its_files(tmp_path: Path, setup: Setup, kind: str) -> None:
    version, out = pushed(setup, tmp_path / "in", {"w.bin": WEIGHTS, "sub/deep/w.bin": WEIGHTS}), tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    mount = ["mount", "--bind", str(tmp_path / "elsewhere")] if kind == "bind" else ["mount", "-t", "tmpfs", "none"]
    subprocess.run([*mount, str(out / "sub")], check=True)
    try:
        setup.pull(version, out)
        assert tree_of(out) == {"w.bin": WEIGHTS, "sub/deep/w.bin": WEIGHTS}
        assert not list(out.rglob(PARTS))
    finally:
        subprocess.run(["umount", str(out / "sub")], check=True)
