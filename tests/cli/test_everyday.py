"""The everyday way of a team through the command line, end to end on folders in place of clouds."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import skyhold as library
from skyhold.storage.file_entry import FileEntry
from skyhold.storage.parts import part_path
from tests.cli.models import contents, write_model
from tests.cli.running import Shell, run_on_terminal
from tests.endtoend.stores import catch_up

CLOUDS = ("a", "b", "c")


@pytest.fixture
def store(skyhold: Shell, own_machine: Path) -> list[Path]:
    """A store of three folders, remembered by the settings of the working folder."""
    clouds = [own_machine.parent / "clouds" / name for name in CLOUDS]
    skyhold("init", *clouds)
    (own_machine / "skyhold.toml").write_text(f"store = {json.dumps(str(clouds[0]))}\n")
    return clouds


@pytest.fixture
def pushed(skyhold: Shell, store: list[Path]) -> list[str]:
    """Ids of three versions of `fraud/scorer`: a first one, a fine-tune, and one with another head."""
    ids = []
    for number, noise in enumerate((0.0, 0.001, 0.002), start=1):
        model = write_model(Path("model"), noise=noise, steps=number)
        run = skyhold(
            *("push", "fraud/scorer", model, "-m", f"Version {number}", "--metric", f"accuracy=0.9{number}"),
            *("--param", f"steps:={number}", "--tag", f"v{number}", "--alias", "champion", "--quiet"),
        )
        ids.append(run.out.strip())
    return ids


def test_init_reports_what_a_loss_would_cost_and_the_next_step(skyhold: Shell, own_machine: Path) -> None:
    run = skyhold("init", "a", "b", "c")
    assert "Made store" in run.out
    assert "Pushing goes on while any 1 bucket is away" in run.out
    assert "next: skyhold push" in run.err
    two = skyhold("init", "d", "e")
    assert "Pushing needs all 2 buckets" in two.out


def test_pushed_version_comes_back_byte_for_byte(skyhold: Shell, pushed: list[str]) -> None:
    run = skyhold("pull", "fraud/scorer@champion", "restored")
    assert "every byte checked" in run.out
    assert contents(Path("restored")) == contents(Path("model"))


def test_verbose_shows_each_request_on_stderr(skyhold: Shell, pushed: list[str]) -> None:
    run = skyhold("log", "fraud/scorer", "--verbose")
    lines = [line for line in run.err.splitlines() if re.fullmatch(r"[abc]: \w+ \S*: ok, .+ bytes, attempt 1", line)]
    assert {line.split()[1] for line in lines} == {"read_stream", "read_tagged"}
    assert run.out == skyhold("log", "fraud/scorer").out
    assert "attempt" not in skyhold("log", "fraud/scorer").err


def test_push_reports_what_it_stored_and_saved(skyhold: Shell, store: list[Path]) -> None:
    first = skyhold("push", "fraud/scorer", write_model(Path("model")), "-m", "First")
    assert "Pushed fraud/scorer@main: version" in first.out
    assert "next: skyhold show fraud/scorer@" in first.err
    again = skyhold("push", "fraud/scorer", "model", "-m", "Again", "--branch", "copy")
    assert "0 B new, 100 % saved" in again.out
    assert "deduplicated" in again.out
    tuned = skyhold("push", "fraud/scorer", write_model(Path("model"), noise=0.001), "--json").document
    assert tuned["delta_bytes"] > 0
    assert tuned["stored_bytes"] < tuned["total_bytes"]
    assert set(tuned["sent_bytes"]) == set(CLOUDS)


def test_dry_run_changes_nothing(skyhold: Shell, pushed: list[str], store: list[Path]) -> None:
    before = [contents(cloud) for cloud in store]
    run = skyhold("push", "fraud/scorer", write_model(Path("model"), seed=5), "--dry-run")
    assert "nothing was changed" in run.out
    assert [contents(cloud) for cloud in store] == before


def test_tensors_and_files_are_pulled_alone(skyhold: Shell, pushed: list[str]) -> None:
    skyhold("pull", "fraud/scorer@v1", "one", "--tensor", "head.weight")
    fetched = load_file("one/tensors.safetensors")
    assert list(fetched) == ["head.weight"]
    skyhold("pull", "fraud/scorer@v1", "all")
    assert np.array_equal(fetched["head.weight"], load_file("all/model.safetensors")["head.weight"])
    skyhold("pull", "fraud/scorer@v1", "some", "--include", "*.json")
    assert list(contents(Path("some"))) == ["config.json"]


def test_dry_run_of_a_pull_reports_its_sources_and_fetches_nothing(
    skyhold: Shell, pushed: list[str], store: list[Path]
) -> None:
    cache = Path(os.environ["SKYHOLD_CACHE"])
    planned = skyhold("pull", "fraud/scorer@v1", "out", "--dry-run", "--json").document
    assert planned["sources"]["cached_bytes"] == planned["fetched_bytes"] > 0  # the push has left them there
    shutil.rmtree(cache)
    shutil.rmtree(store[0])
    planned = skyhold("pull", "fraud/scorer@v1", "out", "--dry-run", "--json").document
    assert not Path("out").exists()
    assert not any(path.is_file() for path in cache.rglob("*"))
    assert planned["sources"]["unreachable"].keys() == {"a"}
    shown = skyhold("pull", "fraud/scorer@v1", "out", "--dry-run").out
    assert "Would pull fraud/scorer@v1" in shown
    assert "from bucket b" in shown
    assert "not examined: bucket a" in shown
    pulled = skyhold("pull", "fraud/scorer@v1", "out", "--json").document
    assert planned["sources"]["bucket_bytes"] == {"b": pulled["fetched_bytes"]}
    assert {name: planned[name] for name in ("files", "total_bytes", "kept_bytes", "version")} == {
        name: pulled[name] for name in ("files", "total_bytes", "kept_bytes", "version")
    }
    assert (planned["dry_run"], pulled["dry_run"]) == (True, False)
    assert "sources" not in pulled


def test_array_in_the_order_of_fortran_comes_as_numpy_loads_it(skyhold: Shell, store: list[Path]) -> None:
    Path("f").mkdir()
    values = np.arange(6, dtype="f4").reshape(2, 3)
    np.save("f/w.npy", np.asfortranarray(values))
    np.save("f/words.npy", np.array(["a", "b"]))
    skyhold("push", "t/f", "f")
    run = skyhold("pull", "t/f", "o", "--tensor", "*", status=2)
    assert "left out: words.npy (words.npy has type <U1, which safetensors cannot hold)" in run.out
    assert load_file("o/tensors.safetensors")["w.npy"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert "w.npy" in skyhold("pull", "t/f", "p", "--tensor", "*", "--include", "w.*").out
    planned = skyhold("pull", "t/f", "q", "--tensor", "*", "--dry-run", "--json", status=2).document
    assert (planned["tensors"], list(planned["left_out"])) == (["w.npy"], ["words.npy"])
    assert "Tensor `words.npy` of words.npy" in skyhold("pull", "t/f", "q", "--tensor", "words.npy", status=2).err


def test_diff_compares_arrays_as_numpy_loads_them(skyhold: Shell, store: list[Path]) -> None:
    values = np.arange(1, 10, dtype="f4").reshape(3, 3)
    versions = (values, np.asfortranarray(values), np.asfortranarray(values.T), values.astype(">f4"))
    Path("f").mkdir()
    for stored in versions:
        np.save("f/w.npy", stored)
        skyhold("push", "t/f", "f")
    unchanged = skyhold("diff", "t/f@main~3", "main~2", "--json").document
    assert (unchanged["tensors"], unchanged["tensors_unchanged"]) == ([], 1)
    (transposed,) = skyhold("diff", "t/f@main~2", "main~1", "--json").document["tensors"]
    assert (transposed["kind"], transposed["changed_share"]) == ("values", 6 / 9)
    (turned,) = skyhold("diff", "t/f@main~3", "main~1", "--json").document["tensors"]
    assert turned["changed_share"] == 6 / 9
    swapped = skyhold("diff", "t/f@main~3", "main", "--json").document
    assert (swapped["tensors"], swapped["tensors_unchanged"]) == ([], 1)


def test_dry_run_of_a_pull_counts_what_the_folder_has(skyhold: Shell, pushed: list[str]) -> None:
    skyhold("pull", "fraud/scorer@v1", "out")
    again = skyhold("pull", "fraud/scorer@v1", "out", "--dry-run", "--json").document
    assert (again["kept_bytes"], again["fetched_bytes"]) == (again["total_bytes"], 0)
    assert "nothing" in skyhold("pull", "fraud/scorer@v1", "out", "--dry-run").out
    before = contents(Path("out"))
    weights = Path("out/model.safetensors")
    entry = FileEntry(weights.name, weights.stat().st_size, hashlib.sha256(weights.read_bytes()).hexdigest())
    part = part_path(Path("out"), entry)
    part.parent.mkdir()
    weights.rename(part)  # as an interrupted pull leaves it
    interrupted = skyhold("pull", "fraud/scorer@v1", "out", "--dry-run", "--json").document
    assert (interrupted["kept_bytes"], interrupted["fetched_bytes"]) == (again["total_bytes"], 0)
    part.rename(weights)
    newer = skyhold("pull", "fraud/scorer@v3", "out", "--dry-run", "--json").document
    assert contents(Path("out")) == before
    done = skyhold("pull", "fraud/scorer@v3", "out", "--json").document
    assert 0 < newer["kept_bytes"] == done["kept_bytes"] < done["total_bytes"]
    assert newer["fetched_bytes"] == done["fetched_bytes"] > 0


def test_dry_run_of_a_pull_counts_what_the_cache_has_linked(skyhold: Shell, store: list[Path]) -> None:
    for noise in (0.0, 0.001):
        skyhold("push", "fraud/scorer", write_model(Path("model"), rows=2048, noise=noise), "--quiet")
    shutil.rmtree(os.environ["SKYHOLD_CACHE"])
    skyhold("pull", "fraud/scorer@main~1", "old")
    planned = skyhold("pull", "fraud/scorer", "new", "--dry-run", "--json").document
    pulled = skyhold("pull", "fraud/scorer", "new", "--json").document
    assert 0 < planned["fetched_bytes"] == pulled["fetched_bytes"] < planned["total_bytes"]
    assert planned["kept_bytes"] == pulled["kept_bytes"]
    elsewhere = skyhold("pull", "fraud/scorer", "elsewhere", "--dry-run", "--json").document
    again = skyhold("pull", "fraud/scorer", "elsewhere", "--json").document
    assert (elsewhere["kept_bytes"], elsewhere["fetched_bytes"]) == (again["kept_bytes"], again["fetched_bytes"])


def test_dry_run_of_a_pull_of_tensors_and_globs_plans_these_alone(skyhold: Shell, pushed: list[str]) -> None:
    whole = skyhold("pull", "fraud/scorer@v1", "out", "--dry-run", "--json").document
    head = skyhold("pull", "fraud/scorer@v1", "out", "--tensor", "head.*", "--dry-run", "--json").document
    assert head["tensors"] == ["head.weight"]
    assert 0 < head["fetched_bytes"] < whole["fetched_bytes"]
    assert (
        head["total_bytes"]
        == skyhold("pull", "fraud/scorer@v1", "x", "--tensor", "head.*", "--json").document["total_bytes"]
    )
    assert (
        skyhold("pull", "fraud/scorer@v1", "out", "--include", "*.json", "--dry-run", "--json").document["files"] == 1
    )
    skyhold("pull", "fraud/scorer@v1", "out", "--include", "*.onnx", "--dry-run", status=3)
    assert not Path("out").exists()


def test_dry_run_of_a_pull_ends_as_the_pull_would_where_no_bucket_has_something(
    skyhold: Shell, pushed: list[str], store: list[Path]
) -> None:
    shutil.rmtree(os.environ["SKYHOLD_CACHE"])
    for cloud in store:
        shutil.rmtree(cloud / "packs")
    run = skyhold("pull", "fraud/scorer@v1", "out", "--dry-run", "--json", status=10).document
    assert run["sources"]["absent_bytes"] == run["fetched_bytes"] > 0
    assert "in no bucket that answered" in skyhold("pull", "fraud/scorer@v1", "out", "--dry-run", status=10).err
    shutil.rmtree(store[0])
    skyhold("pull", "fraud/scorer@v1", "out", "--dry-run", status=8)


def test_log_shows_the_versions_newest_first_with_their_refs(skyhold: Shell, pushed: list[str]) -> None:
    lines = skyhold("log", "fraud/scorer").out.splitlines()
    assert [line.split()[1] for line in lines] == [version[:10] for version in reversed(pushed)]
    assert "(alias/champion, branch/main, tag/v3) Version 3  accuracy=0.93" in lines[0]
    assert skyhold("log", "fraud/scorer@v2", "--quiet", "-n", "1").out.split() == [pushed[1]]


def test_show_prints_all_metadata_of_a_version(skyhold: Shell, pushed: list[str]) -> None:
    skyhold("attach", "fraud/scorer@v2", "--metric", "accuracy_live=0.88", "--note", "Passed the review")
    shown = skyhold("show", f"fraud/scorer@{pushed[1][:8]}").out
    for part in (pushed[1], "Version 2", "accuracy=0.92", "accuracy_live=0.88", "steps:=2", "Passed the review"):
        assert part in shown
    for part in ("# Scorer", "model.safetensors", "Ada <ada@example.org>", "2 tensors"):
        assert part in shown


def test_show_prints_the_lineage_of_a_version(skyhold: Shell, pushed: list[str]) -> None:
    data = ["s3://data/november.parquet", "doi:10.5281/zenodo.1"]
    code = ["https://git.example.org/fraud/training@3f2a9c0"]
    given = [word for flag, uris in (("--data", data), ("--code", code)) for uri in uris for word in (flag, uri)]
    model = write_model(Path("tuned"), noise=0.01)
    skyhold("push", "fraud/tuned", model, *given, "--base", "fraud/scorer@v1", "--meta", "owner=ada")
    shown = skyhold("show", "fraud/tuned").out
    for part in ("s3://data/november.parquet, doi:10.5281/zenodo.1", code[0], pushed[0][:10], "owner=ada"):
        assert part in shown
    document = skyhold("show", "fraud/tuned", "--json").document
    lineage = document["lineage"]
    assert (lineage["data"], lineage["code"]) == (data, code)
    assert [base[:40] for base in lineage["base"]] == [pushed[0]]
    assert document["metadata"] == {"owner": "ada"}


def test_diff_names_files_tensors_metrics_and_parameters(skyhold: Shell, pushed: list[str]) -> None:
    shown = skyhold("diff", "fraud/scorer@v1", "fraud/scorer@v2").out
    assert "embedding.weight" in shown
    assert "float32 [256, 256]" in shown or "F32 [256, 256]" in shown
    found = skyhold("diff", "fraud/scorer@v1", "fraud/scorer@v2", "--json").document
    (tensor,) = found["tensors"]
    assert tensor["name"] == "embedding.weight"
    assert 0.9 < tensor["changed_share"] <= 1
    assert tensor["relative_norm"] == pytest.approx(0.001, rel=0.1)
    assert found["tensors_unchanged"] == 1
    assert [metric["name"] for metric in found["metrics"]] == ["accuracy"]
    assert [parameter["name"] for parameter in found["parameters"]] == ["steps"]
    assert {file["path"] for file in found["files"]} == {"config.json", "model.safetensors"}
    same = skyhold("diff", "fraud/scorer@v1", f"fraud/scorer@{pushed[0]}")
    assert "have the same files, metrics and parameters" in same.out


def test_diff_takes_a_second_ref_of_the_same_repository(skyhold: Shell, pushed: list[str]) -> None:
    skyhold("branch", "create", "fraud/scorer@v2", "feature/x")
    for typed in ("v2", "@v2", "@feature/x", "main~1", pushed[1][:8], "fraud/scorer@v2"):
        found = skyhold("diff", "fraud/scorer@v1", typed, "--json").document
        assert found["to"].startswith("fraud/scorer@")
        assert [parameter["new"] for parameter in found["parameters"]] == [2], typed
    assert skyhold("diff", "fraud/scorer@v1", "fraud/scorer", "--json").document["to"] == "fraud/scorer@main"
    assert "v9" in skyhold("diff", "fraud/scorer@v1", "v9", status=3).err
    assert "write @feature/x" in skyhold("diff", "fraud/scorer@v1", "feature/x", status=3).err


def write_layers(folder: Path, count: int, seed: int) -> Path:
    """A model of many small tensors."""
    folder.mkdir(exist_ok=True)
    values = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    save_file({f"layer.{number:03}": row.copy() for number, row in enumerate(values)}, folder / "model.safetensors")
    return folder


def test_diff_of_many_tensors_reports_how_many_more_there_are(skyhold: Shell, store: list[Path]) -> None:
    for seed in (1, 2):
        skyhold("push", "fraud/scorer", write_layers(Path("layers"), 45, seed))
    shown = skyhold("diff", "fraud/scorer@main~1", "main", "--limit", "3").out
    assert [f"layer.{number:03}" in shown for number in range(5)] == [True, True, True, False, False]
    assert "and 42 more" in shown
    assert "and 5 more" in run_on_terminal("diff", "fraud/scorer@main~1", "main").out
    assert "more" not in run_on_terminal("diff", "fraud/scorer@main~1", "main", "--limit", "45").out
    piped = skyhold("diff", "fraud/scorer@main~1", "main").out
    assert "layer.044" in piped
    assert "more" not in piped
    assert len(skyhold("diff", "fraud/scorer@main~1", "main", "--limit", "3", "--json").document["tensors"]) == 45


def test_diff_without_tensors_reads_no_weights(
    skyhold: Shell, pushed: list[str], store: list[Path], own_machine: Path
) -> None:
    for cloud in store:
        shutil.rmtree(cloud / "packs")
    shutil.rmtree(os.environ["SKYHOLD_CACHE"], ignore_errors=True)
    shown = skyhold("diff", "fraud/scorer@v1", "v2", "--no-tensors").out
    assert "model.safetensors" in shown
    assert "accuracy" in shown
    assert "embedding" not in shown
    found = skyhold("diff", "fraud/scorer@v1", "v2", "--no-tensors", "--json").document
    assert (found["tensors"], found["tensors_unchanged"]) == (None, None)
    assert skyhold("diff", "fraud/scorer@v1", "v2", "-q").out.split() == ["config.json", "model.safetensors"]
    skyhold("diff", "fraud/scorer@v1", "v2", status=10)


def test_rollback_moves_the_alias_back_and_the_history_keeps_it(skyhold: Shell, pushed: list[str]) -> None:
    run = skyhold("rollback", "fraud/scorer@champion", "--reason", "False alarms")
    assert f"Moved alias/champion of fraud/scorer from {pushed[2][:10]} to {pushed[1][:10]}" in run.out
    assert skyhold("show", "fraud/scorer@champion", "--quiet").out.strip() == pushed[1]
    history = skyhold("ref", "history", "fraud/scorer@champion").out
    assert "False alarms" in history.splitlines()[1]
    skyhold("rollback", "fraud/scorer@champion", "--to", "v1")
    assert skyhold("show", "fraud/scorer@champion", "--quiet").out.strip() == pushed[0]


def test_several_refs_move_at_once_or_not_at_all(skyhold: Shell, pushed: list[str]) -> None:
    skyhold("ref", "set", "fraud/scorer", "alias/champion=v1", "alias/previous=v3")
    refs = {ref["name"]: ref["id"] for ref in skyhold("ref", "list", "fraud/scorer", "--json").document["refs"]}
    assert (refs["alias/champion"], refs["alias/previous"]) == (pushed[0], pushed[2])
    skyhold("ref", "set", "fraud/scorer", "alias/champion=v2", "tag/v1=v2", status=4)
    assert skyhold("show", "fraud/scorer@champion", "--quiet").out.strip() == pushed[0]
    skyhold("ref", "set", "fraud/scorer", "alias/champion=v2", "--expected", "alias/champion=v3", status=5)
    skyhold("ref", "set", "fraud/scorer", "alias/champion=v2", "--expected", "alias/champion=v1")


def test_tags_and_branches_are_made_and_taken_away(skyhold: Shell, pushed: list[str]) -> None:
    skyhold("tag", "fraud/scorer@v2", "audited")
    assert skyhold("show", "fraud/scorer@audited", "--quiet").out.strip() == pushed[1]
    skyhold("branch", "create", "fraud/scorer@v1", "hotfix")
    assert skyhold("branch", "list", "fraud/scorer", "--quiet").out.split() == ["hotfix", "main"]
    skyhold("branch", "create", "fraud/scorer@v1", "hotfix", status=5)
    refused = skyhold("branch", "delete", "fraud/scorer", "hotfix", status=2)
    assert "--yes" in refused.err
    skyhold("branch", "delete", "fraud/scorer", "hotfix", "--yes")
    skyhold("ref", "delete", "fraud/scorer", "tag/audited", "--yes")
    assert skyhold("branch", "list", "fraud/scorer", "--quiet").out.split() == ["main"]


def test_repository_is_renamed_deleted_and_brought_back(skyhold: Shell, pushed: list[str]) -> None:
    skyhold("repository", "rename", "fraud/scorer", "risk/scorer")
    assert skyhold("list", "--quiet").out.split() == ["risk/scorer"]
    skyhold("repository", "delete", "risk/scorer", status=2)
    skyhold("repository", "delete", "risk/scorer", "--yes")
    assert skyhold("list", "--quiet").out == ""
    assert "risk/scorer" in skyhold("list", "--deleted").out
    skyhold("repository", "undelete", "risk/scorer")
    assert skyhold("show", "risk/scorer@v2", "--quiet").out.strip() == pushed[1]


def test_repository_has_a_policy_of_its_own(skyhold: Shell, store: list[Path]) -> None:
    skyhold("repository", "create", "health/triage", "--copies", "3")
    assert "Pushing needs all 3 buckets" in skyhold("repository", "policy", "health/triage").out
    skyhold("repository", "policy", "health/triage", "--copies", "majority", "--delta", "off")
    policy = skyhold("repository", "policy", "health/triage", "--json").document["policy"]
    assert (policy["copies"], policy["delta"]) == (None, "off")
    skyhold("repository", "policy", "health/triage", "--copies", "4", status=2)
    skyhold("repository", "create", "health/triage", status=4)


def test_search_finds_by_metric_tag_and_name(skyhold: Shell, pushed: list[str]) -> None:
    found = skyhold("search", "accuracy>0.915", "--quiet").out.split()
    assert sorted(found) == sorted(f"fraud/scorer@{version}" for version in pushed[1:])
    assert pushed[0][:10] in skyhold("search", "tag:v1").out
    assert skyhold("search", "champion", "--quiet").out.split() == [f"fraud/scorer@{pushed[2]}"]
    assert skyhold("search", "scorer", "v2", "-q").out.split() == [f"fraud/scorer@{pushed[1]}"]
    assert "Nothing" in skyhold("search", "accuracy>0.99").out
    assert skyhold("search", "accuracy>", status=2).err.startswith("error: ")


def test_dry_run_of_adding_a_bucket_checks_it_and_changes_nothing(
    skyhold: Shell, pushed: list[str], store: list[Path]
) -> None:
    before = [contents(cloud) for cloud in store]
    shown = skyhold("bucket", "add", "d", "clouds/d", "--dry-run")
    assert "Would add bucket d" in shown.out
    assert f"would make   {Path('clouds/d').absolute()}" in shown.out
    assert "store.json in d, and the list of buckets in a, b, c" in shown.out
    assert "4 buckets" in shown.out
    assert shown.err == ""
    assert not Path("clouds").exists()
    planned = skyhold("bucket", "add", "d", "clouds/d", "--dry-run", "--json").document
    assert skyhold("bucket", "list", "-q").out.split() == list(CLOUDS)
    assert [contents(cloud) for cloud in store] == before
    added = skyhold("bucket", "add", "d", "clouds/d", "--json").document
    assert planned == {**added, "dry_run": True}
    assert (planned["makes_folder"], planned["notified"]) == (True, list(CLOUDS))
    assert skyhold("bucket", "list", "-q").out.split() == [*CLOUDS, "d"]


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["for real", "dry run"])
def test_bucket_that_cannot_join_is_refused_in_a_dry_run_too(
    dry_run: list[str], skyhold: Shell, store: list[Path]
) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    before = contents(store[0])
    assert "`a` already" in skyhold("bucket", "add", "a", "new", *dry_run, status=4).err
    assert "place" in skyhold("bucket", "add", "d", store[1], *dry_run, status=2).err
    assert "holds files" in skyhold("bucket", "add", "d", "full", *dry_run, status=2).err
    assert "mine.txt is no folder" in skyhold("bucket", "add", "d", "full/mine.txt", *dry_run, status=2).err
    assert "mine.txt is no folder" in skyhold("bucket", "add", "d", "full/mine.txt/d", *dry_run, status=2).err
    skyhold("init", "other", "--name", "other")
    refused = skyhold("bucket", "add", "d", "other", "--store", store[0], *dry_run, status=4)
    assert "belongs to another Skyhold store" in refused.err
    assert not Path("new").exists()
    assert contents(store[0]) == before


def test_buckets_are_listed_with_place_and_credentials(skyhold: Shell, store: list[Path]) -> None:
    skyhold("bucket", "add", "nas", "nas", "--region", "eu-1", "--provider", "lab")
    listed = skyhold("bucket", "list", "--json").document["buckets"]
    assert [(bucket["name"], bucket["url"], bucket["role"]) for bucket in listed] == [
        *((name, place.as_uri(), "voter") for name, place in zip(CLOUDS, store, strict=True)),
        ("nas", Path("nas").absolute().as_uri(), "voter"),
    ]
    assert (listed[-1]["region"], listed[-1]["provider"]) == ("eu-1", "lab")
    rows = [line.split() for line in skyhold("bucket", "list").out.splitlines()]
    assert rows[0] == ["bucket", "role", "provider", "region", "url", "credentials"]
    assert rows[-1] == ["nas", "voter", "lab", "eu-1", Path("nas").absolute().as_uri(), "chain"]


def test_folder_reports_that_it_has_no_rules(skyhold: Shell, store: list[Path]) -> None:
    rules = skyhold("bucket", "check", "a", "--json").document["rules"]
    assert {rule["verdict"] for rule in rules.values()} == {"absent"}
    assert "unknown" not in skyhold("bucket", "check", "a").out


def test_lost_cloud_is_not_noticed_and_comes_back(skyhold: Shell, pushed: list[str], store: list[Path]) -> None:
    with library.open(str(store[0])) as opened:
        catch_up(opened)  # which may decide `config` once more, for c
    decided = next(line for line in skyhold("status").out.splitlines() if "Last decision: " in line)
    shutil.rmtree(store[1])
    skyhold("pull", "fraud/scorer@v2", "restored")
    run = skyhold("push", "fraud/scorer", write_model(Path("model"), seed=7), "-m", "While b is away")
    assert "lagging: b" in run.out
    shown = skyhold("status").out
    assert "2 of 3 voters answer, 2 are needed" in shown
    assert decided in shown.splitlines()
    of_a, of_b = (next(line for line in shown.splitlines() if line.startswith(f"{name} ")) for name in "ab")
    assert re.search(r"names \d+, config \d+ +current", of_a)
    assert "takes no part" in of_b


SHAPES: dict[str, set[str]] = {
    "log fraud/scorer": {"repository", "versions"},
    "show fraud/scorer": {
        "repository", "id", "digest", "message", "author", "time", "parents", "files", "size_bytes", "tensor_count",
        "parameters", "metadata", "lineage", "metrics", "attached", "refs", "model_card",
    },
    "list": {"repositories", "unread"},
    "list --deleted": {"repositories"},
    "search fraud": {"query", "hits", "unread"},
    "diff fraud/scorer@v1 fraud/scorer@v2": {
        "from", "to", "files", "tensors", "tensors_unchanged", "metrics", "parameters",
    },
    "ref list fraud/scorer": {"repository", "refs"},
    "ref history fraud/scorer": {"repository", "moves"},
    "branch list fraud/scorer": {"repository", "refs"},
    "repository policy fraud/scorer": {"repository", "policy"},
    "bucket list": {"buckets"},
    "bucket check a": {
        "bucket", "url", "reachable", "trials", "missing_rights", "round_trip_s", "upload_bytes_per_s",
        "download_bytes_per_s", "clock_skew_s", "rules", "admission", "problems",
    },
    "status": {"store", "engine", "sealed", "buckets", "repositories", "damage", "unread"},
    "verify": {
        "deep", "sound", "objects", "checked_bytes", "findings", "lagging", "unreachable", "damage",
        "versions", "placed", "restored", "accounted", "unaccounted",
    },
    "sync --dry-run": {
        "dry_run", "sound", "mended", "failed", "readmitted", "unreachable", "damage", "losses", "remedy",
    },
    "repair --dry-run": {
        "dry_run", "sound", "mended", "failed", "readmitted", "unreachable", "damage", "losses", "remedy",
    },
    "doctor": {"healthy", "signs"},
    "pull fraud/scorer@v1 restored": {
        "repository", "id", "version", "destination", "files", "total_bytes", "kept_bytes", "fetched_bytes", "tensors",
    },
}  # fmt: skip
"""What scripts rely on: every read's document has at least these fields. Fields may be added, not taken away."""


def test_every_read_answers_with_one_json_document_of_a_stable_shape(skyhold: Shell, pushed: list[str]) -> None:
    for read, fields in SHAPES.items():
        run = skyhold(*read.split(), "--json")
        assert fields <= run.document.keys(), read
        assert run.err == "", read


def test_bare_answers_are_ids_and_names(skyhold: Shell, pushed: list[str]) -> None:
    assert skyhold("log", "fraud/scorer", "-q").out.split() == list(reversed(pushed))
    assert skyhold("ref", "list", "fraud/scorer", "-q").out.split() == [
        *("alias/champion", "branch/main", "tag/v1", "tag/v2", "tag/v3")
    ]
    assert skyhold("bucket", "list", "-q").out.split() == list(CLOUDS)
    assert skyhold("verify", "-q").out == skyhold("doctor", "-q").out == ""


def test_output_reads_without_colour_in_a_pipe_and_has_it_on_a_terminal(skyhold: Shell, pushed: list[str]) -> None:
    assert "\x1b" not in skyhold("log", "fraud/scorer").out
    assert "\x1b[33m" in run_on_terminal("log", "fraud/scorer").out
    assert "\x1b[" not in run_on_terminal("log", "fraud/scorer", environ={"NO_COLOR": "1"}).out
