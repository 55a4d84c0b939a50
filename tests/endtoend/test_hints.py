"""Whatever is damaged: following the hints that the commands print leads to a sound store, or to an error that names
what is lost and no further command."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

import skyhold as api
from skyhold.buckets.folder import FolderBucket
from skyhold.cli.main import main
from skyhold.registry.store import Store
from tests.cli.models import contents, write_model
from tests.cli.running import Shell
from tests.endtoend.machines import CLOUDS, Machine, Scene
from tests.endtoend.stores import catch_up

STEPS_MAX: Final = 10
MENDED_MAX: Final = 3
"""How many commands of a walk may end well: each but one more mends something that is left."""
VERIFY: Final = "skyhold verify --deep"
HARMED, OTHER = "fraud/harmed", "fraud/other"
MODELS: Final = {HARMED: 1, OTHER: 2}
"""The repositories of the store, each with the seed of its model."""


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 0x10
    path.write_bytes(body)


DAMAGES: Final[dict[str, Callable[[Path], None]]] = {"flip": flip, "delete": Path.unlink}
KINDS: Final = {
    "repository": "registers/*/repository-{id}",
    "names": "registers/*/names",
    "config": "registers/*/config",
    "pack": "packs/*/*",
    "document": "versions/*/*",
    "layout": "layouts/*/*",
    "index": "indexes/*/*",
    "store.json": "store.json",
    "checkpoint": "checkpoints/*/*",
}
LOST: Final = {
    "names": "holds anything intact of register names",
    "config": "holds anything intact of register config",
    "document": r"version [0-9a-f]{10} of fraud/(harmed|other): its document",
    "store.json": r"(has its store\.json intact|The store\.json of|There is no store\.json at)",
}
"""What cannot be restored once no bucket has it, with the text of the last error."""


def commands_in(hint: str) -> list[str]:
    """The commands that a hint names: in backticks, or up to its end."""
    bare = re.search(r"(?:^|: )(skyhold [^`]+)$", hint)
    return re.findall(r"`(skyhold [^`]+)`", hint) + ([bare[1]] if bare else [])


@dataclass
class Walk:
    """Follows hints in the store whose third bucket is `url`. `steps` are the commands that were run, and how each of
    them ended."""

    scene: Scene
    capture: pytest.CaptureFixture[str]
    steps: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return str(self.scene.cloud("c"))

    def to_the_end(self) -> str | None:
        """The message and hint of the error that names no command any more; None where the store ends sound."""
        command, tried, done = VERIFY, set[str](), 0
        for _ in range(STEPS_MAX):
            message, hint = self.run(command)
            if not message:
                if command == VERIFY:
                    return None
                command = VERIFY
                tried.clear()  # a repair finds what a push has brought
                done += 1
                assert done <= MENDED_MAX, f"nothing helps: {self.steps}"
                continue
            named = commands_in(hint)
            if not named:
                return f"{message} {hint}"
            command = named[0]
            assert command not in tried, f"in a circle: {self.steps}"
            if command != VERIFY:
                tried.add(command)
        raise AssertionError(f"no end: {self.steps}")

    def run(self, command: str) -> tuple[str, str]:
        """Message and hint of its error; empty where it has none."""
        words = [self._meant(word, command) for word in shlex.split(command)[1:]]
        words += ["--yes"] if words[0] == "recover" else []
        words += [] if words[0] in {"recover", "connect"} else ["--store", self.url]
        self.capture.readouterr()
        status = main([*words, "--json"])
        err = self.capture.readouterr().err
        error = json.loads(err)["error"] if status else {"message": "", "hint": None}
        self.steps.append(f"{command}: {status} {error['message']} ({error['hint']})")
        assert status == 0 or error["hint"], self.steps
        return error["message"], error["hint"] or ""

    def _meant(self, word: str, command: str) -> str:
        seed = next((seed for name, seed in MODELS.items() if name in command), None)
        return {"URL": self.url, "PATH": str(self.scene.place / f"model-{seed}")}.get(word, word)


def fill(store: Store, scene: Scene) -> None:
    for name, seed in MODELS.items():
        model = write_model(scene.place / f"model-{seed}", rows=8, seed=seed)
        store.repository(name, create=True).push(model)


def harm(scene: Scene, kind: str, damage: str, count: int, repository_id: str) -> None:
    for cloud in CLOUDS[:count]:
        found = sorted(scene.cloud(cloud).glob(KINDS[kind].format(id=repository_id)))
        DAMAGES[damage](found[-1])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "checkpoint"])
def test_hints_lead_to_a_sound_store_or_name_what_is_lost(
    kind: str, damage: str, scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    with api.init(scene.clouds()) as store:
        fill(store, scene)
        catch_up(store)
        repository_id = store.repository(HARMED).id
    scene.keep("whole")
    machines = ["machine", "eve"] if kind in {"repository", "names", "store.json"} else ["machine"]
    for count in range(1, len(CLOUDS) + 1):
        ends = []
        for name in machines:
            scene.put_back("whole")
            harm(scene, kind, damage, count, repository_id)
            with Machine(scene.place / name).at_work():
                ends.append(Walk(scene, capfd).to_the_end())
        for end in ends:
            if count == len(CLOUDS) and kind in LOST:
                assert end is not None
                assert re.search(LOST[kind], end), end
            else:
                assert end is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_hints_lead_to_sound_checkpoints(damage: str, scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    with api.init(scene.clouds(), engine="sqlite") as store:
        fill(store, scene)
    scene.keep("whole")
    for count in range(1, len(CLOUDS) + 1):
        scene.put_back("whole")
        harm(scene, "checkpoint", damage, count, "")
        assert Walk(scene, capfd).to_the_end() is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_are_nowhere_any_more_are_named(
    damage: str, scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    with api.init(scene.clouds()) as store:
        model = write_model(scene.place / "model", rows=8)
        pushed = store.repository(HARMED, create=True).push(model)
    for cloud in CLOUDS:
        for path in sorted(scene.cloud(cloud).glob("packs/*/*")):
            DAMAGES[damage](path)
    shell, url = Shell(capfd), ["--store", str(scene.cloud("a"))]
    for command in (["verify", "--deep"], *([["verify"], ["sync"]] if damage == "delete" else []), ["repair"]):
        error = shell(*command, "--json", *url, status=10).error
        assert error["code"] == "objects_lost"
        (loss,) = error["fields"]["losses"]
        assert (loss["repository"], loss["version"]) == (HARMED, pushed.version)
        assert set(loss["files"]) <= {"README.md", "config.json", "model.safetensors"}
        assert loss["files"]
        following = f"skyhold push {HARMED} PATH" if command == ["repair"] else "skyhold repair"
        assert commands_in(error["hint"]) == [following]
        output = shell(*command, *url, status=10).out
        assert f"lost in every bucket: version {pushed.version[:10]} of {HARMED}: " in output
    shell("push", HARMED, model, *url)
    assert shell("verify", "--deep", "--json", *url).document["sound"]


@pytest.mark.parametrize("folder", ["packs", "layouts"])
def test_version_that_no_branch_points_to_is_restored_without_moving_one(
    folder: str, scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    with api.init(scene.clouds()) as store:
        repository = store.repository(HARMED, create=True)
        first = repository.push(write_model(scene.place / "model-1", rows=8, seed=1)).version
        old = {path.relative_to(scene.cloud("a")) for path in scene.cloud("a").glob(f"{folder}/*/*")}
        unlike = scene.place / "model-2"
        unlike.mkdir()
        (unlike / "notes.txt").write_text("with no bytes in common")
        second = repository.push(unlike).version
        catch_up(store)
    for cloud in CLOUDS:
        for path in old:
            flip(scene.cloud(cloud) / path)
    shell, url = Shell(capfd), ["--store", str(scene.cloud("a"))]
    error = shell("repair", "--json", *url, status=10).error
    assert [(loss["version"], loss["branch"]) for loss in error["fields"]["losses"]] == [(first, None)]
    if folder == "layouts":  # which contains where the files are; only that of a branch's version is written again
        assert commands_in(error["hint"]) == []
        return
    assert commands_in(error["hint"]) == [f"skyhold push {HARMED} PATH --branch restored"]
    shell("push", HARMED, scene.place / "model-1", "--branch", "restored", *url)
    assert Walk(scene, capfd).to_the_end() is None
    with api.open(str(scene.cloud("a"))) as store:
        assert store.repository(HARMED).show("main").digest == second
        store.repository(HARMED).pull(first, scene.place / "pulled")
    assert contents(scene.place / "pulled") == contents(scene.place / "model-1")


def test_what_a_bucket_that_is_away_may_hold_is_not_called_lost(
    scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    with api.init(scene.clouds()) as store:
        fill(store, scene)
        catch_up(store)
    harm(scene, "pack", "flip", 2, "")
    scene.keep("whole")
    scene.lose("c")
    shell, url = Shell(capfd), ["--store", str(scene.cloud("a"))]
    for command in (["verify", "--deep"], ["repair"]):
        assert shell(*command, "--json", *url, status=10).document["losses"] == []
    scene.put_back("whole", cloud="c")
    assert Walk(scene, capfd).to_the_end() is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_copy_of_one_register_is_shown_by_status_and_doctor_with_what_mends_it(
    damage: str, scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    with api.init(scene.clouds()) as store:
        fill(store, scene)
        catch_up(store)
        repository_id = store.repository(HARMED).id
    harm(scene, "repository", damage, 1, repository_id)
    shell, url = Shell(capfd), ["--store", str(scene.cloud("b"))]
    key = f"registers/00000001/repository-{repository_id}"
    scene.keep("harmed")
    for name in ("machine", "eve"):
        scene.put_back("harmed")
        with Machine(scene.place / name).at_work():
            shown = shell("status", "--json", *url).document
            (bucket,) = [bucket for bucket in shown["buckets"] if bucket["registers"]]
            assert (bucket["name"], bucket["registers"]) == ("a", [key])
            assert "1 copy of a register damaged or missing" in " ".join(shell("status", *url).out.split())
            seen = shell("doctor", *url, status=1)
            assert key in seen.out
            assert shell("doctor", "--json", *url, status=1).error["hint"] == bucket["hint"]
            shell(*bucket["hint"].split()[1:], *url)
            assert "healthy" in shell("doctor", "--json", *url).document
            shell("verify", "--deep", *url)


def test_voter_that_is_always_slower_is_brought_up_by_sync_and_by_repair(
    scene: Scene, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(call: Callable[..., object]) -> Callable[..., object]:
        def delayed(bucket: FolderBucket, *arguments: object, **options: object) -> object:
            time.sleep(0.15 if bucket.name == "c" else 0)
            return call(bucket, *arguments, **options)

        return delayed

    with api.init(scene.clouds()) as store:
        catch_up(store)
    for name in ("read_tagged", "write_if"):
        monkeypatch.setattr(FolderBucket, name, slowly(getattr(FolderBucket, name)))
    shell, url = Shell(capfd), ["--store", str(scene.cloud("a"))]
    with api.open(url[1]) as store:
        fill(store, scene)
        repository_id = store.repository(HARMED).id
        assert store.verify().lagging.keys() == {"c"}
    shell("sync", *url)
    assert shell("verify", "--json", *url).document["lagging"] == {}
    harm(scene, "repository", "flip", 1, repository_id)
    shell("repair", *url)
    assert shell("verify", "--deep", "--json", *url).document["lagging"] == {}


def test_recovery_asks_about_the_engine_that_the_store_has(scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    with api.init(scene.clouds()) as store:
        catch_up(store)
    shell, url = Shell(capfd), str(scene.cloud("c"))
    assert shell("recover", url, "--json", status=2).error["code"] == "nothing_to_recover"
    scene.lose("a")
    scene.lose("b")
    assert shell("recover", url, "--json", status=8).error["code"] == "minority"
    asked = shell("recover", url, "--minority", "--json", status=2).error
    assert asked["code"] == "not_confirmed"
    assert "machine" not in asked["message"]
    with Machine(scene.place / "eve").at_work():
        places = [str(scene.cloud(name)) for name in "xyz"]
        api.init(places, engine="sqlite").close()
    for options in ([], ["--minority"]):
        asked = shell("recover", places[0], *options, "--json", status=2).error
        assert asked["code"] == "not_confirmed"
        assert "former machine" in asked["message"]
