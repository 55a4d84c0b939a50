"""Files that are not part of a model: files that control other programs, Skyhold's own files, and edited files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from skyhold.security.keys import KeyFile
from skyhold.storage.parts import PARTS
from tests.cli.running import PROGRAM, Shell

STEERING = [
    ".git/config", "sub/.GIT/hooks/pre-commit", "git~1/config", ".g\u200cit/config", ".git /config", "skyhold.toml",
    "Skyhold.TOML.", ".env", ".env.local", ".envrc", ".netrc", ".ssh/config", ".pypirc", ".aws/credentials",
    ".config/gcloud/x", ".azure/x", ".kube/config", ".docker/config.json", ".npmrc", ".bashrc", ".vscode/tasks.json",
    ".idea/x", ".hg/hgrc", "sitecustomize.py", ".gitmodules", ".skyhold/x",
]  # fmt: skip
HARMLESS = [".gitattributes", ".gitignore", "config.json", "environment.env", "model.pth", "git~", "a.git/x", "envrc"]


@pytest.fixture
def shell(skyhold: Shell) -> Shell:
    skyhold("init", "one", "two", "three")
    return skyhold


def write(root: str, *paths: str) -> Path:
    for path in paths:
        file = Path(root, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
    return Path(root)


def tree(root: str) -> set[str]:
    return {path.relative_to(root).as_posix() for path in Path(root).rglob("*") if path.is_file()}


def test_push_leaves_out_names_that_steer_other_programs_and_names_them(shell: Shell) -> None:
    write("model", *STEERING, *HARMLESS)
    assert ".netrc (credentials)" in shell("push", "team/m", "model", "--dry-run").out
    pushed = shell("push", "team/m", "model", "--json").document
    assert pushed["ignored"] == [".git/"]
    assert set(pushed["left_out"]) >= {".env", "git~1/", "sub/.GIT/", "skyhold.toml", ".ssh/", "Skyhold.TOML."}
    shell("pull", "team/m", "out")
    assert tree("out") == set(HARMLESS)
    assert ".netrc (credentials)" in shell("push", "team/m", "model").out  # where nothing else has changed


def test_pull_writes_names_that_steer_other_programs_only_where_they_are_allowed(shell: Shell) -> None:
    Path("model").mkdir()
    steering = set(STEERING) - {".git/config"}
    write("model", *steering, *HARMLESS)
    shell("push", "team/m", "model", "--allow-unsafe-names")
    planned = shell("pull", "team/m", "out", "--dry-run", "--json", status=6)
    assert not Path("out").exists()
    refused = shell("pull", "team/m", "out", "--json", status=6)
    assert set(refused.document["left_out"]) == set(planned.document["left_out"]) == steering
    assert refused.error["code"] == "unsafe_names"
    assert tree("out") == set(HARMLESS)
    named = shell("pull", "team/m", "out", "--include", "skyhold.toml", status=6)
    assert "skyhold.toml (settings of Skyhold)" in named.out
    shell("pull", "team/m", "out", "--include", "config.json")
    shell("pull", "team/m", "out", "--allow-unsafe-names")
    assert tree("out") == steering | set(HARMLESS)


def test_a_git_worktree_is_pushed_without_its_git_file(shell: Shell) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q", "repo"], check=True)
    subprocess.run([*git, "-C", "repo", "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    subprocess.run([*git, "-C", "repo", "worktree", "add", "-q", "../tree"], check=True)
    assert Path("tree/.git").is_file()
    write("tree", "w.bin")
    assert shell("push", "team/m", "tree", "--json").document["ignored"] == [".git"]
    shell("pull", "team/m", "out")
    assert tree("out") == {"w.bin"}


def test_what_is_skyholds_own_is_left_out_whatever_is_allowed(
    shell: Shell, own_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("model", "w.bin")
    shutil.copytree("one", "model/copy-of-a-bucket")
    shutil.rmtree("model/copy-of-a-bucket/.skyhold")
    shutil.move("two", "model/two")
    KeyFile.generate(Path("model/team.txt"))
    Path("model/link").symlink_to("team.txt")
    monkeypatch.setenv("SKYHOLD_CACHE", str(own_machine / "model" / "cache"))
    Path("model/cache").mkdir()
    write("model", "cache/x")
    write("model", f"{PARTS}/x")
    pushed = shell("push", "team/m", "model", "--allow-unsafe-names", "--json").document
    assert pushed["left_out"] == {
        ".skyhold-part/": "what a pull has under way, or has left",
        "cache/": "a folder of Skyhold's own",
        "copy-of-a-bucket/": "a bucket of a store",
        "link": "a key file",
        "team.txt": "a key file",
        "two/": "a bucket of a store",
    }
    shell("pull", "team/m", "out")
    assert tree("out") == {"w.bin"}


def test_state_of_another_machine_is_left_out_and_not_pushed(shell: Shell, own_machine: Path) -> None:
    write("model", "w.bin")
    state = Path(os.environ["SKYHOLD_STATE"])
    shutil.copytree(state, "model/old-laptop")
    (of_one_store,) = (state / "stores").iterdir()
    shutil.copytree(of_one_store, "model/of-one-store")
    write("model", "machine/stores/x", "stores/y")
    pushed = shell("push", "team/m", "model", "--allow-unsafe-names", "--json").document
    assert pushed["left_out"] == dict.fromkeys(["of-one-store/", "old-laptop/"], "a state folder of Skyhold")
    shell("pull", "team/m", "out")
    assert tree("out") == {"w.bin", "machine/stores/x", "stores/y"}
    for folder in ("model/old-laptop", "model/of-one-store"):
        assert shell("push", "team/m", folder, "--json", status=2).error["code"] == "source_is_state"


@pytest.mark.parametrize("padding", ["", " " * (2 << 20)])
@pytest.mark.parametrize("path", ["store.json", "deep/store.json", "Store.JSON"])
def test_version_cannot_make_a_folder_look_like_a_bucket(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, path: str, padding: str
) -> None:
    write("model", "w.bin", path, "packs/x", "kept/store.json")
    (Path("model") / path).write_text(Path("one/store.json").read_text() + padding)
    assert shell("push", "team/one", f"model/{path}", "--json", status=2).error["code"] == "source_empty"
    with monkeypatch.context() as by_another_client:
        by_another_client.setattr("skyhold.storage.own_places.is_store_document", lambda _: False)
        shell("push", "team/m", "model")
    expected = {"w.bin", "packs/x", "kept/store.json"}
    for dry in (["--dry-run"], []):
        refused = shell("pull", "team/m", "out", *dry, "--json", status=6)
        assert refused.document["left_out"].keys() == {path}
    assert tree("out") == expected
    shell("pull", "team/m", "out", status=6)
    shell("push", "team/m", "out")
    shell("pull", "team/m", "out")
    shell("pull", "team/m@main~1", "elsewhere", "--allow-unsafe-names")
    assert tree("elsewhere") == expected | {path}


@pytest.mark.parametrize("folder", ["one", "one/packs", "one/new/deeper"])
def test_a_bucket_is_neither_pushed_nor_pulled_into(shell: Shell, folder: str) -> None:
    shell("push", "team/m", write("model", "w.bin"))
    before = tree("one")
    for dry in ([], ["--dry-run"]):
        assert "bucket of a store" in shell("pull", "team/m", folder, *dry, status=2).err
    assert (
        "bucket of a store" in shell("pull", "team/m", folder, "--tensor", "*", status=3).err or tree("one") == before
    )
    assert tree("one") == before
    assert "bucket of a store" in shell("push", "team/m", "one", status=2).err


def test_a_bucket_below_the_target_is_not_pulled_into(shell: Shell) -> None:
    shell("push", "team/m", write("model", "one/packs/x"))
    before = tree("one")
    refused = shell("pull", "team/m", ".", "--json", status=2)
    assert refused.error["code"] == "target_is_bucket"
    assert tree("one") == before


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["pull", "dry run"])
@pytest.mark.parametrize(
    "place",
    [
        lambda: Path("out/sub/w.bin").mkdir(parents=True),
        lambda: write("out", "sub"),
        lambda: Path("out").write_text("a file"),
        lambda: Path("out").mkdir() or Path("out/sub").symlink_to("../elsewhere"),
    ],
    ids=["folder for file", "file for folder", "file for the target", "link for folder"],
)
def test_what_is_in_the_way_is_refused_before_anything_is_fetched(
    shell: Shell, place: Callable[[], object], dry: list[str]
) -> None:
    write("model", "a.bin", "sub/w.bin")
    Path("elsewhere").mkdir()
    shell("push", "team/m", "model")
    place()
    before = tree(".")
    refused = shell("pull", "team/m", "out", "--json", *dry, status=2)
    assert refused.error["code"] in {"target_special", "target_is_link"}
    assert refused.out == ""
    assert {path for path in tree(".") if path.startswith(("out", "elsewhere"))} == {
        path for path in before if path.startswith(("out", "elsewhere"))
    }


@pytest.mark.parametrize("edited", ["w.bIN", "longer than before"])
def test_pull_does_not_replace_what_the_user_has_edited(shell: Shell, edited: str) -> None:
    shell("push", "team/m", write("model", "w.bin", "x.bin"))
    shell("pull", "team/m", "out")
    Path("model/x.bin").write_text("second")
    shell("push", "team/m", "model")
    Path("out/w.bin").write_text(edited[:5] if len(edited) < 8 else edited)
    Path("out/w.bin").chmod(0o600)
    before = Path("out/w.bin").read_text()
    for dry in ([], ["--dry-run"]):
        refused = shell("pull", "team/m", "out", "--json", *dry, status=5)
        assert (refused.error["code"], refused.error["fields"]["paths"]) == ("target_edited", ["w.bin"])
        assert (Path("out/w.bin").read_text(), Path("out/x.bin").read_text()) == (before, "x.bin")
    shell("pull", "team/m", "out", "--include", "x.bin")
    shell("pull", "team/m", "out", "--force", "--dry-run")
    shell("pull", "team/m", "out", "--force")
    assert Path("out/w.bin").read_text() == "w.bin"
    assert Path("out/w.bin").stat().st_mode & 0o777 == 0o600


def test_an_unedited_folder_goes_from_version_to_version_on_any_machine(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        Path("model").mkdir(exist_ok=True)
        Path("model/w.bin").write_text(f"version {number} {'x' * number}")
        shell("push", "team/m", "model", "--tag", f"n{number}")
    shell("rollback", "team/m@main", "--to", "n1")
    shell("pull", "team/m@n0", "out")
    Path("out/w.bin").chmod(0o640)
    for reference in ("main", "n3", "main~1", "n2", "n2"):
        monkeypatch.setenv("SKYHOLD_STATE", str(tmp_path / f"other-{reference}"))  # which has no state of the folder
        shell("connect", "one")
        shell("pull", f"team/m@{reference}", "out")
    assert Path("out/w.bin").read_text() == "version 2 xx"
    assert Path("out/w.bin").stat().st_mode & 0o777 == 0o640
    shell("pull", "team/m@n1", "model")  # the folder that was pushed


def test_a_file_of_another_repository_is_not_replaced(shell: Shell) -> None:
    shell("push", "team/a", write("a", "w.bin"))
    write("b", "w.bin").joinpath("w.bin").write_text("of b")
    shell("push", "team/b", "b")
    shell("pull", "team/a", "out")
    shell("pull", "team/b", "out", status=5)
    assert Path("out/w.bin").read_text() == "w.bin"


def test_a_file_of_tensors_is_replaced_only_as_a_pull_wrote_it(shell: Shell) -> None:
    Path("model").mkdir()
    save_file({"a": np.arange(4.0), "b": np.ones(3)}, "model/m.safetensors")
    shell("push", "team/m", "model")
    assert "bucket of a store" in shell("pull", "team/m", "one", "--tensor", "a", status=2).err
    shell("pull", "team/m", "out", "--tensor", "a")
    shell("pull", "team/m", "out", "--tensor", "*")
    written = Path("out/tensors.safetensors")
    assert set(load_file(written)) == {"a", "b"}
    for edit in (lambda body: body[:-1] + b"\x01", lambda body: body + b"x", lambda body: b"mine"):
        body = written.read_bytes()
        written.write_bytes(edit(body))
        for dry in ([], ["--dry-run"]):
            refused = shell("pull", "team/m", "out", "--tensor", "a", "--json", *dry, status=5)
            assert refused.error["code"] == "target_edited"
        written.write_bytes(body)
    written.write_bytes(b"mine")
    shell("pull", "team/m", "out", "--tensor", "a", "--force")
    assert set(load_file(written)) == {"a"}


def test_an_ignore_file_may_begin_with_a_byte_order_mark(shell: Shell) -> None:
    write("model", "id.key", "w.bin")
    Path("model/.skyholdignore").write_bytes(b"\xef\xbb\xbf*.key\n")
    assert "id.key" in shell("push", "team/m", "model", "--json").document["ignored"]


def test_names_are_utf_8_in_any_locale(shell: Shell, own_machine: Path) -> None:
    """Under ISO-8859-1 Python takes the bytes of a name for two letters."""
    locales = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=True).stdout.split()
    latin = next((name for name in locales if name.lower().endswith(("iso88591", "iso885915"))), None)
    if latin is None:
        compiled = own_machine.parent / "locales"
        compiled.mkdir()
        made = shutil.which("localedef") and subprocess.run(
            ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(compiled / "en_US")], capture_output=True, check=False
        )
        if not made or not (compiled / "en_US").exists():
            pytest.skip("no locale of ISO-8859-1, and localedef makes none")
        environment = os.environ | {"LOCPATH": str(compiled), "LC_ALL": "en_US"}
    else:
        environment = os.environ | {"LC_ALL": latin}
    environment["PYTHONUTF8"] = "0"
    probe = [sys.executable, "-c", "import sys; print(sys.getfilesystemencoding())"]
    assert "8859" in subprocess.run(probe, env=environment, capture_output=True, text=True, check=True).stdout
    write("model", "é", "sub-ü/ñ")
    subprocess.run([*PROGRAM, "push", "team/m", "model"], env=environment, check=True, capture_output=True)
    files = [file["path"] for file in shell("show", "team/m", "--json").document["files"]]
    assert files == ["sub-ü/ñ", "é"]
    subprocess.run([*PROGRAM, "pull", "team/m", "out"], env=environment, check=True, capture_output=True)
    assert tree("out") == {"é", "sub-ü/ñ"}
    again = subprocess.run(
        [*PROGRAM, "pull", "team/m", "out", "--json"], env=environment, check=True, capture_output=True
    )
    assert json.loads(again.stdout)["fetched_bytes"] == 0
