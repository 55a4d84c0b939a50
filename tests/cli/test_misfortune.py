"""What a user sees when something is wrong: input, keys, clouds, machines."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from skyhold import open as open_store
from skyhold.buckets.location import parse_location
from skyhold.cli.verbs.bucket_list import _show
from skyhold.storage.canonical import canonical
from skyhold.store.configuration import ConfiguredBucket
from tests.cli.models import contents, write_model
from tests.cli.running import PROGRAM, Shell, run_on_terminal
from tests.endtoend.tampering import change_event


@pytest.fixture
def engine() -> str:
    """Where the refs of `store` live; a test of another engine parametrizes it."""
    return "buckets"


@pytest.fixture
def store(skyhold: Shell, own_machine: Path, engine: str) -> list[Path]:
    """A store of three folders, the only one that this machine knows."""
    clouds = [own_machine.parent / "clouds" / name for name in "abc"]
    skyhold("init", *clouds, "--engine", engine)
    return clouds


on_its_machine = pytest.mark.parametrize("engine", ["sqlite"])


@pytest.fixture
def pushed(skyhold: Shell, store: list[Path]) -> str:
    """Id of the one version of `fraud/scorer`, as in the folder `model`."""
    write_model(Path("model"))
    return skyhold("push", "fraud/scorer", "model", "-m", "First", "--alias", "champion", "--quiet").out.strip()


def damage(bucket: Path) -> Path:
    """Flip a byte in the middle of the largest pack of a bucket."""
    pack = max((bucket / "packs").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    body = bytearray(pack.read_bytes())
    body[len(body) // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(body)
    return pack


def test_command_without_a_store_reports_how_to_name_one(skyhold: Shell) -> None:
    run = skyhold("list", status=2)
    assert "No store is named" in run.err
    assert "skyhold init" in run.err


def test_command_on_a_machine_with_two_stores_lists_them(skyhold: Shell, store: list[Path], own_machine: Path) -> None:
    skyhold("list")
    skyhold("init", "other")
    run = skyhold("list", status=2)
    assert "this machine knows 2" in run.err
    assert (own_machine / "other").as_uri() in run.err
    skyhold("list", "--store", "other")
    skyhold("--store", store[1], "list")


@pytest.mark.parametrize("kind", ["missing", "empty folder", "pipe", "link outside", "name that is not UTF-8"])
def test_what_cannot_be_pushed_is_named_and_nothing_is_stored(
    kind: str, skyhold: Shell, store: list[Path], own_machine: Path
) -> None:
    folder = own_machine / "model"
    if kind != "missing":
        folder.mkdir()
    if kind == "pipe":
        os.mkfifo(folder / "odd")
    elif kind == "link outside":
        (folder / "odd").symlink_to("/etc/hostname")
    elif kind == "name that is not UTF-8":
        Path(os.fsdecode(bytes(folder) + b"/odd\xff")).write_text("x")
    run = skyhold("push", "fraud/scorer", folder, status=3 if kind == "missing" else 2)
    assert run.err.startswith("error: ")
    assert "model" in run.err if kind in {"missing", "empty folder"} else "odd" in run.err
    stored = {key for cloud in store for key in contents(cloud)}
    assert not [key for key in stored if key.startswith(("packs/", "versions/"))]


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        (["log", "fraud/nothing"], 3, "fraud/nothing"),
        (["log", "fraud/scorer@nothing"], 3, "nothing"),
        (["show", "fraud/scorer@main~5"], 3, "main~5"),
        (["pull", "fraud/scorer", "out", "--include", "*.onnx"], 3, "*.onnx"),
        (["pull", "fraud/scorer", "out", "--tensor", "nothing"], 3, "nothing"),
        (["push", "scorer", "model"], 2, "scorer"),
        (["push", "fraud/scorer", "model", "--base", "meta/llama@v3"], 3, "meta/llama"),
        (["push", "fraud/scorer", "model", "--tag", "a b"], 2, "a b"),
        (["rollback", "fraud/scorer"], 2, "fraud/scorer@REF"),
        (["rollback", "fraud/scorer@champion"], 2, "champion"),
        (["ref", "set", "fraud/scorer", "champion=main"], 2, "champion"),
        (["ref", "set", "fraud/scorer", "alias/champion"], 2, "alias/champion"),
        (["ref", "delete", "fraud/scorer", "alias/nothing", "--yes"], 3, "nothing"),
        (["attach", "fraud/scorer@main"], 2, "--metric"),
        (["repository", "delete", "fraud/nothing", "--yes"], 3, "fraud/nothing"),
        (["repository", "undelete", "fraud/scorer"], 3, "fraud/scorer"),
        (["bucket", "check", "nothing"], 3, "nothing"),
        (["bucket", "remove", "nothing", "--yes"], 3, "nothing"),
        (["bucket", "check", "a", "--policy", "writer"], 2, "`a`"),
        (["search", "colour:red"], 2, "colour"),
        (["connect", "nowhere"], 3, "nowhere"),
        (["init", "x", "y", "--name", "one"], 2, "names"),
        (["init", "x", "--copies", "2"], 2, "2 copies"),
        (["init", "x", "--encrypt"], 2, "--key-file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistake_is_named_with_its_exit_status(
    arguments: list[str], status: int, named: str, skyhold: Shell, pushed: str
) -> None:
    run = skyhold(*arguments, status=status)
    assert run.out == ""
    assert run.err.startswith("error: ")
    assert named in run.err
    assert "Traceback" not in run.err
    assert skyhold(*arguments, "--json", status=status).error["message"]


UNKNOWN_USER = "~no-such-user/file"


@pytest.mark.parametrize(
    ("variables", "arguments", "setting"),
    [
        ({"SKYHOLD_STATE": UNKNOWN_USER}, ["list"], "SKYHOLD_STATE"),
        ({"SKYHOLD_CACHE": UNKNOWN_USER}, ["list"], "SKYHOLD_CACHE"),
        ({"SKYHOLD_KEY_FILE": UNKNOWN_USER}, ["list"], "SKYHOLD_KEY_FILE"),
        ({"SKYHOLD_CONFIG": UNKNOWN_USER}, ["list"], "SKYHOLD_CONFIG"),
        ({}, ["list", "--config", "own.toml"], "own.toml, `key_file`"),
        ({}, ["init", "x", "--key-file", UNKNOWN_USER], "--key-file"),
        ({}, ["init", UNKNOWN_USER], "Bucket URL"),
        ({}, ["init", f"s3://models?region=eu&ca_file={UNKNOWN_USER}"], "ca_file"),
        ({}, ["init", f"s3://models?region=eu&credentials=file:{UNKNOWN_USER}"], "Credentials file of bucket `models`"),
        ({"AWS_CONFIG_FILE": UNKNOWN_USER}, ["init", "s3://models?credentials=profile:x"], "AWS_CONFIG_FILE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_home_of_an_unknown_user_is_refused_naming_the_setting(
    variables: dict[str, str],
    arguments: list[str],
    setting: str,
    skyhold: Shell,
    own_machine: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (own_machine / "own.toml").write_text(f"key_file = {json.dumps(UNKNOWN_USER)}\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    error = skyhold(*arguments, "--json", status=2).error
    assert (error["class"], error["code"]) == ("InvalidInput", "unknown_home")
    assert setting in error["message"]
    assert "`~no-such-user`" in error["message"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_store_where_no_folder_can_be_made_is_refused(skyhold: Shell) -> None:
    run = skyhold("init", "/proc/nope", status=6)
    assert "Folder /proc/nope cannot be made: its file system takes no new folders" in run.err
    assert "hint: Name a folder" in run.err


def test_sealed_store_needs_its_key(
    skyhold: Shell, own_machine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = skyhold("init", "a", "b", "c", "--key-file", "team.key")
    assert f"Keep a copy of the new key file {own_machine / 'team.key'}" in made.err
    assert "SKYHOLD_KEY_FILE" in skyhold("list", status=6).err
    monkeypatch.setenv("SKYHOLD_KEY_FILE", "team.key")
    skyhold("push", "fraud/scorer", write_model(Path("model")))
    skyhold("pull", "fraud/scorer", "restored")
    assert contents(Path("restored")) == contents(Path("model"))
    assert all(b"Scores fraud" not in body for body in contents(own_machine / "a").values())
    monkeypatch.setenv("SKYHOLD_KEY_FILE", "gone.key")
    assert "gone.key does not exist" in skyhold("list", status=3).err
    skyhold("init", "other", "--key-file", "other.key")
    monkeypatch.setenv("SKYHOLD_KEY_FILE", "other.key")
    skyhold("list", "--store", "a", status=6)


def test_passphrase_is_asked_for_twice_and_not_shown(
    skyhold: Shell, own_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run_on_terminal(
        "init", "a", "--passphrase", answers=[("Passphrase:", "correct horse"), ("confirmation:", "correct horse")]
    )
    assert made.status == 0, made.out
    assert "correct" not in made.out
    skyhold("list", status=6)
    asked = run_on_terminal("list", answers=[("Passphrase of the store:", "correct horse")])
    assert asked.status == 0, asked.out
    assert run_on_terminal("list", answers=[("Passphrase of the store:", "wrong")]).status == 6
    monkeypatch.setenv("SKYHOLD_PASSPHRASE", "wrong")
    assert "does not open with the passphrase" in skyhold("list", status=6).err
    monkeypatch.setenv("SKYHOLD_PASSPHRASE", "correct horse")
    skyhold("list")


def test_passphrase_that_cannot_be_asked_for_is_an_error(skyhold: Shell) -> None:
    assert "SKYHOLD_PASSPHRASE" in skyhold("init", "a", "--passphrase", status=2).err


def test_destructive_command_asks_on_a_terminal(skyhold: Shell, pushed: str) -> None:
    refused = run_on_terminal("repository", "delete", "fraud/scorer", answers=[("[y/N]", "n")])
    assert refused.status == 2
    assert "Not confirmed; nothing was changed" in refused.out
    assert skyhold("list", "--quiet").out.split() == ["fraud/scorer"]
    assert run_on_terminal("repository", "delete", "fraud/scorer", answers=[("[y/N]", "y")]).status == 0
    assert skyhold("list", "--quiet").out == ""


def test_damage_is_found_named_and_repaired(skyhold: Shell, pushed: str, store: list[Path]) -> None:
    pack = damage(store[1])
    run = skyhold("verify", "--deep", status=10)
    assert f"b       packs/{pack.parent.name}/{pack.name}" in run.out
    assert "hint: skyhold repair" in run.err
    found = skyhold("verify", "--deep", "--json", status=10)
    assert [(finding["bucket"], finding["problem"]) for finding in found.document["findings"]] == [("b", "damaged")]
    assert found.error["class"] == "Corrupt"
    assert "nothing was changed" in skyhold("repair", "--dry-run").out
    assert "Repaired 1 object" in skyhold("repair").out
    assert skyhold("verify", "--deep").out.startswith("sound: ")


def test_deep_verification_reports_restored_versions_and_unknown_objects(
    skyhold: Shell, pushed: str, store: list[Path]
) -> None:
    (store[0] / "notes.txt").write_text("mine")
    (store[0] / "packs" / "esc\x1b[31mape").write_text("mine, too")
    run = skyhold("verify", "--deep")
    wanted = "restored byte for byte, from each on its own: a 1 of 1 version, b 1 of 1 version, c 1 of 1 version"
    assert wanted in run.out
    assert re.search(r"unaccounted +a +notes\.txt +it is not an object of the store", run.out)
    assert "\x1b" not in run.out
    found = skyhold("verify", "--deep", "--json").document
    assert found["restored"] == found["placed"] == {"a": 1, "b": 1, "c": 1}
    assert [(item["key"], item["kind"]) for item in found["unaccounted"]][:1] == [("notes.txt", "unknown")]


def test_deep_verification_reports_that_unneeded_damaged_objects_may_be_deleted(
    skyhold: Shell, pushed: str, store: list[Path]
) -> None:
    left = store[0] / "packs" / "00" / ("00" + "1" * 30)
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"no pack")
    run = skyhold("verify", "--deep")
    assert run.out.startswith("sound: ")
    assert "Damaged and needed by nothing: 1 object. Keep or delete them: no version is lost" in run.out
    assert re.search(r"not needed +a +packs/00/0011", run.out)


def test_lagging_bucket_is_reported_with_the_command_that_brings_it_up_to_date(
    skyhold: Shell, pushed: str, store: list[Path]
) -> None:
    for path in (store[1] / "packs").rglob("*"):
        if path.is_file():
            path.unlink()
    run = skyhold("verify", status=10)
    assert "lagging: bucket b lacks 1 object" in run.out
    assert "error: Missing in b: 1 object that the store has elsewhere\nhint: skyhold sync" in run.err
    assert "b 0 of 1 version," in skyhold("verify", "--deep", status=10).out
    skyhold("sync")
    assert skyhold("verify", "--deep").out.startswith("sound: ")


def test_damaged_copy_of_a_register_is_reported_and_repair_begins_an_epoch(
    skyhold: Shell, pushed: str, store: list[Path]
) -> None:
    (register,) = (store[1] / "registers" / "00000001").glob("repository-*")
    register.write_bytes(b"")
    assert f"damaged  b       registers/00000001/{register.name}" in skyhold("verify", status=10).out
    assert "nothing was changed" in skyhold("repair", "--dry-run").out
    shown = skyhold("repair").out
    assert "Repaired 1 object" in shown
    assert "Began epoch 2" in shown
    assert skyhold("verify", "--deep").out.startswith("sound: ")


def test_emptied_bucket_is_filled_again(skyhold: Shell, pushed: str, store: list[Path]) -> None:
    before = contents(store[2] / "packs")
    shutil.rmtree(store[2])
    run = skyhold("verify", status=8)
    assert run.err.splitlines()[-2:] == [
        "error: Not all buckets could be examined: c",
        "hint: Bring it back. If it is gone for good, take it out of the store: skyhold bucket remove c",
    ]
    for dry_run in ("sync", "repair"):
        assert "next: skyhold status" in skyhold(dry_run, "--dry-run").err
    damaged = damage(store[1])
    assert skyhold("verify", "--deep", status=10).err.splitlines()[-1] == "hint: skyhold repair"
    shutil.copy(store[0] / damaged.relative_to(store[1]), damaged)
    store[2].mkdir()
    assert "Would mend" in skyhold("sync", "--dry-run").out
    assert "was admitted again" in skyhold("sync").out
    assert contents(store[2] / "packs") == before
    assert "Nothing to do" in skyhold("sync").out


@on_its_machine
def test_checkpoint_that_a_bucket_lacked_is_reported_when_it_is_copied_back(
    skyhold: Shell, pushed: str, store: list[Path]
) -> None:
    register = next((store[2] / "checkpoints").iterdir())
    max(register.iterdir()).unlink()
    assert "missing  c       checkpoints/" in skyhold("verify", status=10).out
    assert "Brought over 1 object" in skyhold("sync").out
    assert "Nothing to do" in skyhold("sync").out


@on_its_machine
def test_checkpoint_that_no_bucket_had_is_reported_when_it_is_written_again(
    skyhold: Shell, pushed: str, store: list[Path]
) -> None:
    for cloud in store:
        for register in (cloud / "checkpoints").iterdir():
            max(register.iterdir()).unlink()
    for deep in ([], ["--deep"]):
        shown = skyhold("verify", *deep, status=10)
        assert "No bucket holds the newest checkpoint of fraud/scorer" in shown.out
        assert "`skyhold sync` writes it again" in shown.out
        assert skyhold("verify", *deep, "--json", status=10).document["sound"] is False
    assert "Wrote 3 checkpoints from this machine's registers" in skyhold("sync").out
    assert "Nothing to do" in skyhold("sync").out


def test_bucket_that_was_restored_is_reported_with_the_way_out(
    skyhold: Shell, pushed: str, store: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(store[1], tmp_path / "backup")
    shutil.rmtree(store[1])
    store[1].mkdir()
    skyhold("repair")
    shutil.rmtree(store[1])
    shutil.copytree(tmp_path / "backup", store[1])
    way_out = "Admit it again: `skyhold store voters replace b`. Or take it out: skyhold bucket remove b"
    assert f"hint: bucket b: {way_out}" in skyhold("status").out
    shown = {bucket["name"]: bucket["hint"] for bucket in skyhold("status", "--json").document["buckets"]}
    assert shown == {"a": None, "b": way_out, "c": None}
    assert way_out in skyhold("doctor", status=1).out
    shutil.rmtree(store[1])
    store[1].mkdir()
    assert "was admitted again" in skyhold("repair").out
    assert "hint" not in skyhold("status").out


def test_broken_history_ends_verify_with_the_status_of_damage(skyhold: Shell, pushed: str, store: list[Path]) -> None:
    with open_store(str(store[0])) as opened:
        change_event(opened, "fraud/scorer", 1, reason="as if it had been so")
    shown = "In fraud/scorer: The history of register repository/"
    assert f"damage: {shown}" in skyhold("verify", status=10).out
    found = skyhold("verify", "--json", status=10)
    (sentence,) = found.document["damage"]
    assert sentence.startswith(shown)
    assert "is broken at event 1: " in sentence
    assert (found.document["sound"], found.error["class"]) == (False, "Corrupt")


def test_damage_of_all_copies_is_reported_and_not_returned(skyhold: Shell, pushed: str, store: list[Path]) -> None:
    for bucket in store:
        damage(bucket)
    shutil.rmtree(os.environ["SKYHOLD_CACHE"], ignore_errors=True)
    run = skyhold("pull", "fraud/scorer", "restored", status=10)
    assert run.err.splitlines()[-2].startswith("error: ")
    assert "model.safetensors" not in contents(Path("restored"))
    assert "Not mended:" in skyhold("repair", status=10).out


def test_document_that_every_bucket_has_lost_hides_no_other_version(
    skyhold: Shell, pushed: str, store: list[Path]
) -> None:
    documents = {path.name for path in (store[0] / "versions").rglob("*") if path.is_file()}
    write_model(Path("model"), seed=7)
    newer = skyhold("push", "fraud/scorer", "model", "-m", "Second", "--quiet").out.strip()
    for bucket in store:
        for path in (bucket / "versions").rglob("*"):
            if path.name in documents:
                path.unlink()
    for arguments, named in ((["log", "fraud/scorer"], newer), (["ref", "list", "fraud/scorer"], "branch/main")):
        shown = skyhold(*arguments, status=10)
        assert named[:10] in shown.out
        assert "(lost)" in shown.out
        assert shown.err.count("skyhold repair") == 1
    versions = json.loads(skyhold("log", "fraud/scorer", "--json", status=10).out)["versions"]
    assert [bool(version["unread"]) for version in versions] == [False, True]


def test_lost_majority_is_reported_and_stale_reads_need_an_option(
    skyhold: Shell, pushed: str, store: list[Path]
) -> None:
    skyhold("sync")  # which brings a lagging voter up to date
    for cloud in store[:2]:
        cloud.rename(cloud.with_name(f"{cloud.name} is away"))
    refused = skyhold("log", "fraud/scorer", status=8).err
    assert "needs 2 of its 3 voters" in refused
    assert "`a`" in refused
    assert "`b`" in refused
    assert "--stale" in refused
    read = skyhold("show", "fraud/scorer@champion", "--stale", "--quiet")
    assert read.out.strip() == pushed
    assert "stale: register names as of version 2" in read.err
    assert "a, b did not answer" in read.err
    document = json.loads(skyhold("list", "--stale", "--json").out)
    assert [item["name"] for item in document["repositories"]] == ["fraud/scorer"]
    assert {item["register"] for item in document["stale"]} >= {"config", "names"}
    shown = skyhold("doctor", status=1).out
    assert "1 of 3 voters answer, 2 are needed" in shown
    assert "skyhold doctor" not in shown + skyhold("doctor", status=1).err
    assert "voter a" in shown
    for cloud in store[:2]:
        cloud.with_name(f"{cloud.name} is away").rename(cloud)
    assert skyhold("show", "fraud/scorer@champion", "--stale", "--quiet").err == ""


@pytest.mark.parametrize("engine", ["buckets", "sqlite"])
def test_stale_list_of_a_store_without_repositories_is_empty(skyhold: Shell, store: list[Path], engine: str) -> None:
    run = skyhold("list", "--stale", "--json")
    assert (run.document["repositories"], run.document.get("stale", [])) == ([], [])


@on_its_machine
def test_machine_that_lost_its_state_recovers_from_one_bucket(
    skyhold: Shell, pushed: str, store: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    former = os.environ["SKYHOLD_STATE"]
    monkeypatch.setenv("SKYHOLD_STATE", str(tmp_path / "machine two"))
    refused = skyhold("list", "--store", store[1], status=6)
    assert "skyhold recover" in refused.err
    assert "--yes" in skyhold("recover", store[1], status=2).err
    assert "Recovered store" in skyhold("recover", store[1], "--yes").out
    assert skyhold("show", "fraud/scorer@champion", "--quiet").out.strip() == pushed
    monkeypatch.setenv("SKYHOLD_STATE", former)
    skyhold("push", "fraud/scorer", "model", "-m", "From the former machine", status=6)


def test_recovery_with_a_minority_asks_whether_changes_of_the_others_may_be_lost(
    skyhold: Shell, pushed: str, store: list[Path]
) -> None:
    for cloud in store[1:]:
        shutil.rmtree(cloud)
    asked = skyhold("recover", store[0], "--minority", status=2).err
    assert "Give up the changes that only the missing buckets have" in asked
    assert "machine" not in asked
    assert "Less than a majority answered" in skyhold("recover", store[0], "--minority", "--yes").out
    assert skyhold("show", "fraud/scorer@champion", "--quiet").out.strip() == pushed


def test_interrupted_push_reports_how_to_continue_and_does(
    skyhold: Shell, store: list[Path], own_machine: Path
) -> None:
    Path("model").mkdir()
    Path("model/weights.bin").write_bytes(os.urandom(64 << 20))
    process = subprocess.Popen(
        [*PROGRAM, "push", "fraud/scorer", "model"], stderr=subprocess.PIPE, start_new_session=True
    )
    deadline_s = time.monotonic() + 30
    while not any((store[0] / "packs").rglob("*")) and time.monotonic() < deadline_s:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"running the same command again continues" in err
    assert b"Traceback" not in err
    skyhold("push", "fraud/scorer", "model")  # it sends what is missing: tests/endtoend/test_interrupt.py
    skyhold("pull", "fraud/scorer", "restored")
    assert contents(Path("restored")) == contents(Path("model"))


def test_doctor_names_what_is_wrong(skyhold: Shell, store: list[Path], own_machine: Path) -> None:
    assert "problem" not in skyhold("doctor").out
    shutil.rmtree(store[0])
    run = skyhold("doctor", status=1)
    assert any(line.startswith("problem bucket a: ") for line in run.out.splitlines())
    (own_machine / "skyhold.toml").write_text("stroe = 1")
    broken = skyhold("doctor", "--json", status=1).document
    assert broken["healthy"] is False
    assert any("stroe" in sign["detail"] for sign in broken["signs"] if sign["state"] == "problem")


def test_doctor_prints_no_secret(skyhold: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYHOLD_PASSPHRASE", "hunter2")
    run = skyhold("doctor", "--json", status=1)
    assert "hunter2" not in run.out + run.err
    assert json.loads(run.out)["signs"]


def test_folder_of_a_bucket_that_is_a_link_is_named_as_that(
    skyhold: Shell, pushed: str, store: list[Path], tmp_path: Path
) -> None:
    """Its objects are not missing, and no command can copy them: nothing is written through the link."""
    (store[1] / "packs").rename(tmp_path / "elsewhere")
    (store[1] / "packs").symlink_to(tmp_path / "elsewhere")
    for command in (["verify"], ["verify", "--deep"], ["sync"], ["repair"]):
        run = skyhold(*command, status=8)
        assert "not examined: bucket b (Bucket `b` holds a symbolic link, `packs`" in run.out
        assert "missing" not in run.out
    (store[1] / "packs").unlink()
    (tmp_path / "elsewhere").rename(store[1] / "packs")
    assert skyhold("verify", "--deep").out.startswith("sound: ")


def test_new_machine_is_sent_to_another_bucket_by_one_whose_keys_were_forged(
    skyhold: Shell, pushed: str, store: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrap = {"kind": "passphrase", "kdf": "scrypt", "n": 1 << 17, "r": 8, "p": 1}
    document = json.loads((store[1] / "store.json").read_text())
    document["keys"][0]["wraps"] = [wrap | {"salt": "0" * 32, "nonce": "0" * 24, "sealed": "0" * 96}] * 3000
    (store[1] / "store.json").write_bytes(canonical(document))
    monkeypatch.setenv("SKYHOLD_STATE", str(tmp_path / "new"))
    refused = skyhold("connect", store[1], status=10)
    assert f"store.json of {store[1]} is malformed" in refused.err.replace("file://", "")
    assert "Open the store by another bucket and repair this one" in refused.err
    skyhold("connect", store[0])
    assert "bucket b had lost its store.json and was admitted again" in skyhold("--store", store[0], "repair").out
    monkeypatch.setenv("SKYHOLD_STATE", str(tmp_path / "newer"))
    skyhold("connect", store[1])


def test_damage_of_same_objects_in_all_buckets_is_reported_once(skyhold: Shell, pushed: str, store: list[Path]) -> None:
    for cloud in store:
        for path in (cloud / "layouts").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes() + b"x")
    (layout,) = [path.name for path in (store[0] / "layouts").rglob("*") if path.is_file()]
    for command in (["verify", "--deep"], ["repair"]):
        run = skyhold(*command, status=10)
        rows = [line for line in run.out.splitlines() if line.startswith("damaged")]
        assert len(rows) == 1
        assert "a, b, c" in rows[0]
        assert rows[0].count(layout) == 1
        shown = [line for line in run.out.splitlines() if line.startswith("damage: ")]
        assert [line.count(layout) for line in shown] == [1]
    assert len(skyhold("verify", "--deep", "--json", status=10).document["findings"]) == 3


def test_list_of_buckets_shows_where_each_is(capsys: pytest.CaptureFixture[str]) -> None:
    lab = parse_location("s3://models", name="lab", endpoint="https://minio.lab:9000")
    google = parse_location("gs://models", name="google")
    _show([ConfiguredBucket(lab, "0" * 32), ConfiguredBucket(google, "1" * 32)])
    first, second, third = (row.split() for row in capsys.readouterr().out.splitlines())
    assert first[-2:] == ["endpoint", "credentials"]
    assert (second[-2:], third[-2:]) == (["https://minio.lab:9000", "chain"], ["-", "chain"])
