"""`skyhold predict`: a version run once on a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.running import Shell
from tests.serving.iris import REQUEST, write_classifier

ROWS = [[5.0, 3.0, 4.0, 2.0], [6.0, 3.0, 5.0, 2.0]]
REFERENCE = "lab/iris@champion"


@pytest.fixture
def store(skyhold: Shell, own_machine: Path) -> Path:
    """`lab/iris` with one version, to which `champion` points."""
    skyhold("init", "a", "b", "c")
    (own_machine / "skyhold.toml").write_text(f"store = {json.dumps(str(own_machine / 'a'))}\n")
    skyhold("push", "lab/iris", write_classifier(Path("model")), "--alias", "champion")
    return own_machine


def test_every_kind_of_file_gives_the_same_answer(skyhold: Shell, store: Path) -> None:
    Path("x.csv").write_text("a,b,c,d\n5,3,4,2\n6,3,5,2\n")
    Path("rows.json").write_text(json.dumps(ROWS))
    np.save("x.npy", np.array(ROWS))
    answers = [skyhold("predict", REFERENCE, "--input", name).out for name in ("x.csv", "rows.json", "x.npy")]
    assert set(answers) == {"predict\n1\n2\n"}


def test_json_answer_names_version_and_outputs(skyhold: Shell, store: Path) -> None:
    Path("request.json").write_text(json.dumps(REQUEST))
    run = skyhold("predict", REFERENCE, "--input", "request.json", "--name", "predict_proba", "--json")
    (output,) = run.document["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("predict_proba", "FP64", [1, 3])
    assert sum(output["data"]) == pytest.approx(1)
    assert len(run.document["version"]) == 40


def test_long_input_is_run_in_batches_and_written_to_a_file(skyhold: Shell, store: Path) -> None:
    np.save("x.npy", np.array(ROWS * 1500))
    run = skyhold("predict", REFERENCE, "--input", "x.npy", "--output", "out.csv")
    assert run.out == "Wrote out.csv\n"
    assert Path("out.csv").read_text().splitlines() == ["predict", *["1", "2"] * 1500]


def test_wrong_field_is_named_by_row_and_column(skyhold: Shell, store: Path) -> None:
    Path("x.csv").write_text("a,b,c,d\n5,3,4,2\n6,three,5,2\n")
    run = skyhold("predict", REFERENCE, "--input", "x.csv", status=2)
    assert "row 3, column 'b': 'three' is no FP64" in run.err


def test_missing_file_and_unknown_ending_are_errors(skyhold: Shell, store: Path) -> None:
    skyhold("predict", REFERENCE, "--input", "nothing.csv", status=3)
    assert ".parquet" in skyhold("predict", REFERENCE, "--input", "x.xlsx", status=2).err
