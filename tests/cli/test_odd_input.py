"""Odd models and requests through the command line: what can be kept comes back byte for byte, the rest is named."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.models import contents, write_model
from tests.cli.running import Shell

ODD_NAMES = [
    "weights ü 模型 🤖.bin", "-rf", "--json", "a'b\"c$(id)`id`;&|.bin", "%41.bin", ".hidden", "CON", "name.",
    " spaces ", "x" * 200,
]  # fmt: skip


@pytest.fixture
def shell(skyhold: Shell) -> Shell:
    """With a store of three folders."""
    skyhold("init", "a", "b", "c")
    return skyhold


def unchanged(shell: Shell) -> bool:
    """Whether the store has nothing but the repository that a push makes first, if that."""
    return all("versions" not in key and "packs" not in key for name in "abc" for key in contents(Path(name)))


def test_odd_names_and_empty_files_come_back_byte_for_byte(shell: Shell) -> None:
    model = Path("model")
    (model / "empty folder").mkdir(parents=True)
    (model / "deep" / "er" / "still").mkdir(parents=True)
    for number, name in enumerate(ODD_NAMES):
        (model / name).write_bytes(bytes([number]) * number)
    (model / "deep" / "er" / "still" / "none.bin").touch()
    shell("push", "team/odd", "model", "-m", "Ünïcode \u202e \u0007 and more")
    shell("pull", "team/odd", "pulled")
    assert contents(Path("pulled")) == contents(model)
    shown = shell("show", "team/odd")
    assert "\x07" not in shown.out  # a message from elsewhere cannot work the terminal
    assert "\u202e" not in shown.out


def test_model_of_one_empty_file_comes_back(shell: Shell) -> None:
    Path("nothing.bin").touch()
    shell("push", "team/nothing", "nothing.bin")
    shell("pull", "team/nothing", "pulled")
    assert contents(Path("pulled")) == {"nothing.bin": b""}
    shell("verify", "--deep")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket is short
        listener.bind(path.name)
        os.chdir(here)


@pytest.mark.parametrize(
    "make",
    [
        make_socket,
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to("odd"),
        lambda path: path.symlink_to("../../secret"),
        lambda path: path.symlink_to("/etc"),
        lambda path: path.with_name("back\\slash").touch() or path.touch(),
        lambda path: path.with_name("new\nline").touch() or path.touch(),
        lambda path: path.with_name("ODD").touch() or path.touch(),
    ],
    ids=["socket", "broken link", "link to itself", "link out by ..", "link to a folder outside", "backslash",
         "control character", "names that differ by case only"],
)  # fmt: skip
def test_model_with_an_entry_that_cannot_be_kept_is_refused_whole(shell: Shell, make: Callable[[Path], object]) -> None:
    Path("secret").write_text("not to be pushed")
    model = write_model(Path("model"), rows=64)
    make(model / "odd")
    refused = shell("push", "team/odd", "model", status=2)
    assert refused.err.startswith("error: ")
    assert "Traceback" not in refused.err
    assert any(name in refused.err.casefold() for name in ("odd", "slash", "line"))
    assert unchanged(shell)
    for path in model.iterdir():
        if path.name in {"odd", "ODD", "back\\slash", "new\nline"}:
            path.unlink()
    shell("push", "team/odd", "model")


@pytest.mark.parametrize(
    "name", ["../team/model", "team/..", "team/a/b", "team", "/team/model", "Team/ü", "team/a b", ""]
)
def test_name_of_a_repository_that_is_none_is_refused(shell: Shell, name: str) -> None:
    write_model(Path("model"), rows=64)
    assert shell("push", "--", name, "model", status=2).err.startswith("error: ")
    assert unchanged(shell)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("store = ", "TOML"),
        ("stoer = 'a'", "store"),
        ("store = 3", "store"),
        ("push = { memory = 'lots' }", "push.memory"),
        ("[buckets.a]\nsecret = 'x'", "buckets.a.secret"),
        ("\x00", "TOML"),
    ],
)
def test_broken_configuration_is_named_and_mended_by_hand(shell: Shell, text: str, named: str) -> None:
    Path("skyhold.toml").write_text(text)
    shown = shell("list", status=2).err
    assert "skyhold.toml" in shown
    assert named in shown
    Path("skyhold.toml").write_text(f"store = {json.dumps(str(Path('a').absolute()))}\n")
    shell("list")


def test_target_that_is_a_file_or_a_link_is_refused_and_left_alone(shell: Shell) -> None:
    shell("push", "team/model", write_model(Path("model"), rows=64))
    Path("file").write_text("mine")
    assert shell("pull", "team/model", "file", status=2).err.startswith("error: ")
    assert Path("file").read_text() == "mine"
    Path("target").mkdir()
    Path("elsewhere").write_text("mine")
    Path("target/config.json").symlink_to("../elsewhere")
    assert "config.json" in shell("pull", "team/model", "target", status=2).err
    assert Path("elsewhere").read_text() == "mine"
    Path("target/config.json").unlink()
    shell("pull", "team/model", "target")
    assert contents(Path("target")) == contents(Path("model"))
