"""`skyhold events`: what was changed, by whom and why; as it was, and as it comes."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import PROGRAM, Shell


@pytest.fixture
def store(skyhold: Shell, own_machine: Path) -> Path:
    """A store of three folders with one version of `team/m`, in the settings of the working folder."""
    clouds = [own_machine.parent / "clouds" / name for name in "abc"]
    skyhold("init", *clouds)
    (own_machine / "skyhold.toml").write_text(f"store = {json.dumps(str(clouds[0]))}\n")
    model = own_machine / "model"
    model.mkdir()
    (model / "weights.bin").write_bytes(b"weights")
    skyhold("push", "team/m", model, "--alias", "champion")
    return clouds[0]


@contextmanager
def following(*arguments: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The events that `skyhold events --follow --json` prints, as they come; it is ended as a user ends it."""
    command = [*PROGRAM, "events", "--follow", "--json", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield map(json.loads, process.stdout)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Traceback" not in err
    finally:
        process.kill()
        process.wait()


def test_events_of_a_repository_come_newest_first_with_author_and_reason(skyhold: Shell, store: Path) -> None:
    skyhold("ref", "set", "team/m", "alias/shadow=main", "--reason", "a trial")
    events = skyhold("events", "team/m", "--json").document["events"]
    assert [event["sequence"] for event in events] == [3, 2, 1]
    assert [event["reason"] for event in events] == ["a trial", "push", "push"]
    assert {event["author"] for event in events} == {"Ada <ada@example.org>"}
    assert [part["kind"] for part in events[1]["changes"]] == ["version", "ref", "ref"]
    shown = skyhold("events", "team/m", "--limit", 1).out
    assert "alias/shadow at" in shown
    assert "a trial" in shown


def test_what_people_do_to_a_store_is_in_its_events_with_their_reasons(skyhold: Shell, store: Path) -> None:
    by = ("--author", "Ben <ben@example.org>", "--reason")
    skyhold("bucket", "add", "d", store.parent / "d", *by, "a cheaper cloud")
    skyhold("repository", "create", "team/draft", *by, "an idea")
    skyhold("repository", "rename", "team/draft", "team/other", *by, "it has a name")
    skyhold("repository", "policy", "team/other", "--copies", 2, *by, "two are enough")
    skyhold("repository", "delete", "team/other", "--yes", *by, "no good idea")
    skyhold("repository", "undelete", "team/other", *by, "it was good")
    skyhold("sync")
    skyhold("bucket", "remove", "d", "--yes", *by, "not cheaper at all")
    events = skyhold("events", "--json").document["events"]
    bens = [event for event in events if event["author"].startswith("Ben")]
    found = {(event["register"], event["reason"]) for event in bens}
    assert found == {
        ("config", "a cheaper cloud"), ("names", "an idea"), ("team/other", "an idea"), ("names", "it has a name"),
        ("team/other", "two are enough"), ("names", "no good idea"), ("team/other", "no good idea"),
        ("names", "it was good"), ("team/other", "it was good"), ("config", "not cheaper at all"),
    }  # fmt: skip
    for reason in ("an idea", "no good idea"):  # one thing that was done, in several registers
        assert len({event["group"] for event in bens if event["reason"] == reason}) == 1
    assert skyhold("verify").status == 0


def test_since_leaves_out_what_was_before(skyhold: Shell, store: Path) -> None:
    assert skyhold("events", "--since", "2200-01-01", "--json").document["events"] == []
    assert skyhold("events", "team/m", "--since", "1h", "--json").document["events"] != []
    assert skyhold("events", "--since", "yesterday", status=2).err.count("yesterday") == 1


def test_unknown_repository_is_named(skyhold: Shell, store: Path) -> None:
    assert "team/absent" in skyhold("events", "team/absent", status=3).err
    assert "team/absent" in skyhold("events", "team/absent", "--follow", status=3).err


def test_follow_prints_what_was_and_then_what_comes_each_once(skyhold: Shell, store: Path) -> None:
    with following("team/m", "--limit", "1") as events:
        assert next(events)["sequence"] == 2
        skyhold("ref", "set", "team/m", "alias/shadow=main", "--reason", "a trial")
        skyhold("ref", "delete", "team/m", "alias/shadow", "--yes")
        came = [next(events), next(events)]
    assert [event["sequence"] for event in came] == [3, 4]
    assert came[0]["reason"] == "a trial"


def test_follow_of_a_store_sees_repositories_that_appear(skyhold: Shell, store: Path) -> None:
    with following("--limit", "1") as events:
        next(events)
        skyhold("repository", "create", "team/new")
        came = [next(events)["register"] for _ in range(3)]
    assert sorted(came) == ["names", "names", "team/new"]
