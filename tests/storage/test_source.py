"""What is pushed, and what is refused."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from skyhold.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from skyhold.storage.paths import colliding_paths, path_fault
from skyhold.storage.sources.disk import DiskFile
from skyhold.storage.sources.folder import find_source

BLOB = "a" * 64


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def paths(root: Path, **options: bool) -> list[str]:
    return [file.path for file in find_source(root, **options).files]


def refusals(root: Path) -> dict[str, str]:
    with pytest.raises(InvalidInput) as refused:
        find_source(root)
    assert refused.value.code == "source_refused"
    return {o["path"]: o["reason"] for o in refused.value.fields["offenders"]}  # type: ignore[attr-defined]


def snapshot(tmp_path: Path, name: str = "models--org--m") -> Path:
    folder = tmp_path / "hub" / name
    write(folder / "blobs" / BLOB, "weights")
    (folder / "snapshots" / "rev").mkdir(parents=True)
    (folder / "snapshots" / "rev" / "model.safetensors").symlink_to(f"../../blobs/{BLOB}")
    return folder / "snapshots" / "rev"


def test_files_come_in_order_of_path_bytes_with_their_status(tmp_path: Path) -> None:
    for name in ("b/x", "b.txt", "a", "ä", "b/y/z"):
        write(tmp_path / name, name)
    (tmp_path / "a").chmod(0o755)
    found = find_source(tmp_path)
    assert [file.path for file in found.files] == ["a", "b.txt", "b/x", "b/y/z", "ä"]
    assert [file.executable for file in found.files] == [True, False, False, False, False]
    assert isinstance(found.files[0], DiskFile)
    assert found.files[0].inode == (tmp_path / "a").stat().st_ino
    assert found.size_bytes == sum(len(file.path.encode()) for file in found.files)


def test_one_file_is_a_source_under_its_own_name_also_through_a_link(tmp_path: Path) -> None:
    write(tmp_path / "blob", "12")
    (tmp_path / "model.bin").symlink_to("blob")
    (file,) = find_source(tmp_path / "model.bin").files
    assert isinstance(file, DiskFile)
    assert (file.path, file.size_bytes, file.absolute) == ("model.bin", 2, (tmp_path / "blob").resolve())


def test_links_under_the_root_are_followed_and_others_named_and_refused_at_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "real")
    write(tmp_path / "outside")
    (root / "in").symlink_to("real")
    assert paths(root) == ["in", "real"]
    (root / "out").symlink_to("../outside")
    (root / "passwd").symlink_to("/etc/passwd")
    (root / "none").symlink_to("missing")
    (root / "loop").symlink_to("loop")
    (root / "up").symlink_to("..")
    assert refusals(root) == {
        "out": f"a link to {(tmp_path / 'outside').resolve()}, outside the folder",
        "passwd": "a link to /etc/passwd, outside the folder",
        "none": "a link that leads nowhere",
        "loop": "a link that leads nowhere",
        "up": "a link to a folder",
    }


def test_a_hugging_face_snapshot_pushes(tmp_path: Path) -> None:
    rev = snapshot(tmp_path)
    (rev / "onnx").mkdir()
    (rev / "onnx" / "model.onnx").symlink_to(f"../../../blobs/{BLOB}")
    (file, model) = find_source(rev).files
    assert (file.path, file.size_bytes) == ("model.safetensors", 7)
    assert paths(rev / "onnx") == ["model.onnx"]
    assert model.path == "onnx/model.onnx"


def test_a_snapshot_reaches_only_hashes_in_its_own_blobs(tmp_path: Path) -> None:
    rev = snapshot(tmp_path)
    snapshot(tmp_path, "models--org--private")
    write(rev.parent.parent / "blobs" / "notes.txt")
    write(rev.parent.parent / "blobs" / "deep" / BLOB)
    (rev / "notes").symlink_to("../../blobs/notes.txt")
    (rev / "deep").symlink_to(f"../../blobs/deep/{BLOB}")
    (rev / "other").symlink_to(f"../../../models--org--private/blobs/{BLOB}")
    (rev.parent.parent / "blobs" / ("b" * 64)).symlink_to("/etc/passwd")
    (rev / "trick").symlink_to(f"../../blobs/{'b' * 64}")
    assert set(refusals(rev)) == {"notes", "deep", "other", "trick"}


def test_a_folder_that_only_looks_like_a_snapshot_does_not_reach_out(tmp_path: Path) -> None:
    write(tmp_path / "blobs" / BLOB)
    rev = tmp_path / "snapshots" / "rev"
    rev.mkdir(parents=True)
    (rev / "m").symlink_to(f"../../blobs/{BLOB}")
    assert "outside the folder" in refusals(rev)["m"]


def test_special_files_are_named_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        (tmp_path / "null").symlink_to("/dev/null")
        assert refusals(tmp_path) == {
            "pipe": "a named pipe",
            "socket": "a socket",
            "null": "a link to /dev/null, outside the folder",
        }
    with pytest.raises(InvalidInput, match="a device"):
        find_source(Path("/dev/null"))


def test_odd_names_are_refused_and_shown_printably(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))).write_text("x")
    write(tmp_path / "back\\slash")
    write(tmp_path / "line\nbreak")
    write(tmp_path / "Straße")
    write(tmp_path / "STRASSE")
    assert refusals(tmp_path) == {
        "'\\udcff'": "its name is not UTF-8",
        "back\\slash": "its name has a backslash or a control character",
        "'line\\nbreak'": "its name has a backslash or a control character",
        "Straße": "it is the same name as `STRASSE` where case or Unicode form do not count",
    }


def test_only_ten_offenders_are_shown_and_all_are_in_the_fields(tmp_path: Path) -> None:
    for index in range(13):
        (tmp_path / f"link{index:02}").symlink_to("nowhere")
    with pytest.raises(InvalidInput) as refused:
        find_source(tmp_path)
    assert "link09" in refused.value.message
    assert "link10" not in refused.value.message
    assert "… and 3 more" in refused.value.message
    assert len(refused.value.fields["offenders"]) == 13  # type: ignore[arg-type]


def test_ignore_rules_defaults_and_optimizer_states(tmp_path: Path) -> None:
    for name in (".git/config", "pkg/__pycache__/m.pyc", ".DS_Store", "a.part", "model.bin", "logs/l", "keep.part",
                 "optimizer.pt", "sub/rng_state_0.pth", "global_step10/x", "model.optimized.onnx"):  # fmt: skip
        write(tmp_path / name)
    write(tmp_path / ".skyholdignore", "logs/\n!keep.part\n")
    everything = ["global_step10/x", "keep.part", "model.bin", "model.optimized.onnx", "optimizer.pt",
                  "sub/rng_state_0.pth"]  # fmt: skip
    assert paths(tmp_path) == everything
    assert paths(tmp_path, without_optimizer=True) == ["keep.part", "model.bin", "model.optimized.onnx"]
    assert ".git/" in find_source(tmp_path).ignored


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device", "large", "folder", "no text"])
def test_what_is_no_small_ignore_file_is_refused_and_blocks_no_push(kind: str, tmp_path: Path) -> None:
    folder, ignore, pipe = tmp_path / "model", tmp_path / "model" / ".skyholdignore", tmp_path / "pipe"
    write(folder / "model.bin")
    if kind == "pipe":
        os.mkfifo(ignore)
    elif kind == "link to a pipe":
        os.mkfifo(pipe)
        ignore.symlink_to(pipe)
    elif kind == "device":
        ignore.symlink_to("/dev/zero")
    elif kind == "large":
        ignore.touch()
        os.truncate(ignore, 1 << 40)
    elif kind == "folder":
        ignore.mkdir()
    else:
        ignore.write_bytes(b"\xff")
    with pytest.raises((InvalidInput, PermissionDenied)) as refused:
        find_source(folder)
    assert refused.value.code == ("source_unreadable" if kind == "folder" else "invalid_ignore_file")
    assert str(ignore) in refused.value.message


def test_an_ignored_offender_is_none(tmp_path: Path) -> None:
    write(tmp_path / "model")
    (tmp_path / "latest").symlink_to("/etc")
    write(tmp_path / ".skyholdignore", "latest\n")
    assert paths(tmp_path) == ["model"]


def test_missing_and_empty_sources_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        find_source(tmp_path / "no")
    write(tmp_path / ".git" / "config")
    with pytest.raises(InvalidInput, match=r"rules leave out 1 entries"):
        find_source(tmp_path)


@pytest.mark.parametrize("change", ["append", "replace", "touch"])
def test_a_file_that_changes_is_found_out(tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "m", "before")
    (file,) = find_source(tmp_path).files
    opened = file.open()
    try:
        opened.check_unchanged()
        if change == "append":
            with path.open("a") as stream:
                stream.write("!")
        elif change == "touch":
            os.utime(path, ns=(1, 1))
        else:
            path.unlink()
            write(path, "after!")
        with pytest.raises(Conflict) as changed:
            opened.check_unchanged()
        assert changed.value.code == "source_changed"
    finally:
        opened.close()
    with pytest.raises(Conflict):
        file.open()


def test_a_file_that_became_a_link_or_a_pipe_is_not_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "m")
    (file,) = find_source(tmp_path).files
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(Conflict):
        file.open()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(Conflict):
        file.open()


@pytest.mark.parametrize("path", ["", "/a", "a//b", "a/", ".", "a/../b", "a\0", "a\x85", "x" * 256, "ab/" * 400 + "a"])
def test_bad_paths_have_a_fault(path: str) -> None:
    assert path_fault(path) is not None


def test_paths_collide_by_case_form_and_folder() -> None:
    assert [path for path, _ in colliding_paths(["é", "é", "a/b", "A", "c", "c/d/e", "ok"])] == ["é", "a/b", "c/d/e"]
    assert [path for path, _ in colliding_paths(["x", "x"])] == ["x"]
